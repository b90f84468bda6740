/** The strip of bars: it fills while a tune is written, lights up as it sounds, locks what stays. */

import { el } from "./dom.js";

export class BarStrip {
  #cells = /** @type {HTMLButtonElement[]} */ ([]);
  #locked = /** @type {Set<number>} */ (new Set());
  #changed = /** @type {Set<number>} */ (new Set());
  #anchor = 1;

  /**
   * @param {HTMLElement} home
   * @param {(locked: Set<number>) => void} onLock told of all locked bars after each change
   */
  constructor(home, onLock) {
    this.home = home;
    this.onLock = onLock;
    home.addEventListener("click", (event) => this.#clicked(event));
    home.addEventListener("keydown", (event) => this.#moved(event));
  }

  /** Show the bars of a tune. */
  show(count, locked, changed) {
    [this.#locked, this.#changed] = [new Set(locked), new Set(changed)];
    this.#resize(count);
    this.#draw();
  }

  /** Lock or unlock a bar, or with `through` all from the last one touched. */
  toggle(number, through = false) {
    const on = through ? this.#locked.has(this.#anchor) : !this.#locked.has(number);
    const [first, last] = through ? ordered(this.#anchor, number) : [number, number];
    for (let bar = first; bar <= last; bar += 1) this.#set(bar, on);
    this.#anchor = number;
    this.#changed = new Set();
    this.#draw();
    this.onLock(new Set(this.#locked));
  }

  /** Light the bar that sounds; null: none. */
  light(number) {
    this.#cells.forEach((cell, index) => cell.classList.toggle("sounding", index + 1 === number));
  }

  /** Fill bars up while a tune is written. */
  fill(written, of) {
    this.home.classList.add("filling");
    this.home.style.setProperty("--written", String(of ? Math.min(1, written / of) : 0));
  }

  /** Show that nothing is being written. */
  rest() {
    this.home.classList.remove("filling");
  }

  #set(bar, on) {
    if (on) this.#locked.add(bar);
    else this.#locked.delete(bar);
  }

  #resize(count) {
    this.home.style.setProperty("--across", String(Math.min(16, Math.max(8, count))));
    while (this.#cells.length > count) this.#cells.pop()?.remove();
    while (this.#cells.length < count) {
      const number = this.#cells.length + 1;
      const cell = el("button", { type: "button", class: "cell", "data-bar": number, text: number });
      this.#cells.push(cell);
      this.home.append(cell);
    }
  }

  #draw() {
    this.#cells.forEach((cell, index) => {
      const bar = index + 1;
      const [locked, changed] = [this.#locked.has(bar), this.#changed.has(bar)];
      cell.setAttribute("aria-pressed", String(locked));
      cell.setAttribute("aria-label", `Bar ${bar}${locked ? ", locked" : ""}${changed ? ", changed" : ""}`);
      cell.classList.toggle("changed", changed);
      cell.tabIndex = bar === Math.min(this.#anchor, this.#cells.length) ? 0 : -1;
    });
  }

  #clicked(event) {
    const cell = event.target.closest(".cell");
    if (cell) this.toggle(Number(cell.dataset.bar), event.shiftKey);
  }

  #moved(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8 }[event.key];
    const at = Number(event.target.dataset?.bar);
    const ends = { Home: 1, End: this.#cells.length }[event.key];
    if (!at || !(step || ends)) return;
    event.preventDefault();
    const to = Math.min(this.#cells.length, Math.max(1, ends ?? at + step));
    this.#cells[at - 1].tabIndex = -1;
    this.#cells[to - 1].tabIndex = 0;
    this.#cells[to - 1].focus();
  }
}

function ordered(a, b) {
  return a < b ? [a, b] : [b, a];
}
