// What the daemon tells, in the shape that the page works with. Nothing of it is
// trusted to be of the right type: names and texts come from anywhere.

const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : 0);
const list = (value) => (Array.isArray(value) ? value : []);
const texts = (value) => list(value).filter((it) => typeof it === "string");
const object = (value) => (value && typeof value === "object" ? value : {});

// Keys are JSON, so that no name can be taken for the key of something else.
export const keyOf = (...parts) => JSON.stringify(parts);

const problemOf = (told) => {
  const it = object(told);
  return { container: text(it.container), network: text(it.network), message: text(it.message) };
};

function attachmentOf(told) {
  const it = object(told);
  return {
    network: text(it.network),
    interface: text(it.interface),
    ips: texts(it.ips),
    mac: text(it.mac),
    aliases: texts(it.aliases),
    ports: texts(it.ports),
    phase: text(it.phase) || "attached",
    origin: text(it.origin),
  };
}

function containerOf(told) {
  const it = object(told);
  const restart = it.restart ? object(it.restart) : null;
  const [id, node] = [text(it.id), text(it.node)];
  return {
    kind: "container",
    key: keyOf("container", node, id),
    name: id,
    node,
    state: text(it.state) || "unknown",
    pid: number(it.pid),
    exit: Number.isFinite(it.exit) ? it.exit : null,
    restart: restart && {
      policy: text(restart.policy),
      count: number(restart.count),
      stopped: restart.stopped === true,
    },
    networks: list(it.networks).map(attachmentOf),
    problems: list(it.problems).map(problemOf),
  };
}

function nodeOf(told) {
  const it = object(told);
  return {
    kind: "node",
    key: keyOf("node", text(it.name)),
    name: text(it.name),
    state: text(it.state),
    version: text(it.version),
    kernel: text(it.kernel),
    cpus: number(it.cpus),
    memory: number(it.memory),
    seen: Number.isFinite(it.seen) ? it.seen : null,
    here: false,
    containers: [],
    hubs: [],
  };
}

// A network as it is on one node.
function hubOf(node, network) {
  return {
    kind: "hub",
    key: keyOf("hub", node, network),
    name: network,
    node,
    network: keyOf("network", network),
    members: [],
  };
}

/** The whole picture: nodes, their networks ("hubs"), containers, and problems. */
export function read(told) {
  const all = object(told);
  const here = text(all.node);
  const nodes = new Map();
  const nodeNamed = (name) => {
    if (!nodes.has(name)) nodes.set(name, nodeOf({ name }));
    return nodes.get(name);
  };
  for (const it of list(all.nodes).map(nodeOf)) nodes.set(it.name, it);
  nodeNamed(here).here = true;

  const hubs = new Map();
  const hubAt = (node, network) => {
    const key = keyOf("hub", node, network);
    if (!hubs.has(key)) {
      hubs.set(key, hubOf(node, network));
      nodeNamed(node).hubs.push(hubs.get(key));
    }
    return hubs.get(key);
  };
  const networks = new Map();
  const networkNamed = (name) => {
    const key = keyOf("network", name);
    if (!networks.has(key)) networks.set(key, { kind: "network", key, name, members: [] });
    return networks.get(key);
  };
  for (const name of texts(all.networks)) {
    networkNamed(name);
    hubAt(here, name);
  }

  const containers = new Map();
  for (const it of list(all.containers).map(containerOf)) {
    containers.set(it.key, it);
    nodeNamed(it.node).containers.push(it);
    for (const on of it.networks) {
      hubAt(it.node, on.network).members.push({ container: it, on });
      networkNamed(on.network).members.push({ container: it, on });
    }
  }
  const registry = all.registry ? object(all.registry) : null;
  return {
    here,
    version: text(all.version),
    registry: registry && { connected: registry.connected === true, failure: text(registry.failure) },
    nodes: [...nodes.values()].sort((a, b) => b.here - a.here || byName(a, b)),
    networks: [...networks.values()].sort(byName),
    hubs,
    containers,
    problems: list(all.problems).map(problemOf),
  };
}

export const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });

/** One network, as the daemon tells it to who looks closely. */
export function readNetwork(told) {
  const it = object(told);
  return {
    plugins: texts(it.plugins),
    subnets: texts(it.subnets),
    ipam: text(it.ipam),
    pools: list(it.pools).map((pool) => {
      const { name, ipv6, size, used } = object(pool);
      return {
        name: text(name),
        ipv6: ipv6 === true,
        size: number(size),
        used: Number.isFinite(used) ? used : null,
      };
    }),
    problems: list(it.problems).map(problemOf),
  };
}

/** Something that has happened. */
export function readEvent(told) {
  const it = object(told);
  return {
    at: text(it.at),
    node: text(it.node),
    kind: text(it.kind),
    container: text(it.container),
    network: text(it.network),
    interface: text(it.interface),
    ips: texts(it.ips),
    message: text(it.message),
  };
}

/** Whether an event is about this element. */
export function concerns(event, element) {
  switch (element.kind) {
    case "container":
      return event.container === element.name && event.node === element.node;
    case "network":
      return event.network === element.name;
    default:
      return event.node === element.name;
  }
}

// All that a search looks at.
function words(element) {
  switch (element.kind) {
    case "container":
      return [
        element.name,
        element.node,
        element.state,
        ...element.networks.flatMap((on) => [on.network, on.mac, ...on.ips, ...on.aliases, ...on.ports]),
        ...element.problems.map((it) => it.message),
      ];
    case "network":
      return [element.name];
    default:
      return [element.name, element.state];
  }
}

/** Whether every word of the search is somewhere in what is known of the element. */
export function matches(element, search) {
  const wanted = search.toLowerCase().split(/\s+/u).filter(Boolean);
  const has = words(element).map((word) => word.toLowerCase());
  return wanted.every((part) => has.some((word) => word.includes(part)));
}

// Shown before the name, because colour alone tells some people nothing.
const MARKS = { running: "", created: "○ ", stopped: "■ ", absent: "– ", unknown: "? " };

/** A sign for the state of a container: nothing when all is well. */
export function mark(container) {
  const attention = container.problems.length > 0 ? "! " : "";
  return attention + (MARKS[container.state] ?? "? ");
}
