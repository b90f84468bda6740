/** Runs one generation request at a time: a new request cancels the one in progress. */

import * as api from "./api.js";

/** The request was cancelled, by the user or by a newer one. Not an error to show. */
export class Cancelled extends Error {}

export class GenerationJob {
  /** @type {AbortController | null} */ #controller = null;

  /** @param {(state: any | null) => void} onProgress receives the job's state; null: none in progress */
  constructor(onProgress) {
    this.onProgress = onProgress;
  }

  /** Generate a tune. Throws Cancelled where the user or a newer request cancelled it. */
  async run(request) {
    this.cancel();
    const controller = new AbortController();
    this.#controller = controller;
    this.onProgress({ state: "waiting", ahead: 0, bars: 0, of: null });
    const onState = (state) => controller === this.#controller && this.onProgress(state);
    try {
      const tune = await api.generateTune(request, controller.signal, onState);
      if (controller.signal.aborted) throw new Cancelled();
      return tune;
    } catch (error) {
      throw controller.signal.aborted ? new Cancelled() : error;
    } finally {
      if (this.#controller === controller) this.#clear();
    }
  }

  cancel() {
    this.#controller?.abort();
    if (this.#controller) this.#clear();
  }

  #clear() {
    this.#controller = null;
    this.onProgress(null);
  }
}
