// Brings the drawing from what it shows to what it should show, in one short move.

const TIME = 380;
const SIZES = ["x", "y", "w", "h", "dy"];

const eased = (part) => (part < 0.5 ? 4 * part ** 3 : 1 - (2 - 2 * part) ** 3 / 2);

export class Motion {
  constructor(cy) {
    this.cy = cy;
    this.moves = new Map();
    this.frame = 0;
  }

  /** Adds, changes and takes away; at once, or so that one can follow it. */
  change(wanted, atOnce) {
    this.finish();
    this.cy.batch(() => {
      this.cy.elements().forEach((it) => {
        if (!wanted.has(it.id())) this.leave(it);
      });
      // Links can only be made when their ends are there.
      for (const edges of [false, true]) {
        for (const [id, it] of wanted) {
          if (edges === (it.source !== undefined)) this.bring(id, it);
        }
      }
    });
    if (atOnce) this.finish();
    else this.start();
  }

  leave(it) {
    // Its ends may be wanted by others; it is nobody's any more.
    it.removeData("of network also");
    it.addClass("leaving");
    this.moves.set(it.id(), { from: { seen: 1 }, to: { seen: 0 }, last: () => it.remove() });
  }

  bring(id, wanted) {
    const { x, y, classes = "", source, target, ...data } = wanted;
    const to = { seen: 1 };
    for (const size of SIZES) if (wanted[size] !== undefined) to[size] = wanted[size];
    let it = this.cy.getElementById(id);
    if (it.nonempty() && source !== undefined && (it.data("source") !== source || it.data("target") !== target)) {
      it.remove();
      it = this.cy.getElementById(id);
    }
    if (it.empty()) {
      const group = source === undefined ? "nodes" : "edges";
      const ends = source === undefined ? {} : { source, target };
      this.cy.add({ group, data: { id, ...ends, ...data, seen: 0 }, position: { x, y }, classes: `${wanted.what} ${classes}` });
      this.moves.set(id, { from: { ...to, seen: 0 }, to });
      return;
    }
    const from = { seen: it.data("seen") };
    for (const size of Object.keys(to)) {
      if (size === "x" || size === "y") from[size] = it.position(size);
      else if (size !== "seen") from[size] = it.data(size) ?? to[size];
    }
    for (const [name, value] of Object.entries(data)) {
      if (!SIZES.includes(name) && JSON.stringify(it.data(name)) !== JSON.stringify(value)) it.data(name, value);
    }
    const kept = ["near", "chosen", "found", "faded"].filter((name) => it.hasClass(name));
    it.classes([wanted.what, ...classes.split(" ").filter(Boolean), ...kept]);
    if (Object.keys(to).some((size) => to[size] !== from[size])) this.moves.set(id, { from, to });
  }

  start() {
    if (this.moves.size === 0) return;
    const began = performance.now();
    const step = (now) => {
      const part = Math.min(1, (now - began) / TIME);
      this.at(eased(Math.max(0, part)));
      if (part < 1) this.frame = requestAnimationFrame(step);
      else this.finish();
    };
    this.frame = requestAnimationFrame(step);
    // Browsers draw no frames of pages that nobody sees.
    this.late = setTimeout(() => this.finish(), TIME * 2);
  }

  finish() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.late);
    if (this.moves.size === 0) return;
    this.at(1);
    const ended = [...this.moves.values()];
    this.moves.clear();
    this.cy.batch(() => ended.forEach((move) => move.last?.()));
  }

  at(part) {
    this.cy.batch(() => {
      for (const [id, { from, to }] of this.moves) {
        const it = this.cy.getElementById(id);
        if (it.empty()) continue;
        const now = {};
        for (const name of Object.keys(to)) now[name] = from[name] + (to[name] - from[name]) * part;
        const { x, y, ...data } = now;
        if (x !== undefined) it.position({ x, y });
        it.data(data);
      }
    });
  }
}
