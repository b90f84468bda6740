"""Recognise the chords of a score from its notes: chord tracks, arpeggios, bass lines.

A score is cut into frames. Each chord of `CHORD_QUALITIES` on each root is a state of a hidden
Markov model, and so is "no chord". What a frame says for a state is the log-likelihood of its pitch
classes and of its lowest note; changes of the chord are likelier at bar lines than inside a bar.
The Viterbi path is the answer, and its posterior probability (forward-backward) the confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from musicgen.music.arrays import FloatArray, IntArray, ragged_arange
from musicgen.music.bars import Bar, find_bars, find_pickups
from musicgen.music.roles import find_roles
from musicgen.music.score import Mark, Score
from musicgen.music.theory import CHORD_QUALITIES, CHORD_TONES, ChordSymbol, Key, find_key

Grid = Literal["beat", "half", "bar"]
NO_CHORD: Final = "N.C."
_STATES: Final = tuple(
    ChordSymbol(root, quality) for root in range(12) for quality in CHORD_QUALITIES
)
_SILENCE_STATE: Final = len(_STATES)
# How common each quality is where the chord changes, as a natural logarithm.
_QUALITY_PRIORS: Final = {
    "": 0.0, "m": -0.3, "7": -0.7, "m7": -1.3, "maj7": -1.8, "dim": -2.0, "aug": -2.8,
    "sus4": -2.0, "sus2": -2.6, "6": -2.4, "m6": -2.6, "9": -2.6, "dim7": -2.6, "m7b5": -2.6,
}  # fmt: skip
_SILENCE_PRIOR: Final = -2.0
_OTHER_TONES: Final = 0.06  # share of the pitch classes of a chord that are not its tones
_BASS_ROOT, _BASS_TONE, _BASS_OTHER = 0.72, 0.10, 0.01  # chances of a bass note's pitch class
_EVIDENCE, _BASS_EVIDENCE = 2.2, 1.2  # weights of the two logarithms
_ABSENCE: Final = 2.0  # weight of a tone that is missing where three or more notes are struck
_HIGHEST_BASS: Final = 55  # MIDI note number from which a lowest note says nothing about the bass
_SURE_BASS: Final = 50  # up to which it counts fully
_CHANGE_CHANCES: Final = (0.6, 0.35, 0.15)  # at a bar line, in the middle of a bar, elsewhere
_SHORTEST_FRAME: Final = 24  # steps; shorter beats are taken together
_MELODY_WEIGHT: Final = 0.25  # of a melody that others accompany
_KEY_PENALTY: Final = 0.4  # for each tone of a chord outside of the key


@dataclass(frozen=True, slots=True)
class RecognisedChord:
    """A chord from a step on, until the next."""

    step: int
    symbol: str  # as ChordSymbol writes it, or NO_CHORD
    confidence: float  # posterior probability of the chord, mean over its frames, 0..1


@dataclass(frozen=True)
class _Frames:
    """The frames of a score, in order."""

    edges: IntArray  # (frame + 1,) steps
    change_chances: FloatArray  # (frame,) of a change of the chord at the start of each
    chroma: FloatArray  # (frame, 12) presence of each pitch class, 0..1
    bass: FloatArray  # (frame, 12) weight of the lowest note, at its pitch class, 0..1
    struck: FloatArray  # (frame,) 1 where a chord of three or more notes is struck at once, else 0

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.change_chances)


def recognise_chords(score: Score, grid: Grid = "beat") -> tuple[RecognisedChord, ...]:
    """Recognise the chords of a score, as written.

    Args:
        score: music with bars; drums are left out.
        grid: where chords may change: on beats, on halves of bars (of an even number of beats), or
            on bar lines.

    Returns:
        The chords in order, each where it starts; NO_CHORD only between chords and after them.
    """
    frames = _make_frames(score, grid)
    if not frames.count or not frames.chroma.any():
        return ()
    emissions = _measure_emissions(frames)
    priors = _make_priors(score)
    path = _find_path(emissions, priors, frames.change_chances)
    posteriors = _find_posteriors(emissions, priors, frames.change_chances)
    return tuple(_iter_chords(frames, path, posteriors))


def add_chord_symbols(score: Score, chords: Sequence[RecognisedChord]) -> Score:
    """Return a score with recognised chords as its chord symbols, in place of others."""
    marks = [mark for mark in score.marks if mark.kind != "chord"]
    marks += [Mark(chord.step, "chord", chord.symbol) for chord in chords]
    return replace(score, marks=tuple(marks))


# Frames


def _make_frames(score: Score, grid: Grid) -> _Frames:
    """Cut a score into frames: at the places of the grid, and where a bass and a chord start."""
    chance_at: dict[int, float] = {}
    bars = find_bars(score)
    for bar, is_pickup in zip(bars, find_pickups(bars), strict=True):
        offset = bar.meter.steps - bar.steps if is_pickup else 0
        chance_at.update(_iter_frame_starts(bar, offset, grid))
    weights = _weigh_parts(score)
    strokes = _find_strokes(score, weights)
    for step in strokes.bass_steps.tolist() if grid == "beat" else ():
        if step < score.end:
            chance_at.setdefault(step, _CHANGE_CHANCES[-1])
    starts = sorted(chance_at)
    edges = np.array([*starts, score.end], dtype=np.int64)
    chroma, bass = _measure_pitches(score, edges, weights)
    struck = np.zeros(len(starts))
    struck[np.searchsorted(starts, strokes.steps, side="right") - 1] = 1
    chances = np.array([chance_at[step] for step in starts])
    return _Frames(edges, chances, chroma, bass, struck)


@dataclass(frozen=True, slots=True)
class _Strokes:
    """Where three or more notes of parts other than the melody start together."""

    steps: IntArray
    bass_steps: IntArray  # of those with a bass note and three notes above it: new chords


def _find_strokes(score: Score, weights: FloatArray) -> _Strokes:
    onsets, pitches, _, _, parts = score.columns
    is_full = weights[parts] >= 1
    steps, counts = np.unique(onsets[is_full], return_counts=True)
    has_bass = np.isin(steps, onsets[is_full & (pitches < _SURE_BASS)])
    return _Strokes(steps[counts >= 3], steps[has_bass & (counts >= 4)])


def _iter_frame_starts(bar: Bar, offset: int, grid: Grid) -> Iterator[tuple[int, float]]:
    """Yield the steps at which frames of a bar start, with the chance of a change there."""
    meter = bar.meter
    has_halves = meter.steps // 2 % meter.beat_steps == 0
    halves = meter.steps // 2 if has_halves else meter.steps
    beat = max(meter.beat_steps, -(-_SHORTEST_FRAME // meter.beat_steps) * meter.beat_steps)
    size = {"beat": beat, "half": halves, "bar": meter.steps}[grid]
    at_line, in_middle, elsewhere = _CHANGE_CHANCES
    yield bar.start, at_line
    for step in range(size, offset + bar.steps, size):
        if step > offset:
            place = step % meter.steps
            chance = at_line if place == 0 else in_middle if place == halves else elsewhere
            yield bar.start - offset + step, chance


def _measure_pitches(
    score: Score, edges: IntArray, part_weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return (frame, 12) presence of the pitch classes, and (frame, 12) weight of the bass.

    Args:
        score: the music.
        edges: (frame + 1,) int64 steps.
        part_weights: (part,) float64 of the notes of each part.
    """
    count = len(edges) - 1
    chroma, bass = np.zeros((count, 12)), np.zeros((count, 12))
    onsets, pitches, durations, _, parts = score.columns
    weights = part_weights[parts]
    keep = weights > 0
    onsets, pitches, ends, weights = (
        column[keep] for column in (onsets, pitches, onsets + durations, weights)
    )
    first = np.clip(np.searchsorted(edges, onsets, side="right") - 1, 0, count - 1)
    last = np.clip(np.searchsorted(edges, ends, side="left"), first + 1, count)
    notes = np.repeat(np.arange(len(onsets)), last - first)
    frames = first[notes] + ragged_arange(last - first)
    shared = np.minimum(ends[notes], edges[frames + 1]) - np.maximum(onsets[notes], edges[frames])
    shares = np.clip(shared / (edges[frames + 1] - edges[frames]), 0, 1)
    np.add.at(chroma, (frames, pitches[notes] % 12), np.sqrt(shares) * weights[notes])
    _add_bass(bass, frames, pitches[notes], shares * (weights[notes] >= 1))
    return np.minimum(chroma, 1), bass


def _add_bass(bass: FloatArray, frames: IntArray, pitches: IntArray, shares: FloatArray) -> None:
    """Add the lowest note of each frame that sounds for a quarter of it or more."""
    order = np.lexsort((pitches, frames))
    order = order[shares[order] >= 0.25]
    numbers, firsts = np.unique(frames[order], return_index=True)
    lowest = pitches[order][firsts]
    weight = np.clip((_HIGHEST_BASS - lowest) / (_HIGHEST_BASS - _SURE_BASS), 0, 1)
    bass[numbers, lowest % 12] = weight


def _weigh_parts(score: Score) -> FloatArray:
    """Return (part,) the weight of the notes of each part: 0 for drums, little for a melody."""
    sizes = np.bincount(score.columns[4], minlength=len(score.parts)).tolist()
    names = [
        "" if part.is_drums or not size else part.role or role.name
        for part, role, size in zip(score.parts, find_roles(score), sizes, strict=True)
    ]
    is_accompanied = any(name not in ("", "melody") for name in names)
    weights = {"": 0.0, "melody": _MELODY_WEIGHT if is_accompanied else 1.0}
    return np.array([weights.get(name, 1.0) for name in names])


# The hidden Markov model


def _measure_emissions(frames: _Frames) -> FloatArray:
    """Return (frame, state) float64 log-likelihood ratios to "no chord"."""
    tones = np.full((_SILENCE_STATE + 1, 12), 1 / 12)
    basses = np.full((_SILENCE_STATE + 1, 12), 1 / 12)
    for index, chord in enumerate(_STATES):
        chord_tones = list(chord.tones)
        tones[index] = _OTHER_TONES / (12 - len(chord_tones))
        tones[index, chord_tones] = (1 - _OTHER_TONES) / len(chord_tones)
        basses[index] = _BASS_OTHER
        basses[index, chord_tones] = _BASS_TONE
        basses[index, chord.root] = _BASS_ROOT
    ratios: FloatArray = _EVIDENCE * frames.chroma @ np.log(12 * tones).T
    ratios += _BASS_EVIDENCE * frames.bass @ np.log(12 * basses).T
    is_missing = (1 - frames.chroma) @ (tones > 1 / 12).T
    return ratios - _ABSENCE * frames.struck[:, None] * is_missing


def _make_priors(score: Score) -> FloatArray:
    """Return (state,) float64 logarithms of how common each chord is in the key; they add to 1."""
    key = find_key(score.pitch_class_durations()) or Key("C")
    scale = key.scale | {(key.pitch_class - 1) % 12} if key.mode == "minor" else key.scale
    logs = np.full(_SILENCE_STATE + 1, _SILENCE_PRIOR)
    for index, chord in enumerate(_STATES):
        outside = sum((chord.root + tone) % 12 not in scale for tone in CHORD_TONES[chord.quality])
        logs[index] = _QUALITY_PRIORS[chord.quality] - _KEY_PENALTY * outside
    normalised: FloatArray = logs - np.log(np.exp(logs).sum())
    return normalised


def _find_path(emissions: FloatArray, priors: FloatArray, chances: FloatArray) -> IntArray:
    """Return (frame,) int64, the states of the Viterbi path."""
    count, states = emissions.shape
    sources = np.zeros((count, states), dtype=np.int64)
    best = priors + emissions[0]
    numbers = np.arange(states)
    for frame in range(1, count):
        stay = best + np.log1p(-chances[frame])
        previous = int(best.argmax())
        change = best[previous] + np.log(chances[frame]) + priors
        sources[frame] = np.where(stay >= change, numbers, previous)
        best = np.maximum(stay, change) + emissions[frame]
    path = np.zeros(count, dtype=np.int64)
    path[-1] = best.argmax()
    for frame in range(count - 1, 0, -1):
        path[frame - 1] = sources[frame, path[frame]]
    return path


def _find_posteriors(emissions: FloatArray, priors: FloatArray, chances: FloatArray) -> FloatArray:
    """Return (frame, state) float64 posterior probabilities, by the forward-backward algorithm."""
    likelihoods = np.exp(emissions - emissions.max(axis=1, keepdims=True))
    chance_of = np.exp(priors)
    forward, backward = np.zeros_like(likelihoods), np.ones_like(likelihoods)
    forward[0] = chance_of * likelihoods[0]
    forward[0] /= forward[0].sum()
    for frame in range(1, len(likelihoods)):
        arriving = (1 - chances[frame]) * forward[frame - 1] + chances[frame] * chance_of
        forward[frame] = arriving * likelihoods[frame]
        forward[frame] /= forward[frame].sum()
    for frame in range(len(likelihoods) - 2, -1, -1):
        leaving = likelihoods[frame + 1] * backward[frame + 1]
        chance = chances[frame + 1]
        backward[frame] = (1 - chance) * leaving + chance * (chance_of @ leaving)
        backward[frame] /= backward[frame].max()
    posteriors = forward * backward
    normalised: FloatArray = posteriors / posteriors.sum(axis=1, keepdims=True)
    return normalised


# The answer


def _iter_chords(
    frames: _Frames, path: IntArray, posteriors: FloatArray
) -> Iterator[RecognisedChord]:
    """Yield the chords of a path; a chord names its bass where it starts with another tone."""
    starts = np.flatnonzero(np.append(True, path[1:] != path[:-1])).tolist()
    is_leading = True
    first_heard = int((frames.chroma.max(axis=1) > _MELODY_WEIGHT).argmax())  # not a melody alone
    starts = [first_heard, *(start for start in starts if start > first_heard)]
    for start, stop in pairwise([*starts, len(path)]):
        state = int(path[start])
        is_leading = is_leading and state == _SILENCE_STATE
        if is_leading:
            continue
        confidence = float(posteriors[start:stop, state].mean())
        symbol = NO_CHORD if state == _SILENCE_STATE else _name(_STATES[state], frames, start, stop)
        yield RecognisedChord(int(frames.edges[start]), symbol, confidence)


def _name(chord: ChordSymbol, frames: _Frames, start: int, stop: int) -> str:
    for row in frames.bass[start:stop]:
        if row.any():
            bass = int(row.argmax())
            is_inverted = bass != chord.root and bass in chord.tones
            return str(replace(chord, bass=bass if is_inverted else None))
    return str(chord)
