/** The scores: the current tune's, and beside it the one that it is compared with. */

import { TuneView } from "/static/render/tune_view.js";
import { el, part } from "./dom.js";
import { numbersOf } from "./ranges.js";
import { factsOf, nameOf } from "./told.js";

/** @typedef {import("./history.js").Take} Take */

export class Stage {
  #views = /** @type {Record<string, TuneView | null>} */ ({ a: null, b: null, t: null });
  #shown = /** @type {Record<string, any>} */ ({});

  /** @param {(measure: number, through: boolean) => void} onBar told which measure was clicked */
  constructor(onBar) {
    this.onBar = onBar;
    for (const [box, method] of [["surprise-on", "showSurprise"], ["copies-on", "showCopies"], ["roll-on", "showRoll"]]) {
      part(box).addEventListener("change", () => this.#each((view) => view[method](part(box).checked)));
    }
  }

  /** Show a tune in pane a or b. */
  show(pane, take) {
    const { tune } = take;
    if (this.#shown[pane] === tune) return;
    part(`pane-${pane}`).hidden = false;
    if (pane === "b") part("label-b").textContent = `${take.number}: ${take.label}`;
    this.#shown[pane] = tune;
    this.#views[pane] = this.#view(pane, tune, pane === "b" ? this.onBar : undefined);
    part(`title-${pane}`).textContent = nameOf(tune);
    part(`facts-${pane}`).textContent = factsOf(tune);
  }

  /** Show a tune beside the current one, with all others to choose from; null: take it away. */
  compare(other, all, current) {
    part("views").classList.toggle("two", Boolean(other));
    part("pane-a").hidden = !other;
    if (!other) {
      this.#views.a = null;
      delete this.#shown.a;
      return;
    }
    part("choose-a").replaceChildren(...all.filter((take) => take !== current).map((take) =>
      el("option", { value: take.number, text: `${take.number}: ${take.label}` })));
    part("choose-a").value = String(other.number);
    this.show("a", other);
  }

  /** Show the latest tune of a training in its card. */
  showTraining(tune, home) {
    this.#views.t = this.#mounted(home, tune, "t");
  }

  light(pane, note, on) {
    this.#views[pane]?.light(note, on);
  }

  /** Say where the music is: the measure that sounds (null: none), and the second. */
  follow(pane, measure) {
    this.#views[pane]?.setBar(measure);
  }

  at(pane, seconds) {
    this.#views[pane]?.setPosition(seconds);
  }

  /** Show which bars are locked, by their numbers. */
  lock(locked) {
    const view = this.#views.b;
    if (!view) return;
    const numbers = numbersOf(view.tune);
    view.markBars(numbers.flatMap((number, measure) => (locked.has(number) ? [measure] : [])), "locked");
    for (const [measure, cover] of view.bars) cover.setAttribute("aria-pressed", String(locked.has(numbers[measure])));
  }

  differ(pane, notes) {
    this.#views[pane]?.markDifferences(notes);
  }

  #view(pane, tune, onBar) {
    const view = this.#mounted(part(`view-${pane}`), tune, pane, onBar);
    const numbers = numbersOf(tune);
    const what = onBar ? "Arrow keys go from bar to bar, Enter locks one, Shift and Enter a stretch." : "";
    view.score.querySelector("svg")?.setAttribute("aria-label", `Score of ${nameOf(tune)}. ${what}`);
    for (const [measure, cover] of view.bars) cover.setAttribute("aria-label", `Bar ${numbers[measure]}`);
    return view;
  }

  #mounted(home, tune, pane, onBar) {
    home.replaceChildren();
    const view = new TuneView(home, tune, { prefix: `${pane}-`, onBarClick: onBar, onSeek: this.onSeek });
    view.showSurprise(part("surprise-on").checked);
    view.showCopies(part("copies-on").checked);
    view.showRoll(part("roll-on").checked);
    return view;
  }

  #each(act) {
    for (const view of Object.values(this.#views)) if (view) act(view);
  }
}
