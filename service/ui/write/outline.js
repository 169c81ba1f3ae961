// The tree of forks as an outline: a row a part, a column a fork.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { number, t } from "../core/words.js";

const MOST_ROWS = 200;
const MOST_DEPTH = 8;
const MOST_WORDS = 60;

export function Outline({ writer }) {
  const [showsAll, setShowsAll] = useState(false);
  writer.version.value; // drawn again when the tree changes
  const all = writer.tree.outline();
  const rows = showsAll ? all : all.slice(-MOST_ROWS);
  const current = writer.tree.current;
  const onPath = new Set(writer.tree.path(current).map(({ node }) => node.id));
  return html`<nav class="outline" aria-label=${t("tree.label")}>
    ${all.length === 0 && html`<p class="muted">${t("tree.empty")}</p>`}
    ${rows.length < all.length && html`<button class="plain" onClick=${() => setShowsAll(true)}>
      ${t("tree.earlier", { n: number(all.length - rows.length) })}</button>`}
    <ul>${rows.map(({ node, depth }) => html`<${Row} key=${node.id} writer=${writer} node=${node}
      depth=${depth} isCurrent=${node.id === current} isOnPath=${onPath.has(node.id)} />`)}</ul>
  </nav>`;
}

function Row({ writer, node, depth, isCurrent, isOnPath }) {
  const row = useRef(null);
  const [isNaming, setIsNaming] = useState(false);
  const [isPruning, setIsPruning] = useState(false); // asked, and not yet confirmed
  useEffect(() => {
    row.current.style.setProperty("--depth", String(Math.min(depth, MOST_DEPTH)));
    if (isCurrent) row.current.scrollIntoView({ block: "nearest" });
  }, [depth, isCurrent]);
  const words = node.name || node.pieces.slice(0, MOST_WORDS).join("").trim() || t("tree.nothing");
  const named = (event) => {
    writer.mark(node.id, { name: event.target.value.slice(0, 80) });
    setIsNaming(false);
  };
  return html`<li ref=${row} class=${`${isCurrent ? "current" : ""} ${isOnPath ? "path" : ""}`}>
    <button class="plain part" aria-current=${isCurrent ? "true" : null}
      disabled=${writer.running.value !== null} onClick=${() => writer.show(node.id)}>
      <span class=${`sign ${node.kind}`} aria-hidden="true"></span>
      <span class="hidden">${t(`kind.${node.kind}`)}: </span>
      <span class="words">${node.isStarred ? "★ " : ""}${words}</span>
      <span class="count">${number(node.to - node.at)}</span>
    </button>
    ${isCurrent && html`<div class="deeds">
      <button class="plain" aria-pressed=${node.isStarred}
        onClick=${() => writer.mark(node.id, { isStarred: !node.isStarred })}>
        ${node.isStarred ? t("tree.unstar") : t("tree.star")}</button>
      <button class="plain" onClick=${() => setIsNaming(!isNaming)}>${t("tree.name")}</button>
      ${isPruning
        ? html`<button class="danger" onClick=${() => writer.prune(node.id)}>
            ${t("tree.pruneAll", { n: number(writer.tree.withDescendants(node.id).length) })}</button>
          <button class="plain" onClick=${() => setIsPruning(false)}>${t("tree.keep")}</button>`
        : html`<button class="plain" onClick=${() => setIsPruning(true)}>${t("tree.prune")}</button>`}
      ${isNaming && html`<input aria-label=${t("tree.name")} value=${node.name} maxlength="80"
        onChange=${named} />`}
      ${node.settings && html`<span class="muted">${t("tree.seed", { seed: node.settings.seed })}</span>`}
    </div>`}
  </li>`;
}
