/**
 * Instruments synthesised with Web Audio: decaying tones (struck and plucked), sustained tones
 * (bowed and blown), and a drum kit of filtered noise. They need no samples and load nothing.
 */

/**
 * The sound of a family of General MIDI programs.
 *
 * partials: amplitude of the n-th partial; count: number of partials; level: gain of the tone.
 * Decaying tones have `decay`, the time constant in seconds at middle C, and `bright`, the factor by
 * which high partials decay faster. Sustained tones have `attack`. release: seconds; vibrato: cents;
 * breath: share of noise; reeds: detuning between two oscillators in cents; open: cutoff of the
 * lowpass filter in multiples of the fundamental.
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

/** The family of each General MIDI program, as [first program, family] in ascending order. */
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

const DRUMS = -1; // takes the place of a program number; see DRUMS in tune_json.py
const STRIKE_SECONDS = 0.004; // attack of a decaying tone

/** @param {number} program @returns {string} */
function familyOf(program) {
  return FAMILIES.findLast(([first]) => first <= program)[1];
}

/** @param {number} pitch MIDI number @returns {number} hertz, A4 = 440 */
export function frequencyOf(pitch) {
  return 440 * 2 ** ((pitch - 69) / 12);
}

/** Yield white noise from -1 to 1; the same sequence every time. */
function* noiseSamples() {
  for (let state = 1; ; state = (Math.imul(state, 1664525) + 1013904223) | 0) yield state / 2 ** 31;
}

/**
 * Fill a buffer with noise.
 * @param {BaseAudioContext} context
 * @param {number} seconds
 * @param {(seconds: number) => number} envelope amplitude by time
 */
function createNoiseBuffer(context, seconds, envelope, channels = 1) {
  const length = Math.ceil(seconds * context.sampleRate);
  const buffer = context.createBuffer(channels, length, context.sampleRate);
  const samples = noiseSamples();
  for (let channel = 0; channel < channels; channel++) {
    const data = buffer.getChannelData(channel);
    for (let i = 0; i < length; i++) data[i] = samples.next().value * envelope(i / context.sampleRate);
  }
  return buffer;
}

/** Create the output chain (reverb of a small room, limiter) and return its input node. */
export function createRoom(context) {
  const input = context.createGain();
  const limiter = new DynamicsCompressorNode(context, {
    threshold: -14,
    knee: 12,
    ratio: 5,
    attack: 0.004,
    release: 0.16,
  });
  const reverb = context.createConvolver();
  reverb.buffer = createNoiseBuffer(context, 1.3, (t) => (t < 0.012 ? 0 : Math.exp(-t * 5.2)), 2);
  const wet = new GainNode(context, { gain: 0.16 });
  input.connect(limiter);
  input
    .connect(new BiquadFilterNode(context, { type: "lowpass", frequency: 4200 }))
    .connect(reverb)
    .connect(wet)
    .connect(limiter);
  const headroom = new GainNode(context, { gain: 0.7 }); // eight loud notes do not clip
  limiter.connect(headroom).connect(context.destination);
  return input;
}

export class Instrument {
  /** @param {BaseAudioContext} context */
  constructor(context) {
    this.context = context;
    this.waves = new Map();
    this.noiseLoop = null;
  }

  /**
   * Schedule one note and return its sources, which stop by themselves.
   * @param {AudioNode} output
   * @param {{program: number, pitch: number, velocity: number, when: number, length: number}} note
   * @returns {AudioScheduledSourceNode[]}
   */
  play(output, note) {
    if (note.program === DRUMS) return this.#playDrum(output, note);
    const timbre = TIMBRES[familyOf(note.program)];
    return timbre.decay
      ? this.#playDecaying(output, note, timbre)
      : this.#playSustained(output, note, timbre);
  }

  /** Schedule a click of the count-in and return its sources. */
  playClick(output, when, isFirst) {
    const { tone, level } = this.#startTone(output, isFirst ? 1760 : 1320, when, null);
    level.gain.setValueAtTime(0.18, when);
    level.gain.setTargetAtTime(0, when + 0.01, 0.018);
    tone.stop(when + 0.15);
    return [tone];
  }

  /** Use two layers: low partials decay slowly, high partials fast. */
  #playDecaying(output, { program, pitch, velocity, when, length }, timbre) {
    const family = familyOf(program);
    const frequency = frequencyOf(pitch);
    const peak = timbre.level * gainOf(velocity, pitch);
    const lowDecay = timbre.decay * 2 ** ((60 - pitch) / 20);
    const layers = [
      [`${family} low`, 1, lowDecay, -1],
      [`${family} high`, 0.8, lowDecay / timbre.bright, 1.5],
    ];
    return layers.map(([name, share, decay, cents]) => {
      const wave = this.#getWave(name, timbre);
      const { tone, level } = this.#startTone(output, frequency, when, wave, cents);
      level.gain.setValueAtTime(0, when);
      level.gain.linearRampToValueAtTime(peak * share, when + STRIKE_SECONDS);
      level.gain.setTargetAtTime(0, when + STRIKE_SECONDS, decay);
      level.gain.setTargetAtTime(0, when + Math.max(length, 0.05), timbre.release);
      tone.stop(when + Math.max(length, 0.05) + timbre.release * 7);
      return tone;
    });
  }

  #playSustained(output, { program, pitch, velocity, when, length }, timbre) {
    const frequency = frequencyOf(pitch);
    const peak = timbre.level * gainOf(velocity, pitch);
    const end = when + Math.max(length, 0.06);
    const lowpass = this.#createFilter({
      type: "lowpass",
      Q: 0.3,
      frequency: frequency * (timbre.open ?? 10) + 900,
    });
    lowpass.connect(output);
    const wave = this.#getWave(familyOf(program), timbre);
    const detunings = timbre.reeds ? [-timbre.reeds / 2, timbre.reeds / 2] : [0];
    const sources = detunings.map((cents) => {
      const { tone, level } = this.#startTone(lowpass, frequency, when, wave, cents);
      shapeSustain(level.gain, peak / detunings.length ** 0.5, when, end, timbre);
      tone.stop(end + timbre.release * 6);
      return tone;
    });
    if (timbre.vibrato && length > 0.28) sources.push(this.#addVibrato(sources, when, end, timbre));
    if (timbre.breath) sources.push(this.#addBreath(output, frequency, peak, when, end, timbre));
    return sources;
  }

  /** Modulate the pitch, fading in once the attack is over. */
  #addVibrato(tones, when, end, timbre) {
    const depth = new GainNode(this.context, { gain: 0 });
    depth.gain.setValueAtTime(0, when + 0.16);
    depth.gain.linearRampToValueAtTime(timbre.vibrato, when + 0.45);
    const modulator = new OscillatorNode(this.context, { frequency: 5.3 });
    modulator.connect(depth);
    for (const tone of tones) depth.connect(tone.detune);
    modulator.start(when);
    modulator.stop(end + timbre.release * 6);
    return modulator;
  }

  #addBreath(output, frequency, peak, when, end, timbre) {
    const { source, level } = this.#startNoise(
      output,
      { type: "bandpass", frequency: frequency * 3, Q: 0.8 },
      when,
    );
    shapeSustain(level.gain, peak * timbre.breath * 4, when, end, { ...timbre, attack: 0.02 });
    source.stop(end + timbre.release * 6);
    return source;
  }

  /** A drum is filtered noise; low drums add a tone of falling pitch. */
  #playDrum(output, { pitch, velocity, when }) {
    const isLow = pitch < 38 || (pitch > 40 && pitch < 51 && pitch % 2);
    const peak = 0.5 * gainOf(velocity, 60);
    const filterType = isLow ? "lowpass" : pitch > 41 ? "highpass" : "bandpass";
    const { source, level } = this.#startNoise(
      output,
      { type: filterType, frequency: isLow ? 400 : pitch > 41 ? 6000 : 1900 },
      when,
    );
    level.gain.setValueAtTime(peak, when);
    level.gain.setTargetAtTime(0, when, pitch > 48 ? 0.12 : 0.045);
    source.stop(when + 0.8);
    if (!isLow) return [source];
    const { tone, level: toneLevel } = this.#startTone(output, 60 + pitch, when, null);
    tone.frequency.setTargetAtTime(48, when, 0.04);
    toneLevel.gain.setValueAtTime(peak * 1.4, when);
    toneLevel.gain.setTargetAtTime(0, when + 0.01, 0.07);
    tone.stop(when + 0.6);
    return [source, tone];
  }

  #startTone(output, frequency, when, wave, cents = 0) {
    const tone = new OscillatorNode(this.context, { frequency, detune: cents });
    if (wave) tone.setPeriodicWave(wave);
    const level = new GainNode(this.context, { gain: 0 });
    tone.connect(level).connect(output);
    tone.start(when);
    return { tone, level };
  }

  #startNoise(output, filter, when) {
    this.noiseLoop ??= createNoiseBuffer(this.context, 1, () => 1);
    const source = new AudioBufferSourceNode(this.context, { buffer: this.noiseLoop, loop: true });
    const level = new GainNode(this.context, { gain: 0 });
    source.connect(this.#createFilter(filter)).connect(level).connect(output);
    source.start(when);
    return { source, level };
  }

  #createFilter(options) {
    return new BiquadFilterNode(this.context, {
      ...options,
      frequency: Math.min(options.frequency, this.context.sampleRate / 4),
    });
  }

  /** Return the cached wave of a family, or of one of its layers ("piano low", "piano high"). */
  #getWave(name, timbre) {
    if (!this.waves.has(name)) {
      const partials = Array.from({ length: timbre.count }, (_, i) => partialOf(timbre, name, i + 1));
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

/** Return the amplitude of the n-th partial in a layer; the low layer has the first four. */
function partialOf(timbre, name, n) {
  if (name.endsWith(" low")) return n <= 4 ? timbre.partials(n) : 0;
  return name.endsWith(" high") && n <= 4 ? 0 : timbre.partials(n);
}

/** Return the gain of a note. Low notes are a little softer, since more of their partials are audible. */
function gainOf(velocity, pitch) {
  return (velocity / 127) ** 1.4 * 2 ** ((Math.min(pitch, 84) - 72) / 60);
}

/** Schedule attack, sustain and release of a sustained tone. */
function shapeSustain(gain, level, when, end, { attack, release }) {
  gain.setValueAtTime(0, when);
  gain.setTargetAtTime(level, when, attack / 2.5);
  gain.setTargetAtTime(0, end, release);
}
