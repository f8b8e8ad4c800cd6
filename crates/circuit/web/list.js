// The list beside the map: everything in it by keyboard, and what a search found.

import { byId, make, say } from "./dom.js";
import { byName, mark, matches } from "./model.js";

const KEYS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 };

export class List {
  constructor({ onOpen, onPoint }) {
    this.list = byId("list");
    this.found = byId("found");
    this.rows = new Map();
    this.search = "";
    this.onOpen = onOpen;
    this.onPoint = onPoint;
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focusin", (event) => this.focused(event.target));
    this.list.addEventListener("focusout", () => onPoint(null));
    this.list.addEventListener("mouseover", (event) => onPoint(event.target.closest("[data-key]")?.dataset.key ?? null));
    this.list.addEventListener("mouseleave", () => onPoint(null));
    this.list.addEventListener("click", (event) => {
      const key = event.target.closest("[data-key]")?.dataset.key;
      if (key) onOpen(key);
    });
  }

  /** Lists a picture as far as it is searched for; the keys of what was found, or null. */
  show(picture, search, colour) {
    this.colour = colour;
    this.search = search.trim();
    const wanted = [];
    const want = (element, label, aside) => {
      if (this.search === "" || matches(element, this.search)) wanted.push({ element, label, aside });
    };
    for (const network of picture.networks) want(network, network.name, String(network.members.length));
    for (const node of picture.nodes) {
      want(node, node.name, node.here ? "this node" : node.state);
      for (const it of [...node.containers].sort(byName)) {
        want(it, mark(it) + it.name, it.networks[0]?.ips[0] ?? "");
      }
    }
    this.fill(wanted);
    const count = wanted.length;
    const told = count === 0 ? "Nothing found" : `${count} found`;
    say(this.found, this.search === "" ? "Networks and nodes" : told);
    return this.search === "" ? null : new Set(wanted.map((it) => it.element.key));
  }

  // Rows that stay are the same elements: the keyboard may be on one.
  fill(wanted) {
    const old = this.rows;
    this.rows = new Map();
    let before = null;
    for (const { element, label, aside } of wanted) {
      const row = old.get(element.key) ?? this.row(element);
      old.delete(element.key);
      this.rows.set(element.key, row);
      say(row.label, label);
      say(row.aside, aside);
      row.button.title = label;
      const more = element.kind === "network" ? `net-${this.colour(element.name)}` : element.problems?.length ? "problem" : "";
      row.button.className = `row ${element.kind} ${more}`;
      const next = before ? before.nextSibling : this.list.firstChild;
      if (row.item !== next) this.list.insertBefore(row.item, next);
      before = row.item;
    }
    const lost = [...old.values()].some((row) => row.item.contains(document.activeElement));
    for (const row of old.values()) row.item.remove();
    this.chosen(this.open);
    const buttons = this.buttons();
    if (!buttons.some((it) => it.tabIndex === 0) && buttons.length > 0) buttons[0].tabIndex = 0;
    if (lost) buttons.find((it) => it.tabIndex === 0)?.focus();
  }

  row(element) {
    const label = make("span", { class: "label" });
    const aside = make("span", { class: "aside" });
    const button = make("button", { type: "button", tabindex: "-1", "data-key": element.key }, label, aside);
    return { button, label, aside, item: make("li", {}, button) };
  }

  buttons() {
    return [...this.list.querySelectorAll("button")];
  }

  /** Marks the element that is open. */
  chosen(key) {
    this.open = key;
    for (const [of, { button }] of this.rows) {
      if (of === key) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /** Puts the keyboard on an element, or on the one where it was last. */
  focus(key) {
    const row = this.rows.get(key)?.button ?? this.buttons().find((it) => it.tabIndex === 0);
    row?.focus();
  }

  /** The first that a search found. */
  first() {
    const rows = [...this.rows.keys()];
    const named = rows.find((key) => JSON.parse(key).at(-1).toLowerCase() === this.search.toLowerCase());
    return named ?? rows.find((key) => key.startsWith('["container"')) ?? rows[0] ?? null;
  }

  focused(target) {
    const button = target.closest("[data-key]");
    if (!button) return;
    for (const it of this.buttons()) it.tabIndex = it === button ? 0 : -1;
    this.onPoint(button.dataset.key);
  }

  key(event) {
    const by = KEYS[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const buttons = this.buttons();
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, at + by))].focus();
  }
}
