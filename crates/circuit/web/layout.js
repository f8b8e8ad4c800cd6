// Where everything is. A node is a box, in which each of its networks is a ladder: a
// rail with the containers on its rungs. Whoever has a place keeps it; places of
// those that left are given to who comes next.

import { byName } from "./model.js";

export const PILL = { w: 128, h: 30 };
export const STUB = 94;
const RAIL = 8;
const ROW = 41;
const HEAD = 46;
const GAP = 28;
const PAD = 20;
const TITLE = 36;
const BETWEEN = 40;
// The first rungs are on one side; only large networks need the other.
const ONE_SIDED = 4;
const INSET = 14;
const SIDE = STUB + PILL.w;

/** What is remembered from one picture to the next. */
export const fresh = () => ({ columns: [], width: 0, nodes: new Map() });

// Puts the wanted into slots: those who have one stay, others take the first free.
function settle(slots, wanted) {
  const want = new Set(wanted);
  for (let at = 0; at < slots.length; at += 1) {
    if (slots[at] !== null && !want.has(slots[at])) slots[at] = null;
  }
  const placed = new Set(slots);
  for (const key of wanted) {
    if (placed.has(key)) continue;
    const free = slots.indexOf(null);
    if (free < 0) slots.push(key);
    else slots[free] = key;
  }
  while (slots.at(-1) === null) slots.pop();
}

// Slots 0 to 3 are at the right, 4 to 7 at the left, then both sides in turn.
function rung(slot) {
  if (slot < ONE_SIDED) return { row: slot, left: false };
  if (slot < 2 * ONE_SIDED) return { row: slot - ONE_SIDED, left: true };
  return { row: Math.floor(slot / 2), left: slot % 2 === 1 };
}

// How many rows are kept free for those who may come, in steps so that most
// arrivals move nobody.
const roomFor = (rows) => Math.max(2, Math.ceil(rows / 2) * 2);

function sizeLadder(ladder) {
  let rows = 0;
  ladder.slots.forEach((key, slot) => {
    if (key === null) return;
    const { row, left } = rung(slot);
    rows = Math.max(rows, row + 1);
    ladder.both ||= left;
  });
  ladder.used = rows;
  ladder.rows = Math.max(ladder.rows, roomFor(rows));
  ladder.w = RAIL + (ladder.both ? 2 * SIDE : INSET + SIDE);
  ladder.h = HEAD + ladder.rows * ROW;
}

const newLadder = () => ({ key: null, slots: [], rows: 0, used: 0, both: false, w: 0, h: 0 });

// One after the other, in as many rows as it takes.
function flow(ladders, width) {
  let [x, y, high, wide] = [0, 0, 0, 0];
  for (const ladder of ladders) {
    if (x > 0 && x + ladder.w > width) [x, y, high] = [0, y + high + GAP, 0];
    [ladder.x, ladder.y] = [x, y];
    x += ladder.w + GAP;
    wide = Math.max(wide, x - GAP);
    high = Math.max(high, ladder.h);
  }
  return { w: wide, h: y + high };
}

function homeOf(container, node, homes) {
  const old = homes.get(container.key);
  const names = container.networks.map((on) => on.network);
  if (names.length === 0) return null;
  const hub = node.hubs.find((it) => it.key === old);
  return hub && names.includes(hub.name)
    ? old
    : node.hubs.find((it) => it.name === names[0]).key;
}

// Who is on several networks comes first, so that it is near the same place on each.
function rungs(hub) {
  const count = ({ container }) => Math.min(2, new Set(container.networks.map((on) => on.network)).size);
  const sorted = [...hub.members].sort((a, b) => count(b) - count(a) || byName(a.container, b.container));
  return [...new Set(sorted.map((it) => it.container.key))];
}

// The ladders of a node: which there are, and who is on which rung.
function ladders(node, memory) {
  const keys = [...node.hubs].sort(byName).map((hub) => hub.key);
  const order = memory.ladders.map((it) => it.key);
  settle(order, keys);
  memory.ladders = order.map((key, at) => {
    const old = memory.ladders[at];
    if (old && (old.key === key || key === null)) return { ...old, key };
    return { ...newLadder(), key, rows: old?.rows ?? 0, both: old?.both ?? false };
  });
  const homes = new Map();
  for (const it of node.containers) homes.set(it.key, homeOf(it, node, memory.homes));
  memory.homes = homes;
  for (const ladder of memory.ladders) {
    const hub = node.hubs.find((it) => it.key === ladder.key);
    settle(ladder.slots, hub ? rungs(hub) : []);
    sizeLadder(ladder);
  }
  const loose = node.containers.filter((it) => homes.get(it.key) === null);
  settle(memory.loose, loose.map((it) => it.key));
  return homes;
}

function sizeNode(node, memory, width) {
  const homes = ladders(node, memory);
  const inside = flow(memory.ladders, width);
  const across = Math.max(2, Math.floor((Math.max(inside.w, 300) + 12) / (PILL.w + 12)));
  memory.across = Math.max(memory.across, across);
  const lines = Math.ceil(memory.loose.length / memory.across);
  // Only of this node are containers known that are on no network; room for some is
  // there from the beginning, as this is where those go that are disconnected.
  memory.lines = Math.max(memory.lines, lines, node.here ? 1 : 0);
  memory.looseY = inside.h + (inside.h > 0 ? GAP : 0);
  const cells = memory.lines > 0 ? memory.across : 0;
  const loose = memory.lines > 0 ? HEAD - 14 + memory.lines * ROW : 0;
  memory.w = Math.max(memory.w, 240, inside.w, cells * (PILL.w + 12) - 12);
  memory.h = Math.max(memory.h, memory.looseY + loose, 40);
  return homes;
}

// How many columns show everything the largest.
function columnsFor(sizes, shape) {
  let best = { count: 1, scale: 0 };
  const wide = Math.max(...sizes.map((it) => it.w)) + 2 * PAD + BETWEEN;
  for (let count = 1; count <= Math.min(sizes.length, 24); count += 1) {
    const heights = Array.from({ length: count }, () => 0);
    for (const { h } of sizes) {
      heights[heights.indexOf(Math.min(...heights))] += h + TITLE + 2 * PAD + BETWEEN;
    }
    const scale = Math.min(shape / (wide * count), 1 / Math.max(...heights));
    if (scale > best.scale) best = { count, scale };
  }
  return best.count;
}

// Nodes stand in columns; each new one goes into the lowest.
function arrange(nodes, memory, shape) {
  const wanted = columnsFor(nodes.map((it) => memory.nodes.get(it.key)), shape);
  while (memory.columns.length < wanted) memory.columns.push([]);
  const there = new Set(nodes.map((it) => it.key));
  const placed = new Set();
  for (const column of memory.columns) {
    column.forEach((key, at) => {
      if (key !== null && !there.has(key)) column[at] = null;
      else placed.add(key);
    });
    while (column.at(-1) === null) column.pop();
  }
  const height = (column) =>
    column.reduce((sum, key) => sum + (memory.nodes.get(key)?.h ?? 0) + BETWEEN, 0);
  for (const node of nodes) {
    if (placed.has(node.key)) continue;
    const hole = memory.columns.find((column) => column.includes(null));
    if (hole) {
      hole[hole.indexOf(null)] = node.key;
      continue;
    }
    const lowest = memory.columns.reduce((a, b) => (height(b) < height(a) ? b : a));
    lowest.push(node.key);
  }
}

const widthFor = (nodes) => {
  if (nodes === 1) return 3 * (2 * SIDE + RAIL) + 2 * GAP;
  return nodes === 2 ? 3 * SIDE + 2 * GAP : 2 * SIDE + GAP + 2 * RAIL;
};

/**
 * The place of everything, as `{boxes, hubs, pills, stands}` by key; coordinates are
 * of centres. `shape` is the width of the screen by its height.
 */
export function place(picture, memory, shape) {
  memory.width ||= widthFor(picture.nodes.length);
  const homes = new Map();
  for (const node of picture.nodes) {
    if (!memory.nodes.has(node.key)) {
      const empty = { ladders: [], homes: new Map(), loose: [], across: 0, lines: 0, w: 0, h: 0 };
      memory.nodes.set(node.key, empty);
    }
    const own = sizeNode(node, memory.nodes.get(node.key), memory.width);
    for (const [key, home] of own) homes.set(key, home);
  }
  const there = new Set(picture.nodes.map((it) => it.key));
  for (const key of memory.nodes.keys()) if (!there.has(key)) memory.nodes.delete(key);
  arrange(picture.nodes, memory, shape);

  const out = { boxes: new Map(), hubs: new Map(), pills: new Map(), stands: new Map() };
  let x = 0;
  for (const column of memory.columns) {
    let [y, wide] = [0, 0];
    for (const key of column) {
      const node = memory.nodes.get(key);
      if (!node) continue;
      drawNode(key, node, x, y, homes, out);
      y += node.h + TITLE + 2 * PAD + BETWEEN;
      wide = Math.max(wide, node.w + 2 * PAD);
    }
    if (wide > 0) x += wide + BETWEEN;
  }
  return out;
}

function drawNode(key, node, x, y, homes, out) {
  const [w, h] = [node.w + 2 * PAD, node.h + TITLE + 2 * PAD];
  const [left, top] = [x + PAD, y + TITLE + PAD];
  const loose = node.loose.some((it) => it !== null);
  out.boxes.set(key, {
    x: x + w / 2,
    y: y + h / 2,
    w,
    h,
    title: { x: x + PAD, y: y + TITLE / 2 + 6 },
    loose: loose ? { x: left, y: top + node.looseY + 10 } : null,
  });
  for (const ladder of node.ladders) {
    if (ladder.key !== null) drawLadder(ladder, left, top, homes, out);
  }
  node.loose.forEach((pill, at) => {
    if (pill === null) return;
    out.pills.set(pill, {
      x: left + (at % node.across) * (PILL.w + 12) + PILL.w / 2,
      y: top + node.looseY + HEAD - 14 + (Math.floor(at / node.across) + 0.5) * ROW,
    });
  });
}

function drawLadder(ladder, left, top, homes, out) {
  const rail = left + ladder.x + (ladder.both ? SIDE : INSET) + RAIL / 2;
  const head = top + ladder.y + PILL.h / 2;
  const length = (HEAD - PILL.h) / 2 + ladder.used * ROW;
  out.hubs.set(ladder.key, {
    x: ladder.both ? rail : rail - RAIL / 2 - INSET + PILL.w / 2,
    y: head,
    rail: { x: rail, y: head + PILL.h / 2 + length / 2 - 2, h: ladder.used > 0 ? length : 0 },
  });
  ladder.slots.forEach((key, slot) => {
    if (key === null) return;
    const { row, left: side } = rung(slot);
    const y = top + ladder.y + HEAD + (row + 0.5) * ROW;
    const x = rail + (side ? -1 : 1) * (RAIL / 2 + STUB + PILL.w / 2);
    const spot = { x, y, side: side ? -1 : 1 };
    // On further networks than its own, something stands in for the container.
    if (homes.get(key) === ladder.key) out.pills.set(key, spot);
    else out.stands.set(JSON.stringify([ladder.key, key]), { ...spot, hub: ladder.key, container: key });
  });
}
