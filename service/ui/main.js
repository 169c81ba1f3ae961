// The page: its header, and the view that the address names.

import { html, render, signal, useEffect } from "./core/html.js";
import { Database } from "./core/database.js";
import { language, theme } from "./core/preferences.js";
import { route, VIEWS } from "./core/route.js";
import { Server } from "./core/server.js";
import { t } from "./core/words.js";
import { Look } from "./inside/look.js";
import { Tour } from "./inside/tour.js";
import { InsideView } from "./inside/view.js";
import { Shelf } from "./models/shelf.js";
import { ModelsView } from "./models/view.js";
import { Studio, TrainView } from "./train/view.js";
import { WriteView } from "./write/view.js";
import { Writer } from "./write/writer.js";

const LOOK_INTERVAL_MS = 15_000;

const server = new Server(new URL("..", location.href).pathname.replace(/\/$/, ""));
const writer = new Writer(server, new Database());
const showsKey = signal(false);

const refresh = () => writer.loadModels();
const look = new Look(server);
const tour = new Tour(look);
const shelf = new Shelf(server, refresh);
const studio = new Studio(server, refresh);

/** Go to the sheet, with a model. */
async function write(ref) {
  await writer.loadModels();
  await writer.show(null);
  writer.model.value = ref;
  location.hash = "#/write";
}

const SHOWN = {
  write: () => html`<${WriteView} writer=${writer} />`,
  inside: () => html`<${InsideView} look=${look} tour=${tour} writer=${writer} />`,
  train: () => html`<${TrainView} studio=${studio} onWrite=${write} />`,
  models: () => html`<${ModelsView} shelf=${shelf} onWrite=${write} />`,
};

function Page() {
  const { view } = route.value;
  useEffect(() => {
    document.title = `${t(`view.${view}`)} · Carousel`;
  }, [view, language.value]);
  return html`
    <a class="skip" href="#main" onClick=${skip}>${t("skip")}</a>
    <header class="top">
      <a class="brand" href="#/write"><img src="icon.svg" alt="" width="22" height="22" /> Carousel</a>
      <nav aria-label=${t("views")}>${VIEWS.map((one) => html`<a key=${one} href=${`#/${one}`}
        aria-current=${one === view ? "page" : null}>${t(`view.${one}`)}</a>`)}</nav>
      <${Connection} />
      <label class="choice"><span class="hidden">${t("language")}</span>
        <select value=${language.value} onChange=${(event) => { language.value = event.target.value; }}>
          <option value="en" lang="en">English</option>
          <option value="zh" lang="zh-Hans">中文</option>
        </select></label>
      <label class="choice"><span class="hidden">${t("theme")}</span>
        <select value=${theme.value} onChange=${(event) => { theme.value = event.target.value; }}>
          ${["auto", "light", "dark"].map((one) => html`<option key=${one} value=${one}>
            ${t(`theme.${one}`)}</option>`)}
        </select></label>
      <button class="plain" aria-expanded=${showsKey.value || server.needsKey.value}
        onClick=${() => { showsKey.value = !showsKey.value; }}>${t("key.title")}</button>
    </header>
    ${(showsKey.value || server.needsKey.value) && html`<${KeyForm} />`}
    <main id="main" tabindex="-1"><h1 class="hidden">${t(`view.${view}`)}</h1>${SHOWN[view]()}</main>`;
}

/** The fragment is the view's, so the jump is made here. */
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Connection() {
  useEffect(() => {
    const look = () => document.hidden || server.send("GET", "/health/ready").catch(() => {});
    const timer = setInterval(look, LOOK_INTERVAL_MS);
    return () => clearInterval(timer);
  }, []);
  const isThere = server.isReachable.value;
  return html`<span class=${`connection ${isThere ? "there" : "away"}`}>
    <span aria-hidden="true">${isThere ? "●" : "○"}</span> ${t(isThere ? "connected" : "away")}</span>`;
}

function KeyForm() {
  const enter = (event) => {
    event.preventDefault();
    server.key.value = new FormData(event.target).get("key").trim();
    server.needsKey.value = false;
    showsKey.value = false;
    writer.say("", "");
    refresh();
    if (route.value.view === "models") shelf.load();
    if (route.value.view === "train") studio.load();
  };
  return html`<form class="key" onSubmit=${enter}>
    <label>${t("key.label")}
      <input name="key" type="password" autocomplete="off" spellcheck="false" maxlength="200" /></label>
    <button class="main">${t("key.use")}</button>
    <span class="muted">${t("key.hint")}</span>
  </form>`;
}

render(html`<${Page} />`, document.getElementById("app"));
