// The tree of a text's forks. Pure: it knows nothing of the server or of the page.
//
// A node is a part of the text that was typed, generated or taken. It begins at a position (a
// number of tokens) inside its parent's text, so what it stands for is the text up to there and
// its own. Nothing is deleted by going on elsewhere.

export class Tree {
  constructor() {
    this.nodes = new Map();
    this.current = null; // the id of the node that the sheet shows; null: an empty sheet
    this.pruned = new Set(); // ids of what was removed here
  }

  static of(stored) {
    const tree = new Tree();
    for (const one of stored.nodes) tree.nodes.set(one.id, withEnds(one));
    tree.current = tree.nodes.has(stored.current) ? stored.current : null;
    return tree;
  }

  /** Take in what another page has stored: nodes that are not here, and more of what it generates. */
  join(stored, runningHere = null) {
    for (const one of stored.nodes) {
      const own = this.nodes.get(one.id);
      const isRooted = one.parent === null || this.nodes.has(one.parent);
      if (own === undefined && isRooted && !this.pruned.has(one.id)) this.nodes.set(one.id, withEnds(one));
      else if (own?.isRunning && own !== runningHere) Object.assign(own, { isRunning: false }, withEnds(one));
    }
  }

  /** Return what `of` takes. The ends of the pieces follow from the pieces. */
  toStored() {
    const nodes = [...this.nodes.values()].map(({ ends: _, ...rest }) => rest);
    return { nodes, current: this.current };
  }

  get(id) {
    return this.nodes.get(id) ?? null;
  }

  /** Add a part of the text at position `at` of a node, and show it. */
  add(parent, at, fields) {
    const node = withEnds({
      id: randomId(), parent, at, to: at + fields.pieces.length,
      session: null, name: "", isStarred: false, lastChild: null, logprobs: [], ...fields,
    });
    this.nodes.set(node.id, node);
    this.show(node.id);
    return node;
  }

  /** Add tokens to the end of a node. */
  extend(node, pieces, logprobs) {
    for (const piece of pieces) {
      node.pieces.push(piece);
      node.ends.push((node.ends.at(-1) ?? 0) + piece.length);
    }
    node.logprobs.push(...logprobs);
    node.to = node.at + node.pieces.length;
  }

  /** Show a node: the way back down from its ancestors leads to it. */
  show(id) {
    this.current = id;
    for (let node = this.get(id); node?.parent; node = this.get(node.parent)) {
      this.get(node.parent).lastChild = node.id;
    }
  }

  /** Return the parts of a node's text, from the first on: {node, count} of its pieces. */
  path(id) {
    const parts = [];
    let node = this.get(id);
    let end = node?.to;
    while (node) {
      // A piece of several tokens is taken whole, so there may be fewer pieces than positions.
      const count = Math.min(end - node.at, node.pieces.length);
      if (count > 0 || parts.length === 0) parts.push({ node, count });
      end = Math.min(end, node.at);
      node = this.get(node.parent);
    }
    return parts.reverse();
  }

  text(id) {
    return this.path(id).map(({ node, count }) => node.pieces.slice(0, count).join("")).join("");
  }

  /** Return the parts with the offsets in the text at which they begin and end. */
  spans(id) {
    let start = 0;
    return this.path(id).map(({ node, count }) => {
      const span = { node, count, start, end: start + (count > 0 ? node.ends[count - 1] : 0) };
      start = span.end;
      return span;
    });
  }

  /** Return which token has the character at an offset of the text: {node, index, position}. */
  locate(id, offset) {
    for (const { node, start, end } of this.spans(id)) {
      if (offset < end) {
        const index = firstAbove(node.ends, offset - start);
        return { node, index, position: node.at + index, start: start + (node.ends[index - 1] ?? 0) };
      }
    }
    return null;
  }

  children(id) {
    return [...this.nodes.values()].filter((node) => node.parent === id);
  }

  /** Return the nodes that begin where this one begins, itself among them. */
  siblings(id) {
    const node = this.get(id);
    return this.children(node.parent).filter((one) => one.at === node.at);
  }

  /** Return the last node of a path that was generated, or null. */
  lastGenerated(id) {
    let node = this.get(id);
    while (node && node.kind !== "generated") node = this.get(node.parent);
    return node;
  }

  /** Return a node with all that goes on from it. */
  withDescendants(id) {
    const found = [this.get(id)];
    for (const node of found) found.push(...this.children(node.id));
    return found;
  }

  /** Remove a node with all that goes on from it. Returns the removed nodes. */
  prune(id) {
    const removed = this.withDescendants(id);
    const parent = this.get(removed[0].parent);
    for (const node of removed) {
      this.nodes.delete(node.id);
      this.pruned.add(node.id);
    }
    if (parent?.lastChild === id) parent.lastChild = this.children(parent.id).at(-1)?.id ?? null;
    if (!this.nodes.has(this.current)) {
      this.current = parent?.id ?? this.children(null).at(-1)?.id ?? null;
    }
    return removed;
  }

  /** Return the nodes in the order of an outline, each with its depth of forks. */
  outline() {
    const byParent = new Map();
    for (const node of this.nodes.values()) {
      const list = byParent.get(node.parent) ?? [];
      list.push(node);
      byParent.set(node.parent, list);
    }
    const rows = [];
    const stack = (byParent.get(null) ?? []).map((node) => [node, 0]).reverse();
    while (stack.length > 0) {
      const [node, depth] = stack.pop();
      rows.push({ node, depth });
      const children = byParent.get(node.id) ?? [];
      // What goes straight on stays in its column; a fork begins a column of its own.
      const straight = children.find((one) => one.at === node.to);
      const forks = children.filter((one) => one !== straight);
      if (straight) stack.push([straight, depth]);
      for (const fork of forks.reverse()) stack.push([fork, depth + 1]);
    }
    return rows;
  }
}

/** Return a number above 0 that no other page gives to a node. */
function randomId() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high >>> 11) * 2 ** 32 + low + 1;
}

function withEnds(node) {
  let end = 0;
  return { ...node, ends: node.pieces.map((piece) => (end += piece.length)) };
}

/** Return the index of the first of rising numbers that is above `value`. */
export function firstAbove(numbers, value) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Return how far two texts are the same, never between the halves of a code point. */
export function commonLength(one, other) {
  const most = Math.min(one.length, other.length);
  let n = 0;
  while (n < most && one.charCodeAt(n) === other.charCodeAt(n)) n += 1;
  const isHalf = n > 0 && n < Math.max(one.length, other.length)
    && /[\ud800-\udbff]/.test(one[n - 1] ?? "");
  return isHalf ? n - 1 : n;
}
