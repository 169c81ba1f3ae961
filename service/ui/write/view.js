// The view *Write*: a sheet of text in the middle, its tree at the left, its settings at the right.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { number, t } from "../core/words.js";
import { route, settle } from "../core/route.js";
import { Alternatives } from "./alternatives.js";
import { decoded } from "./link.js";
import { Outline } from "./outline.js";
import { SettingsPanel } from "./settings_panel.js";
import { linkOf, replay } from "./sharing.js";
import { Sheet, startBefore } from "./sheet.js";
import { score } from "./surprise.js";
import { MOST_BITS, Tint } from "./tint.js";

const SPOKEN_INTERVAL_MS = 2_000;
const MOST_SPOKEN = 400;

export function WriteView({ writer }) {
  const refs = { root: useRef(null), field: useRef(null), copy: useRef(null), canvas: useRef(null) };
  const parts = useRef(null);
  const shownText = useRef("");
  const [place, setPlace] = useState(null);
  const [hasSurprise, setHasSurprise] = useState(false);
  writer.version.value;
  const isRunning = writer.running.value !== null;

  const choose = (offset, hasFocus) => {
    const found = writer.tree.locate(writer.tree.current, offset);
    if (!found || writer.running.value) return;
    const { sheet, tint } = parts.current;
    const end = found.start + found.node.pieces[found.index].length;
    tint.chosen = { start: found.start, end };
    const [box] = sheet.boxes(found.start, end);
    const frame = refs.copy.current.getBoundingClientRect();
    const width = Math.min(320, frame.width);
    const left = Math.max(0, Math.min(box.left - frame.left, frame.width - width));
    setPlace({ ...found, left, top: box.bottom - frame.top + 4, hasFocus });
    sheet.repaint();
  };
  const close = () => {
    setPlace(null);
    parts.current.tint.chosen = null;
    parts.current.sheet.repaint();
    if (document.activeElement === document.body || place?.hasFocus) refs.field.current.focus();
  };

  useEffect(() => {
    const tint = new Tint(writer);
    const elements = Object.fromEntries(Object.entries(refs).map(([name, one]) => [name, one.current]));
    const sheet = new Sheet(elements, {
      onType: (text) => {
        parts.current.close();
        writer.typed(text);
      },
      onPick: (offset) => parts.current.choose(offset, false),
      paint: (one) => tint.paint(one),
    });
    parts.current = { sheet, tint, choose, close };
    writer.sheet = sheet;
    sheet.show(writer.draft);
    return () => {
      writer.sheet = null;
      sheet.close();
    };
  }, []);
  if (parts.current) Object.assign(parts.current, { choose, close });

  useEffect(() => { // the tree has changed: the text of a card or the tint may be another
    const { sheet, tint } = parts.current;
    const text = `${writer.tree.current} ${writer.draft}`;
    if (text !== shownText.current) {
      setPlace(null);
      tint.chosen = null;
    }
    shownText.current = text;
    tint.hasSurprise = hasSurprise;
    if (hasSurprise && !writer.running.value) writer.guarded(() => score(writer));
    sheet.repaint();
  }, [writer.version.value, hasSurprise]);

  const { query } = route.value;
  useEffect(() => {
    if (!query) return;
    settle("#/write"); // so that a reload does not write it once more
    decoded(query).then(
      (recipe) => recipe && writer.opened.then(() => writer.guarded(() => replay(writer, recipe))),
      () => writer.say("error", t("link.broken")),
    );
  }, [query]);

  const openAlternatives = () => {
    const caret = refs.field.current.selectionStart;
    const text = refs.field.current.value;
    const offset = caret < text.length ? caret : startBefore(text, text.length);
    writer.guarded(() => writer.commit()).then(() => offset !== null && choose(offset, true));
  };
  const copyLink = () => writer.guarded(async () => {
    const fragment = await linkOf(writer);
    if (fragment === null) return;
    history.replaceState(null, "", fragment);
    const url = location.href;
    await navigator.clipboard?.writeText(url).catch(() => {});
    settle("#/write");
    writer.say("link", url);
  });
  const onKey = (event) => {
    const deed = deedOf(event);
    if (!deed) return;
    event.preventDefault();
    if (deed === "alternatives") openAlternatives();
    else if (deed === "stop" && place) close();
    else writer[deed]?.(...(deed === "sibling" ? [event.key === "ArrowLeft" ? -1 : 1] : []));
  };

  return html`<div class="write" onKeyDown=${onKey}>
    <details class="panel tree" open=${isWide()}><summary>${t("tree.title")}</summary>
      <${Outline} writer=${writer} />
      <button class="plain" onClick=${() => writer.begin()}>${t("tree.begin")}</button>
    </details>
    <section class="desk">
      <div class="bar" role="group" aria-label=${t("write.deeds")}>
        <button class="plain" onClick=${() => writer.undo()} disabled=${isRunning || !writer.shown}>
          ↶ <span>${t("write.undo")}</span></button>
        <button class="plain" onClick=${() => writer.redo()} disabled=${isRunning || !writer.canRedo()}>
          ↷ <span>${t("write.redo")}</span></button>
        <button class="plain" onClick=${openAlternatives} disabled=${isRunning}>
          ☰ <span>${t("write.alternatives")}</span></button>
        <button class="plain" aria-pressed=${hasSurprise} onClick=${() => setHasSurprise(!hasSurprise)}>
          ◐ <span>${t("write.surprise")}</span></button>
        <button class="plain" onClick=${copyLink} disabled=${isRunning}>⤴ <span>${t("write.link")}</span></button>
        <button class="plain" onClick=${() => save(writer.draft)}>⤓ <span>${t("write.save")}</span></button>
      </div>
      <div class="sheet" ref=${refs.root}>
        <div class="page">
          <canvas ref=${refs.canvas} aria-hidden="true"></canvas>
          <div class="text copy" dir="auto" ref=${refs.copy} aria-hidden="true"></div>
          <textarea class="text field" dir="auto" ref=${refs.field} readonly=${isRunning}
            aria-label=${t("write.sheet")} aria-describedby="sheet-hint" spellcheck="false"
            autocapitalize="off" autocomplete="off" placeholder=${t("write.placeholder")}></textarea>
          ${place && html`<${Alternatives} writer=${writer} place=${place} left=${place.left}
            top=${place.top} hasFocus=${place.hasFocus} onClose=${close} />`}
        </div>
      </div>
      <p class="hidden" id="sheet-hint">${t("write.hint")}</p>
      <${Status} writer=${writer} hasSurprise=${hasSurprise} />
      <div class="deck">
        ${isRunning
          ? html`<button class="main stop" key="stop" onClick=${() => writer.stop()}>■ ${t("write.stop")}</button>`
          : html`<button class="main" key="go" onClick=${() => writer.generate()}>▶ ${t("write.generate")}</button>`}
        <button onClick=${() => writer.again()} disabled=${isRunning}>↻ ${t("write.again")}</button>
        <span class="keys muted">${t("write.keys")}</span>
      </div>
    </section>
    <details class="panel side" open=${isWide()}><summary>${t("settings.title")}</summary>
      <${SettingsPanel} writer=${writer} />
    </details>
  </div>`;
}

function isWide() {
  return matchMedia("(min-width: 62rem)").matches;
}

/** Return the writer's method that a key asks for. */
function deedOf(event) {
  const isCommand = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const inSheet = event.target.classList.contains("field");
  if (isCommand && key === "enter") return "generate";
  if (key === "escape") return "stop";
  if (event.altKey && event.code === "KeyR") return "again";
  if (!inSheet) return null; // the rest has a meaning of its own in other fields
  if (isCommand && key === "z") return event.shiftKey ? "redo" : "undo";
  if (isCommand && key === "y") return "redo";
  if (event.altKey && (event.code === "KeyA" || key === "arrowdown")) return "alternatives";
  if (event.altKey && (key === "arrowleft" || key === "arrowright")) return "sibling";
  return null;
}

/** Offer the text as a file. */
function save(text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  link.download = "carousel.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function Status({ writer, hasSurprise }) {
  const [spoken, setSpoken] = useState("");
  const before = useRef(null);
  const { kind, text } = writer.status.value;
  const running = writer.running.value;
  useEffect(() => {
    if (!running) {
      // What is new is read once, at the end; while it streams it would be spelt.
      if (before.current) setSpoken(before.current.pieces.join("").slice(0, MOST_SPOKEN));
      before.current = null;
      return undefined;
    }
    before.current = running.node;
    const tell = () => setSpoken(t("status.spoken", { n: running.node.pieces.length }));
    const timer = setInterval(tell, SPOKEN_INTERVAL_MS);
    return () => clearInterval(timer);
  }, [running]);
  const { shown } = writer;
  const facts = shown && [
    t("status.position", { n: number(shown.to) }),
    shown.settings && t("status.seed", { seed: shown.settings.seed }),
    writer.rate.value > 0 && t("status.rate", { n: number(writer.rate.value) }),
  ].filter(Boolean).join(" · ");
  return html`<div class=${`status ${kind}`}>
    ${kind === "link"
      ? html`<label>${t("link.made")}<input readonly value=${text} onFocus=${(event) => event.target.select()} /></label>`
      : html`<p role="status" class="told">${text}</p>`}
    <p class="facts muted"><span>${facts || " "}</span>
      ${hasSurprise && html`<span class="tones" title=${t("status.surpriseHint")}>0 <i aria-hidden="true"></i>
        ${t("status.surprise", { bits: MOST_BITS })}</span>`}</p>
    <p class="hidden" aria-live="polite">${spoken}</p>
  </div>`;
}

