// Keeps the page alive: asks every two seconds while it is looked at, says when no answer comes, asks for the token.

import { ask, forget, hasToken, keep } from "./ask.js";
import { Charts } from "./charts.js";
import { glance } from "./glance.js";
import { Letters } from "./letters.js";
import { at, byId, write } from "./words.js";

const EVERY_MS = 2000;
const THEMES = { "": "auto", light: "light", dark: "dark" };
const letters = new Letters();
let charts = null;
let answered = null; // when the last answer came, Unix seconds
let started = null;
let timer = null;
let busy = false;

async function look() {
  clearTimeout(timer);
  if (busy || document.hidden) return;
  busy = true;
  try {
    const seen = await ask("api/overview");
    answered = Date.now() / 1000;
    byId("main").hidden = false;
    byId("forget").hidden = !hasToken();
    charts ??= new Charts(seen.latency.sla_s);
    if (started !== seen.started_at) charts.forget();
    started = seen.started_at;
    glance(seen);
    letters.known(seen.dead);
    await charts.update();
    live("on", `Live, ${at(answered)}`);
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    if (!byId("ask-token").open) timer = setTimeout(look, EVERY_MS);
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
  byId("glance").dataset.level = "bad";
  write(byId("headline"), words);
  write(byId("when"), answered ? `The figures below are of ${at(answered)}.` : "");
  write(byId("todo"), error.status === 0
    ? "Does the process run, and does this browser still reach it (a closed port-forward, a pod that was replaced)? It asks again every two seconds."
    : "");
  byId("todo").hidden = error.status !== 0;
  byId("others").replaceChildren();
  document.title = "✕ Dispatcher: no answer";
  write(byId("say"), words);
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

document.addEventListener("visibilitychange", look);
look();
