// The finds: which cell follows which property of the text, with what speaks for and against it.

import { html, useState } from "../core/html.js";
import { number, shown, t } from "../core/words.js";

const PROPERTIES = [
  "in_parentheses", "in_double_quotes", "in_single_quotes", "in_brackets", "in_braces", "in_indent",
  "in_curly_quotes", "in_title_marks", "place_in_word", "column", "line_of_paragraph", "since_sentence_end",
];
const HAS_CELL = ["used", "found", "weak"];

export function Finds({ look, model, onChoose }) {
  const [pattern, setPattern] = useState("");
  const rows = look.finds.value;
  const isRunning = look.isFinding.value;
  const mine = (event) => {
    event.preventDefault();
    look.find(model, [{ name: pattern.slice(0, 100), match: pattern }]);
  };
  return html`<section class="card" aria-label=${t("inside.finds")}>
    <h2>${t("inside.finds")}</h2>
    <p class="muted">${t("inside.findsHint")}</p>
    <div class="deeds">
      <button class="main" disabled=${isRunning} onClick=${() => look.find(model, PROPERTIES)}>${t("inside.find")}</button>
      <button disabled=${!isRunning} onClick=${() => look.stop()}>${t("inside.stop")}</button>
    </div>
    <form class="own" onSubmit=${mine}>
      <label>${t("inside.pattern")}<input name="pattern" value=${pattern} maxlength="1000" spellcheck="false"
        autocomplete="off" onInput=${(event) => setPattern(event.target.value)} /></label>
      <button disabled=${isRunning || pattern === ""}>${t("inside.findOwn")}</button>
    </form>
    <ul class="finds">${rows.map((row) => html`<${Row} key=${row.name} row=${row} onChoose=${onChoose} />`)}</ul>
    <p class="hidden" role="status">${isRunning ? t("inside.searching", { name: nameOf(rows.at(-1)?.name ?? "") }) : ""}</p>
  </section>`;
}

function nameOf(name) {
  return PROPERTIES.includes(name) ? t(`property.${name}`) : name;
}

function Row({ row, onChoose }) {
  const { find, state } = row;
  const [best] = find?.cells ?? [];
  const isFind = HAS_CELL.includes(state);
  return html`<li class=${isFind ? state : "without"}>
    <header><h3>${nameOf(row.name)}</h3><span class=${`badge ${state}`}>${t(`verdict.${state}`)}</span>
      ${best && html`<button onClick=${() => onChoose({ layer: best.layer, cell: best.cell })}>
        ${t("inside.cellOf", { place: placeName(best) })}</button>`}</header>
    ${row.refusal && html`<p class="muted">${row.refusal}</p>`}
    ${best && html`<p class="evidence">${evidence(find, best)}</p>`}
  </li>`;
}

/** Return a cell's name: that of the first layer needs no layer. */
export function placeName({ layer, cell }) {
  return layer === 0 ? String(cell) : `${layer}.${cell}`;
}

function evidence(find, best) {
  const r = (value) => value.toFixed(2).replace("-", "−");
  const { baselines } = find;
  const use = find.ablation.find((one) => one.layer === best.layer && one.cell === best.cell);
  const parts = [
    t("evidence.r", { r: r(best.r), chosen: r(best.r_chosen_on) }),
    t("evidence.null", { r: r(baselines.null_95) }),
    t("evidence.untrained", { r: r(baselines.untrained) }),
    t("evidence.character", { r: r(baselines.character) }),
  ];
  if (use) {
    parts.push(t("evidence.use",
      { text: shown(use.text), bits: number(use.bits, 2), rank: use.rank, of: use.of }));
  }
  return parts.join(" · ");
}
