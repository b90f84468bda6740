/** The tunes of this visit: a line of undo and redo, and the list of all of them. */

/**
 * @typedef {object} Entry
 * @property {number} number from 1, in order of arrival
 * @property {any} tune the server's JSON
 * @property {string} label what the user did
 * @property {Record<string, any> | null} request the job that made it; null: loaded from a link
 * @property {Entry | null} parent the tune that it is a variant of
 * @property {Record<string, any>} settings the options to show; a variant that keeps parts has those of
 *   its parent too, although the kept notes settle them
 * @property {import("./locks.js").Locks} locked bars of its parts
 * @property {{bars: Set<number>, parts: Set<number>[], notes: number[], measures: number[]} | null} changed
 *   from its parent
 */

export class TuneHistory {
  /** @type {Entry[]} */ all = [];
  /** @type {Entry[]} */ #undoLine = [];
  #index = -1;

  /** @returns {Entry | null} */
  get current() {
    return this.#undoLine[this.#index] ?? null;
  }

  get canUndo() {
    return this.#index > 0;
  }

  get canRedo() {
    return this.#index < this.#undoLine.length - 1;
  }

  /** Make an entry the current one. Undone entries can no longer be redone, but stay in `all`. */
  push(entry) {
    this.#undoLine.length = this.#index + 1;
    this.#undoLine.push(entry);
    this.#index += 1;
    if (this.all.includes(entry)) return;
    this.all.push(entry);
    entry.number = this.all.length;
  }

  undo() {
    if (this.canUndo) this.#index -= 1;
    return this.current;
  }

  redo() {
    if (this.canRedo) this.#index += 1;
    return this.current;
  }
}
