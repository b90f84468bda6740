import { html, scrollBehavior, svg } from "./dom.js";
import { formatBarRange, formatTime, formatTimeRange } from "./format.js";
import { PhraseArcs } from "./phrase_arcs.js";

/**
 * Shows one tune, as `musicgen.render.tune_json` describes it: the score, in which sounding notes are
 * lit, with the surprise of each note, copied runs and differences, the phrases that return, and the
 * piano roll.
 */

/** Lower bounds in bits of the surprise classes `s1`, `s2`, ...; `s0` is below all of them. */
const SURPRISE_STEPS = [0.5, 1, 2, 4, 6];
const ROLL = { height: 180, pad: 6, pixelsPerSecond: 28, labelSeconds: 5 };
const ROLL_UNITS_PER_SECOND = 100; // of its viewBox
const ROLL_MIN_SECONDS = 0.01; // keeps the viewBox of an empty tune valid
const PART_COLOURS = 6; // in tune_view.css
const BLACK_KEYS = [1, 3, 6, 8, 10]; // pitch classes
const SCORE_ID = /^([nm])(\d+)(?:-\d+)?$/;
const ALLOWED_ELEMENTS = new Set(
  "svg g path use defs symbol polygon polyline rect ellipse circle line text tspan title desc style".split(
    " ",
  ),
);

/** @param {number} bits @returns {number} 0..SURPRISE_STEPS.length */
function surpriseClass(bits) {
  return SURPRISE_STEPS.filter((step) => bits >= step).length;
}

/** Describe a copied run: "8 notes, bars 3–4, as in “Title” (book no. 12, bars 5–6)". */
function describeCopy(run) {
  const source = run.number ? `${run.source} no. ${run.number}` : run.source;
  const [place, theirPlace] = run.bars
    ? [formatBarRange(run.bars), formatBarRange(run.tune_bars)]
    : [formatTimeRange(run.seconds), formatTimeRange(run.tune_seconds)];
  return `${run.notes} notes, ${place}, as in “${run.tune || run.source}” (${source}, ${theirPlace})`;
}

/** Parse SVG and keep only shapes and text: no scripts, external links or event handlers. */
function parseDrawing(text) {
  const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  if (root.localName !== "svg") return svg("svg");
  for (const element of root.querySelectorAll("*")) {
    if (!ALLOWED_ELEMENTS.has(element.localName)) element.remove();
    for (const name of element.getAttributeNames()) {
      const isLink = name.endsWith("href") && !element.getAttribute(name)?.startsWith("#");
      if (name.startsWith("on") || isLink) element.removeAttribute(name);
    }
  }
  return document.importNode(root, true);
}

export class TuneView {
  /**
   * @param {HTMLElement} element receives the view
   * @param {?object} tune its JSON
   * @param {{prefix?: string, onBarClick?: (bar: number, isExtended: boolean) => void,
   *   onSeek?: (seconds: number) => void}} options
   *   prefix: put before the ids in the score, so that a page can show two scores.
   */
  constructor(element, tune = null, { prefix = "", onBarClick, onSeek } = {}) {
    this.element = element;
    this.prefix = prefix;
    this.onBarClick = onBarClick ?? (() => {});
    this.onSeek = onSeek ?? (() => {});
    if (tune) this.show(tune);
  }

  /**
   * Show a tune in place of the current one.
   * @param {object} tune
   * @param {?SVGElement} scoreSvg the score, where it is part of the page already
   */
  show(tune, scoreSvg = null) {
    this.tune = tune;
    this.notes = new Map(); // note index to its elements in score and roll
    this.bars = new Map(); // measure index to the rectangle that takes clicks
    this.playingBar = null; // rectangle of the bar that sounds
    const drawing =
      scoreSvg ??
      (tune.svg ? parseDrawing(tune.svg) : this.element.querySelector(".tune-score > svg"));
    const content = tune.unwritten ? html("p", { class: "unwritten" }, tune.unwritten) : drawing;
    this.score = html("div", { class: "tune-score" }, content);
    this.legend = this.#createLegend();
    this.copies = this.#createCopyList();
    this.phrases =
      tune.phrases.length > 1
        ? new PhraseArcs(tune.phrases, (bar) => this.focusBar(bar))
        : null;
    this.roll = html("div", {
      class: "tune-roll",
      tabindex: "0",
      role: "region",
      "aria-label": "Piano roll",
    });
    this.element.classList.add("tune");
    const panels = [this.phrases?.element, this.score, this.legend, this.copies, this.roll];
    this.element.replaceChildren(...panels.filter(Boolean));
    if (!tune.unwritten) this.#prepareScore(drawing);
    this.#drawRoll();
    this.#colourNotes();
    this.#drawCopies();
    this.#addTooltips();
  }

  /** Return the printed number of a measure. */
  barNumber(bar) {
    return this.tune.numbers[bar] ?? bar + 1;
  }

  #barOfNote(note) {
    return this.tune.sounds.find((sound) => sound[5] === note)?.[6] ?? 0;
  }

  /** Light a note while it sounds: `player.onNote = (note, isOn) => view.light(note, isOn)`. */
  light(note, isOn) {
    for (const element of this.notes.get(note) ?? []) element.classList.toggle("sounding", isOn);
  }

  /**
   * Mark the bar that sounds; null: none. Scroll along with it, unless the reader has scrolled away
   * from the music.
   */
  setBar(bar) {
    const isFollowing = !this.playingBar || isInView(this.playingBar);
    this.markBars([bar], "playing");
    this.phrases?.setBar(bar);
    this.playingBar = this.bars.get(bar) ?? null;
    if (!this.playingBar || !isFollowing || isInView(this.playingBar)) return;
    this.playingBar.scrollIntoView({ block: "center", behavior: scrollBehavior() });
  }

  /** Move the playhead of the piano roll to a time in seconds. */
  setPosition(seconds) {
    this.playhead?.setAttribute("transform", `translate(${seconds * ROLL_UNITS_PER_SECOND} 0)`);
    const { scrollLeft, clientWidth, scrollWidth } = this.roll;
    const x = (seconds * scrollWidth) / Math.max(ROLL_MIN_SECONDS, this.tune.seconds);
    if (scrollWidth > clientWidth && (x < scrollLeft || x > scrollLeft + clientWidth * 0.9)) {
      this.roll.scrollLeft = x - clientWidth * 0.1;
    }
  }

  /** Set a class ("looped", "locked") on the given bars and remove it from all others. */
  markBars(bars, className) {
    const marked = new Set(bars);
    for (const [bar, element] of this.bars) element.classList.toggle(className, marked.has(bar));
  }

  /** Ring the notes that differ from those of another tune, and no others. */
  markDifferences(notes) {
    const differing = new Set(notes);
    for (const [note, elements] of this.notes) {
      for (const element of elements) element.classList.toggle("differs", differing.has(note));
    }
    this.#drawRings(differing);
  }

  /** Dim the notes of the parts that are not heard. @param {Set<number>} parts */
  markSilent(parts) {
    for (const [, , , , part, note] of this.tune.sounds) {
      for (const element of this.notes.get(note) ?? []) element.classList.toggle("silent", parts.has(part));
    }
  }

  /** Add the surprise of a tune that was shown without. */
  addSurprise(surprise) {
    this.tune.surprise = surprise;
    this.legend = this.#createLegend();
    this.score.after(this.legend);
    this.#colourNotes();
    this.#addTooltips();
  }

  /** Colour the notes by their surprise and show the legend. */
  showSurprise(isOn) {
    this.element.classList.toggle("shows-surprise", isOn);
    if (this.legend) this.legend.hidden = !isOn;
  }

  /** Show the bands behind copied runs and the list of the runs. */
  showCopies(isOn) {
    this.element.classList.toggle("shows-copies", isOn);
    if (this.copies) this.copies.hidden = !isOn;
  }

  /** Show the phrases above the score, with arcs to those that they return. */
  showPhrases(isOn) {
    if (this.phrases) this.phrases.element.hidden = !isOn;
  }

  showRoll(isOn) {
    this.roll.hidden = !isOn;
  }

  /** Move the keyboard focus to a bar. Only one bar at a time is in the tab order. */
  focusBar(bar) {
    const target = this.bars.get(bar);
    if (!target) return;
    for (const element of this.bars.values())
      element.setAttribute("tabindex", element === target ? "0" : "-1");
    target.focus();
  }

  #prepareScore(root) {
    root.querySelector(":scope > title")?.remove(); // it would become the tooltip of the whole score
    root.setAttribute("role", "group");
    root.setAttribute(
      "aria-label",
      `Score of ${this.tune.title || "the tune"}. Arrow keys move between bars, Enter plays from a bar, Shift+Enter loops up to it.`,
    );
    const covers = new Map(); // all are measured before the first is inserted, which would undo the layout
    for (const measure of root.querySelectorAll("[id^=m]")) covers.set(measure, this.#createCover(measure));
    for (const element of root.querySelectorAll("[id]")) this.#register(element, covers.get(element));
    const first = this.bars.keys().next().value;
    this.bars.get(first)?.setAttribute("tabindex", "0");
    root.addEventListener("click", (event) => this.#handleClick(event));
    this.#listenForDrags(root);
    root.addEventListener("keydown", (event) => this.#handleKey(event));
  }

  /** Register a note (id "n12", "n12-1") or a measure ("m3"), with its cover, of the engraved score. */
  #register(element, cover) {
    const [, kind, digits] = SCORE_ID.exec(element.id) ?? [];
    const index = Number(digits);
    if (kind === "n") {
      element.dataset.note = digits;
      this.#addNote(index, element);
    } else if (kind === "m") {
      element.dataset.bar = digits;
      if (cover) {
        element.prepend(cover);
        this.bars.set(index, cover);
      }
    }
    if (kind && this.prefix) element.id = `${this.prefix}${element.id}`;
  }

  #addNote(index, element) {
    if (!this.notes.has(index)) this.notes.set(index, []);
    this.notes.get(index).push(element);
  }

  /** Create a rectangle for under a measure that takes clicks, focus and colours; null without staff lines. */
  #createCover(measure) {
    const [, kind, digits] = SCORE_ID.exec(measure.id) ?? [];
    if (kind !== "m") return null;
    const bar = Number(digits);
    const lines = staffLines(measure).map((line) => line.getBBox());
    if (!lines.length) return null;
    const box = unionBoxes(lines);
    const pad = Math.min(box.height, lines[0].width ? lineSpacing(lines) * 3 : box.height) || 0;
    return svg("rect", {
      class: "bar-cover",
      x: box.x,
      y: box.y - pad,
      width: box.width,
      height: box.height + 2 * pad,
      tabindex: "-1",
      role: "button",
      "aria-label": `Bar ${this.barNumber(bar)}`,
      "data-bar": bar,
    });
  }

  /** Dragging the mouse over bars selects them, like a click and a Shift-click. */
  #listenForDrags(root) {
    let from = null;
    root.addEventListener(
      "pointerdown",
      (event) => (from = event.pointerType === "mouse" ? barAt(event) : null),
    );
    root.addEventListener("pointerup", (event) => {
      const to = barAt(event);
      if (from === null || to === null || from === to) return;
      this.onBarClick(from, false);
      this.onBarClick(to, true);
    });
  }

  #handleClick(event) {
    const bar = barAt(event);
    if (bar === null) return;
    this.focusBar(bar);
    this.onBarClick(bar, event.shiftKey);
  }

  #handleKey(event) {
    const bar = barAt(event);
    if (bar === null) return;
    const order = [...this.bars.keys()];
    const index = order.indexOf(bar);
    const targets = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: order.length - 1 };
    if (event.key in targets)
      this.focusBar(order[Math.max(0, Math.min(order.length - 1, targets[event.key]))]);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp")
      this.focusBar(this.#nearestBar(bar, event.key === "ArrowUp"));
    else if (event.key === "Enter") this.onBarClick(bar, event.shiftKey);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Return the nearest bar of the system above or below; the same bar where there is none. */
  #nearestBar(bar, isAbove) {
    const here = this.bars.get(bar).getBoundingClientRect();
    const middle = here.x + here.width / 2;
    const distance = (box) =>
      Math.abs(box.y - here.y) * 100 + Math.abs(box.x + box.width / 2 - middle);
    const candidates = [...this.bars]
      .map(([other, element]) => [other, element.getBoundingClientRect()])
      .filter(([, box]) => (isAbove ? box.bottom <= here.top + 1 : box.top >= here.bottom - 1))
      .sort(([, a], [, b]) => distance(a) - distance(b));
    return candidates[0]?.[0] ?? bar;
  }

  #colourNotes() {
    for (const [note, bits] of (this.tune.surprise?.notes ?? []).entries()) {
      if (bits === null) continue;
      for (const element of this.notes.get(note) ?? [])
        element.classList.add(`s${surpriseClass(bits)}`);
    }
  }

  /** Give each note a tooltip: its name, its surprise, and the run that it is copied from. */
  #addTooltips() {
    const copies = new Map();
    for (const run of this.tune.receipt?.runs ?? [])
      for (const note of run.marked) copies.set(note, describeCopy(run));
    for (const [note, elements] of this.notes) {
      const bits = this.tune.surprise?.notes[note];
      const facts = [
        this.tune.names[note],
        bits == null ? null : `${bits.toFixed(1)} bits`,
        copies.get(note),
      ];
      for (const element of elements) {
        element.querySelector(":scope > title")?.remove();
        element.prepend(svg("title", {}, facts.filter(Boolean).join(" · ")));
      }
    }
  }

  #createLegend() {
    if (!this.tune.surprise) return null;
    const edges = [0, ...SURPRISE_STEPS];
    const entries = edges.map((from, index) => {
      const to = edges[index + 1];
      const label = to === undefined ? `${from} or more` : `${from}–${to}`;
      return html(
        "li",
        { class: `s${index}` },
        svg(
          "svg",
          { viewBox: "0 0 20 14", "aria-hidden": "true" },
          svg("ellipse", { cx: 10, cy: 7, rx: 7.5, ry: 5.2, transform: "rotate(-20 10 7)" }),
        ),
        label,
      );
    });
    const mean = this.tune.surprise.bits_per_note.toFixed(2);
    return html(
      "div",
      { class: "tune-legend", hidden: true },
      html("p", {}, `Surprise of each note in bits; the mean is ${mean} bits per note`),
      html("ul", {}, ...entries),
    );
  }

  #createCopyList() {
    const runs = this.tune.receipt?.runs ?? [];
    if (!runs.length) return null;
    const items = runs.map((run) => {
      const focusRun = () =>
        run.seconds ? this.onSeek(run.seconds[0]) : this.focusBar(this.#barOfNote(run.marked[0]));
      const button = html("button", { type: "button", onclick: focusRun }, describeCopy(run));
      return html("li", {}, button);
    });
    return html(
      "div",
      { class: "tune-copies", hidden: true },
      html("p", {}, "Runs of notes that also occur in training tunes"),
      html("ol", {}, ...items),
    );
  }

  /** Replace a layer of the score by an empty one, behind or in front of the notes. */
  #replaceLayer(className, isBehind) {
    const root = this.score.querySelector(".page-margin") ?? this.score.querySelector("svg");
    root?.querySelector(`:scope > .${className}`)?.remove();
    const layer = svg("g", { class: className });
    if (isBehind) root?.prepend(layer);
    else root?.append(layer);
    return layer;
  }

  #scoreElements(notes) {
    return notes.flatMap((note) =>
      (this.notes.get(note) ?? []).filter((element) => element.closest(".tune-score")),
    );
  }

  /** Draw a band behind each copied run, one piece per system; the first piece has its number. */
  #drawCopies() {
    const bands = this.#replaceLayer("copy-bands", true);
    const numbers = this.#replaceLayer("copy-numbers", false);
    for (const [index, run] of (this.tune.receipt?.runs ?? []).entries()) {
      const systems = groupBySystem(this.#scoreElements(run.marked));
      for (const [piece, elements] of [...systems.values()].entries()) {
        const boxes = elements.map(headBox);
        const box = unionBoxes(boxes);
        const pad = boxes[0].height * 0.7;
        bands.append(
          svg("rect", {
            x: box.x - pad,
            y: box.y - pad,
            width: box.width + 2 * pad,
            height: box.height + 2 * pad,
            rx: pad,
            "data-run": index,
          }),
        );
        if (piece > 0) continue;
        numbers.append(
          svg(
            "text",
            { x: box.x - pad, y: box.y - pad * 1.6, "font-size": pad * 3.2, "data-run": index },
            svg("title", {}, describeCopy(run)),
            String(index + 1),
          ),
        );
      }
    }
  }

  #drawRings(notes) {
    const rings = this.#replaceLayer("difference-rings", false);
    const boxes = this.#scoreElements([...notes]).map(headBox);
    const ellipses = boxes.map(({ x, y, width, height }) =>
      svg("ellipse", {
        cx: x + width / 2,
        cy: y + height / 2,
        rx: width * 0.95,
        ry: height * 1.15,
      }),
    );
    rings.append(...ellipses);
  }

  #drawRoll() {
    const { sounds, heard, bars, seconds } = this.tune;
    const [low, high] = pitchRange(sounds);
    const rowHeight = (ROLL.height - 2 * ROLL.pad) / (high - low + 1);
    const width = Math.max(ROLL_MIN_SECONDS, seconds) * ROLL_UNITS_PER_SECOND;
    const y = (pitch) => ROLL.pad + (high - pitch) * rowHeight;
    this.playhead = svg(
      "g",
      { class: "playhead" },
      svg("line", { y1: 0, y2: ROLL.height, "vector-effect": "non-scaling-stroke" }),
    );
    const drawLine = (start, attributes) =>
      svg("line", {
        class: "roll-bar",
        ...attributes,
        x1: start * ROLL_UNITS_PER_SECOND,
        x2: start * ROLL_UNITS_PER_SECOND,
        y1: 0,
        y2: ROLL.height,
        "vector-effect": "non-scaling-stroke",
      });
    const times = bars ? [] : listTimes(seconds); // of music without bars
    const lines = bars
      ? heard.map(([start, , bar]) => drawLine(start, { "data-bar": bar }))
      : times.map((time) => drawLine(time, {}));
    const blackRows = [];
    for (let pitch = low; pitch <= high; pitch++) {
      const box = { x: 0, y: y(pitch), width, height: rowHeight };
      if (BLACK_KEYS.includes(pitch % 12))
        blackRows.push(svg("rect", { class: "roll-black", ...box }));
    }
    const notes = sounds.map((sound) => this.#createRollNote(sound, y(sound[2]), rowHeight));
    const root = svg(
      "svg",
      {
        viewBox: `0 0 ${width} ${ROLL.height}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Piano roll: ${sounds.length} notes in ${Math.round(seconds)} seconds`,
      },
      ...blackRows,
      ...lines,
      ...notes,
      this.playhead,
    );
    root.addEventListener("click", (event) => {
      const box = root.getBoundingClientRect();
      this.onSeek(((event.clientX - box.x) / box.width) * seconds);
    });
    root.style.minWidth = `${Math.round(seconds * ROLL.pixelsPerSecond)}px`;
    this.roll.replaceChildren(...(times.length ? [createTimeAxis(times, seconds, root)] : []), root);
  }

  #createRollNote([start, length, , , part, note], y, rowHeight) {
    const gap = Math.min(0.02, length * 0.15); // seconds; separates repeated notes
    const element = svg("rect", {
      class: `roll-note part-${part % PART_COLOURS}`,
      x: start * ROLL_UNITS_PER_SECOND,
      y: y + rowHeight * 0.08,
      width: (length - gap) * ROLL_UNITS_PER_SECOND,
      height: rowHeight * 0.84,
      "data-note": note,
    });
    if (note >= 0) this.#addNote(note, element); // an accompaniment is not written
    return element;
  }
}

/** Return the times in seconds that a roll without bars shows. */
function listTimes(seconds) {
  return Array.from({ length: Math.floor(seconds / ROLL.labelSeconds) + 1 }, (_, index) => index * ROLL.labelSeconds);
}

/** Create the axis above a roll: minutes and seconds, at their places along the drawing. */
function createTimeAxis(times, seconds, drawing) {
  const labels = times.map((time) => {
    const label = html("span", {}, formatTime(time));
    label.style.left = `${(100 * time) / Math.max(ROLL_MIN_SECONDS, seconds)}%`;
    return label;
  });
  const axis = html("div", { class: "roll-times", "aria-hidden": "true" }, ...labels);
  axis.style.minWidth = drawing.style.minWidth;
  return axis;
}

/** Return the lowest and highest pitch of a roll, at least an octave around middle C. */
function pitchRange(sounds) {
  let [low, high] = [59, 73];
  for (const [, , pitch] of sounds) {
    low = Math.min(low, pitch - 1); // spreading all pitches into one call fails for long tunes
    high = Math.max(high, pitch + 1);
  }
  return [low, high];
}

/** Return the measure that an event happened in; null: none. */
function barAt(event) {
  const element = event.target.closest("[data-bar]");
  return element ? Number(element.dataset.bar) : null;
}

function groupBySystem(elements) {
  const groups = new Map();
  for (const element of elements) {
    const system = element.closest(".system");
    groups.set(system, [...(groups.get(system) ?? []), element]);
  }
  return groups;
}

function headBox(element) {
  return (element.querySelector(".notehead") ?? element).getBBox();
}

/** Return the lines of the first and the last staff of a measure, which enclose all others. */
function staffLines(measure) {
  const staves = [...measure.querySelectorAll(".staff")];
  const outer = new Set(staves.length ? [staves[0], staves.at(-1)] : []);
  return [...outer].flatMap((staff) => [...staff.querySelectorAll(":scope > path")]);
}

/** Return the distance between two lines of a staff. */
function lineSpacing(lines) {
  const heights = lines.map((line) => line.y).sort((a, b) => a - b);
  return heights.length > 1 ? heights[1] - heights[0] : 0;
}

function unionBoxes(boxes) {
  const x = Math.min(...boxes.map((box) => box.x));
  const y = Math.min(...boxes.map((box) => box.y));
  const right = Math.max(...boxes.map((box) => box.x + box.width));
  const bottom = Math.max(...boxes.map((box) => box.y + box.height));
  return { x, y, width: right - x, height: bottom - y };
}

/** Tell whether an element is visible between the sticky player and what is docked below. */
function isInView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  const docked = getComputedStyle(document.documentElement).getPropertyValue("--docked");
  return top >= 60 && bottom <= window.innerHeight - 20 - (parseFloat(docked) || 0);
}
