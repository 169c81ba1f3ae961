// The view *Look inside*: a text in the colours of one cell, its equations at a character, and the finds.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { theme } from "../core/preferences.js";
import { route } from "../core/route.js";
import { number, shown, t } from "../core/words.js";
import { Cell } from "./cell.js";
import { equations } from "./equations.js";
import { Finds } from "./finds.js";
import { MOST_SHOWN, MOST_TEXT } from "./look.js";
import { TourCard } from "./tour.js";
import { readCell, scaleOf } from "./trace.js";

const STRONGEST = 0.55; // above it the text's contrast falls too far
const PAUSE_MS = 150; // of a cell that is passed over nothing is asked

export function InsideView({ look, tour, writer }) {
  const seen = useRef(null);
  const trace = look.trace.value;
  const model = writer.model.value;
  const { query } = route.value;
  const isLed = tour.step.value !== null; // then what the tour tells of is next to it
  useEffect(() => { look.open(query, writer); }, [query]);
  const choose = async (place) => {
    await look.choose(model, place);
    if (!look.trace.value) await look.read(model);
    seen.current?.focus();
  };
  return html`<div class="column inside">
    <p class="lead">${t("inside.lead")}</p>
    <${TourCard} tour=${tour} writer=${writer} />
    ${!isLed && html`<section class="card" aria-label=${t("inside.text")}>
      <div class="grid"><label>${t("settings.model")}<select value=${model} onChange=${(event) => {
        writer.model.value = event.target.value;
        look.take(look.text.value);
      }}>${writer.models.value.map((one) => html`<option key=${one.id}>${one.id}</option>`)}</select></label></div>
      <label>${t("inside.text")}<textarea rows="5" value=${look.text.value} maxlength=${MOST_TEXT}
        onInput=${(event) => look.take(event.target.value)}></textarea></label>
      <div class="deeds">
        <button class="main" disabled=${look.text.value === ""} onClick=${() => look.read(model)}>${t("inside.read")}</button>
        <button disabled=${writer.draft === ""} onClick=${() => {
          look.take(writer.draft);
          return look.read(model);
        }}>${t("inside.fromSheet")}</button>
        <button disabled=${look.isBusy.value} onClick=${() => look.write(model)}>${t("inside.write")}</button>
      </div>
      <p class="muted" hidden=${look.parts === 1}>${t("inside.parts", { n: number(Array.from(look.text.value).length), most: number(MOST_SHOWN) })}</p>
      <p role="status" class="told error">${look.status.value}</p>
    </section>`}
    ${trace && html`<${Trace} look=${look} trace=${trace} model=${model} seen=${seen} />`}
    ${!isLed && html`<${Finds} look=${look} model=${model} onChoose=${choose} />`}
    ${!isLed && trace && html`<${Cell} look=${look} model=${model} />`}
  </div>`;
}

function Trace({ look, trace, model, seen }) {
  const { layer, cell } = look.place.value;
  const token = look.token.value;
  const chosen = (event, most) => {
    const value = Math.floor(event.target.valueAsNumber);
    return value >= 0 && value <= most ? value : null;
  };
  return html`<section class="card" aria-label=${t("inside.coloured")}>
    <div class="grid">
      <label>${t("inside.cell", { n: number(trace.units - 1) })}<input name="cell" type="number" min="0"
        max=${trace.units - 1} value=${cell} onInput=${(event) => {
          const value = chosen(event, trace.units - 1);
          if (value !== null) look.choose(model, { layer, cell: value });
        }} /></label>
      ${trace.layers > 1 && html`<label>${t("inside.layer")}<select value=${layer}
        onChange=${(event) => look.choose(model, { layer: Number(event.target.value), cell })}>
        ${Array.from({ length: trace.layers }, (_, at) => html`<option key=${at}>${at}</option>`)}</select></label>`}
      <label>${t("inside.signal")}<select value=${trace.signal} onChange=${(event) => {
        look.signalName.value = event.target.value;
        look.read(model);
      }}>${trace.signals.map((one) => html`<option key=${one}>${one}</option>`)}</select></label>
      ${look.parts > 1 && html`<label>${t("inside.part", { n: look.parts })}<input name="part" type="number" min="1"
        max=${look.parts} value=${look.part.value + 1} onChange=${(event) => {
          const value = chosen(event, look.parts);
          if (value) look.read(model, value - 1);
        }} /></label>`}
    </div>
    <${Coloured} trace=${trace} cell=${cell} token=${token} seen=${seen} onPick=${(at) => look.pick(at)} />
    <${Legend} trace=${trace} cell=${cell} />
    ${token === null ? html`<p class="muted">${t("inside.pick")}</p>`
      : html`<${Sum} look=${look} trace=${trace} cell=${cell} token=${token} />`}
  </section>`;
}

function Coloured({ trace, cell, token, seen, onPick }) {
  const canvas = useRef(null);
  const copy = useRef(null);
  const boxes = useRef([]);
  const [width, setWidth] = useState(0);
  const isDark = useDarkness();
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    watch.observe(copy.current);
    return () => watch.disconnect();
  }, []);
  useEffect(() => { boxes.current = measured(copy.current, trace); }, [trace, width]);
  useEffect(() => paint(canvas.current, copy.current, boxes.current, trace, cell, token),
    [trace, width, cell, token, isDark]);
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
  return html`<div class="coloured" ref=${seen} tabindex="0" role="group" aria-label=${t("inside.coloured")}
      onClick=${pick} onKeyDown=${onKey}>
    <canvas ref=${canvas} aria-hidden="true"></canvas>
    <div class="words" ref=${copy} dir="auto">${trace.text}</div>
  </div>`;
}

/** Whether the colours are those of a dark page, by the reader's choice or the system's. */
function useDarkness() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const [isDark, setDark] = useState(system.matches);
  useEffect(() => {
    const tell = () => setDark(system.matches);
    system.addEventListener("change", tell);
    return () => system.removeEventListener("change", tell);
  }, []);
  return theme.value === "auto" ? isDark : theme.value === "dark";
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
    if (found?.trace === trace && found.cell === cell) return undefined;
    let isShown = true;
    const timer = setTimeout(async () => {
      const read = await look.guarded(() => readCell(look.server, trace, cell));
      if (isShown && read) setFound({ ...read, trace });
    }, PAUSE_MS);
    return () => {
      isShown = false;
      clearTimeout(timer);
    };
  }, [trace, cell]);
  if (found?.trace !== trace || found.cell !== cell || token >= trace.tokens.length) {
    return html`<p class="muted">${t("loading")}</p>`;
  }
  return html`<div class="sum" aria-live="polite">
    <h2>${t("inside.at")} <kbd>${shown(trace.tokens[token].text)}</kbd></h2>
    ${equations(trace.kind, found, token).map((line) => html`<p class="equation" key=${line} tabindex="0">${line}</p>`)}
    <p class="muted">${t("inside.letters")}</p>
  </div>`;
}
