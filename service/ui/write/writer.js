// The writer: what the view *Write* does with the tree, the server and this browser's store.

import { signal } from "../core/html.js";
import { t } from "../core/words.js";
import { Refused, Unreachable } from "../core/server.js";
import { commonLength, Tree } from "./tree.js";
import { Pages } from "./pages.js";
import { checkedSettings, parametersOf, startSettings } from "./parameters.js";
import { SessionsOfTree } from "./sessions.js";
import { Turn } from "./turn.js";

const KEY = "write";
const SAVE_DELAY_MS = 400;

export class Writer {
  constructor(server, database) {
    this.server = server;
    this.database = database;
    this.tree = new Tree();
    this.sessions = new SessionsOfTree(server, this.tree);
    this.settings = signal(startSettings());
    this.models = signal([]);
    this.model = signal("default");
    this.version = signal(0); // counts the changes of the tree
    this.running = signal(null); // the node that is being generated, as {node, startedMs}
    this.status = signal({ kind: "", text: "" });
    this.rate = signal(0);
    this.draft = ""; // what the sheet shows; it may be ahead of the tree
    this.sheet = null; // where text is shown
    this.pages = new Pages(() => this.reset());
    this.saving = 0;
    this.rootUndone = null; // the first part of a text, after the way up has left it
    this.opened = this.open();
  }

  // -- what there is

  get shown() {
    return this.tree.get(this.tree.current);
  }

  modelCard() {
    return this.models.value.find((one) => one.id === this.model.value) ?? null;
  }

  canRedo() {
    return Boolean(this.shown === null ? this.rootUndone : this.shown.lastChild);
  }

  async open() {
    const stored = await this.database.get(KEY).catch(() => undefined);
    if (stored) {
      this.tree = Tree.of(stored.tree);
      this.sessions = new SessionsOfTree(this.server, this.tree, stored.tips);
      this.settings.value = checkedSettings(stored.settings);
      this.model.value = stored.model;
      const page = this.pages.shown(stored);
      this.tree.current = this.tree.nodes.has(page.current) ? page.current : null;
      this.draft = page.draft;
    }
    this.refresh(this.draft || null);
    await this.loadModels();
    const cut = [...this.tree.nodes.values()].find((node) => node.isRunning);
    if (cut) this.guarded(() => this.follow(cut));
  }

  async loadModels() {
    try {
      const { data } = await this.server.json("GET", "/v1/models");
      this.models.value = data;
      if (!data.some((one) => one.id === this.model.value)) {
        this.model.value = data.find((one) => one.id === "default")?.id ?? data[0]?.id ?? "default";
      }
    } catch (error) {
      this.tell(error);
    }
  }

  /** Show the current node, or a draft that goes on from it. */
  refresh(draft = null) {
    this.draft = draft ?? this.tree.text(this.tree.current);
    this.sheet?.show(this.draft);
    this.changed();
  }

  changed() {
    if (this.status.value.kind === "link") this.say("", ""); // it writes the text of before
    this.version.value += 1;
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), SAVE_DELAY_MS);
  }

  save() {
    clearTimeout(this.saving);
    return this.database.update(KEY, (stored) => {
      if (stored) {
        this.tree.join(stored.tree, this.running.value?.node);
        this.sessions.join(stored.tips);
      }
      return {
        tree: this.tree.toStored(), tips: this.sessions.tips, settings: this.settings.value,
        model: this.model.value, draft: this.draft,
        pages: this.pages.stored(stored, { current: this.tree.current, draft: this.draft }),
      };
    }).catch(() => {}); // a private window may have no store
  }

  tell(error) {
    if (error instanceof Unreachable) this.say("error", t("status.unreachable"));
    else if (error instanceof Refused) {
      this.say("error", error.status === 401 ? t("status.needsKey") : error.message);
    } else if (error?.name !== "AbortError") this.say("error", String(error?.message ?? error));
  }

  say(kind, text) {
    this.status.value = { kind, text };
  }

  async guarded(act) {
    try {
      return await act();
    } catch (error) {
      this.tell(error);
      return undefined;
    }
  }

  // -- typing

  typed(text) {
    this.draft = text;
    this.say("", "");
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), SAVE_DELAY_MS);
  }

  /** Make what was typed a part of the tree. Typing inside a text forks it there. */
  async commit() {
    const before = this.tree.text(this.tree.current);
    if (this.draft === before) return this.shown;
    let same = commonLength(before, this.draft);
    let parent = this.shown;
    let at = parent?.to ?? 0;
    if (same < before.length) {
      const place = this.tree.locate(this.tree.current, same);
      same = place.start; // a token is taken whole
      at = place.position;
      parent = at === 0 ? null : place.node;
    }
    const rest = this.draft.slice(same);
    if (rest === "") {
      // Its end was deleted: what is left is a node without text of its own.
      if (parent === null) this.tree.current = null;
      else this.added(parent, at, "typed", []);
    } else this.added(parent, at, "typed", await this.pieces(rest));
    this.changed();
    return this.shown;
  }

  added(parent, at, kind, pieces, more = {}) {
    return this.tree.add(parent?.id ?? null, at, {
      kind, pieces, model: parent?.model ?? this.modelId(), createdMs: Date.now(), ...more,
    });
  }

  modelId() {
    return this.modelCard()?.root ?? this.model.value;
  }

  /** Go on with another model: a new tree beside the others, which begins with the same text. */
  async moveTo(model) {
    const text = this.draft;
    const root = this.models.value.find((one) => one.id === model)?.root ?? model;
    if (text === "" || this.shown?.model === root) return;
    await this.show(null);
    this.typed(text);
    this.sheet?.show(text);
    await this.guarded(() => this.commit());
  }

  async pieces(text) {
    const card = this.modelCard();
    if (!card || card.tokenizer === "characters") return Array.from(text);
    const tokens = await this.server.json("POST", "/tokenize", { inputs: text, model: card.id });
    const found = tokens.map((one) => one.text);
    return found.join("") === text ? found : [text];
  }

  // -- generating

  async generate() {
    if (this.running.value) return;
    await this.guarded(async () => {
      const node = await this.commit();
      if (node === null) this.say("hint", t("status.empty"));
      else await this.goOn(node, node.to);
    });
  }

  /** Generate from a position of a node, as a new node that the sheet follows. */
  async goOn(parent, at, settings = this.settings.value) {
    this.say("", "");
    return this.sessions.healing(async () => {
      const session = await this.sessions.at(parent, at);
      const node = this.added(parent, at, "generated", [], {
        session, settings: { ...settings }, isRunning: true,
      });
      this.running.value = { node }; // from now on nothing else is begun
      await this.save(); // a reload in the middle finds it
      const body = {
        inputs: "", session_id: session, expected_position: at, on_disconnect: "continue",
        parameters: { ...parametersOf(settings), max_new_tokens: settings.length },
      };
      await this.read(node, "POST", "/generate_stream", body);
      return node;
    });
  }

  /** Read again what a reload has cut off: the turn has gone on without us. */
  async follow(node) {
    node.pieces = [];
    node.ends = [];
    node.logprobs = [];
    node.to = node.at;
    this.tree.show(node.id);
    this.refresh();
    await this.read(node, "GET", `/sessions/${node.session}/events`);
  }

  async read(node, method, path, body) {
    this.running.value = { node };
    this.rate.value = 0; // that of the last turn says nothing of this one
    this.refresh();
    await new Turn(this, node).read(method, path, body);
  }

  async stop() {
    const running = this.running.value;
    if (!running) return;
    await this.guarded(() => this.server.json("POST", `/sessions/${running.node.session}/cancel`));
  }

  /** Generate what was generated last once more, with the next seed. */
  async again() {
    if (this.running.value) return;
    await this.guarded(async () => {
      await this.commit();
      const last = this.tree.lastGenerated(this.tree.current);
      if (last === null) {
        await this.generate();
        return;
      }
      const settings = { ...this.settings.value, seed: last.settings.seed + 1 };
      const used = this.tree.siblings(last.id).map((one) => one.settings?.seed ?? -1);
      settings.seed = Math.max(settings.seed, ...used.map((seed) => seed + 1));
      this.settings.value = settings;
      await this.goOn(this.tree.get(last.parent), last.at);
    });
  }

  // -- forks

  /** Fork at a place, put another token there, and go on with the same seed. */
  async takeOther({ node, position }, piece) {
    if (this.running.value) await this.stopAndWait();
    await this.guarded(async () => {
      const taken = this.added(node, position, "taken", [piece]);
      this.refresh();
      const source = node.kind === "generated" ? node.settings : null;
      const settings = { ...this.settings.value, seed: source?.seed ?? this.settings.value.seed };
      await this.goOn(taken, taken.to, settings);
    });
  }

  async goOnFrom({ node, position }) {
    if (this.running.value) await this.stopAndWait();
    await this.guarded(async () => {
      const settings = { ...this.settings.value };
      await this.goOn(node, position, settings);
    });
  }

  async stopAndWait() {
    await this.stop();
    await new Promise((resolve) => {
      const stop = this.running.subscribe((value) => value || queueMicrotask(() => {
        stop?.();
        resolve();
      }));
    });
  }

  async show(id) {
    await this.guarded(() => this.commit());
    if (id !== null) this.tree.show(id);
    else this.tree.current = null;
    const { model } = this.shown ?? {};
    if (model && this.modelId() !== model) this.model.value = model; // it goes on with its own
    this.refresh();
  }

  async undo() {
    await this.guarded(() => this.commit());
    const { shown } = this;
    if (shown === null) return;
    this.tree.current = shown.parent; // the way down is kept
    this.rootUndone = shown.parent === null ? shown.id : null;
    this.refresh();
  }

  async redo() {
    await this.guarded(() => this.commit());
    const next = this.shown === null ? this.rootUndone : this.shown.lastChild;
    if (next && this.tree.get(next)) await this.show(next);
  }

  async sibling(step) {
    await this.guarded(() => this.commit());
    if (this.shown === null) return;
    const all = this.tree.siblings(this.shown.id);
    const at = all.findIndex((one) => one.id === this.shown.id) + step;
    if (all[at]) await this.show(all[at].id);
  }

  async prune(id) {
    if (this.running.value) await this.stopAndWait();
    const sessions = new Set(this.tree.prune(id).map((node) => node.session));
    for (const node of this.tree.nodes.values()) sessions.delete(node.session);
    for (const session of sessions) {
      if (!session) continue;
      delete this.sessions.tips[session];
      this.server.json("DELETE", `/sessions/${session}`).catch(() => {});
    }
    this.refresh();
  }

  mark(id, fields) {
    Object.assign(this.tree.get(id), fields);
    this.changed();
  }

  /** Begin a new text beside the others. */
  async begin() {
    if (this.running.value) await this.stopAndWait();
    await this.show(null);
  }

  async forgetEverything() {
    const sessions = Object.keys(this.sessions.tips);
    await this.database.clear().catch(() => {});
    for (const one of sessions) this.server.json("DELETE", `/sessions/${one}`).catch(() => {});
    this.pages.tellForgotten();
    this.reset();
  }

  reset() {
    this.tree = new Tree();
    this.sessions = new SessionsOfTree(this.server, this.tree);
    this.refresh("");
  }
}
