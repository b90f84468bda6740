/**
 * Shows one tune, as `musicgen.render.tune_json` tells it: the score with the notes lit that sound, the
 * surprise of each note as colour, copied runs, differences, and the piano roll.
 */

const SVG = "http://www.w3.org/2000/svg";
/** Bits at which a note is one class more surprising; the classes are `s0`, `s1`, ... */
export const SURPRISE_STEPS = [0.5, 1, 2, 4, 6];
const ROLL = { height: 180, pad: 6, secondsWide: 28 };
const ALLOWED = new Set(
  "svg g path use defs symbol polygon polyline rect ellipse circle line text tspan title desc style".split(
    " ",
  ),
);

/** @param {number} bits @returns {number} the class of a surprise, 0..SURPRISE_STEPS.length */
export function surpriseClass(bits) {
  return SURPRISE_STEPS.filter((step) => bits >= step).length;
}

/** Make an element of HTML; text is text, never markup. */
export function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Say "8 notes, bars 3-4, as in ...": a run of the receipt in words. */
export function copyWords(run) {
  const place = run.number ? `${run.source} no. ${run.number}` : run.source;
  return `${run.notes} notes, ${barsWords(run.bars)}, as in “${run.tune}” (${place}, ${barsWords(run.tune_bars)})`;
}

function barsWords([first, last]) {
  return first === last ? `bar ${first}` : `bars ${first}–${last}`;
}

/** Read a drawing as XML and keep of it only shapes and text: no scripts, no links, no handlers. */
function drawing(text) {
  const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  if (root.localName !== "svg") return svg("svg");
  for (const element of root.querySelectorAll("*")) {
    if (!ALLOWED.has(element.localName)) element.remove();
    for (const { name, value } of [...element.attributes]) {
      const isLink = name.endsWith("href") && !value.startsWith("#");
      if (name.startsWith("on") || isLink) element.removeAttribute(name);
    }
  }
  return document.importNode(root, true);
}

export class TuneView {
  /**
   * @param {HTMLElement} element which is filled
   * @param {object} view the JSON of a tune; its score may already stand in `element .tune-score`
   * @param {{prefix?: string, roll?: boolean, onBarClick?: (bar: number, isExtended: boolean) => void,
   *   onSeek?: (seconds: number) => void, onCopyClick?: (run: object) => void}} options
   *   prefix: of the ids in the score, where a page shows two.
   */
  constructor(
    element,
    view = null,
    { prefix = "", roll = true, onBarClick, onSeek, onCopyClick } = {},
  ) {
    this.element = element;
    this.prefix = prefix;
    this.hasRoll = roll;
    this.onBarClick = onBarClick ?? (() => {});
    this.onSeek = onSeek ?? (() => {});
    this.onCopyClick = onCopyClick ?? ((run) => this.focusBar(this.barOfNote(run.marked[0])));
    if (view) this.show(view);
  }

  /**
   * Show a tune in place of the last one.
   * @param {object} view
   * @param {?SVGElement} score where it is drawn already
   */
  show(view, score = null) {
    this.view = view;
    this.notes = new Map(); // index to the elements of its symbols, in score and roll
    this.bars = new Map(); // index to the rectangle that is clicked
    this.played = null; // the rectangle of the bar that is played
    const written =
      score ?? (view.svg ? drawing(view.svg) : this.element.querySelector(".tune-score > svg"));
    const shown = view.unwritten ? html("p", { class: "unwritten" }, view.unwritten) : written;
    this.score = html("div", { class: "tune-score" }, shown);
    this.legend = this.#makeLegend();
    this.copies = this.#makeCopies();
    this.roll = html("div", {
      class: "tune-roll",
      tabindex: "0",
      role: "region",
      "aria-label": "Piano roll",
    });
    this.element.classList.add("tune");
    this.element.replaceChildren(this.score, ...[this.legend, this.copies].filter(Boolean));
    if (this.hasRoll) this.element.append(this.roll);
    if (!view.unwritten) this.#prepare(written);
    this.#drawRoll();
    this.#colourNotes();
    this.#drawCopies();
    this.#nameNotes();
  }

  /** The number that a musician gives to a bar. */
  barNumber(bar) {
    return this.view.numbers[bar] ?? bar + 1;
  }

  barOfNote(note) {
    return this.view.sounds.find((sound) => sound[5] === note)?.[6] ?? 0;
  }

  /** Light a note while it sounds: `player.onNote = (note, isOn) => view.light(note, isOn)`. */
  light(note, isOn) {
    for (const element of this.notes.get(note) ?? []) element.classList.toggle("sounding", isOn);
  }

  /** Mark the bar that is played; null: none is. Who looks on as it is played goes on to see it. */
  setBar(bar) {
    const looksOn = !this.played || isInSight(this.played);
    this.#mark([bar], "playing");
    this.played = this.bars.get(bar) ?? null;
    if (!this.played || !looksOn || isInSight(this.played)) return;
    this.played.scrollIntoView({ block: "center", behavior: motion() });
  }

  /** Move the playhead of the piano roll to a second of the tune. */
  setPosition(seconds) {
    this.playhead?.setAttribute("transform", `translate(${seconds * this.scale} 0)`);
    const { scrollLeft, clientWidth, scrollWidth } = this.roll;
    const x = seconds * this.scale * this.#rollFactor();
    if (scrollWidth > clientWidth && (x < scrollLeft || x > scrollLeft + clientWidth * 0.9)) {
      this.roll.scrollLeft = x - clientWidth * 0.1;
    }
  }

  /** Give a class to these bars, and to no other: "looped", "locked", "differs". */
  markBars(bars, className) {
    this.#mark(bars, className);
  }

  /** Ring the notes that differ from another tune's; an empty set takes the rings away. */
  markDifferences(notes) {
    const chosen = new Set(notes);
    for (const [note, elements] of this.notes) {
      for (const element of elements) element.classList.toggle("differs", chosen.has(note));
    }
    this.#drawRings(chosen);
  }

  /** Colour the notes by their surprise, with a legend. */
  showSurprise(isOn) {
    this.element.classList.toggle("shows-surprise", isOn);
    if (this.legend) this.legend.hidden = !isOn;
  }

  /** Show the bands behind copied runs, and the list of them. */
  showCopies(isOn) {
    this.element.classList.toggle("shows-copies", isOn);
    if (this.copies) this.copies.hidden = !isOn;
  }

  showRoll(isOn) {
    this.roll.hidden = !isOn;
  }

  /** Put the keyboard's focus on a bar. */
  focusBar(bar) {
    const wanted = this.bars.get(bar);
    if (!wanted) return;
    for (const element of this.bars.values())
      element.setAttribute("tabindex", element === wanted ? "0" : "-1");
    wanted.focus();
  }

  #mark(bars, className) {
    const chosen = new Set(bars);
    for (const [bar, element] of this.bars) element.classList.toggle(className, chosen.has(bar));
  }

  #prepare(root) {
    root.querySelector(":scope > title")?.remove(); // it would be shown wherever the pointer rests
    root.setAttribute("role", "group");
    root.setAttribute(
      "aria-label",
      `Score of ${this.view.title || "the tune"}. Arrow keys go from bar to bar, Enter plays from a bar, Shift and Enter loops up to it.`,
    );
    for (const element of root.querySelectorAll("[id]")) this.#adopt(element);
    const first = this.bars.keys().next().value;
    this.bars.get(first)?.setAttribute("tabindex", "0");
    root.addEventListener("click", (event) => this.#clicked(event));
    this.#listenForDrags(root);
    root.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** Know a note or a measure by its id. */
  #adopt(element) {
    const [, kind, digits] = /^([nm])(\d+)(?:-\d+)?$/.exec(element.id) ?? [];
    const index = Number(digits);
    if (kind === "n") {
      element.dataset.note = digits;
      this.#addNote(index, element);
    } else if (kind === "m") {
      element.dataset.bar = digits;
      const cover = this.#cover(element, index);
      if (cover) this.bars.set(index, cover);
    }
    if (kind && this.prefix) element.id = `${this.prefix}${element.id}`;
  }

  #addNote(index, element) {
    if (!this.notes.has(index)) this.notes.set(index, []);
    this.notes.get(index).push(element);
  }

  /** Lay a rectangle under a measure, which is clicked, focused and coloured. */
  #cover(measure, bar) {
    const staves = [...measure.querySelectorAll(".staff > path")].map((line) => line.getBBox());
    if (!staves.length) return null;
    const box = union(staves.length ? staves : [measure.getBBox()]);
    const pad = Math.min(box.height, staves[0].width ? unitOf(staves) * 3 : box.height) || 0;
    const cover = svg("rect", {
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
    measure.prepend(cover);
    return cover;
  }

  /** A mouse that is drawn over some bars chooses them, as a click and one with Shift do. */
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

  #clicked(event) {
    const bar = barAt(event);
    if (bar === null) return;
    this.focusBar(bar);
    this.onBarClick(bar, event.shiftKey);
  }

  #pressed(event) {
    const bar = barAt(event);
    if (bar === null) return;
    const order = [...this.bars.keys()];
    const place = order.indexOf(bar);
    const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: order.length - 1 };
    if (event.key in moves)
      this.focusBar(order[Math.max(0, Math.min(order.length - 1, moves[event.key]))]);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp")
      this.focusBar(this.#above(bar, event.key === "ArrowUp"));
    else if (event.key === "Enter") this.onBarClick(bar, event.shiftKey);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The nearest bar of the system above, or below. */
  #above(bar, isAbove) {
    const here = this.bars.get(bar).getBoundingClientRect();
    const middle = here.x + here.width / 2;
    const ahead = [...this.bars]
      .map(([other, element]) => [other, element.getBoundingClientRect()])
      .filter(([, box]) => (isAbove ? box.bottom <= here.top + 1 : box.top >= here.bottom - 1));
    const distance = (box) =>
      Math.abs(box.y - here.y) * 100 + Math.abs(box.x + box.width / 2 - middle);
    return (
      ahead.reduce(
        (best, one) => (!best || distance(one[1]) < distance(best[1]) ? one : best),
        null,
      )?.[0] ?? bar
    );
  }

  #colourNotes() {
    for (const [note, bits] of (this.view.surprise?.notes ?? []).entries()) {
      if (bits === null) continue;
      for (const element of this.notes.get(note) ?? [])
        element.classList.add(`s${surpriseClass(bits)}`);
    }
  }

  /** Say what each note is when it is pointed at. */
  #nameNotes() {
    const copies = new Map();
    for (const run of this.view.receipt?.runs ?? [])
      for (const note of run.marked) copies.set(note, copyWords(run));
    for (const [note, elements] of this.notes) {
      const bits = this.view.surprise?.notes[note];
      const told = [
        this.view.names[note],
        bits == null ? null : `${bits.toFixed(1)} bits`,
        copies.get(note),
      ];
      for (const element of elements)
        element.prepend(svg("title", {}, told.filter(Boolean).join(" · ")));
    }
  }

  #makeLegend() {
    if (!this.view.surprise) return null;
    const edges = [0, ...SURPRISE_STEPS];
    const classes = edges.map((from, index) => {
      const to = edges[index + 1];
      const label = to === undefined ? `${from} and more` : `${from}–${to}`;
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
    const each = this.view.surprise.bits_per_note.toFixed(2);
    return html(
      "div",
      { class: "tune-legend", hidden: true },
      html("p", {}, `Surprise of each note in bits; the tune's mean is ${each} a note`),
      html("ul", {}, ...classes),
    );
  }

  #makeCopies() {
    const runs = this.view.receipt?.runs ?? [];
    if (!runs.length) return null;
    const items = runs.map((run) => {
      const button = html("button", { type: "button" }, copyWords(run));
      button.addEventListener("click", () => this.onCopyClick(run));
      return html("li", {}, button);
    });
    return html(
      "div",
      { class: "tune-copies", hidden: true },
      html("p", {}, "Runs of notes that stand in tunes the model learnt from"),
      html("ol", {}, ...items),
    );
  }

  #layer(className, isBehind) {
    const root = this.score.querySelector(".page-margin") ?? this.score.querySelector("svg");
    root?.querySelector(`:scope > .${className}`)?.remove();
    const layer = svg("g", { class: className });
    if (isBehind) root?.prepend(layer);
    else root?.append(layer);
    return layer;
  }

  #heads(notes) {
    return notes.flatMap((note) =>
      (this.notes.get(note) ?? []).filter((element) => element.closest(".tune-score")),
    );
  }

  /** Draw a band behind each copied run, one piece a system, with the number of the run. */
  #drawCopies() {
    const bands = this.#layer("copy-bands", true);
    const numbers = this.#layer("copy-numbers", false);
    for (const [index, run] of (this.view.receipt?.runs ?? []).entries()) {
      const systems = bySystem(this.#heads(run.marked));
      for (const [at, elements] of [...systems.values()].entries()) {
        const boxes = elements.map(headBox);
        const box = union(boxes);
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
        if (at) continue;
        numbers.append(
          svg(
            "text",
            { x: box.x - pad, y: box.y - pad * 1.6, "font-size": pad * 3.2, "data-run": index },
            svg("title", {}, copyWords(run)),
            String(index + 1),
          ),
        );
      }
    }
  }

  #drawRings(chosen) {
    const rings = this.#layer("difference-rings", false);
    for (const element of this.#heads([...chosen])) {
      const { x, y, width, height } = headBox(element);
      rings.append(
        svg("ellipse", {
          cx: x + width / 2,
          cy: y + height / 2,
          rx: width * 0.95,
          ry: height * 1.15,
        }),
      );
    }
  }

  #drawRoll() {
    const { sounds, heard, seconds } = this.view;
    let [low, high] = [59, 73]; // and no Math.min(...pitches): a call takes so many arguments only
    for (const [, , pitch] of sounds) [low, high] = [Math.min(low, pitch - 1), Math.max(high, pitch + 1)];
    const row = (ROLL.height - 2 * ROLL.pad) / (high - low + 1);
    this.scale = 100;
    const width = Math.max(1, seconds * this.scale);
    const y = (pitch) => ROLL.pad + (high - pitch) * row;
    this.playhead = svg(
      "g",
      { class: "playhead" },
      svg("line", { y1: 0, y2: ROLL.height, "vector-effect": "non-scaling-stroke" }),
    );
    const lines = heard.map(([start, , bar]) =>
      svg("line", {
        class: "roll-bar",
        "data-bar": bar,
        x1: start * this.scale,
        x2: start * this.scale,
        y1: 0,
        y2: ROLL.height,
        "vector-effect": "non-scaling-stroke",
      }),
    );
    const blacks = [];
    for (let pitch = low; pitch <= high; pitch++) {
      if ([1, 3, 6, 8, 10].includes(pitch % 12))
        blacks.push(svg("rect", { class: "roll-black", x: 0, y: y(pitch), width, height: row }));
    }
    const drawn = sounds.map((sound) => this.#rollNote(sound, y(sound[2]), row));
    const root = svg(
      "svg",
      {
        viewBox: `0 0 ${width} ${ROLL.height}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Piano roll: ${sounds.length} notes in ${Math.round(seconds)} seconds`,
      },
      ...blacks,
      ...lines,
      ...drawn,
      this.playhead,
    );
    root.addEventListener("click", (event) =>
      this.onSeek(
        ((event.clientX - root.getBoundingClientRect().x) / root.getBoundingClientRect().width) *
          seconds,
      ),
    );
    root.style.minWidth = `${Math.round(seconds * ROLL.secondsWide)}px`;
    this.roll.replaceChildren(root);
  }

  #rollNote([start, length, , , part, note], y, row) {
    const gap = Math.min(0.02, length * 0.15);
    const element = svg("rect", {
      class: `roll-note part-${part % 6}`,
      x: start * this.scale,
      y: y + row * 0.08,
      width: (length - gap) * this.scale,
      height: row * 0.84,
      "data-note": note,
    });
    this.#addNote(note, element);
    return element;
  }

  #rollFactor() {
    return this.roll.scrollWidth / Math.max(1, this.view.seconds * this.scale);
  }
}

/** The bar that an event is about; null: none. */
function barAt(event) {
  const found = event.target.closest("[data-bar]");
  return found ? Number(found.dataset.bar) : null;
}

function bySystem(elements) {
  const found = new Map();
  for (const element of elements) {
    const system = element.closest(".system");
    found.set(system, [...(found.get(system) ?? []), element]);
  }
  return found;
}

function headBox(element) {
  return (element.querySelector(".notehead") ?? element).getBBox();
}

/** The distance between two lines of a staff. */
function unitOf(lines) {
  const heights = lines.map((line) => line.y).sort((a, b) => a - b);
  return heights.length > 1 ? heights[1] - heights[0] : 0;
}

function union(boxes) {
  const x = Math.min(...boxes.map((box) => box.x));
  const y = Math.min(...boxes.map((box) => box.y));
  const right = Math.max(...boxes.map((box) => box.x + box.width));
  const bottom = Math.max(...boxes.map((box) => box.y + box.height));
  return { x, y, width: right - x, height: bottom - y };
}

function isInSight(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return top >= 60 && bottom <= window.innerHeight - 20;
}

/** Scrolling is smooth unless the reader asked for less motion. */
function motion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth";
}
