// The tour: six questions about the parentheses cell of the bundled model, each answered by trying.

import { html, signal, useEffect, useRef } from "../core/html.js";
import { number, shown, t } from "../core/words.js";
import { dearest } from "./cell.js";
import { START } from "./start_text.js";
import { equations } from "./equations.js";
import { readCell } from "./trace.js";

const PLACE = { layer: 0, cell: 445 };
const PROMPT = " The value is a string (see below";
const OUTSIDE = 3; // what the cell has outside parentheses
const N_TEXTS = 16;
const N_STEPS = 6;
const OPENING = START.indexOf("(");
const CLOSING = START.indexOf(")");

export class Tour {
  constructor(look) {
    this.look = look;
    this.step = signal(null); // from 0; null before its start
    this.answer = signal(null); // of this step: {values, texts?}
    this.isBusy = signal(false);
    this.before = null; // the model and the text of before: {model, text}
  }

  /** Return the bundled model, of which the tour tells, or null. */
  modelOf(writer) {
    return writer.models.value.find((one) => one.id.startsWith("demo@"))?.id ?? null;
  }

  go(step) {
    this.answer.value = null;
    this.step.value = step;
  }

  /** End the tour: a model and a text that it has put aside are there again. */
  leave(writer) {
    const { before, look } = this;
    this.go(null);
    this.before = null;
    const root = writer.models.value.find((one) => one.id === before?.model)?.root;
    if (!before || root === this.modelOf(writer)) return;
    writer.model.value = before.model;
    look.take(before.text);
  }

  async show(writer) {
    const { look } = this;
    const step = this.step.value;
    const model = this.modelOf(writer);
    this.isBusy.value = true;
    if (step === 0) {
      this.before ??= { model: writer.model.value, text: look.text.value };
      writer.model.value = model;
      look.take(START);
      look.signalName.value = "c";
      look.place.value = PLACE;
      await look.read(model);
    }
    const values = await look.guarded(() => this.#answer(step, model));
    this.isBusy.value = false;
    if (values && this.step.value === step) this.answer.value = values;
  }

  async #answer(step, model) {
    const { look } = this;
    const { server } = look;
    if (step === 4) {
      const reply = await server.json("POST", "/inspect/ablate", { inputs: START, model, cells: [[PLACE.cell]] });
      look.measured.value = { ablation: reply };
      const [first, second] = dearest(reply);
      return { text: shown(first.text), bits: number(first.lost, 2), other: shown(second.text), less: number(second.lost, 2) };
    }
    if (step === 5) {
      const write = async (entry) => {
        const { choices } = await server.json("POST", "/v1/completions", {
          model, prompt: PROMPT, n: N_TEXTS, max_tokens: 120, temperature: 0.7, seed: 3,
          steer: [{ cell: PLACE.cell, ...entry }],
        });
        return choices.map((one) => one.text);
      };
      const whole = await write({ op: "scale", value: 1 });
      const broken = await write({ op: "set", value: OUTSIDE });
      return { whole: closed(whole), broken: closed(broken), n: N_TEXTS, texts: [whole[0], broken[0]] };
    }
    const token = [OPENING, OPENING, OPENING + 1, CLOSING - 1][step];
    const found = await readCell(server, look.trace.value, PLACE.cell);
    if (step > 0) look.pick(token);
    const at = (name) => number(found.at[name][token], 3);
    const lines = step === 0 ? [] 
      : equations(look.trace.value.kind, found, token).filter((line) => line.startsWith("c"));
    return { f: at("f"), i: at("i"), g: at("g"), c: at("c"), lines };
  }
}

/** Return how many texts close the parenthesis before they open another. */
function closed(texts) {
  return texts.filter((one) => one.split("(")[0].includes(")")).length;
}

export function TourCard({ tour, writer }) {
  const heading = useRef(null);
  const step = tour.step.value;
  const answer = tour.answer.value;
  const isBusy = tour.isBusy.value;
  useEffect(() => { if (step !== null) heading.current?.focus(); }, [step]);
  if (tour.modelOf(writer) === null) return null;
  if (step === null) {
    return html`<section class="card tour" aria-label=${t("tour.title")}>
      <h2>${t("tour.title")}</h2>
      <p>${t("tour.lead")}</p>
      <div class="deeds"><button onClick=${() => tour.go(0)}>${t("tour.start")}</button></div>
    </section>`;
  }
  const isLast = step === N_STEPS - 1;
  const next = () => (isLast ? tour.leave(writer) : tour.go(step + 1));
  return html`<section class="card tour" aria-label=${t("tour.title")}>
    <p class="muted">${t("tour.step", { n: step + 1, of: N_STEPS })}</p>
    <h2 tabindex="-1" ref=${heading}>${t(`tour.question.${step}`)}</h2>
    <div aria-live="polite">
      ${answer && html`<p>${t(`tour.answer.${step}`, answer)}</p>`}
      ${answer?.lines?.map((line) => html`<p class="equation" key=${line}>${line}</p>`)}
      ${answer?.texts && html`<${Compared} texts=${answer.texts} />`}
    </div>
    <p role="status" class="told error">${tour.look.status.value}</p>
    <div class="deeds">
      <button class="main" aria-disabled=${isBusy} onClick=${() => {
        if (!isBusy) return answer ? next() : tour.show(writer);
        return undefined;
      }}>${answer ? t(isLast ? "tour.end" : "tour.next") : t(`tour.show.${step}`)}</button>
      ${step > 0 && html`<button onClick=${() => tour.go(step - 1)}>${t("tour.back")}</button>`}
      <button class="plain" onClick=${() => tour.leave(writer)}>${t("tour.leave")}</button>
    </div>
  </section>`;
}

/** Two texts of one seed, side by side, with a mark where the second begins to differ. */
function Compared({ texts: [whole, broken] }) {
  let same = 0;
  while (same < whole.length && whole[same] === broken[same]) same += 1;
  const column = (name, text) => html`<div><h3>${t(name)}</h3>
    <p class="sample"><span class="muted">${PROMPT}</span>${text.slice(0, same)}<mark>${text.slice(same, same + 1)}</mark>${text.slice(same + 1)}</p></div>`;
  return html`<div class="pair">${column("tour.whole", whole)}${column("tour.broken", broken)}</div>`;
}
