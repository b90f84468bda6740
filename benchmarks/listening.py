"""Measure the rendered sound of 50 tunes: length, peak, loudness, pitch, and rendering speed.

    python benchmarks/listening.py          50 tunes of `folk`, about a minute
    python benchmarks/listening.py --toy    3 tunes, seconds

The tunes have seeds 0, 1, ...; each is written as WAV and read back. Length: from the start of the
first note to the end of the tune, by the score; the rest of the file is its tail. A note starts in
the file where the amplitude first exceeds 1 % of the tune's peak. Loudness: root mean square of the
whole tune. Pitch: single notes of 1.5 s, fundamental by FFT, over all pitches of the tunes. Speed:
seconds of music per CPU second on one core, with the SoundFont loaded. symusic renders a note with
the same font for comparison.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import wave
from typing import Any

import numpy as np
import symusic

from musicgen import load
from musicgen.formats import midi
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.score import Note, Part, Score
from musicgen.render import soundfont
from musicgen.render.synth import MAX_PEAK, render_wav, synthesise
from musicgen.render.synth_voice import RATE
from musicgen.render.timeline import duration, timeline

PROGRAMS_OF_FOLK = (
    0,
    15,
    21,
    24,
    25,
    40,
    46,
    71,
    73,
    74,
    78,
    105,
    109,
    110,
)  # instruments of folk music
PITCH_TOLERANCE = 5.0  # cents
TIME_TOLERANCE = 0.05  # seconds
FAINT_LEVEL = -40.0  # dB relative to full scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--toy", action="store_true", help="tiny sizes: seconds instead of a minute"
    )
    parser.add_argument("--tunes", type=int, default=50)
    options = parser.parse_args()
    model = load("folk")
    count = 3 if options.toy else options.tunes
    tunes = [model.sample(seed=seed).score for seed in range(count)]
    synthesise(tunes[0])
    measure_files(tunes)
    pitches = sorted({note.pitch for tune in tunes for note in tune.notes})
    programs = PROGRAMS_OF_FOLK[:2] if options.toy else PROGRAMS_OF_FOLK
    measure_pitch(pitches[::8] if options.toy else pitches, programs)
    if not options.toy:
        measure_all_instruments()
    measure_symusic(40)


def measure_files(tunes: list[Score]) -> None:
    """Print length, onset, peak, loudness and rendering speed of the tunes."""
    cpu_seconds, early_count, tails, onset_errors, peaks, levels = 0.0, 0, [], [], [], []
    for tune in tunes:
        start_time = time.process_time()
        data = render_wav(tune)
        cpu_seconds += time.process_time() - start_time
        samples, seconds = decode_wav(data), duration(tune)
        tails.append(samples.shape[1] / RATE - seconds)
        early_count += tails[-1] < -TIME_TOLERANCE
        amplitudes = np.abs(samples).max(axis=0)
        first_onset = int(np.argmax(amplitudes > 0.01 * amplitudes.max())) / RATE
        onset_errors.append(first_onset - timeline(tune)[0].start)
        peaks.append(float(amplitudes.max()))
        music = samples[:, : round(seconds * RATE)]
        levels.append(20 * float(np.log10(np.sqrt((music * music).mean()))))
    music_seconds = sum(map(duration, tunes))
    print(
        f"{len(tunes)} tunes, {music_seconds:.1f} s of music: {early_count} end more than"
        f" {1000 * TIME_TOLERANCE:.0f} ms early; tails {min(tails):.2f} to {max(tails):.2f} s"
    )
    print(
        f"the first note starts within {1000 * max(map(abs, onset_errors)):.1f} ms"
        " of its time in the score"
    )
    print(f"peaks {min(peaks):.3f} to {max(peaks):.3f} of full scale; the limit is {MAX_PEAK}")
    print(
        f"loudness {min(levels):.1f} to {max(levels):.1f} dB, median"
        f" {statistics.median(levels):.1f}; {sum(level < FAINT_LEVEL for level in levels)} under"
        f" {FAINT_LEVEL:.0f} dB"
    )
    print(f"speed: {music_seconds / cpu_seconds:.1f} times real time on one core")


def decode_wav(data: bytes) -> Any:
    """Return the samples of a WAV file as (channel, sample) float64 in -1..1."""
    with wave.open(io.BytesIO(data)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return frames.reshape(-1, 2).T / 32_768


def measure_pitch(pitches: list[int], programs: tuple[int, ...]) -> None:
    """Print the pitch deviation of single notes per instrument."""
    for program in programs:
        deviations = [
            abs(measure_cents_off(synthesise(make_single_note(pitch, program)), pitch))
            for pitch in pitches
        ]
        in_tune_count = sum(cents < PITCH_TOLERANCE for cents in deviations)
        print(
            f"{PROGRAMS[program]}: {in_tune_count} of {len(deviations)} pitches within"
            f" {PITCH_TOLERANCE:.0f} cents, median {statistics.median(deviations):.1f},"
            f" worst {max(deviations):.1f}"
        )


def measure_all_instruments() -> None:
    """Print the instruments that are off pitch; most of them are detuned by design."""
    mistuned = []
    for program, name in enumerate(PROGRAMS[:112]):
        deviations = [
            abs(measure_cents_off(synthesise(make_single_note(pitch, program)), pitch))
            for pitch in (55, 62, 69, 76)
        ]
        if max(deviations) >= PITCH_TOLERANCE:
            mistuned.append(f"{name} {max(deviations):.0f}")
    print(
        f"of 112 instruments {112 - len(mistuned)} are in tune at G3 D4 A4 E5;"
        f" the others: {', '.join(mistuned)}"
    )


def make_single_note(pitch: int, program: int) -> Score:
    return Score((Note(0, pitch, 144),), parts=(Part("", program),))


def measure_cents_off(sound: Any, pitch: int) -> float:
    """Return the deviation of the fundamental in cents, searched within a quarter tone."""
    samples = sound.mean(axis=0)[RATE // 8 : RATE // 8 + RATE]
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**18))
    expected_bin = 440 * 2 ** ((pitch - 69) / 12) * 2**18 / RATE
    low, high = (round(expected_bin * 2 ** (cents / 1200)) for cents in (-50, 50))
    return float(1200 * np.log2((low + int(spectrum[low : high + 1].argmax())) / expected_bin))


def measure_symusic(program: int) -> None:
    """Print the frequency at which symusic plays middle C with the same font."""
    font = soundfont.general_midi_path()
    score = symusic.Score.from_midi(midi.render(make_single_note(60, program)))
    sound = symusic.Synthesizer(str(font), RATE, 4).render(score, True)
    spectrum = np.abs(np.fft.rfft(sound.mean(axis=0)[RATE // 8 :][:RATE] * np.hanning(RATE), 2**18))
    loudest = float(spectrum.argmax()) * RATE / 2**18
    print(
        f"symusic {symusic.__version__} plays middle C (261.6 Hz) of the {PROGRAMS[program]}"
        f" at {loudest:.1f} Hz"
    )


if __name__ == "__main__":
    main()
