// The models that the server has stored, and what can be done with them.

import { signal } from "../core/html.js";
import { t } from "../core/words.js";
import { Refused, Unreachable } from "../core/server.js";

const BEGINNINGS = ["The ", "\n", " ", "a", "一", "0"];
const SAMPLE_LENGTH = 240;

export class Shelf {
  constructor(server, onChange) {
    this.server = server;
    this.onChange = onChange; // told when the models that can write are others
    this.models = signal(null); // null: not known yet
    this.aliases = signal({});
    this.status = signal({ kind: "", text: "" });
    this.working = signal(""); // the model that something is done with
    this.samples = signal({});
    this.upload = signal(null); // the share of an upload that is sent
  }

  async load() {
    await this.guarded(async () => {
      const found = await this.server.json("GET", "/admin/models");
      this.models.value = found.models;
      this.aliases.value = found.aliases;
    });
  }

  async guarded(act) {
    try {
      return await act();
    } catch (error) {
      if (error instanceof Unreachable) this.say("error", t("status.unreachable"));
      else if (error instanceof Refused) this.say("error", error.message);
      else throw error;
      return undefined;
    }
  }

  say(kind, text) {
    this.status.value = { kind, text };
  }

  async doing(ref, act) {
    this.working.value = ref;
    this.say("", "");
    await this.guarded(act);
    this.working.value = "";
    await this.load();
    this.onChange();
  }

  bring(ref) {
    return this.doing(ref, () => this.server.json("POST", `/admin/models/${ref}/load`));
  }

  unload(ref) {
    return this.doing(ref, () => this.server.json("POST", `/admin/models/${ref}/unload`));
  }

  remove(ref) {
    return this.doing(ref, () => this.server.json("DELETE", `/admin/models/${ref}`));
  }

  setAlias(alias, ref) {
    const path = `/admin/aliases/${encodeURIComponent(alias)}`;
    return this.doing(ref, () => this.server.json("PUT", path, { model: ref }));
  }

  /** Show what a model writes from a beginning that its vocabulary has. */
  async sample(ref) {
    for (const inputs of BEGINNINGS) {
      try {
        const { generated_text: text } = await this.server.json("POST", "/generate", {
          inputs, model: ref, parameters: { max_new_tokens: SAMPLE_LENGTH, temperature: 0.7, seed: 1 },
        });
        this.samples.value = { ...this.samples.value, [ref]: inputs + text };
        return;
      } catch (error) {
        if (error instanceof Refused && error.code === "unknown_character") continue;
        await this.guarded(() => { throw error; });
        return;
      }
    }
  }

  /** Send a checkpoint, and show what was assumed of it and what it writes. */
  async receive(form) {
    this.say("", "");
    this.upload.value = 0;
    const row = await this.guarded(() => this.#sent(form));
    this.upload.value = null;
    if (!row) return null;
    await this.load();
    this.onChange();
    const ref = `${row.name}@${row.version}`;
    this.say("good", t("models.imported", { ref }));
    await this.sample(ref);
    return ref;
  }

  /** fetch tells nothing of how much is sent; this older way does. */
  #sent(form) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", `${this.server.base}/admin/models/upload`);
      const key = this.server.key.value;
      if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
      request.responseType = "json";
      request.upload.onprogress = (event) => {
        if (event.lengthComputable) this.upload.value = event.loaded / event.total;
      };
      request.onerror = () => reject(new Unreachable("upload"));
      request.onload = () => {
        const { status, response } = request;
        if (status < 300) resolve(response);
        else reject(new Refused(status, response?.error_type ?? "", response?.error ?? `HTTP ${status}`));
      };
      request.send(form);
    });
  }
}
