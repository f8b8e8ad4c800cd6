// How the drawing looks, in the colours of the page's style.

import { PILL, STUB } from "./layout.js";

const NETWORKS = [0, 1, 2, 3, 4, 5];

// The style's colours may depend on light and dark; a real element knows which.
function reader(container) {
  const probe = document.createElement("span");
  probe.hidden = true;
  container.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  return { read, done: () => probe.remove() };
}

/** The drawing's style. */
export function looks(container) {
  const { read, done } = reader(container);
  const names = ["surface", "sunken", "text", "muted", "line", "pill-line", "accent", "warn"];
  const colour = Object.fromEntries(names.map((name) => [name, read(name)]));
  const fills = NETWORKS.map((number) => read(`fill-${number}`));
  const lines = NETWORKS.map((number) => read(`net-${number}`));
  const font = getComputedStyle(container).fontFamily;
  done();
  return [...shapes(colour, font), ...edges(colour, lines, font), ...networks(fills, lines), ...emphasis(colour)];
}

const label = (font, size, color) => ({
  label: "data(label)",
  "font-family": font,
  "font-size": size,
  color,
  "text-valign": "center",
  "text-halign": "center",
  "min-zoomed-font-size": 4,
});

function shapes(colour, font) {
  return [
    // By themselves all nodes are above all links, and the boxes would hide them.
    { selector: "*", style: { opacity: "data(seen)", "overlay-opacity": 0, "z-index-compare": "manual" } },
    { selector: "node", style: { "z-index": 3, "border-width": 0, shape: "round-rectangle" } },
    {
      selector: ".box",
      style: {
        width: "data(w)",
        height: "data(h)",
        "corner-radius": 14,
        "background-color": colour.surface,
        "border-width": 1.2,
        "border-color": colour.line,
        "z-index": 0,
      },
    },
    { selector: ".box.away", style: { "border-style": "dashed", "border-color": colour.muted } },
    {
      selector: ".title, .loose",
      style: {
        ...label(font, 15, colour.text),
        "font-weight": 600,
        "text-halign": "right",
        width: 1,
        height: 1,
        "background-opacity": 0,
        "z-index": 2,
      },
    },
    { selector: ".loose", style: { "font-size": 11, "font-weight": 400, color: colour.muted, events: "no" } },
    {
      selector: ".hub",
      style: {
        ...label(font, 13, "#fff"),
        "font-weight": 600,
        width: PILL.w,
        height: PILL.h,
        "corner-radius": 6,
        "text-wrap": "ellipsis",
        "text-max-width": PILL.w - 16,
      },
    },
    { selector: ".rail", style: { width: 8, height: "data(h)", "corner-radius": 4, "z-index": 2 } },
    { selector: ".rail.bare", style: { visibility: "hidden" } },
    ...pills(colour, font),
  ];
}

function pills(colour, font) {
  const pill = {
    ...label(font, 13, colour.text),
    width: PILL.w,
    height: PILL.h,
    "corner-radius": 15,
    "background-color": colour.sunken,
    "border-width": 1.4,
    "border-color": colour["pill-line"],
    "text-wrap": "ellipsis",
    "text-max-width": PILL.w - 16,
  };
  return [
    { selector: ".pill", style: pill },
    { selector: ".created", style: { "border-style": "dotted", color: colour.muted } },
    { selector: ".stopped, .absent, .unknown", style: { "border-style": "dashed", color: colour.muted } },
    { selector: ".problem", style: { "border-color": colour.warn, "border-width": 2.4, color: colour.warn } },
    {
      selector: ".stand",
      style: {
        ...pill,
        color: colour.muted,
        "font-style": "italic",
        "background-opacity": 0,
        "border-width": 1,
        "border-style": "dotted",
      },
    },
  ];
}

function edges(colour, lines, font) {
  return [
    { selector: "edge", style: { width: 1.6, "z-index": 1, "line-opacity": 0.9 } },
    {
      selector: ".link",
      style: {
        ...label(font, 11, colour.muted),
        "curve-style": "straight",
        "source-endpoint": (it) => `0px ${it.data("dy")}px`,
        "text-margin-y": -8,
        "text-wrap": "ellipsis",
        "text-max-width": STUB - 4,
      },
    },
    { selector: ".passing", style: { "line-style": "dashed" } },
    {
      selector: ".tie",
      style: {
        width: 1.2,
        "line-style": "dotted",
        "curve-style": "unbundled-bezier",
        "control-point-distances": (it) => it.data("bow").out,
        "control-point-weights": 0.5,
        "edge-distances": "endpoints",
        "source-endpoint": (it) => `${(it.data("bow").from * PILL.w) / 2}px 0px`,
        "target-endpoint": (it) => `${(it.data("bow").to * PILL.w) / 2}px 0px`,
        "line-opacity": 0.35,
      },
    },
    { selector: ".same", style: { width: 1.4, "line-style": "dashed", "curve-style": "straight", "line-opacity": 0.35, events: "no" } },
  ];
}

const networks = (fills, lines) =>
  NETWORKS.flatMap((number) => [
    { selector: `node[colour = ${number}]`, style: { "background-color": fills[number], "border-color": lines[number] } },
    { selector: `edge[colour = ${number}]`, style: { "line-color": lines[number] } },
  ]);

const emphasis = (colour) => [
  { selector: ".faded", style: { opacity: 0.45 } },
  { selector: ".box.faded, .title.faded", style: { opacity: 0.75 } },
  { selector: ".pill.near, .hub.near, .stand.near, .pill.chosen, .hub.chosen, .stand.chosen", style: { "underlay-color": colour.accent, "underlay-opacity": 0.22, "underlay-padding": 4, "underlay-shape": "round-rectangle" } },
  { selector: ".box.near", style: { "border-color": colour.accent } },
  { selector: ".link.near, .tie.near, .link.chosen, .tie.chosen", style: { width: 2.6, color: colour.text, "line-opacity": 1 } },
  { selector: ".same.near, .same.chosen", style: { "line-opacity": 0.9, width: 2 } },
  { selector: ".pill.found, .hub.found, .stand.found, .pill.chosen, .hub.chosen, .stand.chosen", style: { "border-width": 2.6, "border-style": "solid", "border-color": colour.accent } },
  { selector: ".box.chosen", style: { "border-width": 2.4, "border-color": colour.accent } },
];
