"""What is heard of 50 tunes: length, peak, loudness, pitch, and how fast sound is made.

    python benchmarks/listening.py          50 tunes of `folk`, a minute
    python benchmarks/listening.py --toy    3 tunes, seconds

Tunes are those of seeds 0, 1, ...; each is written as WAV and read back. Length: from the start of
the first note to the end of the tune, by the score; what the file has beyond that is its tail.
A note's start in the file is where it first passes a hundredth of the tune's peak. Loudness: root
mean square of the whole tune. Pitch: single notes of a second and a half, the fundamental by FFT,
over all pitches of the tunes. Speed: seconds of music for one second of one core, the font loaded.
symusic plays the same font, for comparison.
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
from musicgen.render.synth import MAX_PEAK, RATE, render_wav, synthesise
from musicgen.render.timeline import duration, timeline

PLAYED = (0, 15, 21, 24, 25, 40, 46, 71, 73, 74, 78, 105, 109, 110)  # what folk tunes are played on
ENOUGH = 5.0  # cents
CLOSE = 0.05  # seconds
FAINT = -40.0  # decibels under full scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--tunes", type=int, default=50)
    options = parser.parse_args()
    model = load("folk")
    count = 3 if options.toy else options.tunes
    tunes = [model.sample(seed=seed).score for seed in range(count)]
    synthesise(tunes[0])
    sounds(tunes)
    pitches = sorted({note.pitch for tune in tunes for note in tune.notes})
    programs = PLAYED[:2] if options.toy else PLAYED
    in_tune(pitches[::8] if options.toy else pitches, programs)
    if not options.toy:
        every_instrument()
    rival(40)


def sounds(tunes: list[Score]) -> None:
    """Print what the files of the tunes hold, and how fast they were made."""
    spent, early, tails, starts, peaks, levels = 0.0, 0, [], [], [], []
    for tune in tunes:
        began = time.process_time()
        data = render_wav(tune)
        spent += time.process_time() - began
        heard, length = decoded(data), duration(tune)
        tails.append(heard.shape[1] / RATE - length)
        early += tails[-1] < -CLOSE
        loud = np.abs(heard).max(axis=0)
        first = int(np.argmax(loud > 0.01 * loud.max())) / RATE
        starts.append(first - timeline(tune)[0].start)
        peaks.append(float(loud.max()))
        music = heard[:, : round(length * RATE)]
        levels.append(20 * float(np.log10(np.sqrt((music * music).mean()))))
    total = sum(map(duration, tunes))
    print(
        f"{len(tunes)} tunes, {total:.1f} s of music: {early} end more than"
        f" {1000 * CLOSE:.0f} ms early; tails {min(tails):.2f} to {max(tails):.2f} s"
    )
    print(f"the first note starts within {1000 * max(map(abs, starts)):.1f} ms of its place")
    print(f"peaks {min(peaks):.3f} to {max(peaks):.3f} of full scale; the limit is {MAX_PEAK}")
    print(
        f"loudness {min(levels):.1f} to {max(levels):.1f} dB, median"
        f" {statistics.median(levels):.1f}; {sum(level < FAINT for level in levels)} under"
        f" {FAINT:.0f} dB"
    )
    print(f"speed: {total / spent:.1f} times real time on one core")


def decoded(data: bytes) -> Any:
    """Read a WAV file back, as (channel, sample) between -1 and 1."""
    with wave.open(io.BytesIO(data)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return frames.reshape(-1, 2).T / 32_768


def in_tune(pitches: list[int], programs: tuple[int, ...]) -> None:
    """Print how far single notes are off, instrument by instrument."""
    for program in programs:
        found = [abs(cents_off(synthesise(held(pitch, program)), pitch)) for pitch in pitches]
        within = sum(cents < ENOUGH for cents in found)
        print(
            f"{PROGRAMS[program]}: {within} of {len(found)} pitches within {ENOUGH:.0f} cents,"
            f" median {statistics.median(found):.1f}, worst {max(found):.1f}"
        )


def every_instrument() -> None:
    """Print which instruments have notes that are far off: of most, that is their sound."""
    off = []
    for program, name in enumerate(PROGRAMS[:112]):
        found = [abs(cents_off(synthesise(held(p, program)), p)) for p in (55, 62, 69, 76)]
        if max(found) >= ENOUGH:
            off.append(f"{name} {max(found):.0f}")
    print(f"of 112 instruments {112 - len(off)} are in tune at G3 D4 A4 E5; not: {', '.join(off)}")


def held(pitch: int, program: int) -> Score:
    return Score((Note(0, pitch, 144),), parts=(Part("", program),))


def cents_off(sound: Any, pitch: int) -> float:
    """Return by how many cents the fundamental is off, within a quarter tone on either side."""
    heard = sound.mean(axis=0)[RATE // 8 : RATE // 8 + RATE]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), 2**18))
    place = 440 * 2 ** ((pitch - 69) / 12) * 2**18 / RATE
    low, high = (round(place * 2 ** (cents / 1200)) for cents in (-50, 50))
    return float(1200 * np.log2((low + int(spectrum[low : high + 1].argmax())) / place))


def rival(program: int) -> None:
    """Print what symusic makes of middle C with the same font."""
    font = soundfont.general_midi_path()
    score = symusic.Score.from_midi(midi.render(held(60, program)))
    sound = symusic.Synthesizer(str(font), RATE, 4).render(score, True)
    spectrum = np.abs(np.fft.rfft(sound.mean(axis=0)[RATE // 8 :][:RATE] * np.hanning(RATE), 2**18))
    loudest = float(spectrum.argmax()) * RATE / 2**18
    print(
        f"symusic {symusic.__version__} plays middle C (261.6 Hz) of the {PROGRAMS[program]}"
        f" at {loudest:.1f} Hz"
    )


if __name__ == "__main__":
    main()
