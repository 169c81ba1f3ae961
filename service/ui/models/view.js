// The view *Models*: what is stored, what is loaded, what was assumed, and an import by upload.

import { html, useEffect, useState } from "../core/html.js";
import { number, t } from "../core/words.js";

const LOOK_INTERVAL_MS = 3_000;

export function ModelsView({ shelf, onWrite }) {
  useEffect(() => {
    shelf.load();
    const timer = setInterval(() => {
      const isMoving = shelf.models.value?.some((one) => ["loading", "draining"].includes(one.status));
      if (isMoving && !document.hidden) shelf.load();
    }, LOOK_INTERVAL_MS);
    return () => clearInterval(timer);
  }, []);
  const models = shelf.models.value;
  const { kind, text } = shelf.status.value;
  return html`<div class="column">
    <p class="lead">${t("models.lead")}</p>
    <p role="status" class=${`told ${kind}`}>${text}</p>
    ${models === null && !text && html`<p class="muted">${t("loading")}</p>`}
    <div class="cards">${(models ?? []).map((one) => html`<${Card} key=${refOf(one)} shelf=${shelf}
      model=${one} onWrite=${onWrite} />`)}</div>
    <${Upload} shelf=${shelf} />
  </div>`;
}

function refOf(model) {
  return `${model.name}@${model.version}`;
}

function Card({ shelf, model, onWrite }) {
  const [typed, setTyped] = useState("");
  const ref = refOf(model);
  const aliases = Object.entries(shelf.aliases.value).filter(([, to]) => to === ref).map(([name]) => name);
  const isReady = model.status === "ready";
  const isBusy = shelf.working.value === ref || ["loading", "draining"].includes(model.status);
  const sample = shelf.samples.value[ref];
  return html`<article class="card" aria-label=${ref}>
    <header>
      <h2>${ref}</h2>
      <span class=${`badge ${model.status}`}>${t(`models.status.${model.status}`)}</span>
      ${aliases.map((name) => html`<span class="badge alias" key=${name}>${name}</span>`)}
    </header>
    ${model.error && html`<p class="told error">${model.error}</p>`}
    <p class="architecture">${model.architecture}</p>
    <dl>
      <${Fact} name=${t("models.vocabulary")} value=${model.vocabulary_size
        && t("models.vocabularyOf", { n: number(model.vocabulary_size), kind: model.tokenizer ?? "" })} />
      <${Fact} name=${t("models.size")} value=${t("models.megabytes", { n: number(model.bytes / 1e6, 2) })} />
      <${Fact} name=${t("models.precision")} value=${model.precision} />
      <${Fact} name=${t("models.why")} value=${model.precision_reason} />
      <${Fact} name=${t("models.parity")} value=${model.precision_reason ? null : parityOf(model.parity)} />
      <${Fact} name=${t("models.digest")} value=${model.digest?.slice(0, 16)} />
    </dl>
    ${model.assumptions.length > 0 && html`<h3>${t("models.assumed")}</h3>
      <ul class="assumed">${model.assumptions.map((one) => html`<li key=${one}>${one}</li>`)}</ul>`}
    ${sample && html`<h3>${t("models.sample")}</h3><p class="sample" tabindex="0">${sample}</p>`}
    <div class="deeds">
      ${isReady
        ? html`<button class="main" onClick=${() => onWrite(ref)}>${t("models.write")}</button>
          <button onClick=${() => shelf.sample(ref)}>${t("models.sampleIt")}</button>
          <button disabled=${isBusy || aliases.includes("default")}
            onClick=${() => shelf.setAlias("default", ref)}>${t("models.makeDefault")}</button>
          <button disabled=${isBusy} onClick=${() => shelf.unload(ref)}>${t("models.unload")}</button>`
        : html`<button class="main" disabled=${isBusy} onClick=${() => shelf.bring(ref)}>
          ${isBusy ? t("models.wait") : t("models.load")}</button>`}
    </div>
    ${model.status === "stored" && aliases.length === 0 && html`<details>
      <summary>${t("models.delete")}</summary>
      <label>${t("models.deleteType", { ref })}
        <input value=${typed} autocomplete="off" onInput=${(event) => setTyped(event.target.value)} /></label>
      <button class="danger" disabled=${typed !== ref} onClick=${() => shelf.remove(ref)}>
        ${t("models.delete")}</button>
    </details>`}
  </article>`;
}

function Fact({ name, value }) {
  return value ? html`<div><dt>${name}</dt><dd>${value}</dd></div>` : null;
}

/** Say what the smaller numbers cost, where it was measured. */
function parityOf(parity) {
  const nats = parity?.nats_per_character;
  if (!nats?.int8 || !nats.float32) return null;
  return t("models.parityOf", { n: number(nats.int8 - nats.float32, 4) });
}

function Upload({ shelf }) {
  const share = shelf.upload.value;
  const send = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    for (const name of ["vocabulary_text", "vocabulary", "config"]) {
      if (form.get(name) instanceof File && form.get(name).name === "") form.delete(name);
    }
    if (!form.get("alias")) form.delete("alias");
    shelf.receive(form);
  };
  return html`<section class="card" aria-label=${t("models.import")}>
    <h2>${t("models.import")}</h2>
    <p class="muted">${t("models.importHint")}</p>
    <form class="grid" onSubmit=${send}>
      <label>${t("models.source")}<input type="file" name="source" multiple required /></label>
      <label>${t("models.name")}<input name="name" required maxlength="80" autocomplete="off" /></label>
      <label>${t("models.vocabularyText")}<input type="file" name="vocabulary_text" /></label>
      <label>${t("models.vocabularyFile")}<input type="file" name="vocabulary" /></label>
      <label>${t("models.config")}<input type="file" name="config" /></label>
      <label>${t("models.alias")}<input name="alias" maxlength="80" autocomplete="off" /></label>
      <button class="main" disabled=${share !== null}>${t("models.send")}</button>
      ${share !== null && html`<progress max="1" value=${share} aria-label=${t("models.sending")}></progress>`}
    </form>
  </section>`;
}
