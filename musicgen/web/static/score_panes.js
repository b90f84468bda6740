/** The score panes: the current tune (b), beside it the one that it is compared with (a). */

import { byId, html, scrollBehavior } from "/static/render/dom.js";
import { TuneView } from "/static/render/tune_view.js";
import { barNumbersOf } from "./bar_ranges.js";
import { formatLength, joinFacts, titleOf } from "./tune_info.js";

/**
 * @typedef {import("./tune_history.js").Entry} Entry
 * @typedef {"a" | "b" | "t"} Pane t: the latest tune of a training run, in its card
 */

export class ScorePanes {
  #views = /** @type {Record<Pane, TuneView | null>} */ ({ a: null, b: null, t: null });
  #tunes = /** @type {Partial<Record<Pane, any>>} */ ({});
  onSeek = /** @type {(seconds: number) => void} */ (() => {});

  /** @param {(measure: number, isExtended: boolean) => void} onBarClick in the current tune */
  constructor(onBarClick) {
    this.onBarClick = onBarClick;
    for (const [id, method] of [["surprise-on", "showSurprise"], ["copies-on", "showCopies"],
      ["phrases-on", "showPhrases"], ["roll-on", "showRoll"]]) {
      const checkbox = byId(id);
      checkbox.addEventListener("change", () => {
        for (const view of Object.values(this.#views)) view?.[method](checkbox.checked);
      });
    }
    byId("phrases-on").addEventListener("change", () => // they are above the score, the checkbox below
      this.#views.b?.phrases?.element.scrollIntoView({ block: "nearest", behavior: scrollBehavior() }));
  }

  /** Show a tune in pane a or b. */
  show(pane, entry) {
    const { tune } = entry;
    if (this.#tunes[pane] === tune) return;
    byId(`pane-${pane}`).hidden = false;
    if (pane === "b") byId("label-b").textContent = `${entry.number}: ${entry.label}`;
    this.#tunes[pane] = tune;
    this.#views[pane] = this.#createScoreView(pane, tune, pane === "b" ? this.onBarClick : undefined);
    byId(`title-${pane}`).textContent = titleOf(tune);
    byId(`facts-${pane}`).textContent = joinFacts(tune.key, tune.meter, formatLength(tune), `seed ${tune.seed}`);
  }

  /**
   * Show another tune beside the current one, with a menu of all tunes; null: close its pane.
   * @param {Entry | null} other @param {Entry[]} all @param {Entry | null} current
   */
  compare(other, all, current) {
    byId("views").classList.toggle("two", Boolean(other));
    byId("pane-a").hidden = !other;
    if (!other) {
      this.#views.a = null;
      delete this.#tunes.a;
      return;
    }
    byId("choose-a").replaceChildren(...all.filter((entry) => entry !== current).map((entry) =>
      html("option", { value: entry.number, text: `${entry.number}: ${entry.label}` })));
    byId("choose-a").value = String(other.number);
    this.show("a", other);
  }

  /** Show the latest tune of a training run in its card. */
  showTraining(tune, container) {
    this.#views.t = this.#createView(container, tune, "t");
  }

  light(pane, note, isOn) {
    this.#views[pane]?.light(note, isOn);
  }

  /** Mark the measure that sounds; null: none. */
  setBar(pane, measure) {
    this.#views[pane]?.setBar(measure);
  }

  setPosition(pane, seconds) {
    this.#views[pane]?.setPosition(seconds);
  }

  /** Add the surprise of the tune in a pane. */
  addSurprise(pane, surprise) {
    this.#views[pane]?.addSurprise(surprise);
    this.#views[pane]?.showSurprise(byId("surprise-on").checked);
  }

  /** Dim the parts of the current tune that are not heard. @param {Set<number>} parts */
  markSilent(parts) {
    this.#views.b?.markSilent(parts);
  }

  /** Mark the locked bars of the current tune. @param {Set<number>} locked bar numbers */
  markLocked(locked) {
    const view = this.#views.b;
    if (!view) return;
    const numbers = barNumbersOf(view.tune);
    view.markBars(numbers.flatMap((number, measure) => (locked.has(number) ? [measure] : [])), "locked");
    for (const [measure, cover] of view.bars) cover.setAttribute("aria-pressed", String(locked.has(numbers[measure])));
  }

  markDifferences(pane, notes) {
    this.#views[pane]?.markDifferences(notes);
  }

  #createScoreView(pane, tune, onBarClick) {
    const view = this.#createView(byId(`view-${pane}`), tune, pane, onBarClick);
    const numbers = barNumbersOf(tune);
    const help = onBarClick
      ? "Arrow keys move between bars, Enter locks a bar, Shift+Enter locks a range of bars." : "";
    view.score.querySelector("svg")?.setAttribute("aria-label", `Score of ${titleOf(tune)}. ${help}`);
    for (const [measure, cover] of view.bars) cover.setAttribute("aria-label", `Bar ${numbers[measure]}`);
    return view;
  }

  #createView(container, tune, pane, onBarClick) {
    container.replaceChildren();
    const view = new TuneView(container, tune, { prefix: `${pane}-`, onBarClick, onSeek: this.onSeek });
    view.showSurprise(byId("surprise-on").checked);
    view.showCopies(byId("copies-on").checked);
    view.showPhrases(byId("phrases-on").checked);
    view.showRoll(byId("roll-on").checked);
    return view;
  }
}
