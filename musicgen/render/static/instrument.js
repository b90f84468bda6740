/**
 * Instruments made of oscillators alone: struck and plucked strings that die away, bowed and blown
 * tones that last, and a drum kit of noise. Nothing is sampled, nothing is loaded.
 */

/**
 * What a family of General MIDI programs sounds like.
 *
 * partials: how loud the n-th partial is; count: how many there are; level: of the whole tone.
 * struck: `decay` is the time constant at middle C, `bright` how much sooner high partials die.
 * held: seconds of attack and release; vibrato in cents; breath: the share of noise; reeds: cents
 * between two oscillators.
 * @typedef {{partials: (n: number) => number, count: number, level: number, decay?: number,
 *   bright?: number, attack?: number, release?: number, vibrato?: number, breath?: number,
 *   reeds?: number, open?: number}} Timbre
 */

/** @type {Record<string, Timbre>} */
const TIMBRES = {
  piano: {
    partials: (n) => n ** -1.25 * (n % 8 ? 1 : 0.3),
    count: 22,
    level: 0.5,
    decay: 0.9,
    bright: 3.2,
    release: 0.11,
  },
  bells: {
    partials: (n) => [1, 0, 0, 0.34, 0, 0.04, 0, 0, 0, 0.1][n - 1] ?? 0,
    count: 10,
    level: 0.42,
    decay: 0.6,
    bright: 5,
    release: 0.3,
  },
  plucked: {
    partials: (n) => Math.abs(Math.sin(n * 0.7)) * n ** -1.05,
    count: 24,
    level: 0.55,
    decay: 0.6,
    bright: 4.5,
    release: 0.09,
  },
  bass: { partials: (n) => n ** -1.7, count: 12, level: 0.7, decay: 0.9, bright: 3, release: 0.08 },
  organ: {
    partials: (n) => [1, 0.62, 0.3, 0.36, 0, 0.16, 0, 0.2][n - 1] ?? 0,
    count: 8,
    level: 0.22,
    attack: 0.02,
    release: 0.07,
  },
  reeds: {
    partials: (n) => n ** -1.05 * (n % 2 ? 1 : 0.62),
    count: 20,
    level: 0.2,
    attack: 0.035,
    release: 0.08,
    reeds: 9,
    open: 9,
  },
  bowed: {
    partials: (n) => n ** -1.15 * [1, 1, 0.8, 0.95, 0.55, 0.6, 0.35, 0.45][(n - 1) % 8],
    count: 24,
    level: 0.26,
    attack: 0.06,
    release: 0.13,
    vibrato: 11,
    open: 7,
    breath: 0.006,
  },
  choir: {
    partials: (n) => n ** -1.6,
    count: 14,
    level: 0.3,
    attack: 0.13,
    release: 0.22,
    vibrato: 9,
    reeds: 7,
    open: 5,
  },
  brass: {
    partials: (n) => n ** -0.9 * Math.exp(-n / 9),
    count: 18,
    level: 0.24,
    attack: 0.045,
    release: 0.09,
    vibrato: 5,
    open: 8,
  },
  woodwind: {
    partials: (n) => (n % 2 ? n ** -1.1 : 0.28 * n ** -1.1),
    count: 16,
    level: 0.27,
    attack: 0.04,
    release: 0.08,
    vibrato: 6,
    open: 8,
    breath: 0.008,
  },
  flute: {
    partials: (n) => [1, 0.32, 0.12, 0.035, 0.016, 0.008][n - 1] ?? 0,
    count: 6,
    level: 0.4,
    attack: 0.05,
    release: 0.09,
    vibrato: 12,
    breath: 0.035,
  },
};

/** Which family a General MIDI program is of: [the first program, family], in order. */
const FAMILIES = [
  [0, "piano"],
  [8, "bells"],
  [16, "organ"],
  [20, "reeds"],
  [24, "plucked"],
  [32, "bass"],
  [40, "bowed"],
  [45, "plucked"],
  [48, "bowed"],
  [52, "choir"],
  [55, "brass"],
  [64, "woodwind"],
  [72, "flute"],
  [80, "woodwind"],
  [88, "choir"],
  [96, "organ"],
  [104, "plucked"],
  [108, "bells"],
  [109, "reeds"],
  [110, "bowed"],
  [111, "woodwind"],
  [112, "bells"],
];

export const DRUMS = -1; // in place of a program
const SOON = 0.004; // seconds of attack of what is struck

/** @param {number} program @returns {string} */
export function familyOf(program) {
  return FAMILIES.findLast(([first]) => first <= program)[1];
}

/** @param {number} pitch MIDI number @returns {number} hertz, A4 = 440 */
export function frequencyOf(pitch) {
  return 440 * 2 ** ((pitch - 69) / 12);
}

/** Numbers from -1 to 1 that sound like noise and are the same every time. */
function* noise() {
  for (let state = 1; ; state = (Math.imul(state, 1664525) + 1013904223) | 0) yield state / 2 ** 31;
}

/** @param {BaseAudioContext} context @param {number} seconds @param {(t: number) => number} shape */
function noiseBuffer(context, seconds, shape, channels = 1) {
  const length = Math.ceil(seconds * context.sampleRate);
  const buffer = context.createBuffer(channels, length, context.sampleRate);
  const source = noise();
  for (let channel = 0; channel < channels; channel++) {
    const data = buffer.getChannelData(channel);
    for (let i = 0; i < length; i++) data[i] = source.next().value * shape(i / context.sampleRate);
  }
  return buffer;
}

/** A small room: what the mix goes through, dry and with its echo. */
export function room(context) {
  const input = context.createGain();
  const limit = new DynamicsCompressorNode(context, {
    threshold: -14,
    knee: 12,
    ratio: 5,
    attack: 0.004,
    release: 0.16,
  });
  const echo = context.createConvolver();
  echo.buffer = noiseBuffer(context, 1.3, (t) => (t < 0.012 ? 0 : Math.exp(-t * 5.2)), 2);
  const wet = new GainNode(context, { gain: 0.16 });
  input.connect(limit);
  input
    .connect(new BiquadFilterNode(context, { type: "lowpass", frequency: 4200 }))
    .connect(echo)
    .connect(wet)
    .connect(limit);
  limit.connect(new GainNode(context, { gain: 0.7 })).connect(context.destination); // eight loud notes fit
  return input;
}

export class Instrument {
  /** @param {BaseAudioContext} context */
  constructor(context) {
    this.context = context;
    this.waves = new Map();
    this.hiss = null;
  }

  /**
   * Play one note into a node; return the sources, which stop by themselves.
   * @param {AudioNode} into
   * @param {{program: number, pitch: number, velocity: number, when: number, length: number}} note
   * @returns {AudioScheduledSourceNode[]}
   */
  play(into, note) {
    if (note.program === DRUMS) return this.#drum(into, note);
    const timbre = TIMBRES[familyOf(note.program)];
    return timbre.decay ? this.#struck(into, note, timbre) : this.#held(into, note, timbre);
  }

  /** A click of the count-in. */
  click(into, when, isFirst) {
    const { tone, level } = this.#tone(into, isFirst ? 1760 : 1320, when, null);
    level.gain.setValueAtTime(0.18, when);
    level.gain.setTargetAtTime(0, when + 0.01, 0.018);
    tone.stop(when + 0.15);
    return [tone];
  }

  /** Two layers: the lower partials ring on, the higher die soon. */
  #struck(into, { program, pitch, velocity, when, length }, timbre) {
    const family = familyOf(program);
    const frequency = frequencyOf(pitch);
    const loud = timbre.level * loudness(velocity, pitch);
    const ringing = timbre.decay * 2 ** ((60 - pitch) / 20);
    const layers = [
      [`${family} low`, 1, ringing, -1],
      [`${family} high`, 0.8, ringing / timbre.bright, 1.5],
    ];
    return layers.map(([name, share, decay, cents]) => {
      const { tone, level } = this.#tone(into, frequency, when, this.#wave(name, timbre), cents);
      level.gain.setValueAtTime(0, when);
      level.gain.linearRampToValueAtTime(loud * share, when + SOON);
      level.gain.setTargetAtTime(0, when + SOON, decay);
      level.gain.setTargetAtTime(0, when + Math.max(length, 0.05), timbre.release);
      tone.stop(when + Math.max(length, 0.05) + timbre.release * 7);
      return tone;
    });
  }

  #held(into, { program, pitch, velocity, when, length }, timbre) {
    const frequency = frequencyOf(pitch);
    const loud = timbre.level * loudness(velocity, pitch);
    const end = when + Math.max(length, 0.06);
    const through = this.#filter({
      type: "lowpass",
      Q: 0.3,
      frequency: frequency * (timbre.open ?? 10) + 900,
    });
    through.connect(into);
    const wave = this.#wave(familyOf(program), timbre);
    const voices = timbre.reeds ? [-timbre.reeds / 2, timbre.reeds / 2] : [0];
    const sources = voices.map((cents) => {
      const { tone, level } = this.#tone(through, frequency, when, wave, cents);
      swell(level.gain, loud / voices.length ** 0.5, when, end, timbre);
      tone.stop(end + timbre.release * 6);
      return tone;
    });
    if (timbre.vibrato && length > 0.28) sources.push(this.#vibrato(sources, when, end, timbre));
    if (timbre.breath) sources.push(this.#breath(into, frequency, loud, when, end, timbre));
    return sources;
  }

  /** The pitch comes and goes a little, once the tone stands. */
  #vibrato(tones, when, end, timbre) {
    const depth = new GainNode(this.context, { gain: 0 });
    depth.gain.setValueAtTime(0, when + 0.16);
    depth.gain.linearRampToValueAtTime(timbre.vibrato, when + 0.45);
    const slow = new OscillatorNode(this.context, { frequency: 5.3 });
    slow.connect(depth);
    for (const tone of tones) depth.connect(tone.detune);
    slow.start(when);
    slow.stop(end + timbre.release * 6);
    return slow;
  }

  #breath(into, frequency, loud, when, end, timbre) {
    const { source, level } = this.#noise(
      into,
      { type: "bandpass", frequency: frequency * 3, Q: 0.8 },
      when,
    );
    swell(level.gain, loud * timbre.breath * 4, when, end, { ...timbre, attack: 0.02 });
    source.stop(end + timbre.release * 6);
    return source;
  }

  /** A drum is noise through a filter, low ones with a falling tone. */
  #drum(into, { pitch, velocity, when }) {
    const isLow = pitch < 38 || (pitch > 40 && pitch < 51 && pitch % 2);
    const loud = 0.5 * loudness(velocity, 60);
    const kind = isLow ? "lowpass" : pitch > 41 ? "highpass" : "bandpass";
    const { source, level } = this.#noise(
      into,
      { type: kind, frequency: isLow ? 400 : pitch > 41 ? 6000 : 1900 },
      when,
    );
    level.gain.setValueAtTime(loud, when);
    level.gain.setTargetAtTime(0, when, pitch > 48 ? 0.12 : 0.045);
    source.stop(when + 0.8);
    if (!isLow) return [source];
    const { tone, level: thump } = this.#tone(into, 60 + pitch, when, null);
    tone.frequency.setTargetAtTime(48, when, 0.04);
    thump.gain.setValueAtTime(loud * 1.4, when);
    thump.gain.setTargetAtTime(0, when + 0.01, 0.07);
    tone.stop(when + 0.6);
    return [source, tone];
  }

  #tone(into, frequency, when, wave, cents = 0) {
    const tone = new OscillatorNode(this.context, { frequency, detune: cents });
    if (wave) tone.setPeriodicWave(wave);
    const level = new GainNode(this.context, { gain: 0 });
    tone.connect(level).connect(into);
    tone.start(when);
    return { tone, level };
  }

  #noise(into, filter, when) {
    this.hiss ??= noiseBuffer(this.context, 1, () => 1);
    const source = new AudioBufferSourceNode(this.context, { buffer: this.hiss, loop: true });
    const level = new GainNode(this.context, { gain: 0 });
    source.connect(this.#filter(filter)).connect(level).connect(into);
    source.start(when);
    return { source, level };
  }

  #filter(options) {
    return new BiquadFilterNode(this.context, {
      ...options,
      frequency: Math.min(options.frequency, this.context.sampleRate / 4),
    });
  }

  /** The wave of a family; of one that is struck, "low" and "high" are its two layers. */
  #wave(name, timbre) {
    if (!this.waves.has(name)) {
      const partials = Array.from({ length: timbre.count }, (_, i) => partial(timbre, name, i + 1));
      const imag = Float32Array.from([0, ...partials]);
      this.waves.set(
        name,
        this.context.createPeriodicWave(new Float32Array(imag.length), imag, {
          disableNormalization: true,
        }),
      );
    }
    return this.waves.get(name);
  }
}

function partial(timbre, name, n) {
  if (name.endsWith(" low")) return n <= 4 ? timbre.partials(n) : 0;
  return name.endsWith(" high") && n <= 4 ? 0 : timbre.partials(n);
}

/** How loud a note is: low ones a little softer, for their many partials are heard. */
function loudness(velocity, pitch) {
  return (velocity / 127) ** 1.4 * 2 ** ((Math.min(pitch, 84) - 72) / 60);
}

/** Let a held tone come, stand and go. */
function swell(gain, level, when, end, { attack, release }) {
  gain.setValueAtTime(0, when);
  gain.setTargetAtTime(level, when, attack / 2.5);
  gain.setTargetAtTime(0, end, release);
}
