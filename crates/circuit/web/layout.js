// Where everything is: a box for each node, in it the networks at the left and
// their containers at the right. What has a place keeps it when others come or go.

const HUB = { width: 108, height: 30 };
const CONTAINER = { width: 150, height: 30 };
const GUTTER = 136;
const PAD = 20;
const HEAD = 40;
const GAP = 10;
const BAND_GAP = 18;
const BOX_GAP = 32;
/** More rows than this in a box, and its containers are on both sides. */
const ROWS = 18;

const ONE_SIDE = 2 * PAD + HUB.width + GUTTER + CONTAINER.width;
const TWO_SIDES = ONE_SIDE + GUTTER + CONTAINER.width;

/** Places with numbers; one that is left is taken by the next that comes. */
class Slots {
  constructor() {
    this.of = new Map();
  }

  settle(keys) {
    const wanted = new Set(keys);
    for (const key of this.of.keys()) if (!wanted.has(key)) this.of.delete(key);
    const taken = new Set(this.of.values());
    let next = 0;
    for (const key of keys) {
      if (this.of.has(key)) continue;
      while (taken.has(next)) next += 1;
      taken.add(next);
      this.of.set(key, next);
    }
  }

  get sorted() {
    return [...this.of].sort((a, b) => a[1] - b[1]);
  }
}

/** The height of a container: each of its links arrives at a place of its own. */
export const heightOf = (container) => Math.max(CONTAINER.height, 18 * container.links.length + 8);

class Box {
  constructor(node) {
    this.bands = new Slots();
    this.members = new Map();
    this.home = new Map();
    this.sides = node.containers.length > ROWS ? 2 : 1;
  }

  get width() {
    return this.sides === 2 ? TWO_SIDES : ONE_SIDE;
  }

  /** Gives every network and container of the node a place. */
  settle(node) {
    this.bands.settle(node.hubs.map((hub) => hub.key));
    const bands = new Map([...node.hubs.map((hub) => [hub.key, []]), ["", []]]);
    const home = new Map();
    for (const container of node.containers) {
      // It stays with the network that it is drawn beside while it is on it.
      const hubs = container.links.map((link) => link.hub.key);
      const before = this.home.get(container.key);
      const at = hubs.includes(before) ? before : hubs[0] ?? "";
      home.set(container.key, at);
      bands.get(at).push(container.key);
    }
    this.home = home;
    for (const key of this.members.keys()) if (!bands.has(key)) this.members.delete(key);
    for (const [key, keys] of bands) {
      const slots = this.members.get(key) ?? new Slots();
      slots.settle(keys);
      this.members.set(key, slots);
    }
  }

  /** Places within the box, from its upper left corner on. */
  place(model, left, top, places) {
    const spine = left + PAD + HUB.width / 2 + (this.sides === 2 ? CONTAINER.width + GUTTER : 0);
    const reach = HUB.width / 2 + GUTTER + CONTAINER.width / 2;
    let y = top + HEAD + PAD / 2;
    const bands = [...this.bands.sorted.map(([key]) => key), ""];
    bands.forEach((band, number) => {
      const rows = [];
      for (const [key, slot] of this.members.get(band).sorted) {
        const row = Math.floor(slot / this.sides);
        (rows[row] ??= []).push({ key, right: slot % this.sides === 0 });
      }
      if (band) {
        places.set(band, { x: spine, y: y + CONTAINER.height / 2, ...HUB, number });
      } else if (!rows.length) return;
      let end = y;
      for (let at = 0; at < rows.length; at += 1) {
        const row = rows[at] ?? [];
        const heights = row.map(({ key }) => heightOf(model.containers.get(key)));
        const height = Math.max(CONTAINER.height, ...heights);
        row.forEach(({ key, right }, i) => {
          const x = spine + (right ? reach : -reach);
          places.set(key, { x, y: end + height / 2, width: CONTAINER.width, height: heights[i], right });
        });
        end += height + GAP;
      }
      y = Math.max(end - GAP, y + (band ? HUB.height : 0)) + BAND_GAP;
    });
    return Math.max(y - BAND_GAP, top + HEAD + 40) + PAD - top;
  }
}

export class Layout {
  constructor() {
    this.forget();
  }

  /** The next places are found as if nothing had one. */
  forget() {
    this.boxes = new Map();
    this.columns = [];
  }

  /** Where everything is, for a stage of that width to height. */
  places(model, aspect) {
    const there = new Set(model.nodes.map((node) => node.key));
    for (const key of this.boxes.keys()) if (!there.has(key)) this.boxes.delete(key);
    this.columns = this.columns.map((column) => column.filter((key) => there.has(key)));
    for (const node of model.nodes) {
      const known = this.boxes.get(node.key);
      const box = known ?? new Box(node);
      this.boxes.set(node.key, box);
      box.settle(node);
    }
    const sizes = new Map();
    for (const [key, box] of this.boxes) sizes.set(key, box.place(model, 0, 0, new Map()));
    this.append(model, sizes, aspect);

    const places = new Map();
    let left = 0;
    for (const column of this.columns) {
      let top = 0;
      let width = 0;
      for (const key of column) {
        const box = this.boxes.get(key);
        const height = box.place(model, left, top, places);
        places.set(key, { x: left + box.width / 2, y: top + height / 2, width: box.width, height });
        top += height + BOX_GAP;
        width = Math.max(width, box.width);
      }
      // A column that was left stays free for who comes next.
      left += (width || ONE_SIDE) + BOX_GAP;
    }
    return places;
  }

  /** Boxes without a column get one: the shortest. */
  append(model, sizes, aspect) {
    const placed = new Set(this.columns.flat());
    const fresh = model.nodes.filter((node) => !placed.has(node.key));
    if (!fresh.length) return;
    const heights = [...sizes.values()].map((height) => height + BOX_GAP);
    const sum = heights.reduce((a, b) => a + b, 0);
    const wanted = Math.ceil(Math.sqrt((sum * aspect) / (ONE_SIDE + BOX_GAP)) - 0.35);
    const count = Math.min(model.nodes.length, Math.max(wanted, this.columns.length, 1));
    while (this.columns.length < count) this.columns.push([]);
    const tall = (column) => column.reduce((all, key) => all + sizes.get(key) + BOX_GAP, 0);
    for (const node of fresh) {
      const shortest = this.columns.reduce((best, column) => (tall(column) < tall(best) ? column : best));
      shortest.push(node.key);
    }
  }
}
