// One turn of a session, as its events arrive: through a lost connection, a stop or a reload.

import { batch } from "../core/html.js";
import { t } from "../core/words.js";
import { Unreachable } from "../core/server.js";

const RETRY_DELAY_MS = 1_000;
const MOST_RETRIES = 60;
const LOADING = 503; // a server that has just been started

export class Turn {
  /** `node` of the writer's tree gets the tokens. */
  constructor(writer, node) {
    this.writer = writer;
    this.node = node;
    this.startedMs = performance.now();
    this.session = null; // what the last event says of it
    this.lastId = "";
  }

  /** Read the events of a request until the turn has ended. */
  async read(method, path, body) {
    const { writer, node } = this;
    const onEvents = (events) => this.#take(events);
    try {
      await writer.server.stream(method, path, body, onEvents);
    } catch (error) {
      if (error instanceof Unreachable) await this.#reconnect(onEvents);
      else {
        if (node.pieces.length === 0) writer.tree.prune(node.id);
        throw error;
      }
    } finally {
      await this.#ended();
    }
  }

  /** Follow the turn from the last event that came, once the server is back. */
  async #reconnect(onEvents) {
    const { writer, node } = this;
    for (let n = 1; ; n += 1) {
      writer.say("error", t("status.reconnecting"));
      await new Promise((resolve) => { setTimeout(resolve, RETRY_DELAY_MS); });
      try {
        const after = this.lastId ? `?after=${encodeURIComponent(this.lastId)}` : "";
        const path = `/sessions/${node.session}/events${after}`;
        await writer.server.stream("GET", path, undefined, onEvents);
        writer.say("", "");
        return;
      } catch (error) {
        const isAway = error instanceof Unreachable || error.status === LOADING;
        if (n >= MOST_RETRIES || !isAway) throw error;
      }
    }
  }

  #take(events) {
    const { writer, node } = this;
    const pieces = [];
    const logprobs = [];
    for (const { data, id } of events) {
      const event = JSON.parse(data);
      if (event.error !== undefined) {
        writer.say("error", String(event.error));
        continue;
      }
      if (event.token.text !== "" && !event.token.special) {
        pieces.push(event.token.text);
        logprobs.push(event.token.logprob);
      }
      this.session = event.session ?? this.session;
      this.lastId = id;
    }
    writer.tree.extend(node, pieces, logprobs);
    if (writer.tree.current === node.id) {
      writer.draft += pieces.join("");
      writer.sheet?.append(pieces.join(""));
    }
    const seconds = (performance.now() - this.startedMs) / 1000;
    writer.rate.value = node.pieces.length / Math.max(seconds, 0.001);
  }

  async #ended() {
    const { writer, node } = this;
    delete node.isRunning;
    let position = this.session?.position;
    if (position === undefined) {
      // Stopped or cut off: the session knows how far the turn went.
      const path = `/sessions/${node.session}`;
      const found = await writer.server.json("GET", path).catch(() => null);
      position = found?.position ?? node.to;
    }
    writer.sessions.tips[node.session] = position;
    if (position !== node.to) await this.#mend(position);
    batch(() => {
      writer.running.value = null;
      if (writer.tree.current === node.id) writer.refresh();
      else writer.changed();
    });
    await writer.save();
  }

  /** Take the node's text from its session, where the stream did not have all of it. */
  async #mend(position) {
    const { writer, node } = this;
    const path = `/sessions/${node.session}/text?from=${node.at}`;
    const found = await writer.server.json("GET", path).catch(() => null);
    if (found === null) return;
    const pieces = Array.from(found.text);
    const isOneEach = pieces.length === position - node.at;
    node.pieces = isOneEach ? pieces : [found.text];
    node.logprobs = node.logprobs.slice(0, node.pieces.length);
    let end = 0;
    node.ends = node.pieces.map((piece) => (end += piece.length));
    node.to = position;
  }
}
