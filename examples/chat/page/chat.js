// The page: messages in the order of their numbers, whatever order they come in, and each once.

import { Live } from "./live.js";
import { Sender } from "./sender.js";

const HOLE_MS = 3_000; // numbers have no hole: one that stays is a message that was missed
const SAYS = { wait: "Connecting", on: "Connected", off: "Connecting again" };
const find = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const room = asked.get("room") || "lobby";
const name = asked.get("name") || "Somebody";
const numbers = new Map(); // number of a message: its element
let unread = 0;
let hole;

function title() {
  document.title = `${unread ? `(${unread}) ` : ""}${room}, ${name}: Chat`;
}

function draw({ number, author, body, posted_at }) {
  const item = document.createElement("li");
  item.dataset.number = number;
  item.classList.toggle("mine", author === name);
  const who = document.createElement("b");
  who.textContent = author;
  const when = document.createElement("time");
  when.dateTime = posted_at;
  when.textContent = new Date(posted_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  item.append(who, body, " ", when);
  return item;
}

// Put a message where it belongs. False: it is there already.
function put(message) {
  if (numbers.has(message.number)) return false;
  const item = draw(message);
  numbers.set(message.number, item);
  const list = find("messages");
  let next = null;
  for (let last = list.lastElementChild; last && Number(last.dataset.number) > message.number; last = last.previousElementSibling) next = last;
  list.insertBefore(item, next);
  sender.arrived(message.key);
  return true;
}

function first() {
  return Number(find("messages").firstElementChild?.dataset.number ?? 1);
}

function look() {
  find("empty").hidden = numbers.size > 0;
  find("earlier").hidden = first() <= 1;
  clearTimeout(hole);
  const last = Number(find("messages").lastElementChild?.dataset.number ?? 0);
  if (numbers.size && last - first() + 1 > numbers.size) hole = setTimeout(() => live.reload(), HOLE_MS);
}

// What `change` does to the list leaves the reader where they read, or at the end where they were at the end.
function keepingPlace(change) {
  const log = find("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const added = change();
  if (atEnd) log.scrollTop = log.scrollHeight;
  else if (added) find("newer").hidden = false;
}

function heard(frame) {
  if (frame.type === "state") {
    keepingPlace(() => {
      numbers.clear();
      find("messages").replaceChildren();
      frame.messages.forEach(put);
    });
    if (frame.why) find("state").textContent = `Loaded again: ${frame.why}`;
  } else if (frame.type === "message") {
    keepingPlace(() => {
      const added = put(frame.message);
      if (added && document.hidden) unread += 1;
      return added;
    });
    title();
  } else return;
  look();
}

async function loadEarlier() {
  const answer = await fetch(`rooms/${encodeURIComponent(room)}/messages?before=${first()}`).catch(() => null);
  if (!answer?.ok) return; // the button is still there
  const log = find("log");
  const below = log.scrollHeight - log.scrollTop;
  for (const message of await answer.json()) put(message);
  look();
  log.scrollTop = log.scrollHeight - below;
  if (find("earlier").hidden) log.focus();
}

function drawUnsent() {
  keepingPlace(() =>
    find("unsent").replaceChildren(
      ...sender.unsent.map(({ body }) => {
        const item = document.createElement("li");
        const how = document.createElement("i");
        how.textContent = " sending";
        item.append(body, how);
        return item;
      }),
    ),
  );
}

const sender = new Sender(room, name, drawUnsent, ({ body }, why) => {
  find("refused").textContent = `Not sent: ${why}`;
  if (!find("body").value) find("body").value = body;
});
find("room").textContent = room;
find("name").textContent = name;
title();
const live = new Live(room, heard, (state) => {
  find("state").dataset.state = state;
  find("state").textContent = SAYS[state];
});

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = find("body").value.trim();
  if (!body) return;
  find("body").value = "";
  find("refused").textContent = "";
  sender.send(body);
  find("log").scrollTop = find("log").scrollHeight;
});
find("body").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("form").requestSubmit();
  }
});
find("earlier").addEventListener("click", loadEarlier);
find("newer").addEventListener("click", () => {
  find("log").scrollTop = find("log").scrollHeight;
  find("log").focus();
});
find("log").addEventListener("scroll", ({ target }) => {
  if (target.scrollHeight - target.scrollTop - target.clientHeight < 40) find("newer").hidden = true;
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) unread = 0;
  title();
});
