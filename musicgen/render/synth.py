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
from musicgen.music.bars import bars
from musicgen.music.performance import is_performance
from musicgen.music.score import STEPS_PER_QUARTER, Part, Score
from musicgen.render.soundfont import Region, instrument
from musicgen.render.synth_voice import LONGEST_RELEASE, RATE, Voice, mistuning
from musicgen.render.timeline import Sound, duration, timeline, with_program

MAX_SECONDS: Final = 1800.0  # which take up 300 MiB of a file
LONGEST_NOTE: Final = 60.0  # seconds; a string or a key has long died away, an organ has not
_MOST_VOICED: Final = 1_000.0  # seconds that are synthesised, the longest note of each key once
_MOST_SOUNDING: Final = 60_000.0  # seconds that are mixed, of all notes
LOUDNESS: Final = 0.1  # root mean square of what is loud: 20 decibels under full scale
PEAK: Final = 0.891  # 1 decibel under it
_BLOCK: Final = RATE * 2 // 5  # samples whose loudness is measured together: 400 ms
_QUIET: Final = 0.1  # of the loudest block; what is quieter does not count
_SILENCE: Final = 10 ** (-72 / 20)  # of the peak: where the tail has died away
_CLICK, _FIRST_CLICK = 77, 76  # keys of the drum kit: low and high wood block

_Key = tuple[int, bool, int]  # program, whether it is the drum kit, MIDI note number
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
    clicks, shift = _count_in(score) if count_in else ([], 0.0)
    length = shift + duration(score)
    _check(score, length)
    sounds = [replace(sound, start=sound.start + shift) for sound in timeline(score)]
    players = (score if program is None else with_program(score, program)).parts
    found = _mixed(_shortened(_by_key(sounds, players)), length)
    found = _levelled(found)
    if clicks:
        clicked = _levelled(_mixed(_by_key(clicks, [Part(is_drums=True)]), shift))
        found[:, : clicked.shape[1]] += clicked[:, : found.shape[1]]
        found *= min(1.0, PEAK / _peak(found))
    return _without_silence(found, round(length * RATE))


def wav(score: Score, *, program: int | None = None, count_in: bool = False) -> bytes:
    """Return a score as a WAV file of 16 bits, stereo; see `synthesise`."""
    sound = synthesise(score, program=program, count_in=count_in)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        for start in range(0, sound.shape[1], _BLOCK):  # a whole copy is half a gigabyte
            piece = sound[:, start : start + _BLOCK]
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


def _count_in(score: Score) -> tuple[list[Sound], float]:
    """Return the clicks before a score, and how long they last."""
    if is_performance(score):
        raise InvalidValue("count-in: the music keeps to no bars; leave it out")
    found = bars(score)
    meter = score.meter
    pickup = found[0].steps if len(found) > 1 and found[0].kind == "partial" else 0
    steps = meter.steps + (meter.steps - pickup if pickup else 0)
    a_step = 60 / score.qpm / STEPS_PER_QUARTER
    clicks = []
    for place, step in enumerate(range(0, steps, meter.beat_steps)):
        key = _CLICK if step % meter.steps else _FIRST_CLICK
        clicks.append(Sound(step * a_step, 0.1, key, 110, 0, place, 0))
    return clicks, steps * a_step


def _by_key(sounds: Sequence[Sound], players: Sequence[Part]) -> dict[_Key, list[Sound]]:
    """Gather the notes that one key of one instrument plays."""
    found = defaultdict(list)
    for sound in sounds:
        part = players[sound.part]
        program = 0 if part.is_drums else part.program
        found[program, part.is_drums, sound.pitch].append(sound)
    return found


def _shortened(groups: dict[_Key, list[Sound]]) -> dict[_Key, list[Sound]]:
    """Let no note sound so long that the sound would take hours to work out."""
    lengths = [np.array([sound.length for sound in sounds]) for sounds in groups.values()]
    longest = np.array([length.max() for length in lengths])
    everything = np.concatenate(lengths) if lengths else longest
    limit = LONGEST_NOTE
    while (
        np.minimum(longest, limit).sum() > _MOST_VOICED
        or np.minimum(everything, limit).sum() > _MOST_SOUNDING
    ):
        limit /= 2
    if longest.max(initial=0) <= limit:
        return groups
    return {
        key: [replace(sound, length=min(sound.length, limit)) for sound in sounds]
        for key, sounds in groups.items()
    }


def _mixed(groups: dict[_Key, list[Sound]], seconds: float) -> Stereo:
    """Sum up what all keys play."""
    stop = max((s.start + s.length for sounds in groups.values() for s in sounds), default=0.0)
    found = np.zeros((2, round((max(seconds, stop) + LONGEST_RELEASE) * RATE)), dtype=np.float32)
    for (program, is_drums, key), sounds in groups.items():
        regions = _nearest(instrument(program, is_drums=is_drums), key)
        cents = 0.0 if is_drums else -mistuning(regions, key)
        for region, mine in _shared(regions, sounds):
            voice = Voice.of(region, key, max(sound.length for sound in mine), cents)
            for sound in mine:
                _add(found, voice, sound)
    return found


def _nearest(regions: Sequence[Region], key: int) -> tuple[Region, ...]:
    """Return the regions that play a key, else those that are nearest to it: nothing is silent."""
    away = [max(region.keys[0] - key, key - region.keys[1], 0) for region in regions]
    return tuple(r for r, far in zip(regions, away, strict=True) if far == min(away))


def _shared(
    regions: Sequence[Region], sounds: Sequence[Sound]
) -> Iterator[tuple[Region, list[Sound]]]:
    """Yield the regions, each with the notes that are as loud as it wants."""
    for region in regions:
        low, high = region.velocities
        if mine := [sound for sound in sounds if low <= sound.velocity <= high]:
            yield region, mine


def _add(mix: Stereo, voice: Voice, sound: Sound) -> None:
    """Add a note to the mix; velocity counts by its square (SoundFont 2.04, 8.4.1)."""
    note = voice.note(sound.length)
    start = round(sound.start * RATE)
    loud = (sound.velocity / 127) ** 2
    for channel, gain in zip(mix, voice.gains, strict=True):
        channel[start : start + len(note)] += note[: len(channel) - start] * (gain * loud)


def _levelled(mix: Stereo) -> Stereo:
    """Bring what is loud to the same level, as far as the peak allows; silence stays."""
    whole = mix.shape[1] // _BLOCK
    blocks = mix[:, : whole * _BLOCK].reshape(2, whole, _BLOCK)
    squares = np.einsum("cbs,cbs->b", blocks, blocks) / (2 * _BLOCK)
    loud = squares[squares >= squares.max() * _QUIET**2]
    level = max(float(np.sqrt(loud.mean())), 1e-9)
    mix *= min(LOUDNESS / level, PEAK / _peak(mix))
    return mix


def _peak(sound: Stereo) -> float:
    return float(max(sound.max(), -sound.min(), 1e-9))


def _without_silence(sound: Stereo, least: int) -> Stereo:
    """Cut it where its tail has died away, not before it ends."""
    tail = np.abs(sound[:, least:]).max(axis=0)
    heard = np.flatnonzero(tail > _SILENCE * _peak(sound))
    return sound[:, : least + (int(heard[-1]) + 1 if heard.size else 0)]
