// The page: what is told is drawn, and what is pressed is done.

import { Details } from "./details.js";
import { byId, clock, make, plain, remember, remembered, say, whatOf } from "./dom.js";
import { List } from "./list.js";
import { Live } from "./live.js";
import { Picture } from "./map.js";

const STRIP = 80;

let picture = null;
let events = [];
let opened = null;
let told = false;
const search = byId("search");

const drawing = new Picture(byId("map"), { onOpen: (key) => open(key), onAway: () => close(), covered });
const list = new List({ onOpen: (key) => open(key, true), onPoint: (key) => drawing.point(key) });
const details = new Details({ onOpen: (key) => open(key, true), onClose: () => close(true) });
const live = new Live({
  onPicture: (now) => {
    picture = now;
    draw();
  },
  onEvents: (now) => {
    events = now;
    drawSoon();
  },
  onLost: lost,
  onBack: back,
});

// How much of the map is hidden.
function covered() {
  return { right: byId("details").offsetWidth, bottom: byId("empty").offsetHeight };
}

function element(key) {
  if (!picture || !key) return null;
  const one = (all) => all.find((it) => it.key === key);
  return picture.containers.get(key) ?? one(picture.networks) ?? one(picture.nodes) ?? null;
}

function draw() {
  about();
  empty();
  drawing.show(picture);
  byId("map").setAttribute("aria-label", inWords());
  showSearch();
  showDetails();
}

function inWords() {
  const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;
  const { nodes, networks, containers } = picture;
  return `Map of ${count(nodes.length, "node")}, ${count(networks.length, "network")} and ${count(containers.size, "container")}`;
}

function about() {
  document.title = `${plain(picture.here)} · Circuit`;
  say(byId("about"), `${picture.here} · ${picture.version} · ${inWords().slice("Map of ".length)}`);
  const badge = byId("registry");
  badge.hidden = !picture.registry;
  if (picture.registry) {
    const { connected, failure } = picture.registry;
    say(badge, connected ? "cluster connected" : "cluster registry away");
    badge.className = `badge ${connected ? "" : "warn"}`;
    badge.title = plain(failure);
  }
  const problems = byId("problems");
  problems.hidden = picture.problems.length === 0;
  say(problems, picture.problems.map((it) => it.message).join(" · "));
}

function showSearch() {
  if (picture) drawing.find(list.show(picture, search.value, (name) => drawing.colour(name)));
}

function showDetails() {
  const it = element(opened);
  if (opened && !it) opened = null;
  details.show(it, picture, events);
  list.chosen(opened);
  drawing.choose(opened);
}

function open(key, byKeyboard = false) {
  if (!element(key)) return;
  opened = key;
  showDetails();
  if (byKeyboard) details.focus();
}

function close(byKeyboard = false) {
  const was = opened;
  opened = null;
  showDetails();
  if (byKeyboard && was) list.focus(was);
}

// What to type first, when there is nothing to see.
function empty() {
  const card = byId("empty");
  const connected = [...picture.containers.values()].some((it) => it.networks.length > 0);
  card.hidden = connected;
  if (connected) return;
  const [title, text] = [card.querySelector("h2"), card.querySelector("p")];
  const has = picture.networks.length > 0;
  const some = [...picture.containers.values()].find((it) => it.node === picture.here)?.name ?? "CONTAINER";
  say(title, has ? "No container is on a network yet" : "There is no network yet");
  say(text, "It appears here by itself once you have typed:");
  const network = has ? picture.networks[0].name : "web";
  const lines = has ? [] : [`circuit network create ${network}`];
  card.querySelector("code").textContent = [...lines, `circuit network connect ${plain(some)} ${plain(network)}`].join("\n");
}

let soon = 0;
function drawSoon() {
  cancelAnimationFrame(soon);
  soon = requestAnimationFrame(() => {
    strip();
    if (picture) details.show(element(opened), picture, events);
  });
}

function strip() {
  const rows = events.slice(0, STRIP).map((event) => {
    const time = make("time", { datetime: plain(event.at) }, clock(event.at));
    const kind = make("span", { class: `kind ${event.kind === "container.problem" || event.kind === "registry.lost" ? "warn" : ""}` }, event.kind);
    const where = make("span", { class: "quiet" }, event.node);
    return make("li", {}, time, kind, make("span", { class: "what" }, make("b", {}, event.container), ` ${whatOf(event)}`), where);
  });
  const none = make("li", { class: "quiet" }, told ? "Nothing has happened yet." : "Nothing has been told yet.");
  byId("events").replaceChildren(...(rows.length > 0 ? rows : [none]));
}

function lost(since, why) {
  const notice = byId("lost");
  const what = since ? `What you see is as of ${clock(since)}.` : "Nothing is known yet.";
  say(notice, `The connection to the daemon is lost${why ? `: ${why}` : ""}. ${what} Trying again…`);
  notice.hidden = false;
  byId("untold").hidden = true;
  document.body.classList.add("stale");
}

// Whether the daemon tells what happens; null when that is not known.
function back(listens) {
  byId("lost").hidden = true;
  const notice = byId("untold");
  say(notice, "The daemon does not tell this page what happens; perhaps too many pages are told already. The map is read every few seconds all the same. Trying again…");
  notice.hidden = listens !== false;
  document.body.classList.remove("stale");
  if (told === (listens === true)) return;
  told = !told;
  strip();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function paint() {
  say(byId("theme"), isDark() ? "Light" : "Dark");
  drawing.repaint();
}

function turn() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  remember("circuit-theme", theme);
  paint();
}

function tidy() {
  drawing.tidy();
  if (picture) draw();
  drawing.fit();
}

const KEYS = {
  "/": () => search.focus(),
  f: () => drawing.fit(),
  t: tidy,
  d: turn,
  Escape: () => (opened ? close(true) : clearSearch()),
};

function clearSearch() {
  search.value = "";
  showSearch();
}

const MOVES = {
  "+": () => drawing.zoom(1.25),
  "=": () => drawing.zoom(1.25),
  "-": () => drawing.zoom(0.8),
  ArrowLeft: () => drawing.pan(60, 0),
  ArrowRight: () => drawing.pan(-60, 0),
  ArrowUp: () => drawing.pan(0, 60),
  ArrowDown: () => drawing.pan(0, -60),
};

function pressed(event, actions) {
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

document.addEventListener("keydown", (event) => {
  if (event.target !== search) pressed(event, KEYS);
});
byId("map").addEventListener("keydown", (event) => pressed(event, MOVES));
search.addEventListener("input", showSearch);
search.addEventListener("keydown", (event) =>
  pressed(event, {
    Escape: () => {
      if (search.value === "") list.focus();
      else clearSearch();
    },
    ArrowDown: () => list.focus([...list.rows.keys()][0]),
    Enter: () => search.value.trim() !== "" && open(list.first(), true),
  }),
);
byId("fit").addEventListener("click", () => drawing.fit());
byId("tidy").addEventListener("click", tidy);
byId("theme").addEventListener("click", turn);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

const theme = remembered("circuit-theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
// The token that let this page in stays out of the history and of screenshots.
if (location.search) history.replaceState(null, "", "/");
paint();
strip();
live.start();
