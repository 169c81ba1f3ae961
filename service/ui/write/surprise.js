// How surprising each token of the shown text is to the model.

/** Get the logprobs of what was typed; those of what was generated came with it. */
export async function score(writer) {
  const { tree } = writer;
  const spans = tree.spans(tree.current);
  const isKnown = ({ node, count }) => node.logprobs.length >= count;
  const scored = spans.slice(0, spans.findLastIndex((span) => !isKnown(span)) + 1);
  if (scored.length === 0) return;
  const inputs = scored.map(({ node, count }) => node.pieces.slice(0, count).join("")).join("");
  const body = { inputs, model: writer.shown.model };
  const { tokens } = await writer.server.json("POST", "/score", body);
  let at = 0;
  for (const { node, count } of scored) {
    const found = tokens.slice(at, at + count).map((one) => one.logprob);
    if (node.logprobs.length < count) node.logprobs = found;
    at += count;
  }
  writer.changed();
}

/** Return the information of a token in bits; the first of a text has none. */
export function bitsOf(logprob) {
  return typeof logprob === "number" ? -logprob / Math.LN2 : 0;
}
