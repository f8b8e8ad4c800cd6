// The page: asks the daemon, hears what happens, and keeps everything together.

import { clock, Details, make } from "./details.js";
import { Picture } from "./map.js";
import { isBad, MARKS, plain, read, search, sentence } from "./model.js";

const $ = (id) => document.getElementById(id);
/** Events that are remembered here. */
const EVENTS = 300;
/** Rows of the list; the rest is found by the search. */
const ROWS = 600;
/** Also without an event the state is asked for, which shows that the daemon is there. */
const LOOK = 10_000;
const PATIENCE = 8_000;

const state = { model: null, chosen: null, found: null, events: [], current: null, at: null };

// --- looks -------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const LOOKS = ["auto", "light", "dark"];

function look() {
  try {
    const kept = localStorage.getItem("look");
    return LOOKS.includes(kept) ? kept : "auto";
  } catch {
    return "auto";
  }
}

let chosenLook = look();

function applyLook() {
  const seen = chosenLook === "auto" ? (dark.matches ? "dark" : "light") : chosenLook;
  document.documentElement.dataset.theme = seen;
  $("theme").textContent = { auto: "◑ Auto", light: "○ Light", dark: "● Dark" }[chosenLook];
}

applyLook();
const picture = new Picture($("map"), (key) => (key ? choose(key) : close()));
const details = new Details($("details"), { choose: (key) => choose(key, true), close: () => close() });

$("theme").addEventListener("click", () => {
  chosenLook = LOOKS[(LOOKS.indexOf(chosenLook) + 1) % LOOKS.length];
  try {
    localStorage.setItem("look", chosenLook);
  } catch {
    // Then it holds until the page is closed.
  }
  applyLook();
  picture.recolour();
});
dark.addEventListener("change", () => {
  applyLook();
  picture.recolour();
});

// --- what is chosen ----------------------------------------------------------

function choose(key, reveal = false, focus = false) {
  const element = state.model?.all.get(key);
  if (!element) return;
  state.chosen = key;
  state.current = key;
  details.show(element, state.events);
  picture.highlight(element, state.found);
  if (reveal) picture.reveal(key);
  drawList();
  if (focus) $("details").querySelector(".close").focus();
}

function close() {
  const key = state.chosen;
  const inside = $("details").contains(document.activeElement);
  state.chosen = null;
  details.hide();
  picture.highlight(null, state.found);
  drawList();
  // The keyboard goes on where it was.
  if (inside) rowsByKey.get(key)?.button.focus();
}

// --- the list ----------------------------------------------------------------

const rowsByKey = new Map();

function about(element) {
  if (element.kind === "container") {
    if (element.problems.length) return "problem";
    const ip = element.networks.flatMap((on) => on.ips)[0];
    return element.state === "running" ? ip ?? "" : element.state === "absent" ? "no task" : element.state;
  }
  if (element.kind === "network") return String(element.members.length);
  return element.state === "live" ? String(element.containers.length) : element.state;
}

function markOf(element) {
  if (element.problems.length) return ["▲", "problem"];
  if (element.kind === "network") return ["─", "network"];
  const known = MARKS[element.state];
  return [known ?? "?", known ? element.state : "unknown"];
}

function row(key) {
  let made = rowsByKey.get(key);
  if (!made) {
    const parts = ["mark", "name", "about"].map((kind) => make("span", { kind }));
    const button = make("button", { type: "button", tabindex: "-1" }, ...parts);
    button.addEventListener("click", (event) => choose(key, true, event.detail === 0));
    button.addEventListener("focus", () => {
      state.current = key;
      rove();
    });
    made = { line: make("li", {}, button), button, parts };
    rowsByKey.set(key, made);
  }
  return made;
}

function write(made, element) {
  const [mark, kind] = markOf(element);
  const texts = [mark, plain(element.name), plain(about(element))];
  made.parts.forEach((part, at) => {
    if (part.textContent !== texts[at]) part.textContent = texts[at];
  });
  made.parts[0].className = `mark ${kind}`;
  made.button.title = plain(element.name);
  made.button.setAttribute("aria-current", String(state.chosen === element.key));
  made.button.setAttribute("aria-label", `${element.kind} ${texts[1]}, ${kind === "network" ? "" : kind} ${texts[2]}`);
}

function groups(model) {
  const all = [...model.all.values()].filter((it) => !state.found || state.found.has(it.key));
  const of = (kind) => all.filter((it) => it.kind === kind);
  const listed = [["Networks", of("network")], ["Nodes", of("node")]];
  for (const node of model.nodes) {
    listed.push([`Containers on ${node.name}`, of("container").filter((one) => one.node === node)]);
  }
  return listed.filter(([, elements]) => elements.length);
}

function drawList() {
  const { model } = state;
  if (!model) return;
  const list = $("list");
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const lines = [];
  let count = 0;
  for (const [title, elements] of groups(model)) {
    if (count < ROWS) lines.push(make("li", { text: title, kind: "heading" }));
    for (const element of elements) {
      count += 1;
      if (count > ROWS) continue;
      const made = row(element.key);
      write(made, element);
      lines.push(made.line);
    }
  }
  for (const key of rowsByKey.keys()) if (!model.all.has(key)) rowsByKey.delete(key);
  list.replaceChildren(...lines);
  if (focused) {
    if (list.contains(focused)) focused.focus({ preventScroll: true });
    else list.querySelector("button")?.focus();
  }
  rove();
  const sought = state.found ? `${state.found.size} found` : "";
  $("found").textContent = count > ROWS ? `${sought || `${count} in all`}, the first ${ROWS} listed` : sought;
}

/** One row can be reached by Tab: the others from there by arrows. */
function rove() {
  const buttons = [...$("list").querySelectorAll("button")];
  const current = rowsByKey.get(state.current)?.button;
  const at = buttons.includes(current) ? current : buttons[0];
  for (const button of buttons) button.tabIndex = button === at ? 0 : -1;
}

function step(from, event) {
  const buttons = [...$("list").querySelectorAll("button")];
  const at = buttons.indexOf(from);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  if (next < 0) $("search").focus();
  else buttons[Math.min(next, buttons.length - 1)]?.focus();
}

$("list").addEventListener("keydown", (event) => step(document.activeElement, event));

// --- search and keys ---------------------------------------------------------

function seek() {
  state.found = state.model && search(state.model, $("search").value);
  const chosen = state.model?.all.get(state.chosen);
  picture.highlight(chosen ?? null, state.found);
  drawList();
}

$("search").addEventListener("input", seek);
$("search").addEventListener("keydown", (event) => {
  const first = $("list").querySelector("button");
  if (event.key === "ArrowDown") {
    event.preventDefault();
    first?.focus();
  } else if (event.key === "Enter") first?.click();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "Escape") {
    if (state.chosen) close();
    else if ($("search").value) {
      $("search").value = "";
      seek();
    }
    event.preventDefault();
  } else if (typing) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    $("search").select();
    $("search").focus();
  } else if (event.key === "f") picture.fit();
  else if (event.key === "t") picture.tidy();
});
$("fit").addEventListener("click", () => picture.fit());
$("tidy").addEventListener("click", () => picture.tidy());

// --- what the daemon says ----------------------------------------------------

const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function draw(told) {
  const model = read(told);
  state.model = model;
  state.found = search(model, $("search").value);
  const running = [...model.containers.values()].filter((one) => one.state === "running").length;
  const bad = [...model.all.values()].filter((it) => it.problems.length).length;
  const parts = [many(model.nodes.length, "node"), many(model.networks.size, "network"),
    `${many(model.containers.size, "container")}, ${running} running`];
  if (bad) parts.push(`▲ ${bad} with problems`);
  $("summary").textContent = parts.join(" · ");
  $("empty").hidden = model.networks.size + model.containers.size > 0;
  $("map").hidden = !$("empty").hidden;
  picture.show(model);
  const chosen = model.all.get(state.chosen);
  if (state.chosen && !chosen) close();
  else if (chosen) details.show(chosen, state.events);
  picture.highlight(chosen ?? null, state.found);
  drawList();
  const { registry } = model;
  link.registry = registry && !registry.connected
    ? `The cluster registry does not answer; other nodes may be out of date. ${plain(registry.failure)}` : "";
}

function drawEvents() {
  const lines = state.events.slice(0, 100).map((event) =>
    make("li", {}, clock(event.at), make("span", { text: sentence(event), kind: isBad(event) ? "what bad" : "what" }),
      state.model?.nodes.length > 1 ? make("span", { text: event.node, kind: "quiet" }) : null));
  if (!lines.length) lines.push(make("li", { text: "Nothing yet.", kind: "quiet" }));
  $("events").replaceChildren(...lines);
  const chosen = state.model?.all.get(state.chosen);
  if (chosen) details.show(chosen, state.events);
}

/** The line to the daemon: a stream of events, and looks at the state. */
const link = { source: null, wait: 1000, timer: 0, looking: false, again: false, soon: 0, lost: "", deaf: false, registry: "" };

function showLink() {
  const live = !link.lost && state.model;
  const shown = $("connection");
  shown.className = `connection ${link.lost ? "lost" : live ? "live" : ""}`;
  shown.textContent = link.lost ? "no connection" : live ? "live" : "connecting…";
  const at = state.at ? ` What is shown is of ${state.at.toLocaleTimeString([], { hour12: false })}.` : "";
  const texts = [];
  if (link.lost) texts.push(`${link.lost}${at} Trying again…`);
  else if (link.deaf) texts.push("No events come in: too many pages may be open. Looking every 10 seconds instead.");
  if (!link.lost && link.registry) texts.push(link.registry);
  const text = texts.join(" ");
  if ($("notice").textContent !== text) $("notice").textContent = text;
  $("notice").hidden = !text;
  document.body.classList.toggle("lost", Boolean(link.lost));
}

async function lookNow() {
  if (link.looking) {
    link.again = true;
    return;
  }
  link.looking = true;
  link.again = false;
  try {
    const answer = await fetch("/api/state", { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
    if (answer.status === 401) {
      // The token has changed: the daemon asks for it.
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(plain(await answer.text()));
    const told = await answer.json();
    state.at = new Date();
    link.lost = "";
    draw(told);
    if (!link.source) listen();
  } catch (error) {
    // A failure of this page itself is not one of the line.
    if (error instanceof ReferenceError || error instanceof RangeError) console.error(error);
    const silent = error instanceof TypeError || error?.name === "TimeoutError" || error instanceof DOMException;
    link.lost = silent ? "The connection to the daemon is lost." : `The daemon cannot tell: ${error.message}.`;
    if (silent) console.warn(error);
    retry();
  } finally {
    link.looking = false;
  }
  showLink();
  if (link.again && !link.lost) lookSoon();
}

/** Many events are one look. */
function lookSoon() {
  if (link.soon) return;
  link.soon = setTimeout(() => {
    link.soon = 0;
    lookNow();
  }, 120);
}

function retry() {
  hangUp();
  clearTimeout(link.timer);
  link.timer = setTimeout(lookNow, link.wait);
  link.wait = Math.min(link.wait * 1.7, 10_000);
}

function hangUp() {
  link.source?.close();
  link.source = null;
}

function listen() {
  const source = new EventSource("/api/events");
  link.source = source;
  let earlier = [];
  let drawn = 0;
  source.onopen = () => {
    link.wait = 1000;
    link.deaf = false;
    // The daemon tells what happened before anew; it may be another one.
    earlier = state.events;
    state.events = [];
    // Between the look and the stream something may have happened.
    lookSoon();
    showLink();
    setTimeout(() => (earlier = []), 1000);
  };
  source.onmessage = (message) => {
    let event;
    try {
      event = JSON.parse(message.data);
    } catch {
      return;
    }
    state.events.unshift(event);
    state.events.length = Math.min(state.events.length, EVENTS);
    if (!drawn) {
      drawn = requestAnimationFrame(() => {
        drawn = 0;
        drawEvents();
      });
    }
    lookSoon();
  };
  source.onerror = () => {
    if (link.source !== source) return;
    hangUp();
    link.deaf = true;
    if (!state.events.length) state.events = earlier;
    // Whether the daemon is there at all, a look tells.
    lookOrWait();
  };
}

function lookOrWait() {
  clearTimeout(link.timer);
  link.timer = setTimeout(lookNow, link.wait);
  link.wait = Math.min(link.wait * 1.7, 10_000);
  lookState();
}

/** Says at once that the line is cut, when it is. */
async function lookState() {
  try {
    await fetch("/icon.svg", { method: "HEAD", cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  } catch {
    link.lost = "The connection to the daemon is lost.";
  }
  showLink();
}

setInterval(() => {
  if (!document.hidden && !link.lost) lookNow();
}, LOOK);
document.addEventListener("visibilitychange", () => {
  // A browser has few connections to one place: those nobody looks at are given back.
  if (document.hidden) hangUp();
  else lookNow();
});
addEventListener("online", () => lookNow());

// The token has done its work, and is not for histories and screenshots.
if (location.search) history.replaceState(null, "", location.pathname);
drawEvents();
lookNow();
