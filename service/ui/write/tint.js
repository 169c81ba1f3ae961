// What is painted behind the text: who wrote it, how surprising it is, and the chosen character.

import { bitsOf } from "./surprise.js";
import { firstAbove } from "./tree.js";

const LEVELS = 12;
export const MOST_BITS = 8;
const STRONGEST = 0.55; // above it the text's contrast falls too far

export class Tint {
  constructor(writer) {
    this.writer = writer;
    this.hasSurprise = false;
    this.chosen = null; // {start, end} of the character whose alternatives are shown
  }

  paint(sheet) {
    const { canvas, copy } = sheet;
    const box = copy.getBoundingClientRect();
    const frame = sheet.root.getBoundingClientRect();
    const top = Math.max(box.top, frame.top, 0);
    const bottom = Math.min(box.bottom, frame.bottom, innerHeight);
    if (bottom <= top) return;
    const context = this.#fitted(canvas, box, top, bottom);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const colours = { cool: colour("--cool"), warm: colour("--warm"), ink: colour("--muted") };
    const { start, end } = sheet.visible(top, bottom);
    const boxes = (from, to) => sheet.boxes(from, to).map((one) => ({
      x: one.left - box.left, y: one.top - top, width: one.width, height: one.height,
    }));
    for (const span of this.writer.tree.spans(this.writer.tree.current)) {
      const from = Math.max(span.start, start);
      const to = Math.min(span.end, end);
      if (from >= to) continue;
      if (this.hasSurprise) this.#surprise(context, colours, span, from, to, boxes);
      if (span.node.kind !== "generated") mark(context, colours, span.node.kind, boxes(from, to));
    }
    if (this.chosen) {
      context.strokeStyle = colours.warm;
      context.lineWidth = 2;
      for (const one of boxes(this.chosen.start, this.chosen.end)) {
        context.strokeRect(one.x - 1, one.y, Math.max(one.width, 4) + 2, one.height);
      }
    }
  }

  /** Size the canvas to what is visible of the text, and clear it. Resizing is slow, so rarely. */
  #fitted(canvas, box, top, bottom) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.ceil(box.width), Math.ceil(bottom - top)];
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide || canvas.height !== high) {
      canvas.width = wide;
      canvas.height = high;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    canvas.style.transform = `translateY(${top - box.top}px)`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return context;
  }

  #surprise(context, colours, { node, start }, from, to, boxes) {
    let index = firstAbove(node.ends, from - start);
    let run = null;
    const flush = () => {
      if (!run || run.level === 0) return;
      context.fillStyle = colours.warm;
      context.globalAlpha = (STRONGEST * run.level) / LEVELS;
      for (const one of boxes(run.from, run.to)) context.fillRect(one.x, one.y, one.width, one.height);
      context.globalAlpha = 1;
    };
    for (let at = from; at < to && index < node.ends.length; index += 1) {
      const level = levelOf(node.logprobs[index]);
      const pieceEnd = Math.min(to, start + node.ends[index]);
      if (run?.level === level) run.to = pieceEnd;
      else {
        flush();
        run = { level, from: at, to: pieceEnd };
      }
      at = pieceEnd;
    }
    flush();
  }
}

export function levelOf(logprob) {
  return Math.round((Math.min(bitsOf(logprob), MOST_BITS) / MOST_BITS) * LEVELS);
}

/** Underline what a person wrote: a thin line; what a person chose: a thick one and a ground. */
function mark(context, colours, kind, boxes) {
  const isTaken = kind === "taken";
  context.fillStyle = isTaken ? colours.warm : colours.cool;
  for (const one of boxes) {
    if (isTaken) {
      context.globalAlpha = 0.25;
      context.fillRect(one.x, one.y, one.width, one.height);
      context.globalAlpha = 1;
    }
    const thick = isTaken ? 3 : 1.5;
    context.fillRect(one.x, one.y + one.height - thick, one.width, thick);
  }
}
