// The server's sessions behind the nodes of a tree: each node's state is where its session ends.

import { Refused } from "../core/server.js";

const LOST = ["session_not_found", "session_lost", "state_model_mismatch"];
const MOVED = "position_mismatch";

export class SessionsOfTree {
  /** `tips` has the position of each session that this tree has made, by its id. */
  constructor(server, tree, tips = {}) {
    this.server = server;
    this.tree = tree;
    this.tips = tips;
  }

  /** Return a session that stands at position `at` of a node, and may go on from there. */
  async at(node, at) {
    const owner = await this.#owner(node, at);
    if (this.tips[owner.session] === at) return owner.session;
    if (at === 0) return null;
    return this.#fork(owner.session, at);
  }

  /** Make sure that the server has a node's text. Its tokens may be fewer than was thought. */
  async ensure(node) {
    if (node.session !== null) return;
    const text = node.pieces.join("");
    const parent = this.tree.get(node.parent);
    if (parent === null || node.at === 0) {
      const made = await this.server.json("POST", "/sessions", { model: node.model, text });
      this.#settle(node, made);
      return;
    }
    const session = await this.at(parent, node.at);
    const grown = await this.server.json("POST", `/sessions/${session}/append`, {
      text, expected_position: node.at,
    });
    this.#settle(node, grown);
  }

  /** Do something with sessions, once more where one was lost or is not where it was left. */
  async healing(act) {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.code === MOVED) this.tips = {}; // another page went on with it: this one forks it
      else if (LOST.includes(error.code)) this.forget();
      else throw error;
      return act();
    }
  }

  /** Take in the positions that another page has stored; a session only grows. */
  join(tips) {
    for (const [session, position] of Object.entries(tips)) {
      this.tips[session] = Math.max(position, this.tips[session] ?? 0);
    }
  }

  /** Take it that the server has nothing: what is needed is made again from the texts. */
  forget() {
    this.tips = {};
    for (const node of this.tree.nodes.values()) node.session = null;
  }

  /** A fork that is used once, such as for alternatives. `use` gets its id. */
  async lent(node, at, use) {
    const owner = await this.#owner(node, at);
    const fork = await this.#fork(owner.session, at);
    try {
      return await use(fork);
    } finally {
      delete this.tips[fork];
      this.server.json("DELETE", `/sessions/${fork}`).catch(() => {}); // it expires by itself
    }
  }

  /** Return the node whose session has position `at`: an ancestor where the node begins there. */
  async #owner(node, at) {
    let found = node;
    while (at <= found.at && found.parent !== null) found = this.tree.get(found.parent);
    await this.ensure(found);
    return found;
  }

  async #fork(session, at) {
    const { sessions: [fork] } = await this.server.json("POST", `/sessions/${session}/fork`, {
      n: 1, at, seeds: "same",
    });
    this.tips[fork.id] = fork.position;
    return fork.id;
  }

  #settle(node, session) {
    node.session = session.id;
    node.digest = session.digest;
    this.tips[session.id] = session.position;
    if (session.position !== node.to) {
      // Its tokens are not its characters: the whole is one piece, of which no part is taken.
      node.pieces = [node.pieces.join("")];
      node.ends = [node.pieces[0].length];
      node.to = session.position;
    }
  }
}
