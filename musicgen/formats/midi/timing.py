"""What the notes of a played file agree on: offset, drift, late parts, swing, the first beat.

`find_timing` estimates it before anything is rounded; `Timing.straighten` takes it out. Notes of a
file with long notes at the beats are weighted by their duration, because long notes start on beats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from musicgen.formats.midi.beat_phases import (
    BINS_PER_STEP,
    FIRST_SWING,
    PHASES,
    SWINGS,
    count_phases,
    phase_likelihoods,
    section_likelihoods,
    to_bins,
    to_offset,
)
from musicgen.music.arrays import FloatArray, IntArray
from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.swing import Swing

_SHORTEST_WEIGHT, _LONGEST_WEIGHT = 3.0, 96.0  # steps
_SECTION: Final = 8 * STEPS_PER_QUARTER  # steps for which one offset holds
_MAX_JUMP: Final = 6.0  # steps by which the offset may change between sections
_COARSE: Final = 2  # bins of a phase in the path through the sections
_JUMP_COST: Final = 12.0  # nats
_MIN_DRIFT_GAIN: Final = 0.05  # nats per note by which sections of their own must fit better
CLICK_LATENESS: Final = 4.0  # steps by which a player who hears a click may be early or late
_ALIGNED_LATENESS: Final = 1.0  # steps; notes that a sequencer placed are as near to the ticks
_MIN_CLICK_GAIN: Final = 0.10  # nats per note that move the beat away from within CLICK_LATENESS
_MIN_ALIGNED_GAIN: Final = 0.25  # and from within _ALIGNED_LATENESS, or drums, played to a click
_BEAT_TURNS, _SIXTEENTH_TURNS = 12, 4  # parts of a beat at which other beats may be
_MIN_SWING_GAIN: Final = 0.06  # nats per note
_MIN_SWING_EVIDENCE: Final = 12.0  # nats of all notes
_MIN_PART_NOTES: Final = 24  # fewest notes of a part that has its own offset
_MAX_PART_OFFSET: Final = 5.0  # steps
_MIN_PART_GAIN: Final = 0.04  # nats per note
_MIN_PART_EVIDENCE: Final = 12.0  # nats
_BEAT_TOLERANCE: Final = 0.06  # beats; a note so near to a beat is on it
_MIN_FIRST_BEAT_RATIO: Final = 1.1  # by which notes at another first beat must be longer in sum
_MIN_TRUSTED_RATIO: Final = 2.0  # the same where notes and bars follow the ticks
_MAX_EARLY: Final = 0.125  # beats by which the first note may be before the first bar
_STEP_TOLERANCE: Final = 0.12  # steps; more than a tick at the resolution of this program's files
_JUMP_BINS: Final = int(_MAX_JUMP * BINS_PER_STEP) // _COARSE
_WINDOW: Final = np.arange(-_JUMP_BINS, _JUMP_BINS + 1)  # coarse bins of the jumps


@dataclass(frozen=True)
class PartTimes:
    """When the notes of one part start and end."""

    part: int  # index into Score.parts
    is_drums: bool
    onsets: IntArray  # (note,) ticks
    ends: IntArray  # (note,) ticks
    pitches: IntArray  # (note,) MIDI note numbers


@dataclass(frozen=True)
class MeterHint:
    """What a file says about its bars."""

    has_quarter_beats: bool = True  # its bars are whole quarter notes, so beats have one phase
    beats_per_bar: tuple[int, ...] = ()  # that its bars may have; () if their lines are right
    beat_steps: int = STEPS_PER_QUARTER  # of such a beat; an eighth in compound meters
    is_given: bool = True  # by a meter in which lines are right if the notes follow the ticks


@dataclass(frozen=True)
class Timing:
    """What the notes of a file agree on."""

    offset: float = 0.0  # steps by which its notes are late; negative: early
    drifts: tuple[float, ...] = (0.0,)  # further lateness of each section, in steps
    part_offsets: Mapping[int, float] = field(default_factory=dict)  # further lateness of parts
    swing: Swing | None = None
    added_steps: int = 0  # by which the notes move in whole beats, so that bars start at bar lines
    beats_per_bar: int | None = None  # quarter notes of a bar, where it was inferred

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to take out."""
        return self == Timing()

    def straighten(self, steps: FloatArray, part: int) -> FloatArray:
        """Take offset, drift and swing out of times.

        Args:
            steps: (n,) float64 steps.
            part: the part that the times are of.

        Returns:
            (n,) float64 steps.
        """
        if self.is_plain:
            return steps
        straight = steps - self.offset - self.part_offsets.get(part, 0.0)
        if len(self.drifts) > 1:
            straight -= np.array(self.drifts)[_find_sections(steps, len(self.drifts))]
        if self.swing is not None:
            straight = self.swing.to_written(straight)
        return straight + self.added_steps

    def shift_step(self, step: int) -> int:
        """Move the step of a mark with the notes; marks at the start stay there."""
        shift = self.added_steps - round(self.offset)
        return max(0, step + shift) if step else 0


def to_exact_steps(ticks: IntArray, ticks_per_quarter: int) -> FloatArray:
    """Convert (n,) int64 ticks to (n,) float64 steps."""
    return np.asarray(ticks * (STEPS_PER_QUARTER / ticks_per_quarter), dtype=np.float64)


def _find_sections(steps: FloatArray, count: int) -> IntArray:
    """Return the section of each time."""
    sections = np.floor(steps / _SECTION).astype(np.int64)
    return np.minimum(np.maximum(sections, 0), count - 1)


def find_timing(parts: Sequence[PartTimes], ticks_per_quarter: int, meter: MeterHint) -> Timing:
    """Estimate what the notes of a file agree on.

    Args:
        parts: the notes of each part, in ticks; at least one note.
        ticks_per_quarter: resolution of the ticks.
        meter: what the file says about its bars.
    """
    onsets = [to_exact_steps(times.onsets, ticks_per_quarter) for times in parts]
    weights = weigh_notes(parts, ticks_per_quarter)
    steps, all_weights = np.concatenate(onsets), np.concatenate(weights)
    drifts = _find_drifts(steps, all_weights)
    if len(drifts) > 1:
        onsets = [part - drifts[_find_sections(part, len(drifts))] for part in onsets]
        steps = np.concatenate(onsets)
    counts = count_phases(steps, all_weights)
    likelihoods = phase_likelihoods(counts, FIRST_SWING) / len(steps)
    has_pitches = not all(times.is_drums for times in parts)
    hypothesis, offset = _choose_offset(likelihoods, meter, has_pitches=has_pitches)
    part_offsets = {
        times.part: lateness
        for times, part_onsets, part_weights in zip(parts, onsets, weights, strict=True)
        if (lateness := _find_part_offset(part_onsets - offset, part_weights, hypothesis))
    }
    swing = None
    if meter.has_quarter_beats:
        late_steps = np.repeat(
            [part_offsets.get(times.part, 0.0) for times in parts], [len(part) for part in onsets]
        )
        swing, offset = _choose_swing(steps - late_steps, offset)
    return Timing(offset, tuple(drifts.tolist()), part_offsets, swing)


def remove_swing(ticks: IntArray, swing: Swing, phase: int, ticks_per_quarter: int) -> IntArray:
    """Convert ticks of a file that states its swing to those of the straight notes.

    Times within _STEP_TOLERANCE of a step are put on it, because ticks were rounded when the swing
    was applied.

    Args:
        ticks: (n,) int64.
        swing: the swing that was applied.
        phase: a step at which a pair of notes starts.
        ticks_per_quarter: resolution of the ticks.

    Returns:
        (n,) int64 ticks.
    """
    scale = STEPS_PER_QUARTER / ticks_per_quarter
    steps = swing.to_written(to_exact_steps(ticks, ticks_per_quarter), phase)
    nearest = np.floor(steps + 0.5)
    steps = np.where(np.abs(steps - nearest) <= _STEP_TOLERANCE, nearest, steps)
    return np.floor(steps / scale + 0.5).astype(np.int64)


def align_bars(
    parts: Sequence[PartTimes], timing: Timing, ticks_per_quarter: int, meter: MeterHint
) -> Timing:
    """Move the notes by whole beats, so that bars start on the beats with the longest notes.

    Where the notes of a given meter follow the ticks, move them only on strong evidence.

    Args:
        parts: the notes of each part, in ticks.
        timing: the timing to take out first.
        ticks_per_quarter: resolution of the ticks.
        meter: what the file says about its bars.
    """
    if not meter.has_quarter_beats:
        return timing
    onsets = [
        timing.straighten(to_exact_steps(times.onsets, ticks_per_quarter), times.part)
        for times in parts
    ]
    beats = np.concatenate(onsets) / meter.beat_steps
    per_bar, first_beat = (meter.beats_per_bar or (4,))[0], 0
    if meter.beats_per_bar and not all(times.is_drums for times in parts):
        is_trusted = meter.is_given and abs(timing.offset) <= CLICK_LATENESS
        per_bar, first_beat = _find_first_beat(
            beats,
            np.concatenate(weigh_notes(parts, ticks_per_quarter)),
            meter.beats_per_bar,
            _MIN_TRUSTED_RATIO if is_trusted else _MIN_FIRST_BEAT_RATIO,
        )
    shift = -first_beat % per_bar
    if shift and beats.min() + shift - per_bar > -_MAX_EARLY:
        shift -= per_bar
    while beats.min() + shift < -_MAX_EARLY:
        shift += per_bar
    return replace(
        timing,
        added_steps=shift * meter.beat_steps,
        beats_per_bar=None if meter.is_given else per_bar,
    )


def _find_first_beat(
    beats: FloatArray, weights: FloatArray, beats_per_bar: Sequence[int], min_ratio: float
) -> tuple[int, int]:
    """Return how many beats bars have, and the first beat of one.

    The number of beats is that whose shares of the weight differ most from equal ones, by their
    relative entropy.

    Args:
        beats: (note,) float64 onsets in beats.
        weights: (note,) float64.
        beats_per_bar: the numbers of beats to choose from.
        min_ratio: by which the notes of another first beat must weigh more than those of the first.
    """
    numbers = np.floor(beats + 0.5).astype(np.int64)
    is_on_beat = np.abs(beats - numbers) <= _BEAT_TOLERANCE
    best = (-1.0, beats_per_bar[0], 0)
    for count in beats_per_bar:
        sums = np.bincount(numbers[is_on_beat] % count, weights[is_on_beat], minlength=count)
        shares = (sums + 1) / (sums.sum() + count)
        entropy = float((shares * np.log(shares * count)).sum())
        is_clear = shares.max() >= min_ratio * shares[0]
        best = max(best, (entropy, count, int(shares.argmax()) if is_clear else 0))
    return best[1:]


def weigh_notes(parts: Sequence[PartTimes], ticks_per_quarter: int) -> list[FloatArray]:
    """Weigh notes by their duration, and drums by the mean of the other notes.

    Args:
        parts: the notes of each part.
        ticks_per_quarter: resolution of the ticks.

    Returns:
        For each part (note,) float64 weights, with a mean of 1 over all parts.
    """
    durations = [
        np.clip(
            to_exact_steps(p.ends - p.onsets, ticks_per_quarter), _SHORTEST_WEIGHT, _LONGEST_WEIGHT
        )
        for p in parts
    ]
    pitched = [d for d, p in zip(durations, parts, strict=True) if not p.is_drums]
    mean = float(np.concatenate(pitched).mean()) if pitched else 1.0
    return [
        np.ones(len(d)) if p.is_drums else d / mean for d, p in zip(durations, parts, strict=True)
    ]


def _find_drifts(steps: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the lateness of each section relative to the longest stretch of sections.

    The offsets of the sections are the path of highest likelihood through all phases, in which
    every change costs _JUMP_COST (the algorithm of Viterbi).
    """
    count = int(steps.max() // _SECTION) + 1
    if count < 2:
        return np.zeros(1)
    bins = _find_sections(steps, count) * PHASES + to_bins(steps) % PHASES
    counts = (
        np.bincount(bins, weights, minlength=count * PHASES)
        .astype(np.float64, copy=False)
        .reshape(count, PHASES)
    )
    totals = phase_likelihoods(counts.sum(axis=0))
    likelihoods = section_likelihoods(counts, int(totals.max(axis=1).argmax()))
    gain = likelihoods.max(axis=1).sum() - likelihoods.sum(axis=0).max()
    if gain < max(_MIN_DRIFT_GAIN * len(steps), _JUMP_COST):
        return np.zeros(1)
    offsets = _follow_offsets(likelihoods)
    values, lengths = np.unique(offsets, return_counts=True)
    drifts: FloatArray = (offsets - values[lengths.argmax()]) / BINS_PER_STEP
    return drifts if drifts.any() else np.zeros(1)


def _follow_offsets(likelihoods: FloatArray) -> IntArray:
    """Return the path of highest likelihood, (section,) int64 bins, unwrapped.

    The path is searched in coarse bins of _COARSE bins each.
    """
    coarse = likelihoods[:, ::_COARSE]
    count = coarse.shape[1]
    neighbours = (np.arange(count)[:, None] + _WINDOW) % count
    costs = np.where(_WINDOW, _JUMP_COST, 0.0)
    phases = np.arange(count)
    best = coarse[0]
    sources = []
    for section in coarse[1:]:
        candidates = best.take(neighbours) - costs
        source = candidates.argmax(axis=1)
        sources.append(source)
        best = candidates[phases, source] + section
    jumps, phase = [], int(best.argmax())
    for source in reversed(sources):
        jump = int(_WINDOW[source[phase]])
        jumps.append(-jump)
        phase = (phase + jump) % count
    return (phase + np.cumsum([0, *reversed(jumps)])) * _COARSE


def _choose_offset(
    likelihoods: FloatArray, meter: MeterHint, *, has_pitches: bool
) -> tuple[int, float]:
    """Choose between the offsets that fit: the likeliest one, unless one near zero fits as well.

    Args:
        likelihoods: (hypothesis, phase) float64, nats per note; without swing.
        meter: what the file says about its bars.
        has_pitches: whether there are notes other than drums.

    Returns:
        The hypothesis, and the offset in steps.
    """
    hypothesis = int(likelihoods.max(axis=1).argmax())
    fits = likelihoods[hypothesis]
    best = int(fits.argmax())
    turns = _BEAT_TURNS if meter.has_quarter_beats else _SIXTEENTH_TURNS
    candidates = [_find_peak(fits, best + turn * PHASES // turns, 1) for turn in range(turns)]
    offsets = [
        to_offset(phase)
        for phase in candidates
        if fits[best] - fits[phase] <= _find_margin(to_offset(phase), meter, has_pitches)
    ]
    return hypothesis, min(offsets, key=abs)


def _find_margin(offset: float, meter: MeterHint, has_pitches: bool) -> float:
    """Return by how many nats per note an offset may fit worse than the best one."""
    if not meter.has_quarter_beats:
        return float("inf")
    if not meter.is_given or abs(offset) > CLICK_LATENESS:
        return 0.0
    is_placed = abs(offset) <= _ALIGNED_LATENESS or not has_pitches
    return _MIN_ALIGNED_GAIN if is_placed else _MIN_CLICK_GAIN


def _choose_swing(steps: FloatArray, offset: float) -> tuple[Swing | None, float]:
    """Return the swing that fits onsets better than straight ones, if any, and the offset.

    Notes have no weights here, as long notes say nothing about swing.

    Args:
        steps: (note,) float64 onsets.
        offset: steps by which they are late; with a swing, another one nearby may fit better.
    """
    likelihoods = phase_likelihoods(count_phases(steps, np.ones(len(steps))))
    phase = round(offset * BINS_PER_STEP) % PHASES
    reach = int(CLICK_LATENESS) * BINS_PER_STEP
    near = (phase + np.arange(-reach, reach + 1)) % PHASES
    fits = likelihoods[FIRST_SWING:, near]
    swing, shift = np.unravel_index(int(fits.argmax()), fits.shape)
    evidence = float(fits[swing, shift] - likelihoods[:FIRST_SWING, near].max())
    if evidence < max(_MIN_SWING_GAIN * len(steps), _MIN_SWING_EVIDENCE):
        return None, offset
    return SWINGS[int(swing)], to_offset(int(near[shift]))


def _find_peak(likelihoods: FloatArray, phase: int, reach: int) -> int:
    """Return the likeliest phase within some steps of one."""
    bins = reach * BINS_PER_STEP
    around = (phase + np.arange(-bins, bins + 1)) % PHASES
    return int(around[likelihoods[around].argmax()])


def _find_part_offset(steps: FloatArray, weights: FloatArray, hypothesis: int) -> float:
    """Return by how many steps a part is late against the file; 0 without enough evidence."""
    if len(steps) < _MIN_PART_NOTES:
        return 0.0
    likelihoods = section_likelihoods(count_phases(steps, weights)[None], hypothesis)[0]
    reach = int(_MAX_PART_OFFSET * BINS_PER_STEP)
    near = np.arange(-reach, reach + 1)
    best = int(near[likelihoods[near].argmax()])
    gain = float(likelihoods[best] - likelihoods[0])
    is_clear = gain >= _MIN_PART_EVIDENCE and gain >= _MIN_PART_GAIN * len(steps)
    return best / BINS_PER_STEP if is_clear and abs(best) < reach else 0.0
