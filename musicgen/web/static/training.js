/** Trainings as they run: asked for gently, and only while somebody looks. */

import * as api from "./api.js";
import { curvePicture } from "./curve.js";
import { el, part } from "./dom.js";

const PAUSE = 4000; // milliseconds between two questions

export class Training {
  #timer = 0;
  #cards = /** @type {Map<string, any>} */ (new Map());

  /** @param {(run: string, home: HTMLElement) => void} onHear told whose latest tune is to be heard */
  constructor(onHear) {
    this.onHear = onHear;
    this.home = part("training");
    this.home.addEventListener("toggle", () => this.#look());
    document.addEventListener("visibilitychange", () => this.#look());
  }

  /** Ask once; then again for as long as it is seen. */
  async #look() {
    clearTimeout(this.#timer);
    if (!this.home.open || document.hidden) return;
    try {
      this.#show(await api.training());
      part("training-fault").textContent = "";
    } catch (fault) {
      part("training-fault").textContent = fault.message;
    }
    this.#timer = window.setTimeout(() => this.#look(), PAUSE);
  }

  #show(runs) {
    part("training-empty").hidden = runs.length > 0;
    const cards = runs.map((run) => this.#card(run));
    if (cards.some((card, at) => part("training-list").children[at] !== card)) {
      part("training-list").replaceChildren(...cards);
    }
  }

  /** Return the card of a run; what is heard from it stays while its curve grows. */
  #card(run) {
    const known = this.#cards.get(run.run) ?? this.#newCard(run.run);
    this.#cards.set(run.run, known);
    const text = JSON.stringify(run);
    if (known.text !== text) known.figures.replaceChildren(...figuresOf(run));
    known.text = text;
    known.hear.hidden = !run.has_model;
    return known.card;
  }

  #newCard(name) {
    const figures = el("div");
    const home = el("div", { class: "latest" });
    const hear = el("button", { type: "button", text: "Hear its latest tune",
      onclick: () => this.onHear(name, home) });
    const card = el("article", { class: "run", "data-run": name }, figures, hear, home);
    return { card, figures, hear, text: "" };
  }
}

function figuresOf(run) {
  const [learnt, held] = [pointsOf(run.loss), pointsOf(run.held_bits_per_note)];
  const facts = factsOf(run, learnt);
  return [
    el("header", {}, el("h3", { text: run.run }),
      el("span", { class: run.finished ? "state" : "state live", text: run.finished ? "finished" : "running" })),
    el("p", { class: "facts", text: facts }),
    curvePicture([
      { points: learnt, className: "loss", side: "left" },
      { points: held, className: "held", side: "right" },
    ], `${run.run}: ${facts}`),
    el("p", { class: "legend" }, el("span", { class: "loss", text: "loss, nats a token" }),
      el("span", { class: "held", text: "held out, bits a note" })),
  ];
}

function pointsOf({ steps, values }) {
  return steps.map((step, at) => [step, values[at]]).filter(([, value]) => Number.isFinite(value));
}

function factsOf(run, learnt) {
  const parts = [`step ${run.step.toLocaleString("en")}`];
  if (learnt.length) parts.push(`loss ${learnt.at(-1)[1].toFixed(3)}`);
  if (run.best !== null) parts.push(`best ${run.best.toFixed(3)} bits a note, held out`);
  return parts.join(" · ");
}
