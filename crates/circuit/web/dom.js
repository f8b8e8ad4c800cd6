// Small helpers. Text only ever becomes text.

/** Control characters and marks that turn the direction of writing are shown as one sign. */
export const plain = (text) => String(text).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, "\uFFFD");

/** An element with classes, attributes and children, which are elements or texts. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((it) => it !== null && it !== undefined).map(asNode));
  return element;
}

const asNode = (child) => (child instanceof Node ? child : document.createTextNode(plain(child)));

/** Sets a text, unless it is that already: what does not change is not read out again. */
export function say(element, text) {
  const wanted = plain(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Puts these into an element; what is there already stays, with what is selected in it. */
export function fill(element, wanted) {
  const there = [...element.childNodes];
  wanted.forEach((it, at) => {
    if (!there[at]) element.append(it);
    else if (!there[at].isEqualNode(it)) there[at].replaceWith(it);
  });
  for (const old of there.slice(wanted.length)) old.remove();
}

export const byId = (id) => document.getElementById(id);

/** Whether people ask for less motion. */
export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The time of day of an event. */
export function clock(at) {
  const time = new Date(at);
  return Number.isNaN(time.getTime()) ? "" : time.toLocaleTimeString("en-GB");
}

/** What an event says, besides what it is about. */
export function whatOf(event) {
  const where = [event.network, ...event.ips].filter(Boolean).join(" ");
  return [where, event.message].filter(Boolean).join(": ");
}

/** What this browser has kept, or null. */
export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Browsers that keep nothing show the page all the same.
  }
}
