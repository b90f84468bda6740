import { html, svg } from "./dom.js";

/**
 * The memory of a tune: its phrases in a row, as wide as their bars, and an arc from each phrase back
 * to the earlier one that it returns. The kinds of return differ in line style and in words.
 */

const RELATIONS = ["exact", "transposed", "varied"];
const ARC_UNITS = { bar: 10, height: 100 }; // of the viewBox, which is stretched

export class PhraseArcs {
  /**
   * @param {object[]} phrases as in the JSON of a tune
   * @param {(measure: number) => void} onChoose receives the first measure of a chosen phrase
   */
  constructor(phrases, onChoose) {
    this.phrases = phrases;
    this.onChoose = onChoose;
    this.firstBar = phrases[0].bars[0];
    this.barCount = phrases.at(-1).bars[1] - this.firstBar + 1;
    this.blocks = phrases.map((phrase) => this.#createBlock(phrase));
    const row = html("div", { class: "phrase-row" }, ...this.blocks);
    row.style.gridTemplateColumns = `repeat(${this.barCount}, minmax(0, 1fr))`;
    const chart = html("div", { class: "phrase-chart" }, this.#drawArcs(), row);
    chart.style.minWidth = `${phrases.length * 4.6}rem`; // its longest word fits
    this.element = html(
      "div",
      { class: "tune-phrases", hidden: true },
      createCaption(phrases),
      html(
        "div",
        { class: "phrase-scroll", role: "region", tabindex: "0", "aria-label": "Phrases" },
        chart,
      ),
    );
  }

  /** Mark the phrase that a measure is in; null: none. */
  setBar(measure) {
    for (const [index, { measures }] of this.phrases.entries()) {
      const isPlaying = measure !== null && measures[0] <= measure && measure <= measures[1];
      this.blocks[index].classList.toggle("playing", isPlaying);
    }
  }

  #createBlock({ bars, measures, relation, likeness, words }) {
    const detail = relation === "varied" ? `varied ${Math.round(likeness * 100)}%` : relation;
    const block = html(
      "button",
      {
        type: "button",
        class: `phrase ${relation ?? "new"}`,
        title: words,
        onclick: () => this.onChoose(measures[0]),
      },
      html("span", {}, `${bars[0]}–${bars[1]}`),
      html("small", {}, detail ?? "new"),
    );
    const column = bars[0] - this.firstBar + 1;
    block.style.gridColumn = `${column} / ${bars[1] - this.firstBar + 2}`;
    return block;
  }

  #drawArcs() {
    const returns = this.phrases.filter(({ source }) => source !== null);
    const middle = ({ bars }) => ((bars[0] + bars[1] + 1) / 2 - this.firstBar) * ARC_UNITS.bar;
    const ends = returns.map((phrase) => [middle(this.phrases[phrase.source]), middle(phrase)]);
    const widest = Math.max(1, ...ends.map(([from, to]) => to - from));
    const arcs = returns.map(({ relation, words }, index) => {
      const [from, to] = ends[index];
      const height = ARC_UNITS.height * Math.sqrt((to - from) / widest) * 0.96;
      const d = `M${to} ${ARC_UNITS.height}A${(to - from) / 2} ${height} 0 0 0 ${from} ${ARC_UNITS.height}`;
      const line = (className) =>
        svg("path", { d, class: className, "vector-effect": "non-scaling-stroke" });
      return svg("g", {}, svg("title", {}, words), line("phrase-hit"), line(`phrase-arc ${relation}`));
    });
    const size = `0 0 ${this.barCount * ARC_UNITS.bar} ${ARC_UNITS.height}`;
    const attributes = { viewBox: size, preserveAspectRatio: "none", "aria-hidden": "true" };
    return svg("svg", { class: "phrase-arcs", ...attributes }, ...arcs);
  }
}

/** Say what the arcs are, with a sample of each line style in use. */
function createCaption(phrases) {
  const used = RELATIONS.filter((name) => phrases.some(({ relation }) => relation === name));
  const samples = used.map((name) => {
    const line = svg("path", { d: "M1 4H35", class: `phrase-arc ${name}` });
    const sample = svg("svg", { viewBox: "0 0 36 8", "aria-hidden": "true" }, line);
    return html("li", {}, sample, name);
  });
  const text = used.length
    ? "Arcs lead from each phrase of four bars to the earlier one that it returns"
    : "No phrase of four bars returns an earlier one";
  return html("div", { class: "phrase-caption" }, html("p", {}, text), html("ul", {}, ...samples));
}
