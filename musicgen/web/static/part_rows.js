/** The parts of the current tune as rows: instrument, mute, solo, locks by bar, density and range. */

import { byId, html, svg } from "/static/render/dom.js";
import { barCountOf, barNumbersOf } from "./bar_ranges.js";
import { range } from "./locks.js";
import { roleValue } from "./role_values.js";

const DENSITIES = ["low", "medium", "high"];
const PART_COLOURS = 6; // in tune_view.css

/** Return a name for each part: its own, its role or its number; equal ones are numbered. */
export function namesOf({ parts }) {
  const names = parts.map(({ name, role }, part) => capitalise(name.trim() || role) || `Part ${part + 1}`);
  return names.map((name, part) => {
    const equal = names.flatMap((other, index) => (other === name ? [index] : []));
    return equal.length > 1 ? `${name} ${equal.indexOf(part) + 1}` : name;
  });
}

/**
 * @typedef {object} PartCallbacks
 * @property {(parts: number[], bars: number[], isLocked: boolean) => void} onLock
 * @property {(part: number) => void} onDrawAgain
 * @property {(silent: Set<number>) => void} onMix receives the parts that are not to be heard
 * @property {(option: "density" | "range", role: string, value: string) => void} onRoleValue
 */

export class PartRows {
  #rows = /** @type {PartRow[]} */ ([]);
  #layout = ""; // describes the rows that exist
  #muted = /** @type {Set<number>} */ (new Set());
  #solo = /** @type {Set<number>} */ (new Set());
  #anchor = { part: 0, bar: 1 }; // the cell toggled last, or that has the focus
  #locks = /** @type {import("./locks.js").Locks | null} */ (null);

  /** @param {HTMLElement} section @param {PartCallbacks} callbacks */
  constructor(section, callbacks) {
    this.section = section;
    this.callbacks = callbacks;
    this.list = html("ul");
    section.append(this.list);
    this.list.addEventListener("click", (event) => this.#handleClick(event));
    this.list.addEventListener("keydown", (event) => this.#handleKey(event));
    new ResizeObserver(() => reserveDock(section)).observe(section);
  }

  /** The parts that are not to be heard. */
  get silent() {
    const parts = this.#rows.map((_, part) => part);
    return new Set(parts.filter((part) => (this.#solo.size ? !this.#solo.has(part) : this.#muted.has(part))));
  }

  /**
   * Show the parts of a tune; nothing for a tune of one part.
   * @param {any} tune @param {Record<string, any>} settings the options of the tune
   * @param {string[]} densityRoles the roles whose density the model knows
   */
  show(tune, settings, densityRoles) {
    const hasRows = tune.parts.length > 1 && Boolean(tune.bars);
    this.section.hidden = !hasRows;
    const layout = hasRows ? JSON.stringify([namesOf(tune), tune.parts.map(layoutOf), barCountOf(tune), densityRoles]) : "";
    if (layout !== this.#layout) this.#createRows(hasRows ? tune : { parts: [] }, densityRoles);
    this.#layout = layout;
    for (const row of this.#rows) row.show(tune, settings);
  }

  /** Mark the locked bars. @param {import("./locks.js").Locks} locks */
  markLocked(locks) {
    this.#locks = locks;
    for (const row of this.#rows) row.markLocked(locks);
    this.#updateTabStop();
  }

  /** Mark the bars that changed, by part. @param {Set<number>[]} changed */
  markChanged(changed) {
    for (const [part, row] of this.#rows.entries()) row.markChanged(changed[part] ?? new Set());
  }

  /** Highlight the bar that sounds; null: none. */
  highlight(bar) {
    for (const row of this.#rows) row.highlight(bar);
  }

  #createRows(tune, densityRoles) {
    [this.#muted, this.#solo, this.#anchor] = [new Set(), new Set(), { part: 0, bar: 1 }];
    const names = namesOf(tune);
    this.#rows = tune.parts.map((part, index) =>
      new PartRow(index, part, names[index], barCountOf(tune), densityRoles.includes(part.role), this.callbacks));
    this.list.replaceChildren(...this.#rows.map(({ element }) => element));
    this.callbacks.onMix(this.silent);
  }

  #handleClick(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const part = Number(button.closest("li").dataset.part);
    const { action, bar } = button.dataset;
    if (bar) this.#toggleCell(part, Number(bar), event.shiftKey);
    else if (action === "mute") this.#toggleMix(this.#muted, part);
    else if (action === "solo") this.#toggleMix(this.#solo, part);
    else if (action === "lock") this.#togglePart(part);
    else if (action === "draw") this.callbacks.onDrawAgain(part);
  }

  #toggleMix(parts, part) {
    if (!parts.delete(part)) parts.add(part);
    for (const [index, row] of this.#rows.entries()) row.markMix(this.#muted.has(index), this.#solo.has(index));
    this.callbacks.onMix(this.silent);
  }

  #togglePart(part) {
    const row = this.#rows[part];
    this.callbacks.onLock([part], range(1, row.barCount), !this.#locks?.hasPart(part));
  }

  /** Lock or unlock a cell; extended: give the rectangle from the last cell its lock state. */
  #toggleCell(part, bar, isExtended) {
    const from = isExtended ? this.#anchor : { part, bar };
    const isLocked = isExtended
      ? Boolean(this.#locks?.has(from.part, from.bar)) : !this.#locks?.has(part, bar);
    this.#anchor = { part, bar };
    this.callbacks.onLock(between(from.part, part), between(from.bar, bar), isLocked);
  }

  /** Move the focus between the cells; only one cell at a time is in the tab order. */
  #handleKey(event) {
    const bar = Number(event.target.dataset?.bar);
    if (!bar) return;
    const part = Number(event.target.closest("li").dataset.part);
    const last = this.#rows[part].barCount;
    const target = { ArrowLeft: [part, bar - 1], ArrowRight: [part, bar + 1], ArrowUp: [part - 1, bar],
      ArrowDown: [part + 1, bar], Home: [part, 1], End: [part, last] }[event.key];
    if (!target) return;
    event.preventDefault();
    const row = this.#rows[Math.min(this.#rows.length - 1, Math.max(0, target[0]))];
    const cell = row.cells[Math.min(last, Math.max(1, target[1])) - 1];
    for (const { cells } of this.#rows) for (const other of cells) other.tabIndex = other === cell ? 0 : -1;
    cell.focus();
  }

  #updateTabStop() {
    const { part, bar } = this.#anchor;
    for (const [index, { cells }] of this.#rows.entries()) {
      for (const [number, cell] of cells.entries()) cell.tabIndex = index === part && number + 1 === bar ? 0 : -1;
    }
  }
}

/** One part. */
class PartRow {
  #changed = /** @type {Set<number>} */ (new Set());
  #locks = /** @type {import("./locks.js").Locks | null} */ (null);
  #sounding = /** @type {Set<number>} */ (new Set());

  constructor(index, { role, instrument }, name, barCount, hasDensity, callbacks) {
    [this.index, this.role, this.name, this.barCount] = [index, role, name, barCount];
    this.mute = createToggle("mute", "M", `Mute ${name}`);
    this.solo = createToggle("solo", "S", `Solo ${name}`);
    this.lock = createToggle("lock", "", `Lock ${name}`, createIcon("lock"));
    this.draw = html("button", { type: "button", class: "draw", "data-action": "draw", text: "Draw again",
      "aria-label": `Draw again: ${name}` });
    this.density = role && hasDensity ? this.#createDensity(callbacks) : null;
    this.range = role && role !== "drums" ? this.#createRange(callbacks) : null;
    this.cells = range(1, barCount).map((bar) => html("button", { type: "button", class: "cell", "data-bar": bar, text: bar }));
    const cells = html("div", { class: "cells", role: "group", "aria-label": `Bars of ${name}: press to lock` }, ...this.cells);
    cells.style.setProperty("--columns", String(Math.min(32, Math.max(8, barCount))));
    this.element = html("li", { class: `part-row part-${index % PART_COLOURS}`, "data-part": index, "data-role": role },
      html("div", { class: "part-head" },
        html("h3", {}, html("span", { class: "part-colour", "aria-hidden": "true" }), name,
          html("span", { class: "facts", text: instrument })),
        this.mute, this.solo, this.lock, this.draw, this.density?.parentElement, this.range?.parentElement),
      cells);
  }

  show(tune, settings) {
    const numbers = barNumbersOf(tune);
    this.#sounding = new Set(tune.parts[this.index].measures.map((measure) => numbers[measure]));
    if (this.density) this.density.value = roleValue(settings.density, this.role) ?? "";
    if (this.range) this.range.value = roleValue(settings.range, this.role) ?? "";
    this.#draw();
  }

  markLocked(locks) {
    this.#locks = locks;
    const isWhole = locks.hasPart(this.index);
    this.lock.setAttribute("aria-pressed", String(isWhole));
    for (const control of [this.draw, this.density, this.range]) if (control) control.disabled = isWhole;
    this.#draw();
  }

  markChanged(changed) {
    this.#changed = changed;
    this.#draw();
  }

  markMix(isMuted, isSolo) {
    this.mute.setAttribute("aria-pressed", String(isMuted));
    this.solo.setAttribute("aria-pressed", String(isSolo));
  }

  highlight(bar) {
    for (const [index, cell] of this.cells.entries()) cell.classList.toggle("sounding", index + 1 === bar);
  }

  #draw() {
    for (const [index, cell] of this.cells.entries()) {
      const bar = index + 1;
      const [isLocked, isChanged] = [Boolean(this.#locks?.has(this.index, bar)), this.#changed.has(bar)];
      const rests = !this.#sounding.has(bar);
      const facts = [rests && "rest", isLocked && "locked", isChanged && "changed"].filter(Boolean);
      cell.setAttribute("aria-pressed", String(isLocked));
      cell.setAttribute("aria-label", [`${this.name}, bar ${bar}`, ...facts].join(", "));
      cell.title = cell.getAttribute("aria-label");
      cell.classList.toggle("changed", isChanged);
      cell.classList.toggle("rests", rests);
    }
  }

  #createDensity(callbacks) {
    const options = [["", "any"], ...DENSITIES.map((name) => [name, name])];
    const select = html("select", { "aria-label": `Density of ${this.name}` },
      ...options.map(([value, text]) => html("option", { value, text })));
    select.addEventListener("change", () => callbacks.onRoleValue("density", this.role, select.value));
    html("label", { class: "facts" }, "Density ", select);
    return select;
  }

  #createRange(callbacks) {
    const input = html("input", { type: "text", placeholder: "any", maxlength: 12, autocomplete: "off",
      spellcheck: "false", "aria-label": `Range of ${this.name}, such as C2-G3` });
    input.addEventListener("change", () => callbacks.onRoleValue("range", this.role, input.value.trim()));
    html("label", { class: "facts" }, "Range ", input);
    return input;
  }
}

function createToggle(action, text, label, icon = null) {
  return html("button", { type: "button", class: "toggle", "data-action": action, "aria-pressed": "false",
    "aria-label": label, title: label }, text, icon);
}

function createIcon(name) {
  return svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** Where the rows stay at the bottom of the window, tell the score how much of it they cover. */
function reserveDock(section) {
  const isDocked = !section.hidden && getComputedStyle(section).position === "sticky";
  document.documentElement.style.setProperty("--docked", isDocked ? `${section.offsetHeight}px` : "0px");
}

/** What the rows show of a part, apart from its notes. */
function layoutOf({ role, instrument }) {
  return [role, instrument];
}

function between(a, b) {
  return range(Math.min(a, b), Math.max(a, b));
}

function capitalise(word) {
  return word && `${word[0].toUpperCase()}${word.slice(1)}`;
}
