/** The controls of the generation settings: one table of options, and the inputs made from it. */

import { html, svg } from "/static/render/dom.js";

const ANY = "any";
const INSTRUMENTS = [
  [0, "piano"], [6, "harpsichord"], [9, "glockenspiel"], [11, "vibraphone"], [12, "marimba"],
  [16, "organ"], [21, "accordion"], [22, "harmonica"], [24, "guitar"], [25, "steel guitar"],
  [40, "violin"], [42, "cello"], [46, "harp"], [56, "trumpet"], [65, "alto sax"], [68, "oboe"],
  [71, "clarinet"], [72, "piccolo"], [73, "flute"], [74, "recorder"], [75, "pan flute"],
  [78, "whistle"], [79, "ocarina"], [105, "banjo"], [109, "bagpipe"], [110, "fiddle"],
];
const MAX_TEXT = 100; // characters that the server accepts
const DRAG_PIXELS = 180; // that turn a dial from its minimum to its maximum

/**
 * An option of a generation request and its control; the bounds of its input, or its choices, come with
 * the model (`controls` of GET /api/models). `wishes` below is the API's name for the options
 * that a tune was requested with; those that have their default value are left out of it.
 *
 * @typedef {object} Option
 * @property {string} name as on the command line and in the API
 * @property {string} label
 * @property {"dial" | "choice" | "text" | "number"} kind
 * @property {any} default what the server assumes where the option is missing
 * @property {boolean} [more] belongs under "More"
 * @property {string} [from] of a choice: the list of the model that holds its values; of a text: its
 *   suggestions
 * @property {[any, string][]} [options] of a choice: fixed values and their labels
 * @property {any} [off] of a dial: the position that switches the option off
 * @property {(value: number) => string} [describe] of a dial: its value in words, for screen readers
 * @property {string[]} [list] of a text: suggestions
 * @property {string} [hint] placeholder of an empty field
 * @property {(wishes: any) => any} [missingValue] the value of a tune whose wishes leave it out, where
 *   that is not the default
 */

/** @type {(Option & Record<string, any>)[]} */
const OPTIONS = [
  { name: "temperature", label: "Temperature", kind: "dial", default: 0.8,
    describe: temperatureLabel },
  { name: "key", label: "Key", kind: "choice", default: null, from: "keys" },
  { name: "meter", label: "Meter", kind: "choice", default: null, from: "meters" },
  { name: "rhythm", label: "Rhythm", kind: "choice", default: null, from: "rhythms" },
  { name: "bars", label: "Bars", kind: "number", default: null },
  { name: "form", label: "Form", kind: "text", default: null, from: "forms", hint: ANY,
    missingValue: (wishes) => (wishes.min_bars ? null : "free") },
  { name: "top_p", label: "Top-p", kind: "dial", default: null, off: 1, more: true },
  { name: "min_p", label: "Min-p", kind: "dial", default: null, off: 0, more: true },
  { name: "top_k", label: "Top-k", kind: "number", default: null, more: true },
  { name: "tempo", label: "Tempo", kind: "number", default: null, more: true },
  { name: "program", label: "Instrument", kind: "choice", default: 0, options: INSTRUMENTS,
    more: true },
  { name: "parts", label: "Parts", kind: "text", default: null,
    list: ["melody,bass", "melody,bass,drums", "drums"], hint: "melody,bass,drums", more: true },
  { name: "density", label: "Density", kind: "text", default: null, hint: "drums=low", more: true },
  { name: "accompaniment", label: "Accompaniment", kind: "choice", default: "none", more: true },
  { name: "range", label: "Range", kind: "text", default: null, hint: "D4-B5", more: true },
  { name: "pickup", label: "Pickup", kind: "text", default: null, list: ["none", "1/8", "1/4"],
    hint: ANY, more: true },
  { name: "end", label: "Last note", kind: "choice", default: "any", more: true },
  { name: "max_copy", label: "Copy limit", kind: "number", default: null, hint: "notes", more: true },
  { name: "seed", label: "Seed", kind: "number", default: null, min: 0, max: 2 ** 53 - 1, step: 1,
    more: true },
];

const OPTIONS_BY_NAME = new Map(OPTIONS.map((option) => [option.name, option]));

export class Controls {
  /**
   * @param {HTMLElement} main receives the usual controls
   * @param {HTMLElement} more receives the others
   * @param {(isFinal: boolean) => void} onChange after each change; not final: a dial is still turning
   */
  constructor(main, more, onChange) {
    /** @type {Map<string, {read: () => any, write: (value: any) => void, input: any}>} */
    this.controls = new Map();
    /** @type {Record<string, any>} the model's own defaults, by option name */
    this.defaults = {};
    for (const option of OPTIONS) {
      const { element, ...control } = FACTORIES[option.kind](option, onChange);
      this.controls.set(option.name, control);
      (option.more ? more : main).append(element);
    }
    this.#input("bars").addEventListener("input", () => this.#updateFormHint());
  }

  /** The values by option name, of the options that the model has. */
  get values() {
    const offered = [...this.controls].filter(([, { input }]) => !input.closest(".knob").hidden);
    return Object.fromEntries(offered.map(([name, { read }]) => [name, read()]));
  }

  /** Set a value as if the user had entered it. */
  set(name, value) {
    const control = this.controls.get(name);
    control?.write(value);
    control?.input.dispatchEvent(new Event("change"));
  }

  /** The options of a new request: the values that are not the model's default. */
  get wishes() {
    const wishes = filterEntries(this.values, (name, value) => value !== this.#defaultOf(name));
    for (const name of Object.keys(this.defaults)) {
      if (wishes[name] === null) wishes[name] = OPTIONS_BY_NAME.get(name)?.off; // off, not the default
    }
    return wishes;
  }

  #defaultOf(name) {
    return this.defaults[name] ?? OPTIONS_BY_NAME.get(name)?.default;
  }

  /** Return the values that differ from those of a tune. */
  changesFrom(wishes) {
    return filterEntries(this.values, (name, value) => {
      const isRandomSeed = name === "seed" && value === null;
      return String(value) !== String(valueIn(wishes, name)) && !isRandomSeed;
    });
  }

  /** Set all controls to the values of a tune; its seed is shown as a hint only. */
  show(wishes, seed) {
    for (const [name, { write }] of this.controls) {
      write(name === "seed" ? null : valueIn(wishes, name));
    }
    this.#updateFormHint();
    this.#input("seed").placeholder = seed === undefined ? ANY : String(seed);
  }

  /** Offer the options and values that a model supports. */
  setModel(model) {
    for (const option of OPTIONS.filter(({ from }) => from)) {
      const values = (model[option.from] ?? []).map((name) => [name, String(name)]);
      if (option.kind === "text") this.#input(option.name).list.replaceChildren(...createOptions(values));
      else this.#replaceChoices(option.name, [[null, ANY], ...values]);
    }
    for (const [name, { choices, ...bounds }] of Object.entries(model.controls)) {
      if (choices) this.#replaceChoices(name, choices.map((value) => [value, value]));
      else this.#setBounds(name, bounds);
    }
    this.#setDefaults(model.defaults);
    this.defaultForm = model.default_form;
    this.#updateFormHint();
    for (const [name, { input }] of this.controls) {
      const isOffered = name === "density" ? model.density_roles.length > 0 : model.options.includes(name);
      input.closest(".knob").hidden = name !== "seed" && !isOffered;
    }
  }

  /** Move the controls that stand at the default of the last model to that of this one. */
  #setDefaults(defaults) {
    const names = new Set([...Object.keys(this.defaults), ...Object.keys(defaults)]);
    const atDefault = [...names].filter((name) => this.controls.get(name)?.read() === this.#defaultOf(name));
    this.defaults = defaults;
    for (const name of atDefault) this.controls.get(name)?.write(this.#defaultOf(name));
    for (const name of names) this.#input(name).dataset.reset = this.#defaultOf(name) ?? "";
  }

  /** Mark the controls that differ from the current tune. @param {Set<string>} names */
  markChanged(names) {
    for (const [name, { input }] of this.controls) {
      input.closest(".knob").classList.toggle("moved", names.has(name));
    }
  }

  /** Show the form that an empty field stands for: with a number of bars, the model chooses one. */
  #updateFormHint() {
    const defaultForm = this.defaultForm ?? "free";
    const isFree = defaultForm === "free" || this.#input("bars").value !== "";
    this.#input("form").placeholder = isFree ? ANY : defaultForm;
  }

  #replaceChoices(name, pairs) {
    const control = this.controls.get(name);
    const value = control?.read();
    control?.input.replaceChildren(...createOptions(pairs));
    control?.write(value);
  }

  #setBounds(name, { min, max, step }) {
    const control = this.controls.get(name);
    if (!control) return; // an option without a control on the page
    const value = control.read();
    Object.assign(control.input, { min, max, step });
    control.write(value);
  }

  #input(name) {
    return this.controls.get(name)?.input;
  }
}

/** Describe a change: "Temperature 0.80 → 0.90". */
export function describeChange(name, before, after) {
  const option = OPTIONS_BY_NAME.get(name);
  if (!option) return name;
  if (name === "seed") return `Seed ${after}`;
  const valueBefore = before ?? option.missingValue?.({}) ?? option.default;
  return `${option.label} ${formatValue(option, valueBefore)} → ${formatValue(option, after)}`;
}

/** Return the value of an option in a tune's wishes. */
function valueIn(wishes, name) {
  const option = OPTIONS_BY_NAME.get(name);
  if (name in wishes) return wishes[name];
  return option?.missingValue ? option.missingValue(wishes) : option?.default;
}

function formatValue(option, value) {
  if (value === null || value === undefined) return option.off === undefined ? ANY : "off";
  if (option.kind === "dial") return Number(value).toFixed(2);
  return option.options?.find(([each]) => each === value)?.[1] ?? String(value);
}

function temperatureLabel(value) {
  if (value < 0.5) return "low";
  if (value < 0.9) return "medium";
  return value < 1.15 ? "high" : "very high";
}

function filterEntries(values, test) {
  return Object.fromEntries(Object.entries(values).filter(([name, value]) => test(name, value)));
}

const FACTORIES = { dial: createDial, choice: createChoice, text: createText, number: createNumber };

function wrapWithLabel(option, input, ...children) {
  const id = `knob-${option.name}`;
  input.id = id;
  input.name = option.name;
  return html("div", { class: `knob ${option.kind}` }, html("label", { for: id, text: option.label }), ...children);
}

function createDial(option, onChange) {
  const off = option.off ?? null;
  const input = html("input", { type: "range", step: "any" }); // its bounds come with the model
  const output = html("output", { for: `knob-${option.name}` });
  const face = html("div", { class: "face" }, createDialPicture(), input);
  const read = () => (Number(input.value) === off ? null : Number(input.value));
  const draw = () => {
    const turn = (input.value - input.min) / (input.max - input.min);
    face.style.setProperty("--turn", String(turn));
    output.textContent = formatValue(option, read());
    const spoken = option.describe ? `${output.textContent}, ${option.describe(read())}` : output.textContent;
    input.setAttribute("aria-valuetext", spoken);
  };
  const write = (value) => {
    input.value = value ?? off ?? option.default;
    draw();
  };
  input.addEventListener("input", () => (draw(), onChange(false)));
  input.addEventListener("change", () => onChange(true));
  makeDraggable(face, input, option);
  write(option.default);
  return { element: wrapWithLabel(option, input, face, output), read, write, input };
}

function createDialPicture() {
  const ring = (name) => svg("circle", { class: name, cx: 32, cy: 32, r: 26, pathLength: 100 });
  const hand = svg("line", { class: "hand", x1: 32, y1: 22, x2: 32, y2: 12 });
  const cap = svg("circle", { class: "cap", cx: 32, cy: 32, r: 19 });
  return svg("svg", { viewBox: "0 0 64 64", "aria-hidden": "true" },
    ring("track"), ring("arc"), cap, hand);
}

/** Let a dial be turned by dragging up or right, as in music software; a double click resets it. */
function makeDraggable(face, input, option) {
  let start = null; // where the drag began, and the value then
  const turn = (event) => {
    if (!start) return;
    const distance = event.clientX - start.x + (start.y - event.clientY);
    const value = start.value + (distance / DRAG_PIXELS) * (input.max - input.min);
    const textBefore = input.value;
    input.value = String(value); // the slider rounds to its steps
    if (input.value !== textBefore) input.dispatchEvent(new Event("input"));
  };
  face.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    input.focus();
    start = { x: event.clientX, y: event.clientY, value: Number(input.value), text: input.value };
    face.setPointerCapture(event.pointerId);
  });
  face.addEventListener("pointermove", turn);
  for (const name of ["pointerup", "pointercancel"]) {
    face.addEventListener(name, () => {
      if (start && start.text !== input.value) input.dispatchEvent(new Event("change"));
      start = null;
    });
  }
  face.addEventListener("dblclick", () => {
    input.value = input.dataset.reset || String(option.off ?? option.default);
    input.dispatchEvent(new Event("input"));
    input.dispatchEvent(new Event("change"));
  });
}

function createOptions(pairs) {
  return pairs.map(([value, label]) => html("option", { value: value === null ? "" : value, text: label }));
}

function createChoice(option, onChange) {
  const pairs = option.options ?? [[null, ANY]];
  const input = html("select", {}, ...createOptions(pairs));
  const valuesByText = new Map(pairs.map(([value]) => [String(value ?? ""), value]));
  const read = () => (valuesByText.has(input.value) ? valuesByText.get(input.value) : input.value);
  const write = (value) => {
    const text = String(value ?? "");
    if (![...input.options].some((each) => each.value === text)) { // a tune of another model has it
      input.append(...createOptions([[value, text]]));
      if (option.options) valuesByText.set(text, value);
    }
    input.value = text;
  };
  input.addEventListener("change", () => onChange(true));
  write(option.default);
  return { element: wrapWithLabel(option, input, input), read, write, input };
}

function createText(option, onChange) {
  const suggestions = (option.list ?? []).map((text) => [text, text]);
  const list = html("datalist", { id: `list-${option.name}` }, ...createOptions(suggestions));
  const input = html("input", { type: "text", placeholder: option.hint, maxlength: MAX_TEXT, autocomplete: "off",
    spellcheck: "false", list: option.list || option.from ? list.id : null });
  input.addEventListener("change", () => onChange(true));
  const read = () => input.value.trim() || null;
  const write = (value) => (input.value = value ?? "");
  return { element: wrapWithLabel(option, input, input, list), read, write, input };
}

function createNumber(option, onChange) {
  const bounds = { min: option.min, max: option.max, step: option.step };
  const input = html("input", { type: "number", ...bounds, placeholder: option.hint ?? ANY, inputmode: "numeric" });
  input.addEventListener("change", () => onChange(true));
  const read = () => (input.value === "" ? null : Number(input.value));
  const write = (value) => (input.value = value ?? "");
  return { element: wrapWithLabel(option, input, input), read, write, input };
}
