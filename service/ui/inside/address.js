// The address of a cell at a character of a text: what one sends to a colleague.

const MOST_TEXT = 2_000;
const SIGNALS = /^[a-z_]{1,20}$/;

/** Return the fragment of a place. */
export function addressOf({ layer, cell, model, signal, text, token }) {
  const query = new URLSearchParams({ cell: `${layer}.${cell}`, signal, model });
  if (token !== null) query.set("at", token);
  query.set("text", text);
  return `#/inside?${query}`;
}

/** Return the place of a fragment's query, or null where it has none. Anybody may have written it. */
export function placeOf(query) {
  const given = new URLSearchParams(query);
  const place = /^(?:(\d{1,3})\.)?(\d{1,6})$/.exec(given.get("cell") ?? "");
  if (!place) return null;
  const at = given.get("at") ?? "";
  const signal = given.get("signal") ?? "c";
  return {
    layer: Number(place[1] ?? 0),
    cell: Number(place[2]),
    signal: SIGNALS.test(signal) ? signal : "c",
    token: /^\d{1,6}$/.test(at) ? Number(at) : null,
    model: (given.get("model") ?? "").slice(0, 200),
    text: Array.from(given.get("text") ?? "").slice(0, MOST_TEXT).join(""),
  };
}
