// The card under a character: what else could stand there, and taking it.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { number, shown, t } from "../core/words.js";
import { fates } from "./parameters.js";
import { bitsOf } from "./surprise.js";

const N_ALTERNATIVES = 20;

/** Return the most likely tokens at a place of the tree, and the one that is there. */
async function alternativesAt(writer, { node, index, position }) {
  if (position === 0) return { tokens: [], piece: node.pieces[index] };
  const read = (session) => writer.server.json("POST", "/generate", {
    inputs: "",
    session_id: session,
    parameters: { max_new_tokens: 1, temperature: 1, details: true, top_n_tokens: N_ALTERNATIVES },
  });
  const reply = await writer.sessions.healing(() => writer.sessions.lent(node, position, read));
  return { tokens: reply.details.top_tokens[0], piece: node.pieces[index] };
}

export function Alternatives({ writer, place, left, top, hasFocus, onClose }) {
  const [found, setFound] = useState(null);
  const list = useRef(null);
  const card = useRef(null);
  useEffect(() => {
    let isOpen = true;
    setFound(null);
    writer.guarded(() => alternativesAt(writer, place)).then((value) => {
      if (isOpen) setFound(value ?? { tokens: [], piece: "" });
    });
    return () => { isOpen = false; };
  }, [place]);
  useEffect(() => {
    if (found && hasFocus) (list.current?.querySelector("button") ?? card.current)?.focus();
    // Styles are set here and not in the markup, which the policy forbids.
    if (card.current) {
      card.current.style.setProperty("--left", `${left}px`);
      card.current.style.setProperty("--top", `${top}px`);
    }
    card.current?.scrollIntoView({ block: "nearest" });
  }, [found, left, top]);

  const onKey = (event) => {
    const buttons = [...card.current.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      buttons[(at + step + buttons.length) % buttons.length].focus();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      onClose();
    }
  };
  const act = (what) => {
    onClose();
    what();
  };
  return html`<section class="alternatives" ref=${card} tabindex="-1" onKeyDown=${onKey}
      aria-label=${t("alternatives.label")}>
    <header>
      <h2>${t("alternatives.title")} <kbd>${shown(place.node.pieces[place.index])}</kbd></h2>
      <button class="plain" onClick=${onClose} aria-label=${t("close")}>✕</button>
    </header>
    ${found === null ? html`<p class="muted">${t("loading")}</p>` : html`
      <${Said} found=${found} />
      <ol ref=${list}>${rows(writer, found).map((row) => html`
        <li key=${row.text}>
          <button class=${`row ${row.isHere ? "here" : ""} ${row.fate ? "cut" : ""}`}
            aria-current=${row.isHere ? "true" : null} title=${row.why}
            onClick=${() => act(() => row.isHere || writer.takeOther(place, row.text))}>
            <kbd>${shown(row.text)}</kbd>
            <${Bar} share=${row.share} />
            <span class="share">${percent(row.share)}</span>
            <span class="fate">${row.isHere ? t("alternatives.here") : row.why || t("alternatives.take")}</span>
          </button>
        </li>`)}
      </ol>
      <footer>
        <button onClick=${() => act(() => writer.goOnFrom(place))}
          disabled=${place.position === 0}>${t("alternatives.goOn")}</button>
      </footer>`}
  </section>`;
}

function Said({ found }) {
  if (found.tokens.length === 0) return html`<p class="muted">${t("alternatives.first")}</p>`;
  const here = found.tokens.find((one) => one.text === found.piece);
  const values = { bits: here ? number(bitsOf(here.logprob), 1) : "" };
  return html`<p class="muted">${here ? t("alternatives.bits", values) : t("alternatives.rare")}</p>`;
}

function rows(writer, { tokens, piece }) {
  const removed = fates(tokens, writer.settings.value);
  return tokens.map((token, rank) => ({
    text: token.text,
    share: Math.exp(token.logprob),
    isHere: token.text === piece,
    fate: removed[rank],
    why: removed[rank] ? t("alternatives.removed", { by: t(`parameter.${removed[rank]}`) }) : "",
  })).filter((row) => row.text !== "");
}

function percent(share) {
  return share < 0.0001 ? "< 0.01 %" : `${number(100 * share, share < 0.1 ? 2 : 1)} %`;
}

function Bar({ share }) {
  const bar = useRef(null);
  useEffect(() => { bar.current.style.setProperty("--share", `${100 * share}%`); }, [share]);
  return html`<span class="bar" ref=${bar} aria-hidden="true"></span>`;
}
