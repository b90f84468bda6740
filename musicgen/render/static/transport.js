import { TEMPO } from "./player.js";
import { html, svg } from "./view.js";

/**
 * The toolbar: it lets a `Player` play what a `TuneView` shows, by pointer, finger or keyboard, and
 * says what it does to a screen reader.
 */

const ICONS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M6.5 4.5h4v15h-4zM13.5 4.5h4v15h-4z",
  start: "M5 4.5h2.6v15H5zM19.5 4.5v15L9 12z",
  loop: "M17 2.5l4 4-4 4v-3H7a2 2 0 0 0-2 2v2H3v-2a4 4 0 0 1 4-4h10zM7 21.500l-4-4 4-4v3h10a2 2 0 0 0 2-2v-2h2v2a4 4 0 0 1-4 4H7z",
};
const TEMPO_STEP = 5; // per cent
/** The keys, each with what it does. */
export const SHORTCUTS = [
  ["Space", "play, pause"],
  ["Home", "back to the start"],
  ["[ ]", "slower, faster"],
  ["L", "loop on or off"],
  ["K", "count-in on or off"],
  ["S", "colours of surprise"],
  ["C", "copied runs"],
  ["R", "piano roll"],
];

/** @param {number} seconds @returns {string} 1:05 */
export function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function icon(name) {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" },
    svg("path", { d: ICONS[name] }),
  );
}

let made = 0; // so that ids differ where a page has two toolbars

export class Transport {
  /**
   * @param {HTMLElement} element which is filled
   * @param {import("./player.js").Player} player
   * @param {import("./view.js").TuneView} view
   * @param {{shortcuts?: boolean}} options whether keys work everywhere on the page
   */
  constructor(element, player, view, { shortcuts = true } = {}) {
    this.player = player;
    this.view = view;
    this.id = `transport-${++made}`;
    this.range = null; // the chosen written bars: [first, last]
    this.anchor = 0; // the bar that a choice is extended from
    this.hasShortcuts = shortcuts;
    this.#make(element);
    this.#listen();
    this.load(view.view);
  }

  /** Play another tune, which the view shows already. */
  load(tune) {
    this.tune = tune;
    this.player.load(tune);
    this.position.max = String(tune.seconds);
    const [first, last] = [tune.numbers.at(0) ?? 1, tune.numbers.at(-1) ?? 1];
    for (const field of [this.from, this.to])
      Object.assign(field, { min: String(first), max: String(last) });
    this.loop.parentElement.hidden = tune.bars === 0;
    this.choose(null);
    this.anchor = 0;
    this.surprise.parentElement.hidden = !tune.surprise;
    this.copies.parentElement.hidden = !tune.receipt?.runs.length;
    this.#showTempo();
    this.refresh();
  }

  /** Mark again what is chosen, where the view has drawn the same tune anew. */
  refresh() {
    for (const box of [this.surprise, this.copies, this.roll])
      box.dispatchEvent(new Event("change"));
    this.view.markBars(this.#chosen() ?? [], "looped");
    if (this.player.state === "playing") this.view.setBar(this.#barAt(this.player.position));
    this.#showPosition();
  }

  /** Say something to a screen reader. */
  say(words) {
    this.status.textContent = words;
  }

  /** Choose the bars that are looped, [first, last] as indices; null: none. */
  choose(range) {
    const inside = (bar) => Math.min(this.#count() - 1, Math.max(0, bar));
    this.range = range && range.map(inside);
    this.player.loop(this.#chosen());
    this.view.markBars(this.#chosen() ?? [], "looped");
    this.loop.setAttribute("aria-pressed", String(Boolean(range)));
    const [first, last] = this.range ?? [0, this.#count() - 1];
    this.from.value = String(this.view.barNumber(first));
    this.to.value = String(this.view.barNumber(last));
    this.#showPosition();
  }

  /** Play from a bar; extended, loop all bars from the last one chosen to it. */
  startAt(bar, isExtended = false) {
    if (isExtended) {
      this.choose([Math.min(this.anchor, bar), Math.max(this.anchor, bar)]);
      this.say(this.#loopWords());
    } else {
      this.anchor = bar;
      if (this.range && !(this.range[0] <= bar && bar <= this.range[1])) this.choose(null);
      this.player.seek(this.player.secondsOfBar(bar));
    }
    this.#showPosition();
    return this.player.play();
  }

  #chosen() {
    if (!this.range) return null;
    const [first, last] = this.range;
    return new Set(Array.from({ length: last - first + 1 }, (_, i) => first + i));
  }

  #count() {
    return Math.max(1, ...this.tune.heard.map(([, , bar]) => bar + 1));
  }

  #loopWords() {
    if (!this.range) return "Loop off";
    const [first, last] = this.range.map((bar) => this.view.barNumber(bar));
    return first === last ? `Loop over bar ${first}` : `Loop over bars ${first} to ${last}`;
  }

  #make(element) {
    this.playButton = html(
      "button",
      { type: "button", class: "play", "aria-label": "Play", title: "Play (space)" },
      icon("play"),
    );
    this.startButton = html(
      "button",
      { type: "button", "aria-label": "Back to the start", title: "Back to the start (Home)" },
      icon("start"),
    );
    this.position = html("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      value: 0,
      class: "position",
      "aria-label": "Position",
    });
    this.time = html("span", { class: "time", "aria-hidden": "true" });
    this.loop = html(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        "aria-label": "Loop",
        title: "Loop the chosen bars (L)",
      },
      icon("loop"),
    );
    this.from = html("input", {
      type: "number",
      "aria-label": "First bar of the loop",
      inputmode: "numeric",
    });
    this.to = html("input", {
      type: "number",
      "aria-label": "Last bar of the loop",
      inputmode: "numeric",
    });
    this.tempo = html("input", {
      type: "range",
      min: TEMPO.min * 100,
      max: TEMPO.max * 100,
      step: TEMPO_STEP,
      value: 100,
      id: `${this.id}-tempo`,
    });
    this.tempoTold = html("span", { class: "told", "aria-hidden": "true" });
    this.volume = html("input", {
      type: "range",
      min: 0,
      max: 100,
      step: 5,
      value: 80,
      id: `${this.id}-volume`,
    });
    this.status = html("p", { role: "status", class: "unseen" });
    this.countIn = check();
    this.surprise = check();
    this.copies = check();
    this.roll = check(true);
    element.classList.add("transport");
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", "Player");
    element.replaceChildren(
      html(
        "div",
        { class: "group main" },
        this.startButton,
        this.playButton,
        this.position,
        this.time,
      ),
      html(
        "div",
        { class: "group" },
        this.loop,
        html("span", { class: "bars" }, "bars ", this.from, "–", this.to),
      ),
      html(
        "div",
        { class: "group" },
        html("label", { for: this.tempo.id }, "Tempo"),
        this.tempo,
        this.tempoTold,
      ),
      html(
        "div",
        { class: "group" },
        html("label", { for: this.volume.id }, "Volume"),
        this.volume,
      ),
      html(
        "div",
        { class: "group checks" },
        named("Count-in", this.countIn),
        named("Surprise", this.surprise),
        named("Copies", this.copies),
        named("Piano roll", this.roll),
      ),
      this.status,
    );
  }

  #listen() {
    const { player, view } = this;
    player.onNote = (note, isOn) => this.view.light(note, isOn);
    player.onBar = (bar) => this.view.setBar(bar);
    player.onState = (state) => this.#showState(state);
    player.onEnd = () => this.say("The end");
    view.onBarClick = (bar, isExtended) => this.startAt(bar, isExtended);
    view.onSeek = (seconds) => this.#seek(seconds);
    this.playButton.addEventListener("click", () => player.toggle());
    this.startButton.addEventListener("click", () => this.#seek(0));
    this.position.addEventListener("input", () => this.#seek(Number(this.position.value)));
    this.position.addEventListener("keydown", (event) => this.#step(event));
    this.loop.addEventListener("click", () => this.toggleLoop());
    for (const field of [this.from, this.to])
      field.addEventListener("change", () => this.#readRange());
    this.tempo.addEventListener("input", () => this.setTempo(Number(this.tempo.value)));
    this.volume.addEventListener("input", () => (player.volume = this.volume.value / 100));
    this.countIn.addEventListener("change", () => (player.countsIn = this.countIn.checked));
    this.surprise.addEventListener("change", () => this.view.showSurprise(this.surprise.checked));
    this.copies.addEventListener("change", () => this.view.showCopies(this.copies.checked));
    this.roll.addEventListener("change", () => this.view.showRoll(this.roll.checked));
    document.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** @param {number} percent of the written tempo */
  setTempo(percent) {
    this.tempo.value = String(percent);
    this.player.tempo = Number(this.tempo.value) / 100;
    this.#showTempo();
  }

  /** Loop the bars that are named in the fields, or stop looping. */
  toggleLoop() {
    if (this.range) this.choose(null);
    else this.#readRange();
    this.say(this.#loopWords());
  }

  #readRange() {
    const given = [this.from, this.to].map((field) => Number.parseInt(field.value, 10) || 0);
    const [from, to] = given.sort((a, b) => a - b);
    const last = Math.max(0, this.tune.numbers.findLastIndex((number) => number <= to));
    const first = this.tune.numbers.findIndex((number) => number >= from);
    this.choose([first < 0 ? last : Math.min(first, last), last]);
  }

  #seek(seconds) {
    if (this.range && !this.#isInLoop(seconds)) this.choose(null);
    this.player.seek(seconds);
    this.#showPosition();
  }

  /** On the slider the arrow keys go from bar to bar, as they are heard. */
  #step(event) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const starts = this.tune.heard.map(([start]) => start);
    const here = starts.findLastIndex((start) => start <= this.player.position + 1e-6);
    this.#seek(starts[Math.min(starts.length - 1, Math.max(0, here + steps[event.key]))] ?? 0);
  }

  #isInLoop(seconds) {
    const bar = this.#barAt(seconds);
    return this.range[0] <= bar && bar <= this.range[1];
  }

  #barAt(seconds) {
    return (
      (this.tune.heard.findLast(([start]) => start <= seconds + 1e-6) ?? this.tune.heard[0])?.[2] ??
      0
    );
  }

  #showState(state) {
    const isPlaying = state === "playing";
    this.playButton.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    this.playButton.title = isPlaying ? "Pause (space)" : "Play (space)";
    this.playButton.replaceChildren(icon(isPlaying ? "pause" : "play"));
    this.say(
      isPlaying
        ? "Playing"
        : state === "paused"
          ? `Paused in bar ${this.view.barNumber(this.#barAt(this.player.position))}`
          : "Stopped",
    );
    if (state === "stopped") this.view.setBar(null);
    if (isPlaying) this.#follow();
    else this.#showPosition();
  }

  #follow() {
    this.#showPosition();
    if (this.player.state === "playing") requestAnimationFrame(() => this.#follow());
  }

  #showPosition() {
    const seconds = this.player.position;
    this.position.value = String(seconds);
    const whole = clock(Math.round(this.tune.seconds));
    const told = `${clock(seconds)} / ${whole}`;
    if (this.time.textContent !== told) {
      this.time.textContent = told;
      const bar = this.view.barNumber(this.#barAt(seconds));
      this.position.setAttribute("aria-valuetext", `${clock(seconds)} of ${whole}, bar ${bar}`);
    }
    this.view.setPosition(seconds);
  }

  #showTempo() {
    const qpm = Math.round(this.tune.qpm * this.player.tempo);
    const pace = this.tune.qpm ? `${qpm} quarters a minute` : "as it was played";
    this.tempoTold.textContent = `${this.tempo.value} %`;
    this.tempoTold.title = pace;
    this.tempo.setAttribute("aria-valuetext", `${this.tempo.value} per cent, ${pace}`);
  }

  #pressed(event) {
    if (
      !this.hasShortcuts ||
      event.defaultPrevented ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey
    )
      return;
    if (
      event.target.closest(
        "input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]",
      )
    )
      return;
    const isOwnKey =
      event.target.closest("button, a, summary, [type=checkbox]") && event.key === " ";
    const action = isOwnKey ? null : this.#action(event);
    if (!action) return;
    event.preventDefault();
    action();
  }

  #action({ key, target }) {
    const flip = (box) => () => box.parentElement.hidden || box.click();
    const actions = {
      " ": () => this.player.toggle(),
      "[": () => this.setTempo(Number(this.tempo.value) - TEMPO_STEP),
      "]": () => this.setTempo(Number(this.tempo.value) + TEMPO_STEP),
      l: () => this.toggleLoop(),
      k: flip(this.countIn),
      s: flip(this.surprise),
      c: flip(this.copies),
      r: flip(this.roll),
    };
    if (target.type !== "range") actions.Home = () => this.#seek(0);
    return actions[key.length === 1 ? key.toLowerCase() : key];
  }
}

function check(checked = false) {
  return html("input", { type: "checkbox", checked });
}

function named(words, box) {
  return html("label", { class: "check" }, box, words);
}
