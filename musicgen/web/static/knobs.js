/** The knobs: one table, and the controls that it makes. */

import { el, svg } from "./dom.js";

const ANY = "any";
const FORMS = ["AABB", "AABA", "AABBCC", "ABAC", "AABC", "AB", "AA", "through", "free"];
const INSTRUMENTS = [
  [0, "piano"], [6, "harpsichord"], [9, "glockenspiel"], [11, "vibraphone"], [12, "marimba"],
  [16, "organ"], [21, "accordion"], [22, "harmonica"], [24, "guitar"], [25, "steel guitar"],
  [40, "violin"], [42, "cello"], [46, "harp"], [56, "trumpet"], [65, "alto sax"], [68, "oboe"],
  [71, "clarinet"], [72, "piccolo"], [73, "flute"], [74, "recorder"], [75, "pan flute"],
  [78, "whistle"], [79, "ocarina"], [105, "banjo"], [109, "bagpipe"], [110, "fiddle"],
];

/**
 * @typedef {object} Knob
 * @property {string} name as on the command line
 * @property {string} label
 * @property {"dial" | "choice" | "text" | "number"} kind
 * @property {any} plain what the server takes where nothing is said
 * @property {boolean} [more] stands under "more"
 * @property {string} [from] the model's list that it chooses from
 * @property {any} [off] of a dial: where it says nothing
 * @property {(wishes: any) => any} [unasked] the value for a tune whose wishes do not name it
 */

/** @type {(Knob & Record<string, any>)[]} */
export const KNOBS = [
  { name: "temperature", label: "Temperature", kind: "dial", plain: 0.8, min: 0.1, max: 1.6,
    step: 0.05, says: heat },
  { name: "key", label: "Key", kind: "choice", plain: null, from: "keys" },
  { name: "meter", label: "Meter", kind: "choice", plain: null, from: "meters" },
  { name: "rhythm", label: "Rhythm", kind: "choice", plain: null, from: "rhythms" },
  { name: "bars", label: "Bars", kind: "number", plain: null, min: 1, max: 512, step: 1 },
  { name: "form", label: "Form", kind: "text", plain: null, list: FORMS, hint: ANY,
    unasked: (wishes) => (wishes.min_bars ? null : "free") },
  { name: "top_p", label: "Top-p", kind: "dial", plain: null, min: 0.05, max: 1, step: 0.05, off: 1,
    more: true },
  { name: "min_p", label: "Min-p", kind: "dial", plain: null, min: 0, max: 0.5, step: 0.01, off: 0,
    more: true },
  { name: "top_k", label: "Top-k", kind: "number", plain: null, min: 1, max: 999, step: 1,
    more: true },
  { name: "tempo", label: "Tempo", kind: "number", plain: null, min: 10, max: 1000, step: 1,
    more: true },
  { name: "program", label: "Instrument", kind: "choice", plain: 0, options: INSTRUMENTS,
    more: true },
  { name: "range", label: "Range", kind: "text", plain: null, hint: "D4-B5", more: true },
  { name: "pickup", label: "Pickup", kind: "text", plain: null, list: ["none", "1/8", "1/4"],
    hint: ANY, more: true },
  { name: "end", label: "Last note", kind: "choice", plain: "any",
    options: [["any", "any"], ["tonic", "the tonic"]], more: true },
  { name: "max_copy", label: "Copy at most", kind: "number", plain: null, min: 4, max: 999, step: 1,
    hint: "notes", more: true },
  { name: "seed", label: "Seed", kind: "number", plain: null, min: 0, max: 2 ** 53 - 1, step: 1,
    more: true },
];

const BY_NAME = new Map(KNOBS.map((knob) => [knob.name, knob]));

export class Knobs {
  /**
   * @param {HTMLElement} first where the usual ones go
   * @param {HTMLElement} more where the others go
   * @param {(settled: boolean) => void} onTurn told of each turn; settled: no further is under way
   */
  constructor(first, more, onTurn) {
    /** @type {Map<string, {read: () => any, write: (value: any) => void, input: any}>} */
    this.controls = new Map();
    for (const knob of KNOBS) {
      const { element, ...control } = MAKERS[knob.kind](knob, onTurn);
      this.controls.set(knob.name, control);
      (knob.more ? more : first).append(element);
    }
    this.#input("bars").addEventListener("input", () => this.#hintForm());
  }

  /** All values by name, of the knobs that the model has. */
  get values() {
    const offered = [...this.controls].filter(([, { input }]) => !input.closest(".knob").hidden);
    return Object.fromEntries(offered.map(([name, { read }]) => [name, read()]));
  }

  /** What differs from the plain: what a new tune is asked for with. */
  get wishes() {
    return kept(this.values, (name, value) => value !== BY_NAME.get(name)?.plain);
  }

  /** What differs from what a tune was asked for with. */
  changesFrom(wishes) {
    return kept(this.values, (name, value) => {
      const was = valueIn(wishes, name);
      return String(value) !== String(was) && !(name === "seed" && value === null);
    });
  }

  /** Turn all knobs to where a tune has them. */
  show(wishes, seed) {
    for (const [name, { write }] of this.controls) {
      write(name === "seed" ? null : valueIn(wishes, name));
    }
    this.#hintForm();
    this.#input("seed").placeholder = seed === undefined ? ANY : String(seed);
  }

  /** Offer what a model knows. */
  offer(model) {
    for (const knob of KNOBS.filter(({ from }) => from)) {
      const control = this.controls.get(knob.name);
      const value = control?.read();
      const options = (model[knob.from] ?? []).map((name) => [name, String(name)]);
      control?.input.replaceChildren(...optionsOf([[null, ANY], ...options]));
      control?.write(value);
    }
    this.#input("bars").max = model.max_bars;
    this.defaultForm = model.default_form;
    this.#hintForm();
    for (const [name, { input }] of this.controls) {
      input.closest(".knob").hidden = name !== "seed" && !model.options.includes(name);
    }
  }

  /** Say of each knob whether it is one of these. */
  mark(names, className) {
    for (const [name, { input }] of this.controls) {
      input.closest(".knob").classList.toggle(className, names.has(name));
    }
  }

  /** Show which form an empty field asks for: a number of bars leaves it to the model. */
  #hintForm() {
    const usual = this.defaultForm ?? "free";
    const isFree = usual === "free" || this.#input("bars").value !== "";
    this.#input("form").placeholder = isFree ? ANY : usual;
  }

  #input(name) {
    return this.controls.get(name)?.input;
  }
}

/** Say a change in words. */
export function changeText(name, before, after) {
  const knob = BY_NAME.get(name);
  if (!knob) return name;
  if (name === "seed") return `another seed, ${after}`;
  const was = before ?? knob.unasked?.({}) ?? knob.plain;
  return `${knob.label} ${valueText(knob, was)} → ${valueText(knob, after)}`;
}

/** What a knob stands at for a tune that was asked for with some wishes. */
function valueIn(wishes, name) {
  const knob = BY_NAME.get(name);
  if (name in wishes) return wishes[name];
  return knob?.unasked ? knob.unasked(wishes) : knob?.plain;
}

function valueText(knob, value) {
  if (value === null || value === undefined) return knob.off === undefined ? ANY : "off";
  if (knob.kind === "dial") return Number(value).toFixed(2);
  return knob.options?.find(([known]) => known === value)?.[1] ?? String(value);
}

function heat(value) {
  if (value < 0.5) return "plain";
  if (value < 0.9) return "at ease";
  return value < 1.15 ? "bold" : "wild";
}

function kept(values, test) {
  return Object.fromEntries(Object.entries(values).filter(([name, value]) => test(name, value)));
}

const MAKERS = { dial, choice, text, number };

function labelled(knob, input, ...more) {
  const id = `knob-${knob.name}`;
  input.id = id;
  input.name = knob.name;
  return el("div", { class: `knob ${knob.kind}` }, el("label", { for: id, text: knob.label }), ...more);
}

function dial(knob, onTurn) {
  const off = knob.off ?? null;
  const input = el("input", { type: "range", min: knob.min, max: knob.max, step: knob.step });
  const told = el("output", { for: `knob-${knob.name}` });
  const face = el("div", { class: "face" }, dialPicture(), input);
  const read = () => (Number(input.value) === off ? null : Number(input.value));
  const draw = () => {
    const turn = (input.value - knob.min) / (knob.max - knob.min);
    face.style.setProperty("--turn", String(turn));
    told.textContent = valueText(knob, read());
    const words = knob.says ? `${told.textContent}, ${knob.says(read())}` : told.textContent;
    input.setAttribute("aria-valuetext", words);
  };
  const write = (value) => {
    input.value = value ?? off ?? knob.plain;
    draw();
  };
  input.addEventListener("input", () => (draw(), onTurn(false)));
  input.addEventListener("change", () => onTurn(true));
  turnable(face, input, knob);
  write(knob.plain);
  return { element: labelled(knob, input, face, told), read, write, input };
}

function dialPicture() {
  const ring = (name) => svg("circle", { class: name, cx: 32, cy: 32, r: 26, pathLength: 100 });
  const hand = svg("line", { class: "hand", x1: 32, y1: 22, x2: 32, y2: 12 });
  const cap = svg("circle", { class: "cap", cx: 32, cy: 32, r: 19 });
  return svg("svg", { viewBox: "0 0 64 64", "aria-hidden": "true" },
    ring("track"), ring("arc"), cap, hand);
}

/** Let a dial be turned by dragging up or to the right, as knobs of instruments are. */
function turnable(face, input, knob) {
  let held = null;
  const turn = (event) => {
    if (!held) return;
    const way = event.clientX - held.x + (held.y - event.clientY);
    const value = held.value + (way / 180) * (knob.max - knob.min);
    if (String(value) === input.value) return;
    const before = input.value;
    input.value = String(value);
    if (input.value !== before) input.dispatchEvent(new Event("input"));
  };
  face.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    input.focus();
    held = { x: event.clientX, y: event.clientY, value: Number(input.value), was: input.value };
    face.setPointerCapture(event.pointerId);
  });
  face.addEventListener("pointermove", turn);
  for (const name of ["pointerup", "pointercancel"]) {
    face.addEventListener(name, () => {
      if (held && held.was !== input.value) input.dispatchEvent(new Event("change"));
      held = null;
    });
  }
  face.addEventListener("dblclick", () => {
    input.value = knob.off ?? knob.plain;
    input.dispatchEvent(new Event("input"));
    input.dispatchEvent(new Event("change"));
  });
}

function optionsOf(pairs) {
  return pairs.map(([value, text]) => el("option", { value: value === null ? "" : value, text }));
}

function choice(knob, onTurn) {
  const pairs = knob.options ?? [[null, ANY]];
  const input = el("select", {}, ...optionsOf(pairs));
  const known = new Map(pairs.map(([value]) => [String(value ?? ""), value]));
  const read = () => (known.has(input.value) ? known.get(input.value) : input.value);
  const write = (value) => {
    const text = String(value ?? "");
    if (![...input.options].some((option) => option.value === text)) {
      input.append(...optionsOf([[value, text]]));
      if (knob.options) known.set(text, value);
    }
    input.value = text;
  };
  input.addEventListener("change", () => onTurn(true));
  write(knob.plain);
  return { element: labelled(knob, input, input), read, write, input };
}

function text(knob, onTurn) {
  const list = el("datalist", { id: `list-${knob.name}` }, ...optionsOf((knob.list ?? []).map((n) => [n, n])));
  const input = el("input", { type: "text", placeholder: knob.hint, maxlength: 24, autocomplete: "off",
    spellcheck: "false", list: knob.list ? list.id : null });
  input.addEventListener("change", () => onTurn(true));
  const read = () => input.value.trim() || null;
  const write = (value) => (input.value = value ?? "");
  return { element: labelled(knob, input, input, list), read, write, input };
}

function number(knob, onTurn) {
  const input = el("input", { type: "number", min: knob.min, max: knob.max, step: knob.step,
    placeholder: knob.hint ?? ANY, inputmode: "numeric" });
  input.addEventListener("change", () => onTurn(true));
  const read = () => (input.value === "" ? null : Number(input.value));
  const write = (value) => (input.value = value ?? "");
  return { element: labelled(knob, input, input), read, write, input };
}
