// A link to a text: not the text, but what it takes to write it again, and a hash to compare.

import { checkedSettings } from "./parameters.js";

const MOST_JSON = 2_000_000;
const MOST_STEPS = 2_000;
export const MOST_LINKED_TOKENS = 200_000;

/** Return the fragment of a recipe: {model, digest, precision, steps, hash, length}. */
export async function encoded(recipe) {
  const bytes = new TextEncoder().encode(JSON.stringify({ v: 1, ...recipe }));
  const packed = await piped(bytes, new CompressionStream("deflate-raw"));
  let binary = "";
  for (const byte of packed) binary += String.fromCharCode(byte);
  const base64 = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return `#/write?t=${base64}`;
}

/** Return the recipe of a fragment's query, or null where it has none. Throws where it is broken. */
export async function decoded(query) {
  const found = /(?:^|&)t=([\w-]+)/.exec(query);
  if (!found) return null;
  const binary = atob(found[1].replaceAll("-", "+").replaceAll("_", "/"));
  const packed = Uint8Array.from(binary, (one) => one.charCodeAt(0));
  const bytes = await piped(packed, new DecompressionStream("deflate-raw"));
  return checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
}

/** Take from what a link says only what has the right form: anybody may have written it. */
function checked(given) {
  if (given?.v !== 1 || !Array.isArray(given.steps) || given.steps.length > MOST_STEPS) {
    throw new Error("no recipe of a text");
  }
  let tokens = 0;
  const steps = given.steps.map((step) => {
    if (typeof step?.typed === "string") return { typed: step.typed };
    const settings = checkedSettings(step?.settings);
    tokens += settings.length;
    return { settings };
  });
  if (tokens > MOST_LINKED_TOKENS) throw new Error("the text is too long");
  const text = (value) => (typeof value === "string" ? value.slice(0, 200) : "");
  return {
    model: text(given.model), digest: text(given.digest), precision: text(given.precision),
    hash: text(given.hash), length: Number(given.length) || 0, steps,
  };
}

async function piped(bytes, transform) {
  const reader = new Blob([bytes]).stream().pipeThrough(transform).getReader();
  const pieces = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
    if (size > MOST_JSON) throw new Error("the text is too long");
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** Return the FNV-1a hash of a text's UTF-8 bytes: 64 bits, as 16 digits. */
export function hashOf(text) {
  // Two halves of 32 bits: BigInt is slow, and a page without TLS has no crypto.subtle.
  let high = 0xcbf29ce4;
  let low = 0x84222325;
  for (const byte of new TextEncoder().encode(text)) {
    low = (low ^ byte) >>> 0;
    // times 0x100000001b3 = 2^40 + 0x1b3, modulo 2^64
    const lowProduct = low * 0x1b3;
    const carry = Math.floor(lowProduct / 2 ** 32);
    high = (Math.imul(high, 0x1b3) + carry + (low << 8)) >>> 0;
    low = lowProduct >>> 0;
  }
  return high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0");
}

/** Return the steps that write a path of the tree: neighbours that one turn would say are one. */
export function stepsOf(parts) {
  const steps = [];
  for (const { node, count } of parts) {
    if (count === 0) continue;
    const last = steps.at(-1);
    if (node.kind !== "generated") {
      const typed = node.pieces.slice(0, count).join("");
      if (last?.typed !== undefined) last.typed += typed;
      else steps.push({ typed });
    } else if (last?.settings && isSame(last.settings, node.settings)) {
      last.settings = { ...last.settings, length: last.settings.length + count };
    } else {
      steps.push({ settings: { ...node.settings, length: count } });
    }
  }
  return steps;
}

/** Whether two turns are drawn as one: a stop string is looked for within a turn, so none has it. */
function isSame(one, other) {
  return one.stop.length === 0 && Object.keys(one).every((name) =>
    name === "length" || JSON.stringify(one[name]) === JSON.stringify(other[name]));
}
