/** The strip of bars: shows progress, the bar that sounds, and locked and changed bars. */

import { html } from "/static/render/dom.js";

export class BarStrip {
  #cells = /** @type {HTMLButtonElement[]} */ ([]);
  #locked = /** @type {Set<number>} */ (new Set());
  #changed = /** @type {Set<number>} */ (new Set());
  #anchor = 1;

  /**
   * @param {HTMLElement} container
   * @param {(locked: Set<number>) => void} onLock receives all locked bars after each change
   */
  constructor(container, onLock) {
    this.container = container;
    this.onLock = onLock;
    container.addEventListener("click", (event) => this.#handleClick(event));
    container.addEventListener("keydown", (event) => this.#handleKey(event));
  }

  /** Show the bars of a tune, with the numbers of those that are locked and changed. */
  show(count, locked, changed) {
    [this.#locked, this.#changed] = [new Set(locked), new Set(changed)];
    this.#resize(count);
    this.#draw();
  }

  /** Lock or unlock a bar; extended: give all bars from the last one toggled its lock state. */
  toggle(bar, isExtended = false) {
    const isLocked = isExtended ? this.#locked.has(this.#anchor) : !this.#locked.has(bar);
    const other = isExtended ? this.#anchor : bar;
    for (let each = Math.min(bar, other); each <= Math.max(bar, other); each += 1) {
      if (isLocked) this.#locked.add(each);
      else this.#locked.delete(each);
    }
    this.#anchor = bar;
    this.#changed = new Set();
    this.#draw();
    this.onLock(new Set(this.#locked));
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
      cell.setAttribute("aria-pressed", String(isLocked));
      cell.setAttribute("aria-label", `Bar ${bar}${isLocked ? ", locked" : ""}${isChanged ? ", changed" : ""}`);
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
