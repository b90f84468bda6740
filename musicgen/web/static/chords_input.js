/** The chords of new tunes, written bar by bar, for models that write melodies to chords. */

import { byId } from "/static/render/dom.js";

export class ChordsInput {
  #ofTune = ""; // the chords of the tune that is shown

  constructor() {
    this.text = byId("chords-text");
    this.text.addEventListener("input", () => this.#update());
    byId("chords-take").addEventListener("click", () => this.#set(this.#ofTune));
    byId("chords-clear").addEventListener("click", () => this.#set(""));
  }

  /** The chords that new tunes are to have; "": none are asked for. */
  get value() {
    return byId("chords").hidden ? "" : this.text.value.trim();
  }

  /** Take another model, which may write melodies to chords. */
  setModel({ roles }) {
    byId("chords").hidden = !(roles.includes("symbols") && roles.includes("melody"));
  }

  /** Offer the chords of a tune. */
  show({ chords }) {
    this.#ofTune = chords;
    this.#update();
  }

  #set(text) {
    this.text.value = text;
    this.#update();
    this.text.focus();
  }

  #update() {
    const bars = this.value ? this.value.replaceAll("\n", "|").split("|").filter((cell) => cell.trim()).length : 0;
    byId("chords-facts").textContent = bars ? `${bars} ${bars === 1 ? "bar" : "bars"}` : "";
    byId("chords-take").hidden = !this.#ofTune || this.#ofTune === this.value;
    byId("chords-clear").hidden = !this.value;
  }
}
