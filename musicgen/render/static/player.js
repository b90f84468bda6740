import { Instrument, frequencyOf, room } from "./instrument.js";

/**
 * One sounding note: [start, length, pitch, velocity, part, note, bar]; seconds, and indices of the
 * written notes and measures.
 * @typedef {[number, number, number, number, number, number, number]} Sound
 * @typedef {[number, number, number]} Heard start and end in seconds, and the written measure
 */

const AHEAD = 0.15; // seconds that are scheduled ahead of what sounds
const AHEAD_HIDDEN = 1.6; // where the browser wakes a hidden page once a second
const TICK = 25; // milliseconds between two looks ahead
const LEAD = 0.06; // seconds from the press to the first sound
const FADE = 0.03;

export const TEMPO = { min: 0.25, max: 2 };

/** The way through a tune: all of it, or the chosen bars over and over. Places are seconds on it. */
export class Course {
  /** @param {{sounds: Sound[], heard: Heard[], seconds: number}} tune @param {?Set<number>} bars */
  constructor(tune, bars = null) {
    const chosen = bars ? stretchesOf(tune.heard, bars) : [];
    this.isLoop = chosen.length > 0;
    this.stretches = [];
    this.length = 0;
    for (const [start, end] of this.isLoop ? chosen : [[0, tune.seconds]]) {
      this.stretches.push({ start, end, at: this.length });
      this.length += end - start;
    }
    this.stops = [...this.#notes(tune.sounds), ...this.#bars(tune.heard)].sort(
      (a, b) => a.at - b.at,
    );
    this.stops.push({ at: this.length, kind: "end" });
  }

  *#notes(sounds) {
    for (const sound of sounds) {
      const found = this.#stretch(sound[0]);
      if (found)
        yield {
          at: found.at + sound[0] - found.start,
          kind: "note",
          sound,
          length: Math.min(sound[1], found.end - sound[0]),
        };
    }
  }

  *#bars(heard) {
    for (const [index, [start, , bar]] of heard.entries()) {
      const found = this.#stretch(start);
      if (found) yield { at: found.at + start - found.start, kind: "bar", bar, heard: index };
    }
  }

  #stretch(seconds) {
    return this.stretches.find(({ start, end }) => start - 1e-6 <= seconds && seconds < end - 1e-6);
  }

  /** Where a second of the tune is on the way; null where it is left out. */
  placeOf(seconds) {
    const found = this.#stretch(seconds);
    return found ? found.at + seconds - found.start : null;
  }

  /** The second of the tune at a place. */
  secondsAt(place) {
    const found = this.stretches.findLast(({ at }) => at <= place + 1e-9) ?? this.stretches[0];
    return found ? Math.min(found.end, found.start + place - found.at) : 0;
  }
}

/** The shortest stretch that is heard from the first of some bars to the last, less all others. */
function stretchesOf(heard, bars) {
  const [first, last] = [Math.min(...bars), Math.max(...bars)];
  let best = null;
  let from = -1;
  for (const [index, [, , bar]] of heard.entries()) {
    if (bar === first) from = index;
    if (bar === last && from >= 0 && (!best || index - from < best[1] - best[0]))
      best = [from, index];
  }
  const chosen = best ? heard.slice(best[0], best[1] + 1) : heard;
  return joined(chosen.filter(([, , bar]) => bars.has(bar)));
}

function joined(measures) {
  const found = [];
  for (const [start, end] of measures) {
    const before = found.at(-1);
    if (before && Math.abs(before[1] - start) < 1e-6) before[1] = end;
    else found.push([start, end]);
  }
  return found;
}

/**
 * Plays a tune on the audio clock. Set the callbacks that you need:
 * onNote(note, isOn), onBar(bar, heard), onEnd(), onState("stopped" | "playing" | "paused"),
 * onSchedule({time, place, frequency, pitch, note, bar, length}) as each sound is planned.
 */
export class Player {
  #tune = {
    sounds: [],
    heard: [],
    seconds: 0,
    programs: [0],
    count_in: { beats: 4, seconds: 0.5 },
  };
  #course = new Course(this.#tune);
  #context = null;
  #output = null; // volume, then the room
  #instrument = null;
  #bus = null; // what sounds since the last start goes through it, and stops with it
  #sources = new Set();
  #cues = []; // what is to be shown, and when
  #lit = new Map(); // notes that are lit, and how often
  #timer = 0;
  #frame = 0;
  #anchor = { time: 0, place: 0 }; // a time of the audio clock and the place that is played then
  #from = 0; // the place that the last start was from
  #planned = 0; // the time of the audio clock up to which all is scheduled
  #next = 0; // index of the next stop
  #lap = 0; // where the present round of the loop starts
  #tempo = 1;
  #volume = 0.8;
  #state = "stopped";
  #resting = 0; // the second of the tune at which it stands still

  /** @param {{context?: () => AudioContext}} options what makes the audio context */
  constructor({ context = () => new AudioContext({ latencyHint: "interactive" }) } = {}) {
    this.newContext = context;
    this.countsIn = false;
    this.onNote = this.onBar = this.onEnd = this.onState = this.onSchedule = () => {};
  }

  /** Take a tune, as `view` tells it; what sounds stops. */
  load(tune) {
    this.stop();
    this.#tune = tune;
    this.#course = new Course(tune);
  }

  get state() {
    return this.#state;
  }

  get audio() {
    return this.#context;
  }

  get seconds() {
    return this.#tune.seconds;
  }

  /** The second of the tune that is heard now, as at tempo 1. */
  get position() {
    return this.#state === "playing" ? this.#course.secondsAt(this.#placeNow()) : this.#resting;
  }

  get tempo() {
    return this.#tempo;
  }

  /** The factor of speed; pitches stay. */
  set tempo(factor) {
    if (this.#state === "playing") {
      const place = this.#placeAt(this.#planned);
      this.#anchor = { time: this.#planned, place };
    }
    this.#tempo = Math.min(TEMPO.max, Math.max(TEMPO.min, factor));
  }

  get volume() {
    return this.#volume;
  }

  /** From 0 to 1. */
  set volume(value) {
    this.#volume = Math.min(1, Math.max(0, value));
    this.#output?.gain.setTargetAtTime(this.#volume ** 2, this.#context.currentTime, 0.02);
  }

  /** Play the chosen written measures over and over; null: the tune, once. */
  loop(bars) {
    const seconds = this.position;
    const wasPlaying = this.#state === "playing";
    if (wasPlaying) this.#silence();
    this.#course = new Course(this.#tune, bars?.size ? bars : null);
    this.#resting = this.#inside(seconds);
    if (wasPlaying) this.#start();
  }

  get isLooping() {
    return this.#course.isLoop;
  }

  /** Start, or go on; in a loop from its first bar where it stands outside. */
  async play() {
    if (this.#state === "playing") return;
    this.#open();
    await this.#context.resume();
    if (this.#state === "playing") return;
    if (this.#resting >= this.#tune.seconds - 1e-6) this.#resting = 0;
    this.#resting = this.#inside(this.#resting);
    this.#start(this.countsIn ? this.#countIn() : 0);
    this.#become("playing");
  }

  pause() {
    if (this.#state !== "playing") return;
    this.#resting = this.position;
    this.#silence();
    this.#become("paused");
  }

  /** Stop at once and go back to the start, of the loop where there is one. */
  stop() {
    this.#silence();
    this.#resting = this.#course.secondsAt(0);
    this.#become("stopped");
  }

  toggle() {
    return this.#state === "playing" ? this.pause() : this.play();
  }

  /** Go to a second of the tune. */
  seek(seconds) {
    const wanted = Math.min(Math.max(0, seconds), this.#tune.seconds);
    if (this.#state !== "playing") {
      this.#resting = wanted;
      return;
    }
    this.#silence();
    this.#resting = this.#inside(wanted);
    this.#start();
  }

  /** The first second at which a written measure is heard; in a loop, there. */
  secondsOfBar(bar) {
    const times = this.#tune.heard.filter((measure) => measure[2] === bar).map(([start]) => start);
    return times.find((start) => this.#course.placeOf(start) !== null) ?? times[0] ?? 0;
  }

  #inside(seconds) {
    return this.#course.placeOf(seconds) === null ? this.#course.secondsAt(0) : seconds;
  }

  #open() {
    if (this.#context) return;
    this.#context = this.newContext();
    this.#output = new GainNode(this.#context, { gain: this.#volume ** 2 });
    this.#output.connect(room(this.#context));
    this.#instrument = new Instrument(this.#context);
  }

  #start(wait = 0) {
    const time = this.#context.currentTime + LEAD + wait;
    this.#bus ??= this.#newBus();
    this.#from = this.#course.placeOf(this.#resting) ?? 0;
    this.#anchor = { time, place: this.#from };
    this.#planned = time;
    this.#lap = 0;
    this.#next = this.#course.stops.findIndex((stop) => stop.at >= this.#from - 1e-6);
    this.#plan();
    this.#timer = setInterval(() => this.#plan(), TICK);
    this.#frame = requestAnimationFrame(() => this.#show());
  }

  #newBus() {
    const bus = new GainNode(this.#context, { gain: 1 });
    bus.connect(this.#output);
    return bus;
  }

  /** Schedule the clicks before the first sound; return how long they take. */
  #countIn() {
    const { beats, seconds } = this.#tune.count_in;
    const start = this.#context.currentTime + LEAD;
    this.#bus ??= this.#newBus();
    for (let beat = 0; beat < beats; beat++) {
      this.#keep(this.#instrument.click(this.#bus, start + (beat * seconds) / this.#tempo, !beat));
    }
    return (beats * seconds) / this.#tempo;
  }

  #placeAt(time) {
    return this.#anchor.place + (time - this.#anchor.time) * this.#tempo;
  }

  #timeOf(place) {
    return this.#anchor.time + (place - this.#anchor.place) / this.#tempo;
  }

  #placeNow() {
    const place = this.#placeAt(this.#heardNow());
    const { length, isLoop } = this.#course;
    return isLoop && length
      ? Math.max(place, this.#from) % length
      : Math.min(Math.max(place, this.#from), length);
  }

  /** The time of the audio clock whose sound reaches the ear now. */
  #heardNow() {
    return this.#context.currentTime - (this.#context.outputLatency || 0);
  }

  /** Schedule all that starts soon. */
  #plan() {
    const soon = this.#context.currentTime + (document.hidden ? AHEAD_HIDDEN : AHEAD);
    for (;;) {
      const stop = this.#course.stops[this.#next];
      const place = this.#lap + stop.at;
      const time = this.#timeOf(place);
      if (time >= soon) break;
      this.#next += 1;
      if (stop.kind === "note") this.#sound(stop, time, place);
      else if (stop.kind === "bar")
        this.#cues.push({ time, rank: 1, run: () => this.onBar(stop.bar, stop.heard) });
      else if (!this.#turn(time)) break;
    }
    this.#planned = Math.max(this.#planned, soon);
  }

  /** Go round again, or plan the end; tell whether there is more to come. */
  #turn(time) {
    if (this.#course.isLoop && this.#course.length > 0.01) {
      this.#lap += this.#course.length;
      this.#next = 0;
      return true;
    }
    clearInterval(this.#timer);
    this.#next -= 1;
    this.#cues.push({ time, rank: 3, run: () => this.#end() });
    return false;
  }

  #sound({ sound, length }, time, place) {
    const [, , pitch, velocity, part, note, bar] = sound;
    const program = this.#tune.programs[part] ?? 0;
    const lasts = length / this.#tempo;
    const when = Math.max(time, this.#context.currentTime);
    this.#keep(this.#instrument.play(this.#bus, { program, pitch, velocity, when, length: lasts }));
    this.#cues.push({ time, rank: 2, run: () => this.#light(note, true) });
    this.#cues.push({ time: time + lasts, rank: 0, run: () => this.#light(note, false) });
    this.onSchedule({
      time,
      place,
      frequency: frequencyOf(pitch),
      pitch,
      note,
      bar,
      length: lasts,
    });
  }

  #keep(sources) {
    for (const source of sources) {
      this.#sources.add(source);
      source.addEventListener("ended", () => this.#sources.delete(source), { once: true });
    }
  }

  /** Show what is heard now: as many frames as there are, in the order of time. */
  #show() {
    const now = this.#heardNow();
    const due = this.#cues
      .filter((cue) => cue.time <= now)
      .sort((a, b) => a.time - b.time || a.rank - b.rank);
    this.#cues = this.#cues.filter((cue) => cue.time > now);
    this.#frame = requestAnimationFrame(() => this.#show());
    for (const cue of due) cue.run();
  }

  #light(note, isOn) {
    const count = (this.#lit.get(note) ?? 0) + (isOn ? 1 : -1);
    if (count > 0) this.#lit.set(note, count);
    else this.#lit.delete(note);
    if (isOn || count <= 0) this.onNote(note, isOn);
  }

  #end() {
    this.stop();
    this.#resting = 0;
    this.onEnd();
  }

  /** Let all that sounds fade within a moment, and put every light out. */
  #silence() {
    clearInterval(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#cues = [];
    for (const note of [...this.#lit.keys()]) this.onNote(note, false);
    this.#lit.clear();
    if (!this.#bus) return;
    const now = this.#context.currentTime;
    this.#bus.gain.setValueAtTime(1, now);
    this.#bus.gain.linearRampToValueAtTime(0, now + FADE);
    for (const source of this.#sources) source.stop(now + FADE);
    this.#sources.clear();
    this.#bus = null;
  }

  #become(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.onState(state);
  }
}
