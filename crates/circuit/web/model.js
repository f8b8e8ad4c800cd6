// What is shown: elements made of the daemon's answer, their order, and search.

// Characters that would turn or break lines of text around them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text of others as it may be shown. */
export function plain(text) {
  return String(text ?? "").replace(UNSEEN, "\ufffd");
}

const key = (...parts) => JSON.stringify(parts);

export const MARKS = {
  running: "●", created: "◐", stopped: "■", absent: "○", unknown: "?",
  live: "●", late: "◐", stale: "◐", original: "◇", problem: "▲",
};

/** An order that is the same in every browser and takes web10 after web9. */
const order = new Intl.Collator("en", { numeric: true });
export const byName = (a, b) =>
  order.compare(a.name, b.name) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

function containerOf(told, node) {
  return {
    key: key("container", told.node, told.id),
    kind: "container",
    name: told.id,
    node,
    state: told.state,
    pid: told.pid,
    exit: told.exit,
    restart: told.restart,
    networks: told.networks,
    problems: told.problems,
    links: [],
  };
}

/** The elements of an answer of `/api/state`. */
export function read(told) {
  const nodes = new Map();
  const hubs = new Map();
  const containers = new Map();
  const networks = new Map();

  const nodeOf = (name) => {
    let node = nodes.get(name);
    if (!node) {
      node = {
        key: key("node", name), kind: "node", name, here: name === told.node,
        state: "live", info: null, containers: [], hubs: [], problems: [],
      };
      nodes.set(name, node);
    }
    return node;
  };
  const networkOf = (name) => {
    let network = networks.get(name);
    if (!network) {
      network = { key: key("network", name), kind: "network", name, stored: false, hubs: [], members: [], problems: [] };
      networks.set(name, network);
    }
    return network;
  };
  // A network is drawn on every node that has it: it is a bridge of each.
  const hubOf = (network, node) => {
    const id = key("hub", node.name, network.name);
    let hub = hubs.get(id);
    if (!hub) {
      hub = { key: id, network, node, name: network.name, links: [] };
      hubs.set(id, hub);
      network.hubs.push(hub);
      node.hubs.push(hub);
    }
    return hub;
  };

  const here = nodeOf(told.node);
  here.info = { version: told.version };
  for (const info of told.nodes) {
    const node = nodeOf(info.name);
    node.info = info;
    node.state = info.state || "live";
  }
  for (const name of told.networks) networkOf(name).stored = true;
  for (const one of told.containers) {
    const node = nodeOf(one.node);
    const container = containerOf(one, node);
    containers.set(container.key, container);
    node.containers.push(container);
    one.networks.forEach((on, at) => {
      const network = networkOf(on.network);
      const hub = hubOf(network, node);
      const link = { key: key("link", container.key, on.network, on.interface, at), container, hub, on, at };
      container.links.push(link);
      hub.links.push(link);
      network.members.push(link);
    });
  }
  // What nobody uses is shown where it can be used.
  for (const network of networks.values()) if (!network.hubs.length) hubOf(network, here);
  for (const problem of told.problems) {
    const network = problem.network && networks.get(problem.network);
    (network || here).problems.push(problem);
  }
  for (const node of nodes.values()) {
    node.containers.sort(byName);
    node.hubs.sort((a, b) => !a.links.length - !b.links.length || byName(a, b));
  }
  const all = new Map();
  const sorted = [...nodes.values()].sort(byName);
  for (const node of sorted) all.set(node.key, node);
  for (const network of [...networks.values()].sort(byName)) all.set(network.key, network);
  for (const node of sorted) for (const one of node.containers) all.set(one.key, one);
  return { here, nodes: sorted, networks, hubs, containers, all, registry: told.registry, version: told.version };
}

/** What a search looks at. */
function words(element) {
  const found = [element.kind, element.name, element.state];
  if (element.kind === "container") {
    found.push(element.node.name);
    for (const on of element.networks) {
      found.push(on.network, on.interface, on.mac, ...on.ips, ...on.aliases, ...on.ports);
    }
  }
  if (element.problems.length) found.push("problem");
  return found.join("\n").toLowerCase();
}

/** The keys of the elements that have every word; null when nothing is sought. */
export function search(model, text) {
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return null;
  const found = new Set();
  for (const element of model.all.values()) {
    const has = words(element);
    if (wanted.every((word) => has.includes(word))) found.add(element.key);
  }
  return found;
}

const KINDS = {
  "container.connected": (e) => `${e.container} connected to ${e.network}`,
  "container.disconnected": (e) => `${e.container} disconnected from ${e.network}`,
  "container.problem": (e) => `${e.container || e.network || e.node} has a problem`,
  "container.solved": (e) => `${e.container || e.network || e.node}: the problem is solved`,
  "task.started": (e) => `${e.container} runs`,
  "task.exited": (e) => `${e.container} ended`,
  "task.restarted": (e) => `${e.container} was restarted`,
  "network.created": (e) => `network ${e.network} created`,
  "network.deleted": (e) => `network ${e.network} deleted`,
  "node.joined": (e) => `node ${e.node} joined`,
  "node.left": (e) => `node ${e.node} left`,
  "registry.lost": () => "the cluster registry does not answer",
  "registry.back": () => "the cluster registry answers again",
  "firewall.mended": () => "firewall rules were made again",
  "events.missed": () => "some events were missed",
};

/** An event as a sentence. */
export function sentence(event) {
  const say = KINDS[event.kind];
  const what = say ? say(event) : `${event.kind} ${event.container} ${event.network}`;
  const parts = [what];
  if (event.ips.length) parts.push(event.ips.join(", "));
  if (event.message) parts.push(event.message);
  return plain(parts.join(" · "));
}

export const isBad = (event) => ["container.problem", "registry.lost", "events.missed"].includes(event.kind);

/** Whether an event is about an element. */
export function concerns(event, element) {
  if (element.kind === "container") return event.container === element.name && event.node === element.node.name;
  if (element.kind === "network") return event.network === element.name;
  return event.node === element.name;
}
