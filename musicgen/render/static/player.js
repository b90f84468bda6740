import { Instrument, createRoom, frequencyOf } from "./instrument.js";

/**
 * One sounding note: [start, length, pitch, velocity, part, note, bar]. Times are in seconds; note
 * and bar are indices of the written notes and measures; the notes of an accompaniment have note -1.
 * @typedef {[number, number, number, number, number, number, number]} Sound
 * @typedef {[number, number, number]} Heard start and end in seconds, and the written measure
 */

const LOOKAHEAD = 0.15; // seconds that are scheduled before they sound
const LOOKAHEAD_HIDDEN = 1.6; // browsers run the timers of a hidden page about once per second
const SCHEDULE_INTERVAL = 25; // milliseconds
const START_DELAY = 0.06; // seconds from the call of play() to the first sound
const FADE_OUT = 0.03; // seconds
const TOLERANCE = 1e-6; // seconds

export const TEMPO = { min: 0.25, max: 2 };

/**
 * The parts of a tune that are played, in order: the whole tune, or the selected bars as a loop.
 * "Path time" is in seconds from the start of the path; "tune time" counts from the start of the tune.
 */
class PlaybackPath {
  /** @param {{sounds: Sound[], heard: Heard[], seconds: number}} tune @param {?Set<number>} bars */
  constructor(tune, bars = null) {
    const loopSegments = bars ? findLoopSegments(tune.heard, bars) : [];
    this.isLoop = loopSegments.length > 0;
    this.segments = [];
    this.length = 0;
    for (const [start, end] of this.isLoop ? loopSegments : [[0, tune.seconds]]) {
      this.segments.push({ start, end, offset: this.length });
      this.length += end - start;
    }
    this.events = [...this.#noteEvents(tune.sounds), ...this.#barEvents(tune.heard)].sort(
      (a, b) => a.at - b.at,
    );
    this.events.push({ at: this.length, kind: "end" });
  }

  *#noteEvents(sounds) {
    for (const sound of sounds) {
      const [start, length] = sound;
      const segment = this.#segmentAt(start);
      if (!segment) continue;
      const at = segment.offset + start - segment.start;
      yield { at, kind: "note", sound, length: Math.min(length, segment.end - start) };
    }
  }

  *#barEvents(heard) {
    for (const [index, [start, , bar]] of heard.entries()) {
      const segment = this.#segmentAt(start);
      if (segment)
        yield { at: segment.offset + start - segment.start, kind: "bar", bar, heard: index };
    }
  }

  #segmentAt(tuneTime) {
    return this.segments.find(
      ({ start, end }) => start - TOLERANCE <= tuneTime && tuneTime < end - TOLERANCE,
    );
  }

  /** Convert tune time to path time; null where that part of the tune is not played. */
  toPathTime(tuneTime) {
    const segment = this.#segmentAt(tuneTime);
    return segment ? segment.offset + tuneTime - segment.start : null;
  }

  /** Convert path time to tune time. */
  toTuneTime(pathTime) {
    const segment =
      this.segments.findLast(({ offset }) => offset <= pathTime + 1e-9) ?? this.segments[0];
    return segment ? Math.min(segment.end, segment.start + pathTime - segment.offset) : 0;
  }
}

/**
 * Return the segments of a loop as [start, end]: the shortest stretch of the heard measures from the
 * first selected bar to the last, without the measures in it that are not selected.
 */
function findLoopSegments(heard, bars) {
  const [first, last] = [Math.min(...bars), Math.max(...bars)];
  let shortest = null;
  let from = -1;
  for (const [index, [, , bar]] of heard.entries()) {
    if (bar === first) from = index;
    if (bar === last && from >= 0 && (!shortest || index - from < shortest[1] - shortest[0]))
      shortest = [from, index];
  }
  const measures = shortest ? heard.slice(shortest[0], shortest[1] + 1) : heard;
  return mergeAdjacent(measures.filter(([, , bar]) => bars.has(bar)));
}

function mergeAdjacent(measures) {
  const segments = [];
  for (const [start, end] of measures) {
    const previous = segments.at(-1);
    if (previous && Math.abs(previous[1] - start) < TOLERANCE) previous[1] = end;
    else segments.push([start, end]);
  }
  return segments;
}

/**
 * Plays a tune, scheduled on the audio clock. Callbacks to set:
 * onNote(note, isOn), onBar(bar, heard), onEnd(), onState("stopped" | "playing" | "paused"),
 * onSchedule({time, pathTime, frequency, pitch, note, bar, length, part}) when a sound is scheduled.
 */
export class Player {
  #tune = {
    sounds: [],
    heard: [],
    seconds: 0,
    programs: [0],
    count_in: { beats: 4, seconds: 0.5 },
  };
  #path = new PlaybackPath(this.#tune);
  #context = null;
  #output = null; // the volume control; the room comes after it
  #instrument = null;
  #bus = null; // carries all sounds since the last start, so that they can fade out together
  #partBuses = new Map(); // per part, its share of the bus
  #silentParts = new Set(); // by their numbers; their sounds are scheduled, but not heard
  #isAccompanied = true;
  #sources = new Set();
  #cues = []; // callbacks that run when their sound is heard
  #litCounts = new Map(); // per lit note, the number of its sounds that overlap now
  #timer = 0;
  #frame = 0;
  #anchor = { time: 0, pathTime: 0 }; // a pair of audio time and path time, for conversion
  #startPathTime = 0; // where the last start began
  #scheduledUntil = 0; // audio time
  #nextEvent = 0;
  #lapStart = 0; // path time at which the current round of the loop began
  #tempo = 1;
  #volume = 0.8;
  #state = "stopped";
  #restingAt = 0; // tune time while nothing plays

  constructor() {
    this.countsIn = false;
    this.onNote = this.onBar = this.onEnd = this.onState = this.onSchedule = () => {};
  }

  /** Load a tune, as `view` in tune_json.py returns it, and stop playing. */
  load(tune) {
    this.stop();
    this.#tune = tune;
    this.#path = new PlaybackPath(tune);
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

  /** The tune time that is heard now, in seconds at tempo 1. */
  get position() {
    return this.#state === "playing" ? this.#path.toTuneTime(this.#pathTimeNow()) : this.#restingAt;
  }

  get tempo() {
    return this.#tempo;
  }

  /** The factor of speed, which leaves the pitch alone. What is scheduled already keeps its time. */
  set tempo(factor) {
    if (this.#state === "playing") {
      const pathTime = this.#toPathTime(this.#scheduledUntil);
      this.#anchor = { time: this.#scheduledUntil, pathTime };
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

  /** Silence the given parts, and no others. @param {Set<number>} parts */
  mute(parts) {
    this.#silentParts = new Set(parts);
    this.#applyMix();
  }

  #isSilent(part) {
    const isAdded = this.#tune.accompaniment?.includes(part) ?? false;
    return this.#silentParts.has(part) || (isAdded && !this.#isAccompanied);
  }

  #applyMix() {
    for (const [part, bus] of this.#partBuses)
      bus.gain.setTargetAtTime(this.#isSilent(part) ? 0 : 1, this.#context.currentTime, 0.01);
  }

  /** Loop the given written measures; null: play the whole tune once. */
  loop(bars) {
    const position = this.position;
    const wasPlaying = this.#state === "playing";
    if (wasPlaying) this.#silence();
    this.#path = new PlaybackPath(this.#tune, bars?.size ? bars : null);
    this.#restingAt = this.#clampToPath(position);
    if (wasPlaying) this.#start();
  }

  /** Let the accompaniment of the tune be heard or not; the other parts always are. */
  playAccompaniment(isOn) {
    this.#isAccompanied = isOn;
    this.#applyMix();
  }

  get isLooping() {
    return this.#path.isLoop;
  }

  /** Start or resume. A loop starts at its first bar if the position is outside of it. */
  async play() {
    if (this.#state === "playing") return;
    this.#openAudio();
    await this.#context.resume();
    if (this.#state === "playing") return; // another call was faster
    if (this.#restingAt >= this.#tune.seconds - TOLERANCE) this.#restingAt = 0;
    this.#restingAt = this.#clampToPath(this.#restingAt);
    this.#start(this.countsIn ? this.#scheduleCountIn() : 0);
    this.#setState("playing");
  }

  pause() {
    if (this.#state !== "playing") return;
    this.#restingAt = this.position;
    this.#silence();
    this.#setState("paused");
  }

  /** Stop and go back to the start, or to the start of the loop. */
  stop() {
    this.#silence();
    this.#restingAt = this.#path.toTuneTime(0);
    this.#setState("stopped");
  }

  toggle() {
    return this.#state === "playing" ? this.pause() : this.play();
  }

  /** Go to a tune time in seconds. */
  seek(seconds) {
    const position = Math.min(Math.max(0, seconds), this.#tune.seconds);
    if (this.#state !== "playing") {
      this.#restingAt = position;
      return;
    }
    this.#silence();
    this.#restingAt = this.#clampToPath(position);
    this.#start();
  }

  /** Return the tune time at which a written measure is first heard; in a loop, first in the loop. */
  secondsOfBar(bar) {
    const times = this.#tune.heard.filter((measure) => measure[2] === bar).map(([start]) => start);
    return times.find((start) => this.#path.toPathTime(start) !== null) ?? times[0] ?? 0;
  }

  #clampToPath(tuneTime) {
    return this.#path.toPathTime(tuneTime) === null ? this.#path.toTuneTime(0) : tuneTime;
  }

  /** Create the audio context on first use: browsers want a click before it. */
  #openAudio() {
    if (this.#context) return;
    this.#context = new AudioContext({ latencyHint: "interactive" });
    this.#output = new GainNode(this.#context, { gain: this.#volume ** 2 });
    this.#output.connect(createRoom(this.#context));
    this.#instrument = new Instrument(this.#context);
  }

  #start(delay = 0) {
    const time = this.#context.currentTime + START_DELAY + delay;
    this.#bus ??= this.#createBus();
    this.#startPathTime = this.#path.toPathTime(this.#restingAt) ?? 0;
    this.#anchor = { time, pathTime: this.#startPathTime };
    this.#scheduledUntil = time;
    this.#lapStart = 0;
    this.#nextEvent = this.#path.events.findIndex(
      (event) => event.at >= this.#startPathTime - TOLERANCE,
    );
    this.#schedule();
    this.#timer = setInterval(() => this.#schedule(), SCHEDULE_INTERVAL);
    this.#frame = requestAnimationFrame(() => this.#runCues());
  }

  #createBus() {
    const bus = new GainNode(this.#context, { gain: 1 });
    bus.connect(this.#output);
    return bus;
  }

  /** Return the bus of a part, which is silent while the part is. */
  #busOf(part) {
    if (!this.#partBuses.has(part)) {
      const bus = new GainNode(this.#context, { gain: this.#isSilent(part) ? 0 : 1 });
      bus.connect(this.#bus);
      this.#partBuses.set(part, bus);
    }
    return this.#partBuses.get(part);
  }

  /** Schedule the clicks before the first sound; return their total duration in seconds. */
  #scheduleCountIn() {
    const { beats, seconds } = this.#tune.count_in;
    const start = this.#context.currentTime + START_DELAY;
    this.#bus ??= this.#createBus();
    for (let beat = 0; beat < beats; beat++) {
      const when = start + (beat * seconds) / this.#tempo;
      this.#trackSources(this.#instrument.playClick(this.#bus, when, beat === 0));
    }
    return (beats * seconds) / this.#tempo;
  }

  #toPathTime(audioTime) {
    return this.#anchor.pathTime + (audioTime - this.#anchor.time) * this.#tempo;
  }

  #toAudioTime(pathTime) {
    return this.#anchor.time + (pathTime - this.#anchor.pathTime) / this.#tempo;
  }

  #pathTimeNow() {
    const pathTime = Math.max(this.#toPathTime(this.#audibleTime()), this.#startPathTime);
    const { length, isLoop } = this.#path;
    return isLoop && length ? pathTime % length : Math.min(pathTime, length);
  }

  /** Return the audio time of the sound that leaves the loudspeaker now. */
  #audibleTime() {
    return this.#context.currentTime - (this.#context.outputLatency || 0);
  }

  /** Schedule the events within the lookahead. */
  #schedule() {
    const lookahead = document.hidden ? LOOKAHEAD_HIDDEN : LOOKAHEAD;
    const until = this.#context.currentTime + lookahead;
    for (;;) {
      const event = this.#path.events[this.#nextEvent];
      const pathTime = this.#lapStart + event.at;
      const time = this.#toAudioTime(pathTime);
      if (time >= until) break;
      this.#nextEvent += 1;
      if (event.kind === "note") this.#scheduleNote(event, time, pathTime);
      else if (event.kind === "bar")
        this.#cues.push({ time, rank: 1, run: () => this.onBar(event.bar, event.heard) });
      else if (!this.#startNextLap(time)) break;
    }
    this.#scheduledUntil = Math.max(this.#scheduledUntil, until);
  }

  /** Begin another round of the loop and return true, or schedule the end and return false. */
  #startNextLap(time) {
    if (this.#path.isLoop && this.#path.length > 0.01) {
      this.#lapStart += this.#path.length;
      this.#nextEvent = 0;
      return true;
    }
    clearInterval(this.#timer);
    this.#nextEvent -= 1;
    this.#cues.push({ time, rank: 3, run: () => this.#end() });
    return false;
  }

  #scheduleNote({ sound, length: writtenLength }, time, pathTime) {
    const [, , pitch, velocity, part, note, bar] = sound;
    const program = this.#tune.programs[part] ?? 0;
    const length = writtenLength / this.#tempo;
    const when = Math.max(time, this.#context.currentTime);
    this.#trackSources(
      this.#instrument.play(this.#busOf(part), { program, pitch, velocity, when, length }),
    );
    if (note >= 0) {
      const light = () => this.#isSilent(part) || this.#lightNote(note, true);
      this.#cues.push({ time, rank: 2, run: light });
      this.#cues.push({ time: time + length, rank: 0, run: () => this.#lightNote(note, false) });
    }
    const frequency = frequencyOf(pitch);
    if (this.#isSilent(part)) return;
    this.onSchedule({ time, pathTime, frequency, pitch, note, bar, length, part });
  }

  #trackSources(sources) {
    for (const source of sources) {
      this.#sources.add(source);
      source.addEventListener("ended", () => this.#sources.delete(source), { once: true });
    }
  }

  /**
   * Run the cues that are due, and ask for the next frame. At the same time, notes end (rank 0)
   * before a bar begins (1), notes begin (2), and the tune ends (3).
   */
  #runCues() {
    const now = this.#audibleTime();
    const dueCues = this.#cues
      .filter((cue) => cue.time <= now)
      .sort((a, b) => a.time - b.time || a.rank - b.rank);
    this.#cues = this.#cues.filter((cue) => cue.time > now);
    this.#frame = requestAnimationFrame(() => this.#runCues());
    for (const cue of dueCues) cue.run();
  }

  #lightNote(note, isOn) {
    const count = (this.#litCounts.get(note) ?? 0) + (isOn ? 1 : -1);
    if (count > 0) this.#litCounts.set(note, count);
    else this.#litCounts.delete(note);
    if (isOn || count <= 0) this.onNote(note, isOn);
  }

  #end() {
    this.stop();
    this.#restingAt = 0;
    this.onEnd();
  }

  /** Fade out all sounds, drop all cues and report every lit note as ended. */
  #silence() {
    clearInterval(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#cues = [];
    for (const note of [...this.#litCounts.keys()]) this.onNote(note, false);
    this.#litCounts.clear();
    if (!this.#bus) return;
    const now = this.#context.currentTime;
    this.#bus.gain.setValueAtTime(1, now);
    this.#bus.gain.linearRampToValueAtTime(0, now + FADE_OUT);
    for (const source of this.#sources) source.stop(now + FADE_OUT);
    this.#sources.clear();
    this.#partBuses.clear();
    this.#bus = null;
  }

  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.onState(state);
  }
}
