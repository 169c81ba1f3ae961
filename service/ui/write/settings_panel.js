// The settings of the sheet: the model, the length, the seed, and how tokens are drawn.

import { html, useId } from "../core/html.js";
import { t } from "../core/words.js";
import { bounded, drawnSeed, MOST_STOPS, MOST_TOKENS, PARAMETERS } from "./parameters.js";

const FIRST = ["temperature", "top_k", "top_p", "min_p"];

export function SettingsPanel({ writer }) {
  const settings = writer.settings.value;
  const set = (name, value) => {
    writer.settings.value = { ...writer.settings.value, [name]: value };
    writer.changed();
  };
  const slider = (one) => html`<${Slider} key=${one.name} ...${one} value=${settings[one.name]}
    onSet=${(value) => set(one.name, value)} />`;
  return html`<form class="settings" onSubmit=${(event) => event.preventDefault()}>
    <label>${t("settings.model")}
      <select value=${writer.model.value} onChange=${(event) => {
        writer.model.value = event.target.value;
        writer.moveTo(event.target.value);
      }}>${writer.models.value.map((one) => html`<option key=${one.id} value=${one.id}>
        ${one.id === one.root ? one.id : `${one.id} → ${one.root}`}</option>`)}</select>
    </label>
    <div class="pair">
      <${Whole} label=${t("settings.length")} value=${settings.length} least=${1} most=${MOST_TOKENS}
        onSet=${(value) => set("length", value)} />
      <div class="seed">
        <${Whole} label=${t("settings.seed")} value=${settings.seed} least=${0}
          most=${Number.MAX_SAFE_INTEGER} onSet=${(value) => set("seed", value)} />
        <button type="button" onClick=${() => set("seed", drawnSeed())}
          aria-label=${t("settings.draw")} title=${t("settings.draw")}>⚄</button>
      </div>
    </div>
    ${PARAMETERS.filter((one) => FIRST.includes(one.name)).map(slider)}
    <details>
      <summary>${t("settings.more")}</summary>
      ${PARAMETERS.filter((one) => !FIRST.includes(one.name)).map(slider)}
      <label>${t("settings.stop")}
        <textarea rows="2" value=${settings.stop.join("\n")} placeholder=${t("settings.stopHint")}
          onChange=${(event) => set("stop", stopsOf(event.target.value))}></textarea>
      </label>
      <button type="button" class="danger" onClick=${() => writer.forgetEverything()}>
        ${t("settings.forget")}</button>
      <p class="muted">${t("settings.forgetHint")}</p>
    </details>
  </form>`;
}

function stopsOf(text) {
  return text.split("\n").filter(Boolean).slice(0, MOST_STOPS).map((one) => one.slice(0, 256));
}

function Slider({ name, least, most, step, off, start, value, onSet }) {
  const id = useId();
  const set = (event) => onSet(bounded(event.target.valueAsNumber, least, most, start));
  return html`<div class="slider" onDblClick=${() => onSet(start)}>
    <label for=${id}>${t(`parameter.${name}`)}</label>
    <span class="off">${value === off && name !== "temperature" ? t("settings.off") : ""}</span>
    <input type="number" min=${least} max=${most} step=${step} value=${value}
      aria-label=${t("settings.numberOf", { name: t(`parameter.${name}`) })} onChange=${set} />
    <input id=${id} type="range" min=${least} max=${most} step=${step} value=${value}
      onInput=${set} />
  </div>`;
}

function Whole({ label, value, least, most, onSet }) {
  return html`<label>${label}
    <input type="number" min=${least} max=${most} step="1" value=${value} inputmode="numeric"
      onChange=${(event) => onSet(Math.round(bounded(event.target.valueAsNumber, least, most, value)))} />
  </label>`;
}
