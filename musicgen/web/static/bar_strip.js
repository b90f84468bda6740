/** The strip of bars: shows progress, the bar that sounds, and locked and changed bars. */

import { html } from "/static/render/dom.js";
import { range } from "./locks.js";

export class BarStrip {
  #cells = /** @type {HTMLButtonElement[]} */ ([]);
  #locked = /** @type {Set<number>} */ (new Set());
  #partlyLocked = /** @type {Set<number>} */ (new Set()); // in some parts
  #changed = /** @type {Set<number>} */ (new Set());
  #anchor = 1;

  /**
   * @param {HTMLElement} container
   * @param {(bars: number[], isLocked: boolean) => void} onLock receives the bars to lock or unlock
   */
  constructor(container, onLock) {
    this.container = container;
    this.onLock = onLock;
    container.addEventListener("click", (event) => this.#handleClick(event));
    container.addEventListener("keydown", (event) => this.#handleKey(event));
  }

  /** Show the bars of a tune, with the numbers of those that changed. */
  show(count, changed) {
    this.#changed = changed;
    this.#resize(count);
    this.#draw();
  }

  /** Mark the locked bars. @param {import("./locks.js").Locks} locks */
  markLocked(locks) {
    [this.#locked, this.#partlyLocked] = [locks.bars, locks.partlyLocked];
    this.#draw();
  }

  /** Lock or unlock a bar; extended: give all bars from the last one toggled its lock state. */
  toggle(bar, isExtended = false) {
    const isLocked = isExtended ? this.#locked.has(this.#anchor) : !this.#locked.has(bar);
    const other = isExtended ? this.#anchor : bar;
    this.#anchor = bar;
    this.#changed = new Set();
    this.onLock(range(Math.min(bar, other), Math.max(bar, other)), isLocked);
  }

  /** Highlight the bar that sounds; null: none. */
  highlight(bar) {
    this.#cells.forEach((cell, index) => cell.classList.toggle("sounding", index + 1 === bar));
  }

  /** Show the progress of a generation: bars done, and bars in total (null: unknown). */
  showProgress(done, total) {
    this.container.classList.add("filling");
    this.container.style.setProperty("--progress", String(total ? Math.min(1, done / total) : 0));
  }

  hideProgress() {
    this.container.classList.remove("filling");
  }

  #resize(count) {
    this.container.style.setProperty("--columns", String(Math.min(16, Math.max(8, count))));
    while (this.#cells.length > count) this.#cells.pop()?.remove();
    while (this.#cells.length < count) {
      const bar = this.#cells.length + 1;
      const cell = html("button", { type: "button", class: "cell", "data-bar": bar, text: bar });
      this.#cells.push(cell);
      this.container.append(cell);
    }
  }

  #draw() {
    this.#cells.forEach((cell, index) => {
      const bar = index + 1;
      const [isLocked, isChanged] = [this.#locked.has(bar), this.#changed.has(bar)];
      const isPartlyLocked = this.#partlyLocked.has(bar);
      const lockState = isPartlyLocked ? "locked in some parts" : isLocked && "locked";
      cell.setAttribute("aria-pressed", isPartlyLocked ? "mixed" : String(isLocked));
      cell.setAttribute("aria-label", [`Bar ${bar}`, lockState, isChanged && "changed"].filter(Boolean).join(", "));
      cell.classList.toggle("changed", isChanged);
      cell.tabIndex = bar === Math.min(this.#anchor, this.#cells.length) ? 0 : -1;
    });
  }

  #handleClick(event) {
    const cell = event.target.closest(".cell");
    if (cell) this.toggle(Number(cell.dataset.bar), event.shiftKey);
  }

  /** Move the focus; only one cell at a time is in the tab order. */
  #handleKey(event) {
    const bar = Number(event.target.dataset?.bar);
    const last = this.#cells.length;
    const target = { ArrowLeft: bar - 1, ArrowRight: bar + 1, ArrowUp: bar - 8, ArrowDown: bar + 8,
      Home: 1, End: last }[event.key];
    if (!bar || target === undefined) return;
    event.preventDefault();
    const cell = this.#cells[Math.min(last, Math.max(1, target)) - 1];
    this.#cells[bar - 1].tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  }
}
