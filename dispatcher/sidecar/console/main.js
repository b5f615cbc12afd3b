// Keeps the page alive: asks every two seconds while it is looked at, says when no answer comes, asks for the token.
// Shows the view that the address names.

import { ask, forget, hasToken, keep } from "./ask.js";
import { Charts } from "./charts.js";
import { Dead } from "./dead.js";
import { EventView } from "./event.js";
import { glance, runbook, shorten } from "./glance.js";
import { Groups } from "./groups.js";
import { Held } from "./held.js";
import { List } from "./list.js";
import { go, onRoute, route } from "./route.js";
import { side } from "./side.js";
import { tiles } from "./tiles.js";
import { DEAD_BOUND, at, byId, count, keys, lasting, refill, tellTimes, write, zone } from "./words.js";

const EVERY_MS = 2000;
const THEMES = { "": "auto", light: "light", dark: "dark" };
const dead = new Dead();
const held = new Held();
const views = { now: { show: () => { dead.show(); held.show(); } }, dead, held, events: new List(), event: new EventView(), groups: new Groups() };
let charts = null;
let answered = null; // when the last answer came, Unix seconds
let started = null;
let shown = null; // the name of the view, once there is one
let timer = null;
let busy = false;

async function look() {
  clearTimeout(timer);
  if (busy || document.hidden) return;
  busy = true;
  try {
    const seen = await ask("api/overview");
    answered = Date.now() / 1000;
    stale(false);
    byId("main").hidden = false;
    byId("forget").hidden = !hasToken();
    if (!shown) show();
    charts ??= new Charts(seen.latency.sla_s);
    if (started !== seen.started_at) charts.forget();
    started = seen.started_at;
    head(seen);
    glance(seen);
    tiles(seen);
    side(seen);
    dead.tell(seen.dead, seen.sampled_at, seen.held);
    held.tell(seen.held);
    tellTimes();
    await charts.update(seen.now - seen.started_at, seen);
    live("on", `Live, ${at(answered)}`);
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    if (!byId("ask-token").open) timer = setTimeout(look, EVERY_MS);
  }
}

/** Which system this is: nobody should have to guess it from a host name. */
function head(seen) {
  write(byId("deployment"), seen.deployment ?? "Dispatcher");
  write(byId("where"), [seen.database, seen.streams.length > 1 ? `${seen.stream.name}, ${keys(seen.streams)}` : seen.stream.name].filter(Boolean).join(" · "));
  const [name = "", ...more] = seen.names;
  write(byId("version"), `Dispatcher ${seen.version} · ${more.length ? `${seen.names.length} processes` : name} · up ${lasting(seen.now - seen.started_at)}`);
  byId("nav-dead").hidden = !seen.dead;
  write(byId("nav-dead"), count(seen.dead, DEAD_BOUND));
  byId("grafana").hidden = !seen.grafana;
  if (seen.grafana) byId("grafana").href = seen.grafana;
}

/** Show the view that the address names. */
function show() {
  const { name, query } = route();
  const view = name === "dead" && query.error !== undefined ? "events" : name in views ? name : "now";
  const moved = shown !== null && shown !== view;
  shown = view;
  for (const place of document.querySelectorAll("[data-shows]")) place.hidden = !place.dataset.shows.split(" ").includes(view);
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.view === (name === "event" ? "events" : name in views ? name : "now");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("find-what").value = query.q ?? "";
  write(byId("did"), "");
  shorten();
  views[view].show();
  if (moved) {
    window.scrollTo(0, 0);
    byId("main").focus({ preventScroll: true }); // a screen reader begins to read there
  }
}

function failed(error) {
  if (error.status === 401) {
    askForToken(hasToken() ? error.message : "");
    return;
  }
  if (error.status === undefined) throw error;
  if (error.status === 429) { // too many tabs of one address: what is shown stays, and is said to be old
    live("off", answered ? `Slowed down, ${at(answered)}` : "Slowed down");
    return;
  }
  const words = error.status === 0 ? "No answer from the dispatcher" : error.message;
  live("off", answered ? `Stale, ${at(answered)}` : "No answer");
  byId("main").hidden = false;
  if (!shown) show();
  byId("glance").dataset.level = "bad";
  write(byId("headline"), words);
  write(byId("needs"), "");
  write(byId("when"), answered ? `The figures below are of ${at(answered)}.` : "");
  write(byId("todo"), "Run `dispatcher status`: it says whether a dispatcher is alive. If none is, start one. If one is, this page does not reach it "
    + "(a closed port-forward, a pod that was replaced). It asks again every two seconds.");
  byId("todo").hidden = false;
  refill(byId("steps"), "down", () => runbook("down"));
  stale(true);
  refill(byId("others"), "none", () => []);
  document.title = "✕ Dispatcher: no answer";
  write(byId("say"), words);
}

/** Whether what is shown is of another time: no colour of it says how it is now. */
function stale(yes) {
  byId("main").classList.toggle("stale", yes);
  byId("pause").hidden = yes;
  charts?.stale(yes);
}

function live(state, words) {
  byId("live").dataset.state = state;
  write(byId("live-text"), words);
}

function askForToken(wrong) {
  live("off", "Signed out");
  write(byId("token-wrong"), wrong);
  if (!byId("ask-token").open) byId("ask-token").showModal();
}

byId("ask-token").addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it
byId("ask-token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = byId("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(value)) {
    write(byId("token-wrong"), "A token has no spaces and only ASCII characters.");
    return;
  }
  byId("token").value = "";
  byId("ask-token").close();
  keep(value);
  look();
});
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = byId("find-what").value.trim();
  if (q) go("events", { q });
});
byId("forget").addEventListener("click", () => {
  forget();
  location.reload();
});

function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  write(byId("theme"), `Colours: ${THEMES[theme]}`);
}

byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  localStorage.setItem("dispatcher-theme", theme);
  paint(theme);
});
paint(localStorage.getItem("dispatcher-theme") in THEMES ? localStorage.getItem("dispatcher-theme") : "");

write(byId("zone"), zone() === "UTC" ? "All times are UTC." : `Times: ${zone()}; the log has UTC.`);
onRoute(() => {
  if (shown !== null) show();
});
document.addEventListener("visibilitychange", look);
look();
