/** The playback controls above the score; one player plays whichever tune is loaded. */

import { byId } from "/static/render/dom.js";
import { formatTime } from "/static/render/format.js";
import { Player } from "/static/render/player.js";

export class PlaybackControls {
  #tune = /** @type {any} */ (null);

  /**
   * @param {{onNote: (note: number, isOn: boolean) => void, onBar: (measure: number | null) => void,
   *   onPosition: (seconds: number) => void}} callbacks follow the sound; measure null: it stopped
   */
  constructor({ onNote, onBar, onPosition }) {
    const player = new Player();
    this.player = player;
    this.onPosition = onPosition;
    player.onNote = onNote;
    player.onBar = (measure) => onBar(measure);
    player.onState = (state) => this.#showState(state, onBar);
    byId("play").addEventListener("click", () => this.toggle());
    byId("to-start").addEventListener("click", () => this.seek(0));
    byId("position").addEventListener("input", () => this.seek(Number(byId("position").value)));
    byId("speed").addEventListener("input", () => this.#setSpeed());
    byId("accompaniment").addEventListener("change", () => this.#playAccompaniment());
    this.#followPosition();
  }

  get isPlaying() {
    return this.player.state === "playing";
  }

  /** Load a tune; playback continues in it at the same musical position. */
  load(tune) {
    const wasPlaying = this.isPlaying;
    const measures = this.#tune && toMeasures(this.#tune, this.player.position);
    this.player.load(tune);
    byId("accompaniment-box").hidden = !tune.accompaniment?.length;
    this.#playAccompaniment();
    if (measures !== null) this.player.seek(toSeconds(tune, measures));
    this.#tune = tune;
    this.#showPosition();
    if (wasPlaying) this.player.play();
  }

  /** Play from where a measure is first heard. */
  playFrom(measure) {
    this.player.seek(measure ? this.player.secondsOfBar(measure) : 0);
    return this.player.play();
  }

  toggle() {
    if (this.#tune) this.player.toggle();
  }

  stop() {
    this.player.stop();
    this.#showPosition();
  }

  /** Silence some parts. @param {Set<number>} parts */
  mute(parts) {
    this.player.mute(parts);
  }

  seek(seconds) {
    this.player.seek(seconds);
    this.#showPosition();
  }

  #followPosition() {
    if (this.isPlaying) this.#showPosition();
    requestAnimationFrame(() => this.#followPosition());
  }

  #playAccompaniment() {
    this.player.playAccompaniment(byId("accompaniment").checked);
  }

  #setSpeed() {
    const percent = Number(byId("speed").value);
    this.player.tempo = percent / 100;
    byId("speed-value").textContent = `${percent} %`;
  }

  #showState(state, onBar) {
    const isPlaying = state === "playing";
    byId("play").setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    byId("play-icon").setAttribute("href", isPlaying ? "#i-pause" : "#i-play");
    if (state === "stopped") onBar(null);
    this.#showPosition();
  }

  #showPosition() {
    const [seconds, total] = [this.player.position, this.#tune?.seconds ?? 0];
    byId("position").max = String(total);
    byId("position").value = String(seconds);
    byId("position").setAttribute("aria-valuetext", `${formatTime(seconds)} of ${formatTime(total)}`);
    byId("clock").textContent = `${formatTime(seconds)} / ${formatTime(total)}`;
    this.onPosition(seconds);
  }
}

/** Convert seconds to a musical position: measures heard so far, with a fraction of the current one. */
function toMeasures(tune, seconds) {
  const index = tune.heard.findIndex(([, end]) => seconds < end);
  if (index < 0) return 0;
  const [start, end] = tune.heard[index];
  return index + Math.max(0, seconds - start) / (end - start);
}

/** Convert a musical position to seconds; past the end: to the start. */
function toSeconds(tune, measures) {
  const measure = tune.heard[Math.floor(measures)];
  if (!measure) return 0;
  const [start, end] = measure;
  return start + (measures - Math.floor(measures)) * (end - start);
}
