// What the daemon tells, for as long as it does, and again when it comes back.

import { read, readEvent } from "./model.js";

const SOON = 120;
const EVERY = 5_000;
const LATE = 10_000;
const KEPT = 500;
const WAITS = [500, 1_000, 2_000, 4_000];

export class Live {
  constructor({ onPicture, onEvents, onLost, onBack }) {
    Object.assign(this, { onPicture, onEvents, onLost, onBack });
    this.events = [];
    this.known = new Set();
    this.failures = 0;
    this.heard = null;
    // Not known before the stream has opened or was refused.
    this.listens = null;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.rest();
      else this.start();
    });
  }

  start() {
    if (!document.hidden) this.listen();
    this.ask(0);
  }

  // One question at a time; several reasons to ask are one question.
  ask(after) {
    if (this.asking) {
      this.again = true;
      return;
    }
    const at = performance.now() + after;
    if (this.timer && this.at <= at) return;
    clearTimeout(this.timer);
    this.at = at;
    this.timer = setTimeout(() => this.fetch(), after);
  }

  async fetch() {
    this.timer = null;
    this.asking = true;
    this.again = false;
    try {
      const answer = await fetch("/api/state", { signal: AbortSignal.timeout(LATE), cache: "no-store" });
      if (answer.status === 401) throw new Error("the token is not right any more: load the page again");
      if (!answer.ok) throw new Error((await answer.text()).trim() || `it answers ${answer.status}`);
      const picture = read(await answer.json());
      this.failures = 0;
      this.heard = new Date();
      this.onPicture(picture);
    } catch (error) {
      this.failures += 1;
      // What a browser says about a connection that failed helps nobody.
      this.why = error instanceof TypeError || error.name === "TimeoutError" ? "" : error.message;
    }
    this.asking = false;
    this.tell();
    this.ask(this.failures > 0 ? wait(this.failures) : this.again ? SOON : EVERY * (document.hidden ? 6 : 1));
  }

  // Browsers have few connections to one host, over all their windows: a page that
  // nobody sees leaves its own to the others.
  rest() {
    clearTimeout(this.later);
    this.source?.close();
    this.source = null;
  }

  listen() {
    this.rest();
    const source = new EventSource("/api/events");
    this.source = source;
    source.onopen = () => {
      this.listens = true;
      this.refused = 0;
      this.ask(0);
    };
    source.onmessage = (message) => this.hear(message);
    source.onerror = () => {
      this.ask(0);
      // The browser tries again by itself, unless it was refused.
      if (source.readyState !== EventSource.CLOSED) return;
      this.listens = false;
      this.refused = (this.refused ?? 0) + 1;
      this.later = setTimeout(() => this.listen(), wait(this.refused));
    };
  }

  hear(message) {
    let told = null;
    try {
      told = JSON.parse(message.data);
    } catch {
      return;
    }
    const event = readEvent(told);
    // A daemon that was started anew counts anew.
    const name = `${message.lastEventId} ${event.at}`;
    if (this.known.has(name)) return;
    this.known.add(name);
    this.events.unshift(event);
    if (this.events.length > KEPT) {
      this.events.length = KEPT;
      if (this.known.size > 4 * KEPT) this.known = new Set([...this.known].slice(-KEPT));
    }
    this.onEvents(this.events);
    this.ask(SOON);
  }

  tell() {
    if (this.failures > 0) this.onLost(this.heard, this.why);
    else this.onBack(this.listens);
  }
}

const wait = (times) => WAITS[Math.min(times, WAITS.length) - 1];
