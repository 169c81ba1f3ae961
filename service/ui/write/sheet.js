// The sheet: a text field, a copy of its text as one text node behind it, and a canvas behind both.
//
// The field is what is read, typed in and spoken by a screen reader. The copy is laid out alike,
// so that the rectangles of its characters are those of the field's, which has none to ask for.

const NEAR_END_PX = 80;

export class Sheet {
  /** `paint(sheet)` draws behind the text; it is called once a frame at most. */
  constructor({ root, field, copy, canvas }, { onType, onPick, paint }) {
    Object.assign(this, { root, field, copy, canvas, paint });
    this.node = copy.appendChild(document.createTextNode(""));
    this.pending = "";
    this.frame = 0;
    this.resizing = new ResizeObserver(() => this.repaint());
    this.resizing.observe(copy);
    this.onScroll = () => this.repaint();
    addEventListener("scroll", this.onScroll, { capture: true, passive: true });
    addEventListener("resize", this.onScroll, { passive: true });
    document.fonts?.ready.then(() => this.repaint());
    field.addEventListener("input", () => {
      this.#mirror(field.value);
      onType(field.value);
      this.repaint();
    });
    let pressed = null;
    field.addEventListener("pointerdown", (event) => {
      pressed = [event.clientX, event.clientY];
    });
    field.addEventListener("click", (event) => {
      const isDrag = !pressed
        || Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > 4;
      if (isDrag || field.selectionStart !== field.selectionEnd) return;
      const at = this.#characterAt(event.clientX, event.clientY);
      if (at !== null) onPick(at);
    });
  }

  close() {
    this.resizing.disconnect();
    removeEventListener("scroll", this.onScroll, { capture: true });
    removeEventListener("resize", this.onScroll);
    cancelAnimationFrame(this.frame);
  }

  get length() {
    return this.node.length;
  }

  show(text) {
    this.pending = "";
    if (this.field.value !== text) {
      const { selectionStart } = this.field;
      this.field.value = text;
      this.field.setSelectionRange(selectionStart, selectionStart);
    }
    this.#mirror(text);
    this.repaint();
  }

  /** Add to the end; what comes within a frame is added at once. */
  append(text) {
    this.pending += text;
    this.repaint();
  }

  repaint() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#flush();
      this.paint(this);
    });
  }

  #flush() {
    if (this.pending === "") return;
    const scroller = this.#scroller();
    const rest = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    this.node.appendData(this.pending);
    const end = this.field.value.length;
    this.field.setRangeText(this.pending, end, end, "preserve");
    this.pending = "";
    if (rest < NEAR_END_PX) scroller.scrollTop = scroller.scrollHeight;
  }

  #mirror(text) {
    this.node.data = text;
  }

  #scroller() {
    const { root } = this;
    return root.scrollHeight > root.clientHeight + 1 ? root : document.scrollingElement;
  }

  /** Return the offset of the character whose box has a point, or null. */
  #characterAt(x, y) {
    const caret = this.field.selectionStart;
    const text = this.field.value;
    for (const start of [startBefore(text, caret), caret]) {
      if (start === null || start >= text.length) continue;
      const isIn = this.boxes(start, endAfter(text, start)).some((box) =>
        x >= box.left - 1 && x <= box.right + 1 && y >= box.top && y <= box.bottom);
      if (isIn) return start;
    }
    return null;
  }

  /** Return the boxes of a range of the text, one a line, in the window's pixels. */
  boxes(start, end) {
    const range = document.createRange();
    range.setStart(this.node, Math.min(start, this.node.length));
    range.setEnd(this.node, Math.min(end, this.node.length));
    return [...range.getClientRects()];
  }

  /** Return the part of the text whose lines are in a span of the window's height. */
  visible(top, bottom) {
    const range = document.createRange();
    const n = this.node.length;
    const bottomOf = (at) => {
      range.setStart(this.node, at);
      range.setEnd(this.node, Math.min(at + 1, this.node.length));
      return range.getBoundingClientRect();
    };
    const start = search(n, (at) => bottomOf(at).bottom >= top);
    const end = search(n, (at) => bottomOf(at).top > bottom);
    return { start, end };
  }
}

/** Return the first of 0…n-1 of which `isThere` holds; it holds of all that follow. */
function search(n, isThere) {
  let low = 0;
  let high = n;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isThere(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Return where the character before an offset begins: one code point may be two units. */
export function startBefore(text, offset) {
  if (offset <= 0) return null;
  const isPair = offset > 1 && /[\udc00-\udfff]/.test(text[offset - 1])
    && /[\ud800-\udbff]/.test(text[offset - 2]);
  return offset - (isPair ? 2 : 1);
}

export function endAfter(text, offset) {
  return offset + (text.codePointAt(offset) > 0xffff ? 2 : 1);
}
