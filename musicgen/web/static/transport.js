/** The row of buttons that plays: one player, whatever tune is in it. */

import { Player } from "/static/render/player.js";
import { part } from "./dom.js";

export class Transport {
  #tune = /** @type {any} */ (null);

  /**
   * @param {{onNote: (note: number, on: boolean) => void, onBar: (measure: number | null) => void,
   *   onPlace: (seconds: number) => void}} told of what sounds
   */
  constructor({ onNote, onBar, onPlace }) {
    const player = new Player();
    this.player = player;
    this.onPlace = onPlace;
    player.onNote = onNote;
    player.onBar = (bar) => onBar(bar);
    player.onState = (state) => this.#drawn(state, onBar);
    part("play").addEventListener("click", () => this.toggle());
    part("to-start").addEventListener("click", () => this.seek(0));
    part("place").addEventListener("input", () => this.seek(Number(part("place").value)));
    part("pace").addEventListener("input", () => this.#paced());
    this.#follow();
  }

  get isPlaying() {
    return this.player.state === "playing";
  }

  /** Take a tune; what plays goes on in it at the same place of the music. */
  show(tune) {
    const wasPlaying = this.isPlaying;
    const place = this.#tune && placeAt(this.#tune, this.player.position);
    this.player.load(tune);
    if (place !== null) this.player.seek(secondsAt(tune, place));
    this.#tune = tune;
    this.#draw();
    if (wasPlaying) this.player.play();
  }

  /** Play from the first time that a measure is heard. */
  playFrom(measure) {
    this.player.seek(measure ? this.player.secondsOfBar(measure) : 0);
    return this.player.play();
  }

  toggle() {
    if (this.#tune) this.player.toggle();
  }

  stop() {
    this.player.stop();
    this.#draw();
  }

  seek(seconds) {
    this.player.seek(seconds);
    this.#draw();
  }

  #follow() {
    if (this.isPlaying) this.#draw();
    requestAnimationFrame(() => this.#follow());
  }

  #paced() {
    const percent = Number(part("pace").value);
    this.player.tempo = percent / 100;
    part("pace-told").textContent = `${percent} %`;
  }

  #drawn(state, onBar) {
    const playing = state === "playing";
    part("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    part("play-icon").setAttribute("href", playing ? "#i-pause" : "#i-play");
    if (state === "stopped") onBar(null);
    this.#draw();
  }

  #draw() {
    const [at, of] = [this.player.position, this.#tune?.seconds ?? 0];
    part("place").max = String(of);
    part("place").value = String(at);
    part("place").setAttribute("aria-valuetext", `${clock(at)} of ${clock(of)}`);
    part("clock").textContent = `${clock(at)} / ${clock(of)}`;
    this.onPlace(at);
  }
}

/** Where a second is in the music: heard measures, and a share of the one that sounds. */
function placeAt(tune, seconds) {
  const index = tune.heard.findIndex(([, end]) => seconds < end);
  if (index < 0) return 0;
  const [start, end] = tune.heard[index];
  return index + Math.max(0, seconds - start) / (end - start);
}

/** The second of a place; past the end: the start. */
function secondsAt(tune, place) {
  const measure = tune.heard[Math.floor(place)];
  if (!measure) return 0;
  const [start, end] = measure;
  return start + (place - Math.floor(place)) * (end - start);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
