/** The panel of training runs. It polls the server, but only while it is open and visible. */

import { byId, html } from "/static/render/dom.js";
import * as api from "./api.js";
import { createLossChart } from "./loss_chart.js";
import { joinFacts } from "./tune_info.js";

const POLL_INTERVAL = 4000; // milliseconds

export class TrainingPanel {
  #timer = 0;
  #cards = /** @type {Map<string, any>} */ (new Map());

  /** @param {(run: string, container: HTMLElement) => void} onPlay plays and shows a run's latest tune */
  constructor(onPlay) {
    this.onPlay = onPlay;
    this.panel = byId("training");
    this.panel.addEventListener("toggle", () => this.#poll());
    document.addEventListener("visibilitychange", () => this.#poll());
  }

  async #poll() {
    clearTimeout(this.#timer);
    if (!this.panel.open || document.hidden) return;
    try {
      this.#show(await api.fetchTrainingRuns());
      byId("training-error").textContent = "";
    } catch (error) {
      byId("training-error").textContent = error.message;
    }
    this.#timer = window.setTimeout(() => this.#poll(), POLL_INTERVAL);
  }

  #show(runs) {
    byId("training-empty").hidden = runs.length > 0;
    const cards = runs.map((run) => this.#updateCard(run));
    if (cards.some((card, index) => byId("training-list").children[index] !== card)) {
      byId("training-list").replaceChildren(...cards);
    }
  }

  /** Return the element of a run. It is reused, so that its tune can play on while the chart grows. */
  #updateCard(run) {
    const card = this.#cards.get(run.run) ?? this.#createCard(run.run);
    this.#cards.set(run.run, card);
    const json = JSON.stringify(run);
    if (card.json !== json) card.figures.replaceChildren(...createFigures(run));
    card.json = json;
    card.playButton.hidden = !run.has_model;
    return card.element;
  }

  #createCard(name) {
    const figures = html("div");
    const tuneContainer = html("div", { class: "latest" });
    const playButton = html("button", { type: "button", text: "Play latest tune",
      onclick: () => this.onPlay(name, tuneContainer) });
    const element = html("article", { class: "run", "data-run": name }, figures, playButton, tuneContainer);
    return { element, figures, playButton, json: "" };
  }
}

function createFigures(run) {
  const [trainingLoss, heldOutLoss] = [toPoints(run.loss), toPoints(run.held_bits_per_note)];
  const facts = describeRun(run, trainingLoss);
  return [
    html("header", {}, html("h3", { text: run.run }),
      html("span", { class: run.finished ? "state" : "state live", text: run.finished ? "finished" : "running" })),
    html("p", { class: "facts", text: facts }),
    createLossChart([
      { points: trainingLoss, className: "loss", side: "left" },
      { points: heldOutLoss, className: "held", side: "right" },
    ], `${run.run}: ${facts}`),
    html("p", { class: "legend" }, html("span", { class: "loss", text: "training loss, nats per token" }),
      html("span", { class: "held", text: "held-out loss, bits per note" })),
  ];
}

function toPoints({ steps, values }) {
  return steps.map((step, index) => [step, values[index]]).filter(([, value]) => Number.isFinite(value));
}

function describeRun(run, trainingLoss) {
  return joinFacts(
    `step ${run.step.toLocaleString("en")}`,
    trainingLoss.length && `loss ${trainingLoss.at(-1)[1].toFixed(3)}`,
    run.best !== null && `best held-out loss ${run.best.toFixed(3)} bits per note`,
  );
}
