// Everything that is known of one element.

import { byId, clock, fill, make, plain, say, whatOf } from "./dom.js";
import { concerns, keyOf, readNetwork } from "./model.js";

const EVENTS = 30;
const ORIGINS = { label: "a label", request: "a request", original: "the program before this one" };

// A row of a table of facts; what is not known is left out.
function fact(name, ...values) {
  const known = values.flat().filter((it) => it !== "" && it !== null && it !== undefined);
  if (known.length === 0) return [];
  const shown = known.map((it) => make("dd", {}, typeof it === "number" ? String(it) : it));
  return [make("dt", {}, name), ...shown];
}

const facts = (...rows) => make("dl", { class: "facts" }, ...rows.flat());
const section = (title, ...children) => make("section", {}, make("h3", {}, title), ...children);

function problemsOf(problems) {
  if (problems.length === 0) return [];
  const told = problems.map(({ container, network, message }) => {
    const where = [container, network].filter(Boolean).join(", ");
    return make("li", {}, where ? `${where}: ${message}` : message);
  });
  return [section("Problems", make("ul", { class: "problems" }, ...told))];
}

const STATES = {
  running: "running",
  created: "made, does not run yet",
  stopped: "has ended",
  absent: "has no task",
  unknown: "not known",
};

function restartOf({ policy, count, stopped }) {
  const times = count === 1 ? "started once by it" : `started ${count} times by it`;
  return `${policy || "none"}, ${times}${stopped ? "; rests, as it was stopped by hand" : ""}`;
}

export class Details {
  constructor({ onOpen, onClose }) {
    this.onOpen = onOpen;
    this.panel = byId("details");
    this.title = byId("details-title");
    this.body = byId("details-body");
    this.shown = null;
    this.drawn = "";
    byId("close").addEventListener("click", onClose);
  }

  /** Shows an element; null closes the panel. */
  show(element, picture, events) {
    this.panel.hidden = element === null;
    if (!element) {
      this.shown = null;
      return;
    }
    const other = this.shown?.key !== element.key;
    this.shown = element;
    this.picture = picture;
    this.events = events.filter((event) => concerns(event, element)).slice(0, EVENTS);
    if (other) Object.assign(this, { closer: null, unsaid: "", lookedAt: null });
    this.draw();
    if (element.kind === "network") this.look(element);
    if (other) this.panel.scrollTop = 0;
  }

  /** Puts the keyboard into the panel. */
  focus() {
    this.title.focus();
  }

  draw() {
    const element = this.shown;
    // What is the same is left alone: somebody may be selecting a text in it.
    const now = JSON.stringify([element, this.events, this.closer, this.unsaid, this.membersOf(element).length]);
    if (now === this.drawn) return;
    this.drawn = now;
    say(this.title, element.name);
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const parts = { container: () => this.container(element), network: () => this.network(element), node: () => this.node(element) };
    fill(this.body, [...parts[element.kind](), this.happened()]);
    if (focused) this.body.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  membersOf(element) {
    return element.kind === "node" ? element.containers : element.members ?? [];
  }

  // A button that leads to another element.
  link(key, text) {
    const button = make("button", { type: "button", class: "link", "data-key": key }, text);
    button.addEventListener("click", () => this.onOpen(key));
    return button;
  }

  container(it) {
    const about = facts(
      fact("kind", "container"),
      fact("node", this.link(keyOf("node", it.node), it.node)),
      fact("state", STATES[it.state] ?? it.state),
      fact("process", it.pid > 0 ? it.pid : null),
      fact("last exit code", it.exit),
      fact("restart", it.restart ? restartOf(it.restart) : null),
    );
    const networks = it.networks.map((on) =>
      section(
        "Network",
        facts(
          fact("name", this.link(keyOf("network", on.network), on.network)),
          fact(on.ips.length > 1 ? "addresses" : "address", on.ips),
          fact("interface", on.interface),
          fact("MAC", on.mac),
          fact("ports", on.ports),
          fact("aliases", on.aliases),
          fact("state", on.phase === "attached" ? null : on.phase),
          fact("wanted by", ORIGINS[on.origin] ?? on.origin),
        ),
      ),
    );
    const none = make("p", { class: "quiet" }, "It is on no network.");
    return [about, ...problemsOf(it.problems), ...(networks.length > 0 ? networks : [none])];
  }

  network(it) {
    const closer = this.closer;
    const about = facts(
      fact("kind", "network"),
      fact("driver", closer?.plugins.join(", ") ?? ""),
      fact("subnets", closer?.subnets ?? []),
      fact("addresses by", closer?.ipam ?? ""),
      fact("in use", (closer?.pools ?? []).map(usage)),
    );
    const unsaid = this.unsaid ? [make("p", { class: "quiet" }, this.unsaid)] : [];
    return [about, ...unsaid, ...problemsOf(closer?.problems ?? []), this.members(it.members)];
  }

  node(it) {
    const about = facts(
      fact("kind", it.here ? "node, the one that shows this page" : "node"),
      fact("state", it.state),
      fact("heard of", it.seen === null ? null : `${it.seen} s ago`),
      fact("version", it.version),
      fact("kernel", it.kernel),
      fact("processors", it.cpus || null),
      fact("memory", it.memory > 0 ? `${(it.memory / 2 ** 30).toFixed(1)} GiB` : null),
    );
    const members = it.containers.map((container) => ({ container, on: container.networks[0] }));
    return [about, this.members(members)];
  }

  members(members) {
    if (members.length === 0) return section("Containers", make("p", { class: "quiet" }, "None."));
    const rows = members.map(({ container, on }) =>
      make("li", {}, this.link(container.key, container.name), make("span", { class: "quiet" }, ` ${on?.ips[0] ?? ""}`)),
    );
    return section(`Containers (${members.length})`, make("ul", { class: "members" }, ...rows));
  }

  happened() {
    if (this.events.length === 0) return section("Recent events", make("p", { class: "quiet" }, "None that this page was told of."));
    const rows = this.events.map((event) =>
      make("li", {}, make("time", { datetime: plain(event.at) }, clock(event.at)), ` ${event.kind} `, make("span", { class: "quiet" }, [this.shown.kind === "container" ? "" : event.container, whatOf(event)].filter(Boolean).join(" "))),
    );
    return section("Recent events", make("ol", { class: "log" }, ...rows));
  }

  // A network's configuration is read when somebody looks at it, and again with a
  // later picture; one question at a time.
  async look(element) {
    if (this.looking === element.key || this.lookedAt === this.picture) return;
    this.looking = element.key;
    this.lookedAt = this.picture;
    try {
      const answer = await fetch(`/api/networks/${encodeURIComponent(element.name)}`, { signal: AbortSignal.timeout(10_000) });
      const closer = answer.ok ? readNetwork(await answer.json()) : null;
      const unsaid = answer.ok ? "" : answer.status === 404 ? "This node does not have its configuration." : await answer.text();
      if (this.shown?.key !== element.key) return;
      Object.assign(this, { closer, unsaid });
      this.draw();
    } catch {
      // The notice of a lost connection says it already.
    } finally {
      if (this.looking === element.key) this.looking = null;
    }
  }
}

function usage({ name, ipv6, size, used }) {
  const family = ipv6 ? "IPv6" : "IPv4";
  const of = size > 1e6 ? size.toExponential(1) : String(size);
  return `${family}${name ? ` of ${name}` : ""}: ${used ?? "?"} of ${of}`;
}
