// The view *Look inside*: a text in the colours of one cell, and its equations at a character.

import { html, signal, useEffect, useRef, useState } from "../core/html.js";
import { number, shown, t } from "../core/words.js";
import { equations, readCell, readTrace, scaleOf } from "./trace.js";

const MOST_CHARACTERS = 2_000;
const STRONGEST = 0.55; // above it the text's contrast falls too far
const START = "The function (see below) is called. An item (or two) is in the list.\n";

/** What the view keeps while another view is shown. */
export class Look {
  constructor(server) {
    this.server = server;
    this.text = signal(START);
    this.cell = signal(445);
    this.trace = signal(null);
    this.status = signal("");
  }

  async guarded(act) {
    this.status.value = "";
    try {
      await act();
    } catch (error) {
      this.status.value = error.message;
    }
  }

  read(model, name) {
    return this.guarded(async () => {
      const text = Array.from(this.text.value).slice(0, MOST_CHARACTERS).join("");
      const trace = await readTrace(this.server, model, text, name);
      this.cell.value = Math.min(this.cell.value, trace.units - 1);
      this.trace.value = trace;
    });
  }
}

export function InsideView({ look, writer }) {
  const [name, setName] = useState("c");
  const [token, setToken] = useState(null);
  const trace = look.trace.value;
  const cell = look.cell.value;
  const read = (signalName) => {
    setToken(null);
    look.read(writer.model.value, signalName);
  };
  return html`<div class="column inside">
    <p class="lead">${t("inside.lead")}</p>
    <section class="card" aria-label=${t("inside.text")}>
      <label>${t("inside.text")}<textarea rows="4" value=${look.text.value} maxlength=${MOST_CHARACTERS}
        onInput=${(event) => { look.text.value = event.target.value; }}></textarea></label>
      <div class="deeds">
        <button class="main" disabled=${look.text.value === ""} onClick=${() => read(name)}>${t("inside.read")}</button>
        <button disabled=${writer.draft === ""} onClick=${() => { look.text.value = writer.draft.slice(0, MOST_CHARACTERS); }}>
          ${t("inside.fromSheet")}</button>
      </div>
      <p role="status" class="told error">${look.status.value}</p>
    </section>
    ${trace && html`<section class="card" aria-label=${t("inside.coloured")}>
      <div class="grid">
        <label>${t("inside.cell", { n: number(trace.units - 1) })}<input name="cell" type="number" min="0"
          max=${trace.units - 1} value=${cell} onInput=${(event) => {
            const chosen = event.target.valueAsNumber;
            if (chosen >= 0 && chosen < trace.units) look.cell.value = Math.floor(chosen);
          }} /></label>
        <label>${t("inside.signal")}<select value=${trace.signal} onChange=${(event) => {
          setName(event.target.value);
          read(event.target.value);
        }}>${trace.signals.map((one) => html`<option key=${one}>${one}</option>`)}</select></label>
      </div>
      <${Coloured} trace=${trace} cell=${cell} token=${token} onPick=${setToken} />
      <${Legend} trace=${trace} cell=${cell} />
      ${token === null ? html`<p class="muted">${t("inside.pick")}</p>`
        : html`<${Sum} look=${look} trace=${trace} cell=${cell} token=${token} />`}
    </section>`}
  </div>`;
}

function Coloured({ trace, cell, token, onPick }) {
  const canvas = useRef(null);
  const copy = useRef(null);
  const boxes = useRef([]);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    watch.observe(copy.current);
    return () => watch.disconnect();
  }, []);
  useEffect(() => { boxes.current = measured(copy.current, trace); }, [trace, width]);
  useEffect(() => paint(canvas.current, copy.current, boxes.current, trace, cell, token),
    [trace, width, cell, token]);
  const pick = (event) => {
    const frame = copy.current.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const at = boxes.current.findIndex((box) => x >= box.x && x < box.x + box.width
      && y >= box.y && y < box.y + box.height);
    if (at >= 0) onPick(at);
  };
  const onKey = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    onPick(Math.min(trace.tokens.length - 1, Math.max(0, (token ?? -1) + step)));
  };
  return html`<div class="coloured" tabindex="0" role="group" aria-label=${t("inside.coloured")}
      onClick=${pick} onKeyDown=${onKey}>
    <canvas ref=${canvas} aria-hidden="true"></canvas>
    <div class="words" ref=${copy} dir="auto">${trace.text}</div>
  </div>`;
}

/** Return the box of each token, in the pixels of its text. */
function measured(copy, trace) {
  const node = copy.firstChild;
  const frame = copy.getBoundingClientRect();
  const units = [0];
  for (const one of trace.text) units.push(units.at(-1) + one.length);
  const range = document.createRange();
  return trace.tokens.map(({ start, stop }) => {
    range.setStart(node, units[start]);
    range.setEnd(node, units[stop]);
    const box = range.getClientRects()[0] ?? { left: 0, top: 0, width: 0, height: 0 };
    return { x: box.left - frame.left, y: box.top - frame.top, width: box.width, height: box.height };
  });
}

/** Paint a cell's values behind the text, in one pass. */
function paint(canvas, copy, boxes, trace, cell, token) {
  const ratio = devicePixelRatio || 1;
  const [wide, high] = [Math.round(copy.clientWidth * ratio), Math.round(copy.clientHeight * ratio)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, wide, high);
  const style = getComputedStyle(canvas);
  const [cool, warm, ink] = ["--cool", "--warm", "--muted"].map((one) => style.getPropertyValue(one));
  const { least, most } = scaleOf(trace, cell);
  boxes.forEach((box, at) => {
    const share = (2 * (trace.values[at * trace.units + cell] - least)) / (most - least) - 1;
    context.globalAlpha = STRONGEST * Math.min(1, Math.abs(share));
    context.fillStyle = share < 0 ? cool : warm;
    context.fillRect(box.x, box.y, box.width, box.height);
  });
  context.globalAlpha = 1;
  if (token !== null && boxes[token]) {
    const box = boxes[token];
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.strokeRect(box.x, box.y, Math.max(4, box.width), box.height);
  }
}

function Legend({ trace, cell }) {
  const { least, most } = scaleOf(trace, cell);
  return html`<p class="legend muted"><span class="low"></span> ${number(least, 2)}
    ${" … "}${number((least + most) / 2, 2)}${" … "}${number(most, 2)} <span class="high"></span></p>`;
}

function Sum({ look, trace, cell, token }) {
  const [found, setFound] = useState(null);
  useEffect(() => {
    let isShown = true;
    look.guarded(async () => {
      const read = await readCell(look.server, trace, cell);
      if (isShown) setFound(read);
    });
    return () => { isShown = false; };
  }, [trace, cell]);
  if (found?.cell !== cell || token >= trace.tokens.length) return html`<p class="muted">${t("loading")}</p>`;
  return html`<div class="sum" aria-live="polite">
    <h2>${t("inside.at")} <kbd>${shown(trace.tokens[token].text)}</kbd></h2>
    ${equations(trace, found, token).map((line) => html`<p class="equation" key=${line} tabindex="0">${line}</p>`)}
  </div>`;
}
