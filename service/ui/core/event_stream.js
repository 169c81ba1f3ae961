// The parser of server-sent events: pieces of text in, whole events out, wherever a piece is cut.

export class EventStream {
  #rest = "";
  #event = "";
  #id = "";
  #data = [];

  /** Take a piece, and return the events that it completes: {event, id, data}. */
  push(piece) {
    const text = this.#rest + piece;
    const found = [];
    let start = 0;
    for (;;) {
      const at = nextBreak(text, start);
      // A last \r may be the first half of \r\n, so it waits for what follows.
      if (at < 0 || (text[at] === "\r" && at === text.length - 1)) break;
      this.#line(text.slice(start, at), found);
      start = at + (text[at] === "\r" && text[at + 1] === "\n" ? 2 : 1);
    }
    this.#rest = text.slice(start);
    return found;
  }

  #line(line, found) {
    if (line === "") {
      if (this.#data.length > 0) {
        found.push({ event: this.#event || "message", id: this.#id, data: this.#data.join("\n") });
      }
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment, which keeps the connection open
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id") this.#id = value;
  }
}

function nextBreak(text, start) {
  for (let at = start; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit === 10 || unit === 13) return at;
  }
  return -1;
}
