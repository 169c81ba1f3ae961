// One cell over the whole text: how long it remembers, how full it is, and what is lost without it.

import { html } from "../core/html.js";
import { number, shown, t } from "../core/words.js";
import { placeName } from "./finds.js";

const MOST_TOKENS = 5;
const [WIDE, HIGH, LEFT] = [320, 90, 30];

export function Cell({ look, model }) {
  const { statistics, ablation } = look.measured.value;
  const place = look.place.value;
  const isBusy = look.isBusy.value || look.isFinding.value; // a server runs few of them at a time
  return html`<section class="card" aria-label=${t("inside.cellOf", { place: placeName(place) })}>
    <h2>${t("inside.cellOf", { place: placeName(place) })}</h2>
    <p class="muted">${t("inside.cellHint")}</p>
    <div class="deeds">
      <button disabled=${isBusy} onClick=${() => look.measure(model, "statistics")}>${t("inside.measure")}</button>
      <button disabled=${isBusy} onClick=${() => look.measure(model, "ablation")}>${t("inside.ablate")}</button>
      <button class="plain" onClick=${() => navigator.clipboard?.writeText(location.href)}>${t("inside.copyLink")}</button>
    </div>
    <div aria-live="polite" class="measured">
      ${statistics && html`<${Statistics} layer=${statistics.layers[0]} />`}
      ${ablation && html`<${Ablation} reply=${ablation} />`}
    </div>
  </section>`;
}

function Statistics({ layer }) {
  const [cell] = layer.cells;
  const gates = Object.entries(cell.gates).filter(([name]) => "fiozr".includes(name));
  const half = cell.half_life;
  const full = (cell.histogram[0] + cell.histogram.at(-1)) / cell.histogram.reduce((sum, one) => sum + one, 0);
  const named = (rows) => rows.map((one) => `“${shown(one.text)}”`).join(" ") || "–";
  return html`<div class="pair">
    <dl>
      <div><dt>${t("inside.halfLife")}</dt><dd>${half == null ? "–" : t("inside.characters", { n: number(half, 1) })}</dd></div>
      <div><dt>${t("inside.clearedBy")}</dt><dd>${named(cell.cleared_by)}</dd></div>
      <div><dt>${t("inside.writtenBy")}</dt><dd>${named(cell.written_by)}</dd></div>
      <div><dt>${t("inside.full")}</dt><dd>${number(100 * full, 1)} %</dd></div>
      ${gates.map(([name, gate]) => html`<div key=${name}><dt>${t("inside.gate", { name })}</dt>
        <dd>${t("inside.saturation", { shut: number(100 * gate.below, 1), open: number(100 * gate.above, 1) })}</dd></div>`)}
    </dl>
    <${Retention} retention=${cell.retention} />
  </div>`;
}

/** The share that is kept after n characters, over n in equal steps of its logarithm. */
function Retention({ retention }) {
  const points = Object.entries(retention).map(([n, kept]) => [Number(n), kept]).sort((a, b) => a[0] - b[0]);
  if (points.length < 2) return null;
  const most = Math.log(points.at(-1)[0]);
  const x = (n) => LEFT + ((WIDE - LEFT - 12) * Math.log(n)) / most;
  const y = (kept) => 8 + HIGH * (1 - kept);
  const ticks = points.filter(([n]) => [1, 8, 55, 377].includes(n));
  return html`<figure class="chart"><svg viewBox=${`0 0 ${WIDE} ${HIGH + 30}`} role="img" aria-label=${t("inside.retention")}>
    ${[0, 0.5, 1].map((kept) => html`<g key=${kept}><line class="grid-line" x1=${LEFT} x2=${WIDE - 12} y1=${y(kept)} y2=${y(kept)} />
      <text class="tick" x=${LEFT - 6} y=${y(kept) + 4} text-anchor="end">${kept}</text></g>`)}
    <polyline class="training" points=${points.map(([n, kept]) => `${x(n)},${y(kept)}`).join(" ")} />
    ${ticks.map(([n]) => html`<text class="tick" key=${n} x=${x(n)} y=${HIGH + 24} text-anchor="middle">${n}</text>`)}
  </svg><figcaption class="muted">${t("inside.retention")}</figcaption></figure>`;
}

function Ablation({ reply }) {
  const [held] = reply.sets;
  return html`<div>
    <p>${t("inside.lost", { value: number(held.values[0], 2), bits: number(held.bits, 3) })}</p>
    <ul class="dearest">${dearest(reply).slice(0, MOST_TOKENS).map((one) => html`<li key=${one.id}>
      <kbd>${shown(one.text)}</kbd> ${t("inside.lostAt", { bits: number(one.lost, 2), n: one.count })}</li>`)}</ul>
  </div>`;
}

/** Return the tokens by what they lose where the cell is held, the dearest first. */
export function dearest(reply) {
  return reply.tokens.map((one) => ({ ...one, lost: one.costliest[0]?.bits ?? 0 }))
    .sort((one, other) => other.lost - one.lost);
}
