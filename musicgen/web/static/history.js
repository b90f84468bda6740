/** Every tune of this visit: a line to undo and redo along, and all of them to come back to. */

/**
 * @typedef {object} Take
 * @property {number} number from 1, in the order in which they came
 * @property {any} tune what the server says of it
 * @property {string} label what was done
 * @property {Record<string, any> | null} asked what it was asked for with; null: brought back
 * @property {Take | null} from what it was made from
 * @property {Set<number>} locked numbers of bars
 * @property {{bars: Set<number>, notes: number[]} | null} changed against what it was made from
 */

export class History {
  /** @type {Take[]} */ all = [];
  /** @type {Take[]} */ #line = [];
  #at = -1;

  /** @returns {Take | null} */
  get current() {
    return this.#line[this.#at] ?? null;
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at < this.#line.length - 1;
  }

  /** Go on from here; what was undone leaves the line, and stays among all. */
  push(take) {
    this.#line.length = this.#at + 1;
    this.#line.push(take);
    this.#at += 1;
    if (!this.all.includes(take)) this.all.push(Object.assign(take, { number: this.all.length + 1 }));
    return take;
  }

  undo() {
    if (this.canUndo) this.#at -= 1;
    return this.current;
  }

  redo() {
    if (this.canRedo) this.#at += 1;
    return this.current;
  }
}
