// A train job as this page follows it: its losses, its samples, and how it ends.

import { batch, signal } from "../core/html.js";
import { Refused, Unreachable } from "../core/server.js";
import { t } from "../core/words.js";

const RETRY_DELAY_MS = 2_000;
const ENDED = ["succeeded", "failed", "cancelled"];

export class Job {
  constructor(server, reply) {
    this.server = server;
    this.id = reply.id;
    this.reply = signal(reply);
    this.training = signal([]); // {step, nats}
    this.validation = signal([]); // {step, nats, bits, isBest}
    this.samples = signal([]); // {step, text}
    this.progress = signal(reply.progress);
    this.problem = signal("");
    this.closing = new AbortController();
  }

  get isOver() {
    return ENDED.includes(this.reply.value.status);
  }

  /** Follow the job until it has ended. All of its events come again after a lost connection. */
  async follow() {
    const path = `/train-jobs/${this.id}`;
    while (!this.closing.signal.aborted) {
      try {
        this.reply.value = await this.server.json("GET", path);
        batch(() => { for (const one of [this.training, this.validation, this.samples]) one.value = []; });
        const take = (events) => this.#take(events);
        await this.server.stream("GET", `${path}/events`, undefined, take, this.closing.signal);
        this.reply.value = await this.server.json("GET", path);
        this.problem.value = "";
        if (this.isOver) return;
      } catch (error) {
        if (this.closing.signal.aborted) return;
        const isLasting = error instanceof Refused && error.status < 500;
        this.problem.value = error instanceof Unreachable ? t("status.unreachable") : error.message;
        if (isLasting) return;
      }
      await new Promise((resolve) => { setTimeout(resolve, RETRY_DELAY_MS); });
    }
  }

  close() {
    this.closing.abort();
  }

  #take(events) {
    batch(() => {
      for (const { event, data } of events) {
        const told = JSON.parse(data);
        if (event === "progress") {
          this.progress.value = told;
          if (this.reply.value.status === "queued") {
            this.reply.value = { ...this.reply.value, status: "running" };
          }
          this.training.value = [...this.training.value, { step: told.step, nats: told.training_nats }];
        } else if (event === "validation") {
          const { step, validation_nats: nats, bits_per_character: bits, is_best: isBest } = told;
          this.validation.value = [...this.validation.value, { step, nats, bits, isBest }];
        } else if (event === "sample") {
          this.samples.value = [...this.samples.value, { step: told.step, text: told.text }];
        } else if (event === "message" && told.error) this.problem.value = String(told.error);
      }
    });
  }

  cancel() {
    return this.#change("cancel");
  }

  publish() {
    return this.#change("publish").then(() => this.follow());
  }

  async #change(what) {
    try {
      this.reply.value = await this.server.json("POST", `/train-jobs/${this.id}/${what}`);
    } catch (error) {
      this.problem.value = error.message;
    }
  }
}
