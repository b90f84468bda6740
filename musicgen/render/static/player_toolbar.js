import { html, svg } from "./dom.js";
import { formatTime } from "./format.js";
import { TEMPO } from "./player.js";

/**
 * The toolbar of the one-file page: connects a `Player` with the `TuneView` that shows its tune,
 * takes mouse, touch and keyboard, and announces what happens to screen readers.
 */

const ICONS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M6.5 4.5h4v15h-4zM13.5 4.5h4v15h-4z",
  start: "M5 4.5h2.6v15H5zM19.5 4.5v15L9 12z",
  loop: "M17 2.5l4 4-4 4v-3H7a2 2 0 0 0-2 2v2H3v-2a4 4 0 0 1 4-4h10zM7 21.500l-4-4 4-4v3h10a2 2 0 0 0 2-2v-2h2v2a4 4 0 0 1-4 4H7z",
};
const TEMPO_STEP = 5; // percent
const TYPING_FIELDS =
  "input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]";
const SPACE_ACTIVATED = "button, a, summary, [type=checkbox]";

/** Keyboard shortcuts: [keys, description]; `#findAction` implements them. */
export const SHORTCUTS = [
  ["Space", "play or pause"],
  ["Home", "back to the start"],
  ["[ ]", "slower, faster"],
  ["L", "loop on or off"],
  ["K", "count-in on or off"],
  ["A", "accompaniment on or off"],
  ["S", "surprise colours"],
  ["C", "copied runs"],
  ["P", "returning phrases"],
  ["R", "piano roll"],
];

function createIcon(name) {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" },
    svg("path", { d: ICONS[name] }),
  );
}

function createCheckbox(checked = false) {
  return html("input", { type: "checkbox", checked });
}

function createCheckLabel(label, checkbox) {
  return html("label", { class: "check" }, checkbox, label);
}

export class PlayerToolbar {
  /**
   * @param {HTMLElement} element receives the toolbar
   * @param {import("./player.js").Player} player
   * @param {import("./tune_view.js").TuneView} view shows the tune already
   */
  constructor(element, player, view) {
    this.player = player;
    this.view = view;
    this.loopRange = null; // [first, last] measure of the loop
    this.anchorBar = 0; // a Shift-click extends the loop from here
    this.hasShortcuts = true; // whether keys work anywhere on the page
    this.#createControls();
    this.#fill(element);
    this.#listen();
    this.#load(view.tune);
  }

  #load(tune) {
    this.tune = tune;
    this.player.load(tune);
    this.position.max = String(tune.seconds);
    const [first, last] = [tune.numbers.at(0) ?? 1, tune.numbers.at(-1) ?? 1];
    for (const field of [this.firstBar, this.lastBar])
      Object.assign(field, { min: String(first), max: String(last) });
    this.loopButton.parentElement.hidden = tune.bars === 0;
    this.setLoop(null);
    this.accompaniment.parentElement.hidden = !tune.accompaniment?.length;
    this.player.playAccompaniment(this.accompaniment.checked);
    this.surprise.parentElement.hidden = !tune.surprise;
    this.copies.parentElement.hidden = !tune.receipt?.runs.length;
    this.phrases.parentElement.hidden = tune.phrases.length < 2;
    this.#showTempo();
    this.refresh();
  }

  /** Apply all display options and marks again, after the view has redrawn the same tune. */
  refresh() {
    this.view.showSurprise(this.surprise.checked);
    this.view.showCopies(this.copies.checked);
    this.view.showPhrases(this.phrases.checked);
    this.view.showRoll(this.roll.checked);
    this.view.markBars(this.#loopedBars() ?? [], "looped");
    if (this.player.state === "playing") this.view.setBar(this.#barAt(this.player.position));
    this.#showPosition();
  }

  /** Announce a message to screen readers. */
  announce(message) {
    this.status.textContent = message;
  }

  /** Loop measures [first, last]; null: no loop. */
  setLoop(range) {
    const lastMeasure = this.#measureCount() - 1;
    const clamp = (bar) => Math.min(lastMeasure, Math.max(0, bar));
    this.loopRange = range && range.map(clamp);
    this.player.loop(this.#loopedBars());
    this.view.markBars(this.#loopedBars() ?? [], "looped");
    this.loopButton.setAttribute("aria-pressed", String(Boolean(range)));
    const [first, last] = this.loopRange ?? [0, lastMeasure];
    this.firstBar.value = String(this.view.barNumber(first));
    this.lastBar.value = String(this.view.barNumber(last));
    this.#showPosition();
  }

  /** Play from a measure; extended: loop from the last measure played from to this one. */
  playFrom(bar, isExtended = false) {
    if (isExtended) {
      this.setLoop([Math.min(this.anchorBar, bar), Math.max(this.anchorBar, bar)]);
      this.announce(this.#describeLoop());
    } else {
      this.anchorBar = bar;
      if (this.loopRange && !this.#isLooped(bar)) this.setLoop(null);
      this.player.seek(this.player.secondsOfBar(bar));
    }
    this.#showPosition();
    return this.player.play();
  }

  /** @param {number} percent of the written tempo */
  setTempo(percent) {
    this.tempo.value = String(percent); // the slider clamps it
    this.player.tempo = Number(this.tempo.value) / 100;
    this.#showTempo();
  }

  /** Loop the bars in the two number fields, or stop looping. */
  toggleLoop() {
    if (this.loopRange) this.setLoop(null);
    else this.#loopFromFields();
    this.announce(this.#describeLoop());
  }

  #loopedBars() {
    if (!this.loopRange) return null;
    const [first, last] = this.loopRange;
    return new Set(Array.from({ length: last - first + 1 }, (_, i) => first + i));
  }

  #isLooped(bar) {
    return this.loopRange[0] <= bar && bar <= this.loopRange[1];
  }

  #measureCount() {
    return Math.max(1, ...this.tune.heard.map(([, , bar]) => bar + 1));
  }

  #describeLoop() {
    if (!this.loopRange) return "Loop off";
    const [first, last] = this.loopRange.map((bar) => this.view.barNumber(bar));
    return first === last ? `Loop over bar ${first}` : `Loop over bars ${first} to ${last}`;
  }

  #createControls() {
    this.playButton = html(
      "button",
      { type: "button", class: "play", "aria-label": "Play", title: "Play (space)" },
      createIcon("play"),
    );
    this.startButton = html(
      "button",
      { type: "button", "aria-label": "Back to the start", title: "Back to the start (Home)" },
      createIcon("start"),
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
    this.loopButton = html(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        "aria-label": "Loop",
        title: "Loop the selected bars (L)",
      },
      createIcon("loop"),
    );
    this.firstBar = html("input", {
      type: "number",
      "aria-label": "First bar of the loop",
      inputmode: "numeric",
    });
    this.lastBar = html("input", {
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
      id: "player-tempo",
    });
    this.tempoValue = html("span", { class: "tempo-value", "aria-hidden": "true" });
    this.volume = html("input", {
      type: "range",
      min: 0,
      max: 100,
      step: 5,
      value: 80,
      id: "player-volume",
    });
    this.status = html("p", { role: "status", class: "visually-hidden" });
    this.countIn = createCheckbox();
    this.accompaniment = createCheckbox(true);
    this.surprise = createCheckbox();
    this.copies = createCheckbox();
    this.phrases = createCheckbox();
    this.roll = createCheckbox(true);
  }

  #fill(element) {
    const group = (...children) => html("div", { class: "group" }, ...children);
    element.classList.add("player-toolbar");
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
      group(
        this.loopButton,
        html("span", { class: "bars" }, "bars ", this.firstBar, "–", this.lastBar),
      ),
      group(html("label", { for: this.tempo.id }, "Tempo"), this.tempo, this.tempoValue),
      group(html("label", { for: this.volume.id }, "Volume"), this.volume),
      html(
        "div",
        { class: "group checks" },
        createCheckLabel("Count-in", this.countIn),
        createCheckLabel("Accompaniment", this.accompaniment),
        createCheckLabel("Surprise", this.surprise),
        createCheckLabel("Copies", this.copies),
        createCheckLabel("Returning phrases", this.phrases),
        createCheckLabel("Piano roll", this.roll),
      ),
      this.status,
    );
  }

  #listen() {
    const { player, view } = this;
    player.onNote = (note, isOn) => view.light(note, isOn);
    player.onBar = (bar) => view.setBar(bar);
    player.onState = (state) => this.#showState(state);
    player.onEnd = () => this.announce("End of the tune");
    view.onBarClick = (bar, isExtended) => this.playFrom(bar, isExtended);
    view.onSeek = (seconds) => this.#seek(seconds);
    this.playButton.addEventListener("click", () => player.toggle());
    this.startButton.addEventListener("click", () => this.#seek(0));
    this.position.addEventListener("input", () => this.#seek(Number(this.position.value)));
    this.position.addEventListener("keydown", (event) => this.#stepByBar(event));
    this.loopButton.addEventListener("click", () => this.toggleLoop());
    for (const field of [this.firstBar, this.lastBar])
      field.addEventListener("change", () => this.#loopFromFields());
    this.tempo.addEventListener("input", () => this.setTempo(Number(this.tempo.value)));
    this.volume.addEventListener("input", () => (player.volume = this.volume.value / 100));
    this.countIn.addEventListener("change", () => (player.countsIn = this.countIn.checked));
    this.accompaniment.addEventListener("change", () =>
      player.playAccompaniment(this.accompaniment.checked),
    );
    this.surprise.addEventListener("change", () => view.showSurprise(this.surprise.checked));
    this.copies.addEventListener("change", () => view.showCopies(this.copies.checked));
    this.phrases.addEventListener("change", () => view.showPhrases(this.phrases.checked));
    this.roll.addEventListener("change", () => view.showRoll(this.roll.checked));
    document.addEventListener("keydown", (event) => this.#handleShortcut(event));
  }

  #loopFromFields() {
    const fields = [this.firstBar, this.lastBar];
    const numbers = fields.map((field) => Number.parseInt(field.value, 10) || 0);
    const [from, to] = numbers.sort((a, b) => a - b);
    const last = Math.max(0, this.tune.numbers.findLastIndex((number) => number <= to));
    const first = this.tune.numbers.findIndex((number) => number >= from);
    this.setLoop([first < 0 ? last : Math.min(first, last), last]);
  }

  #seek(seconds) {
    if (this.loopRange && !this.#isLooped(this.#barAt(seconds))) this.setLoop(null);
    this.player.seek(seconds);
    this.#showPosition();
  }

  /** On the position slider, arrow keys move by one bar as heard. */
  #stepByBar(event) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const starts = this.tune.heard.map(([start]) => start);
    const current = starts.findLastIndex((start) => start <= this.player.position + 1e-6);
    const target = Math.min(starts.length - 1, Math.max(0, current + steps[event.key]));
    this.#seek(starts[target] ?? 0);
  }

  #barAt(seconds) {
    const { heard } = this.tune;
    const measure = heard.findLast(([start]) => start <= seconds + 1e-6) ?? heard[0];
    return measure?.[2] ?? 0;
  }

  #showState(state) {
    const isPlaying = state === "playing";
    const action = isPlaying ? "Pause" : "Play";
    this.playButton.setAttribute("aria-label", action);
    this.playButton.title = `${action} (space)`;
    this.playButton.replaceChildren(createIcon(isPlaying ? "pause" : "play"));
    this.announce(this.#describeState(state));
    if (state === "stopped") this.view.setBar(null);
    if (isPlaying) this.#followPosition();
    else this.#showPosition();
  }

  #describeState(state) {
    if (state === "playing") return "Playing";
    if (state === "stopped") return "Stopped";
    return `Paused in bar ${this.view.barNumber(this.#barAt(this.player.position))}`;
  }

  #followPosition() {
    this.#showPosition();
    if (this.player.state === "playing") requestAnimationFrame(() => this.#followPosition());
  }

  #showPosition() {
    const seconds = this.player.position;
    this.position.value = String(seconds);
    const total = formatTime(Math.round(this.tune.seconds));
    const text = `${formatTime(seconds)} / ${total}`;
    if (this.time.textContent !== text) {
      this.time.textContent = text;
      const bar = this.view.barNumber(this.#barAt(seconds));
      const spoken = `${formatTime(seconds)} of ${total}, bar ${bar}`;
      this.position.setAttribute("aria-valuetext", spoken);
    }
    this.view.setPosition(seconds);
  }

  #showTempo() {
    const qpm = Math.round(this.tune.qpm * this.player.tempo);
    const tempo = this.tune.qpm ? `${qpm} quarter notes per minute` : "as performed";
    this.tempoValue.textContent = `${this.tempo.value} %`;
    this.tempoValue.title = tempo;
    this.tempo.setAttribute("aria-valuetext", `${this.tempo.value} percent, ${tempo}`);
  }

  #handleShortcut(event) {
    const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
    if (!this.hasShortcuts || event.defaultPrevented || hasModifier) return;
    if (event.target.closest(TYPING_FIELDS)) return;
    if (event.key === " " && event.target.closest(SPACE_ACTIVATED)) return;
    const action = this.#findAction(event);
    if (!action) return;
    event.preventDefault();
    action();
  }

  #findAction({ key, target }) {
    const flip = (checkbox) => () => checkbox.parentElement.hidden || checkbox.click();
    const actions = {
      " ": () => this.player.toggle(),
      "[": () => this.setTempo(Number(this.tempo.value) - TEMPO_STEP),
      "]": () => this.setTempo(Number(this.tempo.value) + TEMPO_STEP),
      l: () => this.toggleLoop(),
      k: flip(this.countIn),
      a: flip(this.accompaniment),
      s: flip(this.surprise),
      c: flip(this.copies),
      p: flip(this.phrases),
      r: flip(this.roll),
    };
    if (target.type !== "range") actions.Home = () => this.#seek(0); // a slider has a Home key itself
    return actions[key.length === 1 ? key.toLowerCase() : key];
  }
}
