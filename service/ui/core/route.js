// The view that the fragment names, and what follows its question mark.

import { signal } from "./html.js";

export const VIEWS = ["write", "inside", "train", "models"];

function parse(fragment) {
  const found = /^#\/([a-z]+)(?:\?(.*))?$/s.exec(fragment);
  const view = found && VIEWS.includes(found[1]) ? found[1] : "write";
  return { view, query: found?.[2] ?? "" };
}

export const route = signal(parse(location.hash));

addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});

/** Replace the fragment without an entry of the history, once what it asked for is there. */
export function settle(fragment) {
  history.replaceState(null, "", fragment);
  route.value = parse(fragment);
}
