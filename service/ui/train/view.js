// The view *Train*: from a dropped text to a model that writes, with its loss as it falls.

import { html, signal, useEffect, useState } from "../core/html.js";
import { number, t } from "../core/words.js";
import { Chart } from "./chart.js";
import { entropies } from "./corpus.js";
import { Job } from "./job.js";

const MOST_COUNTED_BYTES = 20_000_000;

/** What the view has: a text that was chosen, and the jobs that there are. */
export class Studio {
  constructor(server, onModel) {
    this.server = server;
    this.onModel = onModel; // told the name of a model that can write now
    this.corpus = signal(null);
    this.scales = signal(null);
    this.jobs = signal([]);
    this.job = signal(null);
    this.other = signal(null); // the job that the shown one is compared with
    this.status = signal("");
    this.isSending = signal(false);
  }

  async guarded(act) {
    this.status.value = "";
    this.isSending.value = true;
    try {
      await act();
    } catch (error) {
      this.status.value = error.message;
    }
    this.isSending.value = false;
  }

  load() {
    return this.guarded(async () => {
      const { jobs } = await this.server.json("GET", "/train-jobs");
      this.jobs.value = jobs;
      const running = jobs.find((one) => ["queued", "running"].includes(one.status));
      if (running && this.job.value === null) this.follow(running);
    });
  }

  bring(file) {
    return this.guarded(async () => {
      const name = encodeURIComponent((file.name || "text").slice(0, 80));
      const body = new Blob([file], { type: "text/plain" });
      const reply = await this.server.send("POST", `/corpora?name=${name}`, body);
      this.corpus.value = await reply.json();
      this.scales.value = file.size <= MOST_COUNTED_BYTES ? entropies(await file.text()) : null;
    });
  }

  submit(body) {
    return this.guarded(async () => {
      const reply = await this.server.json("POST", "/train-jobs", body);
      this.jobs.value = [reply, ...this.jobs.value];
      this.follow(reply);
    });
  }

  /** Lay the held-out losses of another job over the shown one's; null takes them away. */
  compare(reply) {
    this.other.value?.close();
    this.other.value = reply && new Job(this.server, reply);
    this.other.value?.follow();
  }

  follow(reply) {
    this.job.value?.close();
    if (this.other.value?.id === reply.id) this.compare(null);
    const job = new Job(this.server, reply);
    this.job.value = job;
    job.follow().then(() => {
      const { value } = job.reply;
      this.jobs.value = this.jobs.value.map((one) => (one.id === value.id ? value : one));
      if (value.model) this.onModel(value.model);
    });
  }
}

export function TrainView({ studio, onWrite }) {
  useEffect(() => { studio.load(); }, []);
  const job = studio.job.value;
  return html`<div class="column">
    <p class="lead">${t("train.lead")}</p>
    <p role="status" class="told error">${studio.status.value}</p>
    <${Drop} studio=${studio} />
    ${studio.corpus.value && html`<${Form} key=${studio.corpus.value.id} studio=${studio} />`}
    ${job && html`<${Progress} key=${job.id} studio=${studio} job=${job} onWrite=${onWrite} />`}
    ${studio.jobs.value.length > 0 && html`<section class="card" aria-label=${t("train.jobs")}>
      <h2>${t("train.jobs")}</h2>
      <ul class="jobs">${studio.jobs.value.map((one) => html`<li key=${one.id}>
        <button class="plain" aria-current=${one.id === job?.id ? "true" : null}
          onClick=${() => studio.follow(one)}>${one.name}</button>
        <span class=${`badge ${one.status}`}>${t(`train.status.${one.status}`)}</span>
        ${one.best && html`<span class="muted">${t("train.bits", { n: number(one.best.bits_per_character ?? 0, 3) })}</span>`}
      </li>`)}</ul>
    </section>`}
  </div>`;
}

function Drop({ studio }) {
  const [isOver, setIsOver] = useState(false);
  const [pasted, setPasted] = useState("");
  const corpus = studio.corpus.value;
  const drop = (event) => {
    event.preventDefault();
    setIsOver(false);
    const [file] = event.dataTransfer.files;
    if (file) studio.bring(file);
  };
  return html`<section class=${`card drop ${isOver ? "over" : ""}`} aria-label=${t("train.text")}
      onDragOver=${(event) => { event.preventDefault(); setIsOver(true); }}
      onDragLeave=${() => setIsOver(false)} onDrop=${drop}>
    <h2>${t("train.text")}</h2>
    <label>${t("train.choose")}<input type="file" accept=".txt,text/plain"
      onChange=${(event) => event.target.files[0] && studio.bring(event.target.files[0])} /></label>
    <details><summary>${t("train.paste")}</summary>
      <label>${t("train.pasteHere")}
        <textarea rows="5" value=${pasted} onInput=${(event) => setPasted(event.target.value)}></textarea></label>
      <button disabled=${pasted === "" || studio.isSending.value}
        onClick=${() => studio.bring(new File([pasted], "pasted"))}>${t("train.usePasted")}</button>
    </details>
    ${corpus && html`<p class="told good">${t("train.corpus", {
      name: corpus.name, n: number(corpus.characters), v: number(corpus.vocabulary_size) })}</p>`}
  </section>`;
}

function Form({ studio }) {
  const send = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const whole = (name) => Number.parseInt(form.get(name), 10);
    studio.submit({
      name: form.get("name"), corpus: studio.corpus.value.id,
      architecture: {
        cell: form.get("cell"), units: whole("units"), layers: whole("layers"),
        embedding_dim: whole("embedding_dim"),
      },
      training: { epochs: whole("epochs"), max_seconds: 60 * Number(form.get("minutes")) },
    });
  };
  const field = (name, value, least, most) => html`<label>${t(`train.${name}`)}
    <input type="number" name=${name} defaultValue=${value} min=${least} max=${most} required /></label>`;
  return html`<section class="card" aria-label=${t("train.model")}>
    <h2>${t("train.model")}</h2>
    <form class="grid" onSubmit=${send}>
      <label>${t("models.name")}<input name="name" required maxlength="60" defaultValue="mine"
        pattern="[a-z0-9][a-z0-9._\\-]*" autocomplete="off" /></label>
      <label>${t("train.cell")}<select name="cell">
        <option value="lstm">LSTM</option><option value="peephole_lstm">peephole LSTM</option>
        <option value="gru">GRU</option></select></label>
      ${field("units", 128, 8, 2048)}${field("layers", 1, 1, 4)}${field("embedding_dim", 32, 4, 512)}
      ${field("epochs", 20, 1, 1000)}${field("minutes", 10, 1, 1440)}
      <button class="main" disabled=${studio.isSending.value}>${t("train.start")}</button>
    </form>
  </section>`;
}

function Progress({ studio, job, onWrite }) {
  const [at, setAt] = useState(null);
  const reply = job.reply.value;
  const progress = job.progress.value;
  const samples = job.samples.value;
  const chosen = Math.min(at ?? samples.length - 1, samples.length - 1);
  const share = progress ? progress.step / progress.n_steps : 0;
  useEffect(() => {
    if (reply.status === "running") document.title = `${number(100 * share)} % · ${reply.name} · Carousel`;
  }, [share, reply.status]);
  return html`<section class="card" aria-label=${reply.name}>
    <header><h2>${reply.name}</h2>
      <span class=${`badge ${reply.status}`}>${t(`train.status.${reply.status}`)}</span></header>
    <progress max="1" value=${reply.status === "succeeded" ? 1 : share} aria-label=${t("train.progress")}></progress>
    <p class="muted">${job.isOver ? "" : progress ? t("train.facts", {
      rate: number(progress.characters_per_second), left: number(progress.eta_s),
      step: number(progress.step), n: number(progress.n_steps) }) : t("train.waiting")}</p>
    ${(reply.error || job.problem.value) && html`<p class="told error">
      ${reply.error?.message ?? reply.error?.error ?? job.problem.value}</p>`}
    <div class="halves">
      <${Chart} job=${job} other=${studio.other.value} scales=${studio.scales.value} />
      ${samples.length > 0 && html`<div><h3>${t("train.samples")}</h3>
        <label>${t("train.sampleAt", { step: number(samples[chosen].step) })}
          <input type="range" min="0" max=${samples.length - 1} value=${chosen}
            onInput=${(event) => setAt(event.target.valueAsNumber)} /></label>
        <p class="sample" tabindex="0">${samples[chosen].text}</p></div>`}
    </div>
    <${Compared} studio=${studio} job=${job} />
    <div class="deeds">
      ${!job.isOver && html`<button onClick=${() => job.cancel()}>${t("train.stop")}</button>`}
      ${reply.status === "cancelled" && html`<button class="main" onClick=${() => job.publish()}>
        ${t("train.publish")}</button>`}
      ${reply.model && reply.status === "succeeded" && html`<button class="main"
        onClick=${() => onWrite(reply.model)}>${t("models.write")}</button>`}
    </div>
  </section>`;
}

function Compared({ studio, job }) {
  const others = studio.jobs.value.filter((one) => one.id !== job.id && one.best);
  if (others.length === 0) return null;
  return html`<label class="compare">${t("train.compare")}
    <select value=${studio.other.value?.id ?? ""} onChange=${(event) =>
      studio.compare(others.find((one) => one.id === event.target.value) ?? null)}>
      <option value="">${t("train.compareNone")}</option>
      ${others.map((one) => html`<option key=${one.id} value=${one.id}>${one.name} · ${
        t("train.bits", { n: number(one.best.bits_per_character ?? 0, 3) })}</option>`)}
    </select></label>`;
}
