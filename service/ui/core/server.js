// The server behind the page: its routes by fetch, with the key that was entered in this tab.

import { signal } from "./html.js";
import { EventStream } from "./event_stream.js";

/** An error reply; `message` is the server's sentence, `code` the name of the condition. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The server did not answer. */
export class Unreachable extends Error {}

export class Server {
  /** `base` is the address under which the API's routes are. */
  constructor(base) {
    this.base = base;
    this.key = signal(""); // never stored: it is gone with the tab
    this.needsKey = signal(false);
    this.isReachable = signal(true);
  }

  async json(method, path, body) {
    const reply = await this.send(method, path, body);
    return reply.status === 204 ? null : reply.json();
  }

  /** Call `onEvent` for each event of a stream. Returns when the stream has ended. */
  async stream(method, path, body, onEvents, abort) {
    const reply = await this.send(method, path, body, abort);
    if (reply.status === 204 || reply.body === null) return;
    const events = new EventStream();
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (abort?.aborted) throw error;
        this.isReachable.value = false;
        throw new Unreachable(String(error));
      }
      if (piece.done) return;
      const found = events.push(piece.value);
      if (found.length > 0) onEvents(found);
    }
  }

  async send(method, path, body, abort) {
    const headers = {};
    let content = body;
    if (body !== undefined && !(body instanceof Blob)) {
      headers["Content-Type"] = "application/json";
      content = JSON.stringify(body);
    }
    if (this.key.value) headers.Authorization = `Bearer ${this.key.value}`;
    let reply;
    try {
      reply = await fetch(this.base + path, { method, headers, body: content, signal: abort });
    } catch (error) {
      if (abort?.aborted) throw error;
      this.isReachable.value = false;
      throw new Unreachable(String(error));
    }
    this.isReachable.value = true;
    if (reply.ok) return reply;
    const error = await refusal(reply);
    if (error.status === 401) this.needsKey.value = true;
    throw error;
  }
}

/** Return what an error reply of either family of routes says. */
async function refusal(reply) {
  try {
    const body = await reply.json();
    const told = typeof body.error === "object" ? body.error : body;
    const sentence = typeof told.message === "string" ? told.message : told.error;
    return new Refused(reply.status, String(told.error_type ?? told.code ?? ""), String(sentence));
  } catch {
    return new Refused(reply.status, "", `HTTP ${reply.status}`);
  }
}
