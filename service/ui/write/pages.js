// The pages of one browser that have the same texts: each shows its own, and none writes over another's.

const CHANNEL = "carousel-texts";
const ID = "page";
const MOST = 8; // whose places are kept

export class Pages {
  /** `onForgotten` is called when another page has forgotten everything. */
  constructor(onForgotten) {
    this.id = sessionStorage.getItem(ID) ?? `page-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    sessionStorage.setItem(ID, this.id); // it outlives a reload, and holds nothing of a text
    this.channel = new BroadcastChannel(CHANNEL);
    this.channel.onmessage = onForgotten;
  }

  /** Return what this page showed, as {current, draft}; a new one begins where the last one was. */
  shown(stored) {
    return stored.pages?.[this.id] ?? { current: stored.tree.current, draft: stored.draft };
  }

  /** Return the places of all pages, with this one's new one. */
  stored(stored, place) {
    const others = Object.entries(stored?.pages ?? {}).filter(([id]) => id !== this.id);
    return Object.fromEntries([...others, [this.id, place]].slice(-MOST));
  }

  tellForgotten() {
    this.channel.postMessage("forgotten");
  }
}
