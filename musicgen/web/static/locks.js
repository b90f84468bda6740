/** Which bars of which parts are locked; a value that never changes. */

import { formatBars, formatKeep } from "./bar_ranges.js";

export class Locks {
  #parts;
  #barCount;

  /** @param {number} partCount @param {number} barCount @param {Iterable<number>[]} parts locked bars by part */
  constructor(partCount, barCount, parts = []) {
    const bars = (part) => [...(parts[part] ?? [])].filter((bar) => bar <= barCount);
    this.#parts = Array.from({ length: partCount }, (_, part) => new Set(bars(part)));
    this.#barCount = barCount;
  }

  get isEmpty() {
    return this.#parts.every((bars) => !bars.size);
  }

  get isFull() {
    return this.#parts.every((bars) => bars.size === this.#barCount);
  }

  /** The bars that are locked in all parts. */
  get bars() {
    return this.#barsWhere((locked) => locked.every(Boolean));
  }

  /** The bars that are locked in some parts, but not in all. */
  get partlyLocked() {
    return this.#barsWhere((locked) => locked.some(Boolean) && !locked.every(Boolean));
  }

  /** What stays, as `--keep` takes it: "1-8" of all parts, or parts by number: "1:1-8,3:all". */
  get keep() {
    if (!this.partlyLocked.size) return formatKeep(this.bars);
    return this.#describeParts((part) => `${part + 1}:`, "all", formatKeep).join();
  }

  has(part, bar) {
    return this.#parts[part].has(bar);
  }

  /** Whether a whole part is locked. */
  hasPart(part) {
    return this.#parts[part].size === this.#barCount;
  }

  /** Return locks for a tune of other parts or bars. */
  fit(partCount, barCount) {
    return new Locks(partCount, barCount, this.#parts);
  }

  /** Lock or unlock some bars of some parts. */
  set(parts, bars, isLocked) {
    const changed = this.#parts.map((locked, part) => {
      if (!parts.includes(part)) return locked;
      return isLocked ? [...locked, ...bars] : [...locked].filter((bar) => !bars.includes(bar));
    });
    return new Locks(this.#parts.length, this.#barCount, changed);
  }

  /** Lock all parts but some, of which only the locked bars stay. */
  keepAllExcept(parts) {
    const others = this.#parts.flatMap((_, part) => (parts.includes(part) ? [] : [part]));
    return this.set(others, range(1, this.#barCount), true);
  }

  /** Describe the locks: "bars 1–8", "Bass, Drums bars 1–4". @param {string[]} names of the parts */
  describe(names) {
    if (!this.partlyLocked.size) return formatBars(this.bars);
    return this.#describeParts((part) => `${names[part]} `, "", formatBars).map((text) => text.trim()).join(", ");
  }

  /** Describe each part that has locked bars. */
  #describeParts(prefix, all, format) {
    return this.#parts.flatMap((bars, part) =>
      (bars.size ? [`${prefix(part)}${this.hasPart(part) ? all : format(bars)}`] : []));
  }

  #barsWhere(test) {
    return new Set(range(1, this.#barCount).filter((bar) => test(this.#parts.map((bars) => bars.has(bar)))));
  }
}

/** Return the numbers from `first` to `last`. */
export function range(first, last) {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
}
