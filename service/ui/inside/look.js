// What the view *Look inside* knows: a text, a cell, what was read and found.

import { batch, signal } from "../core/html.js";
import { Unreachable } from "../core/server.js";
import { settle } from "../core/route.js";
import { t } from "../core/words.js";
import { addressOf, placeOf } from "./address.js";
import { START, writtenBy } from "./start_text.js";
import { readTrace } from "./trace.js";

export const MOST_SHOWN = 2_000;
export const MOST_TEXT = 200_000;
const FIRST_CELL = 445; // of the bundled model: it follows parentheses

export class Look {
  constructor(server) {
    this.server = server;
    this.text = signal(START);
    this.part = signal(0); // of the text, in MOST_SHOWN characters
    this.place = signal({ layer: 0, cell: FIRST_CELL });
    this.signalName = signal("c");
    this.token = signal(null);
    this.trace = signal(null);
    this.status = signal("");
    this.isBusy = signal(false);
    this.finds = signal([]); // {name, property, state, find, refusal}
    this.isFinding = signal(false);
    this.measured = signal({}); // of the chosen cell: {statistics, ablation}
    this.address = "";
  }

  async guarded(act) {
    this.status.value = "";
    try {
      return await act();
    } catch (error) {
      this.status.value = error instanceof Unreachable ? t("away") : error.message;
      return undefined;
    }
  }

  /** Run what a button begins; meanwhile no other button begins anything. */
  async #started(act) {
    this.isBusy.value = true;
    try {
      return await this.guarded(act);
    } finally {
      this.isBusy.value = false;
    }
  }

  /** Take another text, of which nothing is known yet. */
  take(text) {
    batch(() => {
      this.text.value = Array.from(text).slice(0, MOST_TEXT).join("");
      this.part.value = 0;
      this.finds.value = [];
      this.measured.value = {};
      this.trace.value = null;
    });
  }

  get parts() {
    return Math.max(1, Math.ceil(Array.from(this.text.value).length / MOST_SHOWN));
  }

  /** Read the shown part of the text with a model, and colour it. */
  read(model, part = this.part.value) {
    return this.guarded(async () => {
      const start = part * MOST_SHOWN;
      const text = Array.from(this.text.value).slice(start, start + MOST_SHOWN).join("");
      const { layer, cell } = this.place.value;
      const trace = await readTrace(this.server, { model, text, signal: this.signalName.value, layer });
      batch(() => {
        this.part.value = part;
        this.token.value = null;
        this.place.value = { layer: trace.layer, cell: Math.min(cell, trace.units - 1) };
        this.trace.value = trace;
      });
      this.settle();
    });
  }

  /** Choose a cell; that of another layer is read first. */
  async choose(model, place) {
    batch(() => {
      this.place.value = place;
      this.measured.value = {};
    });
    if (this.trace.value?.layer !== place.layer) await this.read(model);
    else this.settle();
  }

  /** Choose a character of the trace. */
  pick(token) {
    this.token.value = token;
    this.settle();
  }

  write(model) {
    return this.#started(async () => {
      this.take(await writtenBy(this.server, model, this.text.value));
      await this.read(model);
    });
  }

  // -- the address, which another browser opens on the same cell

  settle() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      const trace = this.trace.value;
      if (!trace || !location.hash.startsWith("#/inside")) return;
      this.address = addressOf({
        ...this.place.value, model: trace.model, signal: trace.signal, text: trace.text,
        token: this.token.value,
      });
      settle(this.address);
    }, 200); // browsers refuse an address that changes too often
  }

  /** Show what an address says. */
  async open(query, writer) {
    const asked = placeOf(query);
    if (asked === null || `#/inside?${query}` === this.address) return;
    this.address = `#/inside?${query}`;
    await writer.opened;
    const { model } = asked;
    if (model && !writer.models.value.some((one) => one.id === model)) {
      this.status.value = t("inside.noModel", { model });
      return;
    }
    if (model) writer.model.value = model;
    if (asked.text) this.take(asked.text);
    this.signalName.value = asked.signal;
    this.place.value = { layer: asked.layer, cell: asked.cell };
    await this.read(writer.model.value, 0);
    if (asked.token !== null && asked.token < (this.trace.value?.tokens.length ?? 0)) this.pick(asked.token);
  }

  // -- one cell over the whole text

  async measure(model, kind) {
    const place = this.place.value;
    const body = { inputs: this.text.value, model, cells: [place.cell] };
    const reply = await this.#started(() => (kind === "statistics"
      ? this.server.json("POST", "/inspect/statistics", { ...body, layers: [place.layer] })
      : this.server.json("POST", "/inspect/ablate", { ...body, layer: place.layer, cells: [[place.cell]] })));
    if (reply && this.place.value === place) this.measured.value = { ...this.measured.value, [kind]: reply };
  }

  // -- the search, a property at a time, since one that is refused would take the others with it

  async find(model, properties) {
    this.isFinding.value = true;
    this.isStopped = false;
    const text = this.text.value;
    for (const property of properties) {
      if (this.isStopped || this.text.value !== text) break;
      const name = typeof property === "string" ? property : property.name;
      this.#tell(name, { state: "running" });
      try {
        const { finds: [find] } = await this.server.json("POST", "/inspect/cells",
          { inputs: text, model, properties: [property] });
        if (this.text.value === text) this.#tell(name, { state: find.verdict, find });
      } catch (error) {
        const refusal = error instanceof Unreachable ? t("away") : error.message;
        if (this.text.value === text) this.#tell(name, { state: "refused", refusal });
      }
    }
    this.isFinding.value = false;
  }

  /** Begin no other search; the one that runs is waited for, since a server runs one at a time. */
  stop() {
    this.isStopped = true;
  }

  #tell(name, row) {
    const rows = this.finds.value.filter((one) => one.name !== name);
    this.finds.value = [...rows, { name, ...row }];
  }
}
