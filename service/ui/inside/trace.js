// The trace of a text: what each cell of a layer held and each gate let through, as /inspect tells it.

/** Read a text; `signal` of every cell of one layer comes as 32-bit floats. */
export async function readTrace(server, { model, text, signal, layer }) {
  const body = { inputs: text, model };
  const first = await server.json("POST", "/inspect", { ...body, cells: [0] });
  const { layer: at, signals, units, ...kind } = first.layers[Math.min(layer, first.layers.length - 1)];
  const name = signal in signals ? signal : "h";
  const all = await server.json("POST", "/inspect",
    { ...body, layers: [at], signals: [name], encoding: "float32" });
  return {
    text, model, layer: at, layers: first.layers.length, signal: name, tokens: first.tokens, units,
    kind: { cell: kind.cell, activation: kind.activation, recurrent: kind.recurrent_activation, hasBias: kind.use_bias,
      resetsAfter: kind.reset_after },
    signals: Object.keys(signals), values: floatsOf(all.layers[0].signals[name].base64),
  };
}

/** Return one cell at every character: its gates and states, and the states before the first. */
export async function readCell(server, trace, cell) {
  const body = { inputs: trace.text, model: trace.model, layers: [trace.layer], cells: [cell] };
  const { layers: [layer] } = await server.json("POST", "/inspect", body);
  const column = (rows) => rows.map(([value]) => value);
  return {
    cell,
    before: Object.fromEntries(Object.entries(layer.before).map(([name, row]) => [name, row[0]])),
    at: Object.fromEntries(Object.entries(layer.signals).map(([name, rows]) => [name, column(rows)])),
  };
}

function floatsOf(base64) {
  const text = atob(base64);
  const bytes = Uint8Array.from(text, (one) => one.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Return where a cell's colours begin and end: gates from 0 to 1, the rest alike on both sides. */
export function scaleOf(trace, cell) {
  if ("fiozr".includes(trace.signal)) return { least: 0, most: 1 };
  let most = 1e-6;
  for (let at = cell; at < trace.values.length; at += trace.units) {
    most = Math.max(most, Math.abs(trace.values[at]));
  }
  return { least: -most, most };
}
