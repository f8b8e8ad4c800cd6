// The panel with everything that is known of one element.

import { concerns, isBad, MARKS, plain, sentence } from "./model.js";

/** An element of the page; texts are only ever texts. */
export function make(tag, { text, kind, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = plain(text);
  if (kind) element.className = kind;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter(Boolean));
  return element;
}

export function clock(at) {
  const time = new Date(at);
  const valid = !Number.isNaN(time.getTime());
  return make("time", { text: valid ? time.toLocaleTimeString([], { hour12: false }) : "", datetime: at, title: valid ? time.toLocaleString() : "" });
}

function rows(pairs) {
  const list = make("dl");
  for (const [name, value, kind] of pairs) {
    if (value === undefined || value === null || value === "") continue;
    const told = value instanceof Node ? make("dd", {}, value) : make("dd", { text: value, kind });
    list.append(make("dt", { text: name }), told);
  }
  return list;
}

const size = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
const mono = "mono";

export class Details {
  constructor(panel, { choose, close }) {
    this.panel = panel;
    this.choose = choose;
    this.close = close;
    this.key = null;
    this.network = null;
    this.asked = 0;
  }

  hide() {
    this.panel.hidden = true;
    this.key = null;
    this.panel.replaceChildren();
  }

  /** Shows an element, or the same one as it is now. */
  show(element, events) {
    const fresh = this.key !== element.key;
    this.key = element.key;
    this.element = element;
    this.events = events;
    this.panel.hidden = false;
    if (fresh) {
      this.network = null;
      this.panel.scrollTop = 0;
    }
    this.draw();
    if (element.kind === "network" && element.stored) this.ask(element);
  }

  /** What only the network itself is asked for. */
  async ask({ key, name }) {
    const number = (this.asked += 1);
    let told;
    try {
      const answer = await fetch(`/api/networks/${encodeURIComponent(name)}`, { signal: AbortSignal.timeout(8000) });
      told = answer.ok ? await answer.json() : { failure: await answer.text() };
    } catch {
      return;
    }
    // Meanwhile something else may have been chosen.
    if (number !== this.asked || this.key !== key) return;
    if (JSON.stringify(told) === JSON.stringify(this.network)) return;
    this.network = told;
    this.draw();
  }

  draw() {
    const { element } = this;
    // What has the focus is drawn anew: its likeness gets it back.
    const focused = this.panel.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const close = make("button", { text: "Close", kind: "close", title: "Close (Escape)", "data-key": "close" });
    close.addEventListener("click", this.close);
    const head = make("header", {}, make("h2", { text: element.name }), close);
    const parts = { container: this.container, network: this.ofNetwork, node: this.node }[element.kind].call(this, element);
    this.panel.replaceChildren(head, ...parts.filter(Boolean), ...this.happened(element));
    if (focused) [...this.panel.querySelectorAll("[data-key]")].find((it) => it.dataset.key === focused)?.focus();
  }

  link(element, text = element.name) {
    const button = make("button", { text, kind: "link", "data-key": element.key });
    button.addEventListener("click", () => this.choose(element.key));
    return button;
  }

  kind(element, words) {
    return make("p", { kind: "kind" },
      make("span", { text: MARKS[element.state] ?? "", kind: `mark ${MARKS[element.state] ? element.state : ""}`, "aria-hidden": "true" }),
      ` ${words}`);
  }

  problems(problems) {
    if (!problems.length) return [];
    const list = make("ul", { kind: "problems" });
    for (const problem of problems) {
      list.append(make("li", { text: `▲ ${problem.network ? `${problem.network}: ` : ""}${problem.message}` }));
    }
    return [make("h3", { text: "Problems" }), list];
  }

  container(one) {
    const { restart } = one;
    const again = restart && `${restart.policy}, ${restart.count} times${restart.stopped ? "; stopped by hand" : ""}`;
    const state = one.state === "absent" ? "no task" : one.state;
    const about = rows([
      ["Node", this.link(one.node)],
      ["State", one.exit === null || one.exit === undefined ? state : `${state}, exit status ${one.exit}`],
      ["Process", one.pid || ""],
      ["Restart", again],
    ]);
    const cards = one.links.map(({ hub, on }) => make("div", { kind: "card" },
      make("h4", {}, this.link(hub.network)),
      rows([
        ["Addresses", on.ips.join("\n"), mono],
        ["Interface", on.interface, mono],
        ["MAC", on.mac, mono],
        ["Aliases", on.aliases.join(", ")],
        ["Ports", on.ports.join(", "), mono],
        ["State", on.phase],
        ["Asked by", on.origin],
      ])));
    const none = cards.length ? null : make("p", { text: "On no network.", kind: "quiet" });
    return [this.kind(one, "container"), about, ...this.problems(one.problems), make("h3", { text: "Networks" }), none, ...cards];
  }

  ofNetwork(network) {
    const more = this.network;
    const about = more && !more.failure ? rows([
      ["Plugins", more.plugins.join(", "), mono],
      ["Subnets", more.subnets.join(", "), mono],
      ["Addresses", more.ipam ? `given by ${more.ipam}` : ""],
      ...more.pools.map((pool) => [
        pool.ipv6 ? "IPv6 in use" : "In use", pool.used === null ? `of ${pool.size}` : `${pool.used} of ${pool.size}`,
      ]),
    ]) : null;
    const problems = more?.problems?.length ? more.problems : network.problems;
    const members = make("ul");
    for (const { container, on } of network.members) {
      const line = make("li", {}, this.link(container), ` ${plain(on.ips.join(", "))}`);
      if (network.hubs.length > 1) line.append(make("span", { text: ` · ${container.node.name}`, kind: "quiet" }));
      members.append(line);
    }
    return [
      this.kind(network, network.stored ? "network" : "network that is not stored on this node"), about,
      more?.failure ? make("p", { text: more.failure, kind: "bad" }) : null,
      ...this.problems(problems),
      make("h3", { text: `Containers (${network.members.length})` }),
      network.members.length ? members : make("p", { text: "None yet: circuit network connect CONTAINER " + network.name, kind: "quiet" }),
    ];
  }

  node(node) {
    const { info } = node;
    const about = rows([
      ["State", node.state],
      ["Heard of", info?.seen === null || info?.seen === undefined ? "" : `${info.seen} s ago`],
      ["Circuit", info?.version],
      ["Kernel", info?.kernel],
      ["Processors", info?.cpus],
      ["Memory", info?.memory ? size(info.memory) : ""],
    ]);
    const list = make("ul");
    for (const one of node.containers) list.append(make("li", {}, this.link(one)));
    const title = `Containers (${node.containers.length})`;
    return [this.kind(node, node.here ? "node that shows this page" : "node"), about, ...this.problems(node.problems), make("h3", { text: title }), list];
  }

  happened(element) {
    const mine = this.events.filter((event) => concerns(event, element)).slice(0, 30);
    const list = make("ol", { kind: "events" });
    for (const event of mine) {
      list.append(make("li", {}, clock(event.at), make("span", { text: sentence(event), kind: isBad(event) ? "bad" : "" })));
    }
    const none = make("p", { text: "Nothing that is remembered.", kind: "quiet" });
    return [make("h3", { text: "Recent events" }), mine.length ? list : none];
  }
}
