"""A score as sound: stereo, 44,100 samples a second, as a WAV file holds it."""

from __future__ import annotations

import io
import wave
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.bars import find_bars
from musicgen.music.performance import is_performance
from musicgen.music.score import STEPS_PER_QUARTER, Part, Score
from musicgen.render.soundfont import Region, load_instrument
from musicgen.render.synth_voice import LONGEST_RELEASE, RATE, SynthVoice, measure_mistuning
from musicgen.render.timeline import SoundingNote, duration, timeline, with_program

MAX_SECONDS: Final = 1800.0  # which take up 300 MiB of a file
LONGEST_NOTE: Final = 60.0  # seconds; a string or a key has long died away, an organ has not
_MAX_SYNTHESISED_SECONDS: Final = (
    1_000.0  # seconds that are synthesised, the longest note of each key once
)
_MAX_MIXED_SECONDS: Final = 60_000.0  # seconds that are mixed, of all notes
TARGET_RMS: Final = 0.1  # root mean square of what is loud: 20 decibels under full scale
MAX_PEAK: Final = 0.891  # 1 decibel under it
_LOUDNESS_BLOCK: Final = RATE * 2 // 5  # samples whose loudness is measured together: 400 ms
_QUIET_RATIO: Final = 0.1  # of the loudest block; what is quieter does not count
_SILENCE: Final = 10 ** (-72 / 20)  # of the peak: where the tail has died away
_CLICK, _FIRST_CLICK = 77, 76  # keys of the drum kit: low and high wood block

_InstrumentKey = tuple[int, bool, int]  # program, whether it is the drum kit, MIDI note number
Stereo = Any  # (channel, sample), float32, left then right


def synthesise(score: Score, *, program: int | None = None, count_in: bool = False) -> Stereo:
    """Play a score; the last note dies away after its end.

    program: one General MIDI instrument, 0..127, for all parts but drums. count_in: a bar of clicks
    first, and what a pickup lacks of another.

    Loudness is made equal: blocks of 400 ms are measured, those quieter than a tenth of the loudest
    left out; the root mean square of the others becomes 0.1, or less where the highest peak would
    pass 0.891. Raises Refusal for a tune without notes, and past MAX_SECONDS.
    No note sounds longer than LONGEST_NOTE, and where there are many long ones, less.
    """
    clicks, shift = _build_count_in(score) if count_in else ([], 0.0)
    length = shift + duration(score)
    _check(score, length)
    sounds = [replace(sound, start=sound.start + shift) for sound in timeline(score)]
    players = (score if program is None else with_program(score, program)).parts
    found = _mix_notes(_limit_lengths(_group_by_key(sounds, players)), length)
    found = _normalise_loudness(found)
    if clicks:
        clicked = _normalise_loudness(
            _mix_notes(_group_by_key(clicks, [Part(is_drums=True)]), shift)
        )
        found[:, : clicked.shape[1]] += clicked[:, : found.shape[1]]
        found *= min(1.0, MAX_PEAK / _peak(found))
    return _trim_silence(found, round(length * RATE))


def render_wav(score: Score, *, program: int | None = None, count_in: bool = False) -> bytes:
    """Return a score as a WAV file of 16 bits, stereo; see `synthesise`."""
    sound = synthesise(score, program=program, count_in=count_in)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        for start in range(0, sound.shape[1], _LOUDNESS_BLOCK):  # a whole copy is half a gigabyte
            piece = sound[:, start : start + _LOUDNESS_BLOCK]
            writer.writeframes(np.rint(piece * 32_767).astype("<i2").T.tobytes())
    return file.getvalue()


def _check(score: Score, seconds: float) -> None:
    if not score.notes:
        raise Refusal("there are no notes to hear; name a tune that has some", code="empty")
    if seconds > MAX_SECONDS:
        raise Refusal(
            f"the tune lasts {seconds / 60:,.0f} minutes, and sound is written of"
            f" {MAX_SECONDS / 60:.0f} at most; write a part of it, or .mid",
            code="too-large",
        )


def _build_count_in(score: Score) -> tuple[list[SoundingNote], float]:
    """Return the clicks before a score, and how long they last."""
    if is_performance(score):
        raise InvalidValue("count-in: the music keeps to no bars; leave it out")
    found = find_bars(score)
    meter = score.meter
    pickup = found[0].steps if len(found) > 1 and found[0].kind == "partial" else 0
    steps = meter.steps + (meter.steps - pickup if pickup else 0)
    a_step = 60 / score.qpm / STEPS_PER_QUARTER
    clicks = []
    for place, step in enumerate(range(0, steps, meter.beat_steps)):
        key = _CLICK if step % meter.steps else _FIRST_CLICK
        clicks.append(SoundingNote(step * a_step, 0.1, key, 110, 0, place, 0))
    return clicks, steps * a_step


def _group_by_key(
    sounds: Sequence[SoundingNote], parts: Sequence[Part]
) -> dict[_InstrumentKey, list[SoundingNote]]:
    """Gather the notes that one key of one instrument plays."""
    found = defaultdict(list)
    for sound in sounds:
        part = parts[sound.part]
        program = 0 if part.is_drums else part.program
        found[program, part.is_drums, sound.pitch].append(sound)
    return found


def _limit_lengths(
    groups: dict[_InstrumentKey, list[SoundingNote]],
) -> dict[_InstrumentKey, list[SoundingNote]]:
    """Let no note sound so long that the sound would take hours to work out."""
    lengths = [np.array([sound.length for sound in sounds]) for sounds in groups.values()]
    longest = np.array([length.max() for length in lengths])
    everything = np.concatenate(lengths) if lengths else longest
    limit = LONGEST_NOTE
    while (
        np.minimum(longest, limit).sum() > _MAX_SYNTHESISED_SECONDS
        or np.minimum(everything, limit).sum() > _MAX_MIXED_SECONDS
    ):
        limit /= 2
    if longest.max(initial=0) <= limit:
        return groups
    return {
        key: [replace(sound, length=min(sound.length, limit)) for sound in sounds]
        for key, sounds in groups.items()
    }


def _mix_notes(groups: dict[_InstrumentKey, list[SoundingNote]], seconds: float) -> Stereo:
    """Sum up what all keys play."""
    stop = max((s.start + s.length for sounds in groups.values() for s in sounds), default=0.0)
    found = np.zeros((2, round((max(seconds, stop) + LONGEST_RELEASE) * RATE)), dtype=np.float32)
    for (program, is_drums, key), sounds in groups.items():
        regions = _find_nearest(load_instrument(program, is_drums=is_drums), key)
        cents = 0.0 if is_drums else -measure_mistuning(regions, key)
        for region, mine in _split_by_velocity(regions, sounds):
            voice = SynthVoice.of(region, key, max(sound.length for sound in mine), cents)
            for sound in mine:
                _add_note(found, voice, sound)
    return found


def _find_nearest(regions: Sequence[Region], key: int) -> tuple[Region, ...]:
    """Return the regions that play a key, else those that are nearest to it: nothing is silent."""
    away = [max(region.keys[0] - key, key - region.keys[1], 0) for region in regions]
    return tuple(r for r, far in zip(regions, away, strict=True) if far == min(away))


def _split_by_velocity(
    regions: Sequence[Region], sounds: Sequence[SoundingNote]
) -> Iterator[tuple[Region, list[SoundingNote]]]:
    """Yield the regions, each with the notes that are as loud as it wants."""
    for region in regions:
        low, high = region.velocities
        if mine := [sound for sound in sounds if low <= sound.velocity <= high]:
            yield region, mine


def _add_note(mix: Stereo, voice: SynthVoice, sound: SoundingNote) -> None:
    """Add a note to the mix; velocity counts by its square (SoundFont 2.04, 8.4.1)."""
    note = voice.render_note(sound.length)
    start = round(sound.start * RATE)
    loud = (sound.velocity / 127) ** 2
    for channel, gain in zip(mix, voice.gains, strict=True):
        channel[start : start + len(note)] += note[: len(channel) - start] * (gain * loud)


def _normalise_loudness(mix: Stereo) -> Stereo:
    """Bring what is loud to the same level, as far as the peak allows; silence stays."""
    whole = mix.shape[1] // _LOUDNESS_BLOCK
    blocks = mix[:, : whole * _LOUDNESS_BLOCK].reshape(2, whole, _LOUDNESS_BLOCK)
    squares = np.einsum("cbs,cbs->b", blocks, blocks) / (2 * _LOUDNESS_BLOCK)
    loud = squares[squares >= squares.max() * _QUIET_RATIO**2]
    level = max(float(np.sqrt(loud.mean())), 1e-9)
    mix *= min(TARGET_RMS / level, MAX_PEAK / _peak(mix))
    return mix


def _peak(sound: Stereo) -> float:
    return float(max(sound.max(), -sound.min(), 1e-9))


def _trim_silence(sound: Stereo, min_samples: int) -> Stereo:
    """Cut it where its tail has died away, not before it ends."""
    tail = np.abs(sound[:, min_samples:]).max(axis=0)
    heard = np.flatnonzero(tail > _SILENCE * _peak(sound))
    return sound[:, : min_samples + (int(heard[-1]) + 1 if heard.size else 0)]
