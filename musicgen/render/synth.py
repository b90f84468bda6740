"""Synthesise a score: 16-bit stereo WAV at 44,100 samples per second."""

from __future__ import annotations

import io
import wave
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

import numpy as np

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.accompaniment import is_accompaniment
from musicgen.music.arrays import FloatArray
from musicgen.music.bars import find_bars
from musicgen.music.general_midi import HI_HAT_EDGES
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import STEPS_PER_QUARTER, Part, Score
from musicgen.render.loudness import (
    ACCOMPANIMENT_DECIBELS,
    MEASURED_SECONDS,
    count_sounding_seconds,
    find_part_gains,
)
from musicgen.render.soundfont import Region, load_instrument
from musicgen.render.synth_voice import (
    LONGEST_RELEASE,
    RATE,
    Float32Array,
    SynthVoice,
    measure_mistuning,
)
from musicgen.render.timeline import (
    SoundingNote,
    count_in_steps,
    duration,
    timeline,
    with_program,
)

MAX_SECONDS: Final = 1800.0  # 300 MiB of WAV
LONGEST_NOTE: Final = 60.0  # seconds; strings and pianos have decayed by then, organs have not
_MAX_SYNTHESISED_SECONDS: Final = 1_000.0  # sum of the longest note of each key
_MAX_MIXED_SECONDS: Final = 60_000.0  # sum of all notes
TARGET_RMS: Final = 0.1  # root mean square of the loud blocks: -20 dBFS
MAX_PEAK: Final = 0.891  # -1 dBFS
_LOUDNESS_BLOCK: Final = RATE * 2 // 5  # samples per loudness measurement: 400 ms
_QUIET_RATIO: Final = 0.1  # of the loudest block's RMS; quieter blocks are not measured
_WINDOW_SECONDS: Final = 60.0  # in which an accompaniment is measured
_SILENCE: Final = 10 ** (-72 / 20)  # of the peak: the tail is cut below this
_CLICK, _FIRST_CLICK = 77, 76  # keys of the drum kit: low and high wood block

_InstrumentKey = tuple[int, bool, int]  # program, whether it is the drum kit, MIDI note number


def synthesise(score: Score, *, program: int | None = None, count_in: bool = False) -> Float32Array:
    """Synthesise a score with the General MIDI SoundFont, and let the last note decay.

    Several parts are balanced by their roles, see `loudness.find_part_gains`. The loudness is
    normalised over blocks of 400 ms, without those below a tenth of the loudest:
    their root mean square becomes TARGET_RMS, or less where the peak would exceed MAX_PEAK. No
    note lasts longer than LONGEST_NOTE, or less where a score has very many long notes.

    Args:
        score: the music; repeats are played.
        program: one General MIDI program, 0..127, for all parts except drums.
        count_in: start with clicks, as `count_in_steps` places them.

    Returns:
        (2, sample) float32, -1..1, left and right, at RATE samples per second.

    Raises:
        Refusal: the score has no notes, or lasts longer than MAX_SECONDS.
        InvalidValue: a count-in was requested for music without bars.
    """
    clicks, shift = _build_count_in(score) if count_in else ([], 0.0)
    length = shift + duration(score)
    _check_playable(score, length)
    sounds = [replace(sound, start=sound.start + shift) for sound in timeline(score)]
    parts = (score if program is None else with_program(score, program)).parts
    groups = _limit_lengths(_group_by_key(sounds, parts))
    gains = _balance_accompaniment(groups, parts, _balance_parts(groups, parts))
    mix = _mix_notes(groups, length, gains)
    mix = _normalise_loudness(mix)
    if clicks:
        click_mix = _normalise_loudness(
            _mix_notes(_group_by_key(clicks, [Part(is_drums=True)]), shift, np.ones(1))
        )
        mix[:, : click_mix.shape[1]] += click_mix[:, : mix.shape[1]]
        mix *= min(1.0, MAX_PEAK / _peak(mix))
    return _trim_silence(mix, round(length * RATE))


def render_wav(score: Score, *, program: int | None = None, count_in: bool = False) -> bytes:
    """Return a score as a 16-bit stereo WAV file; see `synthesise`."""
    sound = synthesise(score, program=program, count_in=count_in)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        for start in range(0, sound.shape[1], _LOUDNESS_BLOCK):  # a full copy would need 0.5 GB
            block = sound[:, start : start + _LOUDNESS_BLOCK]
            writer.writeframes(np.rint(block * 32_767).astype("<i2").T.tobytes())
    return file.getvalue()


def _check_playable(score: Score, seconds: float) -> None:
    if not score.notes:
        raise Refusal("the tune has no notes to play; choose another tune", code="empty")
    if seconds > MAX_SECONDS:
        raise Refusal(
            f"the tune lasts {seconds / 60:,.0f} minutes, over the limit of"
            f" {MAX_SECONDS / 60:.0f} for sound; shorten it, or write .mid",
            code="too-large",
        )


def _build_count_in(score: Score) -> tuple[list[SoundingNote], float]:
    """Return the clicks before a score, and their total length in seconds."""
    if is_performance(score):
        raise InvalidValue("count-in: the music has no bars; leave out the count-in")
    bars, meter = find_bars(score), score.meter
    pickup_steps = bars[0].steps if len(bars) > 1 and bars[0].kind == "partial" else 0
    steps = count_in_steps(meter, pickup_steps=pickup_steps)
    seconds_per_step = 60 / score.qpm / STEPS_PER_QUARTER
    clicks = []
    for index, step in enumerate(steps):
        key = _CLICK if step % meter.steps else _FIRST_CLICK
        clicks.append(SoundingNote(step * seconds_per_step, 0.1, key, 110, 0, index, 0))
    return clicks, steps.stop * seconds_per_step


def _group_by_key(
    sounds: Sequence[SoundingNote], parts: Sequence[Part]
) -> dict[_InstrumentKey, list[SoundingNote]]:
    """Group notes by the instrument and key that play them."""
    groups = defaultdict(list)
    for sound in sounds:
        part = parts[sound.part]
        program = 0 if part.is_drums else part.program
        key = HI_HAT_EDGES.get(sound.pitch, sound.pitch) if part.is_drums else sound.pitch
        groups[program, part.is_drums, key].append(sound)
    return groups


def _limit_lengths(
    groups: dict[_InstrumentKey, list[SoundingNote]],
) -> dict[_InstrumentKey, list[SoundingNote]]:
    """Shorten long notes, so that the synthesis time stays bounded."""
    lengths = [np.array([sound.length for sound in sounds]) for sounds in groups.values()]
    longest = np.array([length.max() for length in lengths])
    all_lengths = np.concatenate(lengths) if lengths else longest
    limit = LONGEST_NOTE
    while (
        np.minimum(longest, limit).sum() > _MAX_SYNTHESISED_SECONDS
        or np.minimum(all_lengths, limit).sum() > _MAX_MIXED_SECONDS
    ):
        limit /= 2
    if longest.max(initial=0) <= limit:
        return groups
    return {
        key: [replace(sound, length=min(sound.length, limit)) for sound in sounds]
        for key, sounds in groups.items()
    }


def _balance_parts(
    groups: dict[_InstrumentKey, list[SoundingNote]], parts: Sequence[Part]
) -> FloatArray:
    """Return the gain of each part, (part,) float64."""
    sounds_by_part = defaultdict(list)
    for sound in chain.from_iterable(groups.values()):
        sounds_by_part[sound.part].append(sound)
    if len(sounds_by_part) < 2:
        return np.ones(len(parts))
    energies, seconds = np.zeros(len(parts)), np.zeros(len(parts))
    for number, sounds in sounds_by_part.items():
        seconds[number] = count_sounding_seconds(sounds)
    for voice, sounds in _iter_voices(groups, MEASURED_SECONDS):
        power = float(np.square(voice.render_note(MEASURED_SECONDS)).mean())
        power *= float(np.square(voice.gains).mean())
        for sound in sounds:
            length = min(sound.length, MEASURED_SECONDS)
            energies[sound.part] += power * length * (sound.velocity / 127) ** 4
    return find_part_gains(parts, energies, seconds)


def _balance_accompaniment(
    groups: dict[_InstrumentKey, list[SoundingNote]], parts: Sequence[Part], gains: FloatArray
) -> FloatArray:
    """Return gains that bring the accompaniment to its level below all other parts.

    Both are mixed and measured for a minute from the first note of the accompaniment on.

    Args:
        groups: the notes of each key.
        parts: of the score.
        gains: (part,) float64, that balance the parts by their roles.

    Returns:
        (part,) float64; as they were where there is no accompaniment, or nothing else.
    """
    is_added = np.array([is_accompaniment(part) for part in parts])
    sounds = [sound for group in groups.values() for sound in group]
    start = min((sound.start for sound in sounds if is_added[sound.part]), default=None)
    if start is None:
        return gains
    window = _group_by_key(
        [replace(sound, start=sound.start - start, length=min(sound.length, _WINDOW_SECONDS))
         for sound in sounds if start <= sound.start < start + _WINDOW_SECONDS], parts,
    )  # fmt: skip
    added, others = (
        float(np.square(_mix_notes(window, 0.0, gains * mask)).sum())
        for mask in (is_added, ~is_added)
    )
    if min(added, others) <= 0:
        return gains
    factor = np.sqrt(others / added) * 10 ** (ACCOMPANIMENT_DECIBELS / 20)
    return np.where(is_added, gains * factor, gains)


def _mix_notes(
    groups: dict[_InstrumentKey, list[SoundingNote]], seconds: float, part_gains: FloatArray
) -> Float32Array:
    """Mix the notes of all keys."""
    stop = max((s.start + s.length for sounds in groups.values() for s in sounds), default=0.0)
    mix = np.zeros((2, round((max(seconds, stop) + LONGEST_RELEASE) * RATE)), dtype=np.float32)
    for voice, sounds in _iter_voices(groups, LONGEST_NOTE):
        for sound in sounds:
            _add_note(mix, voice, sound, float(part_gains[sound.part]))
    return mix


def _iter_voices(
    groups: dict[_InstrumentKey, list[SoundingNote]], longest: float
) -> Iterator[tuple[SynthVoice, list[SoundingNote]]]:
    """Yield the sound of each key with its notes; no sound is longer than `longest` seconds."""
    for (program, is_drums, key), sounds in groups.items():
        regions = _find_nearest(load_instrument(program, is_drums=is_drums), key)
        cents = 0.0 if is_drums else -measure_mistuning(regions, key)
        for region, region_sounds in _split_by_velocity(regions, sounds):
            length = min(longest, max(s.length for s in region_sounds))
            yield SynthVoice.of(region, key, length, cents), region_sounds


def _find_nearest(regions: Sequence[Region], key: int) -> tuple[Region, ...]:
    """Return the regions that play a key, or else the nearest ones, so that no key is silent."""
    distances = [max(region.keys[0] - key, key - region.keys[1], 0) for region in regions]
    nearest = min(distances, default=0)
    return tuple(r for r, far in zip(regions, distances, strict=True) if far == nearest)


def _split_by_velocity(
    regions: Sequence[Region], sounds: Sequence[SoundingNote]
) -> Iterator[tuple[Region, list[SoundingNote]]]:
    """Yield each region with the notes in its velocity range."""
    for region in regions:
        low, high = region.velocities
        if region_sounds := [sound for sound in sounds if low <= sound.velocity <= high]:
            yield region, region_sounds


def _add_note(mix: Float32Array, voice: SynthVoice, sound: SoundingNote, part_gain: float) -> None:
    """Add a note to the mix; its amplitude is the velocity squared (SoundFont 2.04, 8.4.1)."""
    samples = voice.render_note(sound.length)
    start = round(sound.start * RATE)
    amplitude = part_gain * (sound.velocity / 127) ** 2
    for channel, gain in zip(mix, voice.gains, strict=True):
        channel[start : start + len(samples)] += samples[: len(channel) - start] * (
            gain * amplitude
        )


def _normalise_loudness(mix: Float32Array) -> Float32Array:
    """Scale a mix in place to TARGET_RMS, as far as MAX_PEAK allows; silence stays silent."""
    count = mix.shape[1] // _LOUDNESS_BLOCK
    blocks = mix[:, : count * _LOUDNESS_BLOCK].reshape(2, count, _LOUDNESS_BLOCK)
    squares = np.einsum("cbs,cbs->b", blocks, blocks) / (2 * _LOUDNESS_BLOCK)
    loud = squares[squares >= squares.max() * _QUIET_RATIO**2]
    level = max(float(np.sqrt(loud.mean())), 1e-9)
    mix *= min(TARGET_RMS / level, MAX_PEAK / _peak(mix))
    return mix


def _peak(sound: Float32Array) -> float:
    return float(max(sound.max(), -sound.min(), 1e-9))


def _trim_silence(sound: Float32Array, min_samples: int) -> Float32Array:
    """Cut the silent tail, but keep at least `min_samples` samples."""
    tail = np.abs(sound[:, min_samples:]).max(axis=0)
    audible = np.flatnonzero(tail > _SILENCE * _peak(sound))
    return sound[:, : min_samples + (int(audible[-1]) + 1 if audible.size else 0)]
