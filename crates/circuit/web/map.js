// Draws the picture, and moves what has to move.

import { calm, plain } from "./dom.js";
import { fresh, place } from "./layout.js";
import { looks } from "./looks.js";
import { mark } from "./model.js";
import { Motion } from "./motion.js";

const MARGIN = 26;
// The legend is there.
const BELOW = 24;
const LARGEST = 1.25;
// More than that do not move smoothly.
const MANY = 1500;

export class Picture {
  constructor(container, { onOpen, onAway, covered }) {
    this.covered = covered;
    this.container = container;
    this.memory = fresh();
    this.colours = new Map();
    this.following = true;
    this.bounds = null;
    this.chosen = null;
    this.found = null;
    this.cy = window.cytoscape({
      container,
      minZoom: 0.08,
      maxZoom: 3,
      autoungrabify: true,
      autounselectify: true,
      boxSelectionEnabled: false,
      style: looks(container),
    });
    this.motion = new Motion(this.cy);
    this.cy.on("tap", (event) => {
      const of = event.target === this.cy ? null : event.target.data("of");
      if (of) onOpen(of);
      else onAway();
    });
    this.cy.on("dragpan scrollzoom pinchzoom", () => {
      this.following = false;
    });
    this.cy.on("mouseover", "[of]", (event) => this.point(event.target.data("of")));
    this.cy.on("mouseout", "[of]", () => this.point(null));
    new ResizeObserver(() => {
      this.cy.resize();
      if (this.following) this.fit(false);
    }).observe(container);
  }

  /** Draws with the colours that are in force now. */
  repaint() {
    this.cy.style(looks(this.container));
  }

  /** Forgets who had which place. */
  tidy() {
    this.memory = fresh();
    this.following = true;
  }

  /** Shows a picture: what is there already moves to its new place, if it has one. */
  show(picture) {
    if (picture.hubs.size + picture.containers.size === 0) this.memory = fresh();
    const shape = this.cy.width() / Math.max(1, this.cy.height());
    const places = place(picture, this.memory, shape);
    const wanted = this.elements(picture, places);
    const first = this.cy.elements().empty();
    this.motion.change(wanted, first || calm() || wanted.size > MANY);
    this.mind(places.boxes, first);
  }

  // Keeps everything in sight while nobody has chosen a part of it.
  mind(boxes, first) {
    const edges = { x1: Infinity, y1: Infinity, x2: -Infinity, y2: -Infinity };
    for (const { x, y, w, h } of boxes.values()) {
      edges.x1 = Math.min(edges.x1, x - w / 2);
      edges.x2 = Math.max(edges.x2, x + w / 2);
      edges.y1 = Math.min(edges.y1, y - h / 2);
      edges.y2 = Math.max(edges.y2, y + h / 2);
    }
    const changed = JSON.stringify(edges) !== JSON.stringify(this.bounds);
    this.bounds = edges;
    if (this.following && changed) this.fit(!first);
  }

  /** Makes everything visible, and keeps it so. */
  fit(slowly = true) {
    this.following = true;
    const { bounds: it, cy } = this;
    if (!it || !(it.x2 > it.x1)) return;
    const below = Math.max(BELOW, this.covered().bottom);
    const [wide, high] = [cy.width() - 2 * MARGIN, cy.height() - 2 * MARGIN - below];
    const zoom = Math.max(cy.minZoom(), Math.min(LARGEST, wide / (it.x2 - it.x1), high / (it.y2 - it.y1)));
    const pan = {
      x: cy.width() / 2 - (zoom * (it.x1 + it.x2)) / 2,
      y: (cy.height() - below) / 2 - (zoom * (it.y1 + it.y2)) / 2,
    };
    cy.stop();
    if (slowly && !calm()) cy.animate({ zoom, pan }, { duration: 350, easing: "ease-in-out-cubic" });
    else cy.viewport({ zoom, pan });
  }

  zoom(by) {
    this.following = false;
    const middle = { x: this.cy.width() / 2, y: this.cy.height() / 2 };
    this.cy.zoom({ level: this.cy.zoom() * by, renderedPosition: middle });
  }

  pan(x, y) {
    this.following = false;
    this.cy.panBy({ x, y });
  }

  // All drawn elements of a container, network or node.
  drawn(of) {
    return this.cy.elements().filter((it) => it.data("of") === of || it.data("network") === of || it.data("also") === of);
  }

  /** Makes one stand out, lightly. */
  point(of) {
    this.cy.batch(() => {
      this.cy.elements(".near").removeClass("near");
      if (of) this.drawn(of).addClass("near");
    });
  }

  /** Makes one stand out, and the rest step back. */
  choose(of) {
    const other = of !== this.chosen;
    this.chosen = of;
    this.emphasise();
    if (!other) return;
    if (!of && this.following) this.fit();
    if (!of) return;
    this.reveal(this.drawn(of).nodes(".pill, .stand, .hub, .box"));
  }

  // Moves the map just so far that they are in sight, or the first of them.
  reveal(drawn) {
    const places = drawn.map((it) => it.renderedPosition());
    if (places.length === 0) return;
    const by = (at, edge, most) => {
      const [low, high] = [Math.min(...at), Math.max(...at)];
      if (low < edge) return edge - low;
      return high > most - edge ? -Math.min(high - most + edge, low - edge) : 0;
    };
    const [wide, high] = [this.cy.width() - this.covered().right, this.cy.height()];
    const x = by(places.map((it) => it.x), Math.min(80, wide / 2), wide);
    const y = by(places.map((it) => it.y), Math.min(40, high / 2), high);
    if (x === 0 && y === 0) return;
    if (calm()) this.cy.panBy({ x, y });
    else this.cy.animate({ panBy: { x, y } }, { duration: 350 });
  }

  /** Makes those of a search stand out; null when there is none. */
  find(keys) {
    this.found = keys;
    this.emphasise();
  }

  emphasise() {
    const { chosen, found } = this;
    const has = (it, one) => ["of", "network", "also"].some((name) => it.data(name) !== undefined && one(it.data(name)));
    const ofChosen = this.cy.elements().filter((it) => has(it, (key) => key === chosen));
    // The networks that what is chosen is on stay in sight with it.
    const hubs = new Set(ofChosen.edges(".link").map((it) => it.data("source").slice("rail:".length)));
    this.cy.batch(() => {
      this.cy.elements().forEach((it) => {
        const isChosen = ofChosen.has(it);
        const isFound = found !== null && has(it, (key) => found.has(key));
        const isNear = isChosen || hubs.has(it.id().slice(it.id().indexOf(":") + 1));
        it.toggleClass("chosen", isChosen);
        it.toggleClass("found", isFound && it.data("what") !== "link");
        it.toggleClass("faded", found === null ? Boolean(chosen) && !isNear : !isFound && !isChosen);
      });
    });
  }

  colour(network) {
    if (!this.colours.has(network)) this.colours.set(network, this.colours.size % 6);
    return this.colours.get(network);
  }

  elements(picture, places) {
    const all = new Map();
    const add = (what, key, it) => all.set(`${what}:${key}`, { what, ...it });
    for (const node of picture.nodes) this.addNode(node, places.boxes.get(node.key), add);
    for (const network of picture.networks) this.colour(network.name);
    for (const hub of picture.hubs.values()) this.addHub(hub, places.hubs.get(hub.key), add);
    for (const container of picture.containers.values()) {
      const spot = places.pills.get(container.key);
      const state = container.state in STATES ? container.state : "unknown";
      add("pill", container.key, {
        of: container.key,
        label: mark(container) + plain(container.name),
        classes: `${state} ${container.problems.length > 0 ? "problem" : ""}`,
        ...spot,
      });
    }
    for (const hub of picture.hubs.values()) this.addLinks(hub, places, add);
    this.addSame(picture, places, add);
    return all;
  }

  addNode(node, box, add) {
    const state = node.state && node.state !== "live" ? ` · ${plain(node.state)}` : "";
    const { x, y, w, h, title, loose } = box;
    add("box", node.key, { of: node.key, x, y, w, h, classes: state ? "away" : "" });
    const label = `${plain(node.name)}${node.here ? " · this node" : ""}${state}`;
    add("title", node.key, { of: node.key, label, ...title });
    if (loose) add("loose", node.key, { label: "on no network", ...loose });
  }

  addHub(hub, spot, add) {
    const colour = this.colour(hub.name);
    const { x, y, rail } = spot;
    const about = { of: hub.network, colour };
    add("hub", hub.key, { ...about, also: hub.key, label: plain(hub.name), x, y });
    add("rail", hub.key, { ...about, x: rail.x, y: rail.y, h: Math.max(1, rail.h), classes: rail.h > 0 ? "" : "bare" });
  }

  // A container has one link to each of its networks, by which its address is told.
  addLinks(hub, places, add) {
    const colour = this.colour(hub.name);
    const rail = places.hubs.get(hub.key).rail;
    const told = new Map();
    for (const { container, on } of hub.members) {
      const earlier = told.get(container.key) ?? { container, ips: [], phase: "attached" };
      earlier.ips.push(...on.ips);
      if (on.phase !== "attached") earlier.phase = on.phase;
      told.set(container.key, earlier);
    }
    for (const { container, ips, phase } of told.values()) {
      const stand = JSON.stringify([hub.key, container.key]);
      const spot = places.stands.get(stand);
      const about = { of: container.key, network: hub.network, colour };
      if (spot) {
        add("stand", stand, { ...about, label: plain(container.name), x: spot.x, y: spot.y });
        const home = places.pills.get(container.key);
        add("tie", stand, { ...about, source: `stand:${stand}`, target: `pill:${container.key}`, bow: bow(spot, home) });
      }
      const end = spot ?? places.pills.get(container.key);
      const more = ips.length > 1 ? ` +${ips.length - 1}` : "";
      add("link", stand, {
        ...about,
        source: `rail:${hub.key}`,
        target: spot ? `stand:${stand}` : `pill:${container.key}`,
        dy: end.y - rail.y,
        label: phase === "attached" ? plain(short(ips[0] ?? "no address") + more) : `${plain(phase)}…`,
        classes: phase === "attached" ? "" : "passing",
      });
    }
  }

  // Networks of one name on several nodes.
  addSame(picture, places, add) {
    const last = new Map();
    for (const node of picture.nodes) {
      for (const hub of node.hubs) {
        const before = last.get(hub.name);
        last.set(hub.name, hub);
        if (!before) continue;
        const id = JSON.stringify([before.key, hub.key]);
        const [source, target] = [`hub:${before.key}`, `hub:${hub.key}`];
        add("same", id, { of: hub.network, colour: this.colour(hub.name), source, target });
      }
    }
  }
}

// The beginning of long addresses is their network's, the end is their own.
const short = (ip) => (ip.length > 16 ? `${ip.slice(0, 6)}…${ip.slice(-8)}` : ip);

const STATES = { running: 1, created: 1, stopped: 1, absent: 1, unknown: 1 };

// Which sides of the two are joined, and how far the curve goes out.
function bow(from, to) {
  const side = to.side ?? 1;
  return { from: from.side, to: side, out: from.side * 34 * (from.y <= to.y ? -1 : 1) };
}
