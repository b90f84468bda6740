/** Writes one tune at a time: a newer wish takes the place of the one under way. */

import * as api from "./api.js";

/** A wish that was taken back: nothing to tell. */
export class Cancelled extends Error {}

export class Writer {
  /** @type {AbortController | null} */ #under = null;

  /** @param {(state: any | null) => void} onState told how far the work is; null: none under way */
  constructor(onState) {
    this.onState = onState;
  }

  get isBusy() {
    return this.#under !== null;
  }

  /** Write a tune. Raises Cancelled where a newer one, or the person, came between. */
  async write(asked) {
    this.cancel();
    const mine = new AbortController();
    this.#under = mine;
    this.onState({ state: "waiting", ahead: 0, bars: 0, of: null });
    try {
      const tune = await api.written(asked, mine.signal, (state) => mine === this.#under && this.onState(state));
      if (mine.signal.aborted) throw new Cancelled();
      return tune;
    } catch (fault) {
      throw mine.signal.aborted ? new Cancelled() : fault;
    } finally {
      if (this.#under === mine) this.#rest();
    }
  }

  cancel() {
    this.#under?.abort();
    if (this.#under) this.#rest();
  }

  #rest() {
    this.#under = null;
    this.onState(null);
  }
}
