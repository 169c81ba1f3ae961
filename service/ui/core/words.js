// The page's words in the reader's language.

import { language } from "./preferences.js";
import { ENGLISH } from "./words_en.js";
import { CHINESE } from "./words_zh.js";

export const TABLES = { en: ENGLISH, zh: CHINESE };

/** Return the words of `key`; {name} in them is replaced by that member of `values`. */
export function t(key, values = {}) {
  const words = TABLES[language.value][key];
  if (words === undefined) throw new Error(`no words for ${key}`);
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

export function number(value, digits = 0) {
  return value.toLocaleString(language.value === "zh" ? "zh-CN" : "en", {
    maximumFractionDigits: digits,
  });
}

/** Return a character as it is shown beside others: one that has no ink has a sign. */
export function shown(text) {
  const signs = { " ": "␣", "\n": "⏎", "\t": "␉", "\r": "␍", "": "∅" };
  return signs[text] ?? text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g,
    (sign) => `U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
}
