/** Trainings as they run: asked for gently, and only while somebody looks. */

import * as api from "./api.js";
import { curvePicture } from "./curve.js";
import { el, part } from "./dom.js";

const PAUSE = 4000; // milliseconds between two questions

export class Training {
  #timer = 0;
  #shown = "";

  /** @param {(run: string) => void} onHear told whose latest tune is to be heard */
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
    const text = JSON.stringify(runs);
    if (text === this.#shown) return; // what is read or heard is left in peace
    this.#shown = text;
    part("training-empty").hidden = runs.length > 0;
    part("training-list").replaceChildren(...runs.map((run) => this.#card(run)));
  }

  #card(run) {
    const [learnt, held] = [pointsOf(run.loss), pointsOf(run.held_bits_per_note)];
    const facts = factsOf(run, learnt);
    const hear = el("button", { type: "button", text: "Hear its latest tune", onclick: () => this.onHear(run.run) });
    return el("article", { class: "run" },
      el("header", {}, el("h3", { text: run.run }),
        el("span", { class: run.finished ? "state" : "state live", text: run.finished ? "finished" : "running" })),
      el("p", { class: "facts", text: facts }),
      curvePicture([
        { points: learnt, className: "loss", side: "left" },
        { points: held, className: "held", side: "right" },
      ], `${run.run}: ${facts}`),
      el("p", { class: "legend" }, el("span", { class: "loss", text: "loss, nats a token" }),
        el("span", { class: "held", text: "held out, bits a note" })),
      run.has_model ? hear : null);
  }
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
