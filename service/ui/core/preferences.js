// What a reader has chosen about the page itself: its language and its theme. No text, no key.

import { effect, signal } from "./html.js";

const LANGUAGES = ["en", "zh"];
const THEMES = ["auto", "light", "dark"];

function stored(name, allowed, otherwise) {
  try {
    const found = localStorage.getItem(`carousel.${name}`);
    return allowed.includes(found) ? found : otherwise;
  } catch {
    return otherwise; // a browser may forbid it
  }
}

function store(name, value) {
  try {
    localStorage.setItem(`carousel.${name}`, value);
  } catch {
    // then it lasts as long as the tab
  }
}

const spoken = (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";

export const language = signal(stored("language", LANGUAGES, spoken));
export const theme = signal(stored("theme", THEMES, "auto"));

effect(() => {
  document.documentElement.lang = language.value === "zh" ? "zh-Hans" : "en";
  store("language", language.value);
});
effect(() => {
  document.documentElement.dataset.theme = theme.value;
  store("theme", theme.value);
});
