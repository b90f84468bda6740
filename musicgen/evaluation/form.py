"""Figures of form: sections, bars that return, phrases, cadences.

Each measure takes the content of a tune and returns its share in the figure, or None where the tune
does not have what is measured. The figure of a set is the sum of the parts over that of the wholes:
where wholes are counts of sections or phrases, every section weighs the same; else every tune does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from typing import Final

import numpy as np

from musicgen.evaluation.figures import PERCENT, Definition, FigureTable, Ratio
from musicgen.music.arrays import FloatArray
from musicgen.music.score import Score
from musicgen.music.tune_content import (
    RELATIONS,
    REST,
    LikenessKind,
    TuneContent,
    find_phrases,
    find_return,
)

MAX_LAG: Final = 16  # bars
SHOWN_LAGS: Final = (1, 2, 4, 8)
STEPWISE: Final = 2  # semitones
MATRIX_BARS: Final = 32
MOST_LOOPS: Final = 4


def measure_sections(content: TuneContent, *, bars: int, exact: bool) -> Ratio | None:
    """Count the sections of `bars` bars, or of a multiple of them, among all sections.

    Formula: sections with length = bars (exact) or length mod bars = 0, over sections. Only tunes
    with repeat signs count: elsewhere it is not known where sections end.
    """
    if not content.has_repeats:
        return None
    lengths = [section.length for section in content.sections]
    fitting = [n == bars if exact else n % bars == 0 for n in lengths]
    return Ratio(sum(fitting), len(lengths))


def measure_repeats(content: TuneContent) -> Ratio | None:
    """Count the tune if it has repeat signs; None if its format has none."""
    return Ratio(content.has_repeats) if content.can_repeat else None


def measure_endings(content: TuneContent) -> Ratio | None:
    """Count the repeated sections with variant endings, among the repeated sections."""
    repeated = [section for section in content.sections if section.is_repeated]
    return Ratio(sum(s.endings > 0 for s in repeated), len(repeated)) if repeated else None


def measure_pickup(content: TuneContent) -> Ratio | None:
    """Count the tune if it starts with a pickup: a first bar shorter than its meter."""
    return Ratio(content.bars[0].is_short) if content.bars else None


def measure_likeness(content: TuneContent, *, kind: LikenessKind, lag: int) -> Ratio | None:
    """Measure how like each full bar is to the full bar `lag` full bars before.

    Formula: mean over the pairs of a tune of `compare_bars`; None for tunes of up to `lag` bars.
    """
    pairs = np.diagonal(content.get_full_likeness(kind), offset=lag)
    return Ratio(float(pairs.mean())) if len(pairs) else None


def measure_loops(content: TuneContent) -> Ratio | None:
    """Count the tune if the same two full bars stand in it more than MOST_LOOPS times in a row."""
    events = [content.bars[index].events for index in content.full_bars]
    if not events:
        return None
    longest = run = 0
    for bar, two_before in zip(events[2:], events, strict=False):
        run = run + 1 if bar == two_before else 0
        longest = max(longest, run)
    return Ratio(longest >= 2 * MOST_LOOPS)


def measure_parts(content: TuneContent) -> Ratio | None:
    """Measure how like the sections of a tune are to each other.

    Formula: mean over pairs of sections of the mean of `compare_bars` over the bars at equal
    places, without pickups; 1 means that all sections are the same.
    """
    pairs = [
        content.compare_passages(first.counted_bars, second.counted_bars)
        for first, second in combinations(content.sections, 2)
        if first.counted_bars and second.counted_bars
    ]
    return Ratio(float(np.mean(pairs))) if pairs and content.has_repeats else None


def measure_returns(content: TuneContent, *, relation: str) -> Ratio | None:
    """Count the phrases that return an earlier phrase of the tune in one way.

    Formula: phrases whose closest relation to any earlier phrase (exact, else transposed, else
    varied) is `relation`, over all phrases but the first.
    """
    relations = list_relations(content)
    return Ratio(relations.count(relation), len(relations)) if relations else None


@lru_cache(maxsize=1)  # all figures of a tune are measured before those of the next
def list_relations(content: TuneContent) -> tuple[str, ...]:
    """Return how each phrase but the first returns an earlier one; "" for new phrases."""
    phrases = find_phrases(content)
    returns = [find_return(content, phrases, index) for index in range(1, len(phrases))]
    return tuple("" if origin is None else origin.relation for origin in returns)


def measure_final_tonic(content: TuneContent) -> Ratio | None:
    """Count the tune if its last written note has the pitch class of the tonic of its first key."""
    if not len(content.pitches):
        return None
    return Ratio(content.pitches[-1] % 12 == content.key.pitch_class)


@dataclass(frozen=True, slots=True)
class Cadence:
    """The last note of a phrase."""

    degree: int  # semitones above the tonic, 0 to 11
    beats: float  # duration
    approach: int  # semitones from the note before


@lru_cache(maxsize=1)
def find_cadences(content: TuneContent) -> tuple[Cadence, ...]:
    """Return the cadence of each phrase of at least two notes."""
    return tuple(_iter_cadences(content))


def _iter_cadences(content: TuneContent) -> Iterator[Cadence]:
    for phrase in find_phrases(content):
        notes = [(duration, pitch) for duration, pitch in phrase.events if pitch != REST]
        if len(notes) >= 2:
            (_, before), (duration, last) = notes[-2:]
            beats = duration / phrase.beat_steps
            yield Cadence((last - content.key.pitch_class) % 12, beats, last - before)


def measure_cadences(content: TuneContent, *, name: str) -> Ratio | None:
    """Measure the cadences of a tune: the mean over its phrases of one property.

    Properties: tonic, whether the last note is the tonic; beats, its duration in beats of the
    meter; step, whether it is reached by at most STEPWISE semitones.
    """
    cadences = find_cadences(content)
    values: list[float] = {
        "tonic": [float(cadence.degree == 0) for cadence in cadences],
        "beats": [cadence.beats for cadence in cadences],
        "step": [float(abs(cadence.approach) <= STEPWISE) for cadence in cadences],
    }[name]
    return Ratio(sum(values), len(cadences)) if cadences else None


def _define_likeness(kind: LikenessKind, label: str, shown: Sequence[int]) -> Iterator[Definition]:
    for lag in range(1, MAX_LAG + 1):
        measure = partial(measure_likeness, kind=kind, lag=lag)
        text = f"{label} the one {lag} before"
        yield Definition(f"{kind}_likeness.{lag}", text, PERCENT, measure, lag not in shown)


FORM_FIGURES: Final = (
    Definition("sections_multiple_of_4", "sections of 4, 8, 12 ... bars", PERCENT,
               partial(measure_sections, bars=4, exact=False)),
    Definition("sections_8", "sections of 8 bars", PERCENT,
               partial(measure_sections, bars=8, exact=True)),
    *_define_likeness("bar", "a bar like", SHOWN_LAGS),
    Definition("ends_on_tonic", "tunes that end on the tonic", PERCENT, measure_final_tonic),
    Definition("repeats", "tunes with repeat signs", PERCENT, measure_repeats),
    Definition("endings", "repeats with endings", PERCENT, measure_endings),
    Definition("pickups", "tunes with a pickup", PERCENT, measure_pickup),
    *_define_likeness("rhythm", "rhythm like", (4,)),
    *_define_likeness("pitch", "pitches like", (4,)),
    *_define_likeness("contour", "contour like", (4,)),
    *(Definition(f"phrases_{relation}", f"phrases that return {text}", PERCENT,
                 partial(measure_returns, relation=relation))
      for relation, text in zip(RELATIONS, ("exactly", "transposed", "varied"), strict=True)),
    Definition("part_likeness", "likeness of the sections", PERCENT, measure_parts),
    Definition("phrases_on_tonic", "phrases that end on the tonic", PERCENT,
               partial(measure_cadences, name="tonic")),
    Definition("cadence_beats", "last note of a phrase", "beats",
               partial(measure_cadences, name="beats")),
    Definition("cadence_steps", "last notes reached by step", PERCENT,
               partial(measure_cadences, name="step")),
    Definition("loops", "tunes with a loop of two bars", PERCENT, measure_loops),
)  # fmt: skip
TRAINING_FIGURES: Final = (
    "sections_multiple_of_4", "sections_8", "ends_on_tonic",
    *(f"bar_likeness.{lag}" for lag in SHOWN_LAGS),
)  # fmt: skip


def form_figures(scores: Iterable[Score]) -> dict[str, float]:
    """Measure the form of tunes by the figures that a training run records.

    Returns:
        The values of TRAINING_FIGURES by key; NaN where no tune has what is measured.
    """
    contents = [TuneContent.of(score) for score in scores]
    definitions = [d for d in FORM_FIGURES if d.key in TRAINING_FIGURES]
    table = FigureTable.of(contents, definitions)
    return dict(zip((d.key for d in definitions), table.values.tolist(), strict=True))


def average_likeness(
    contents: Iterable[TuneContent], kind: LikenessKind, size: int = MATRIX_BARS
) -> FloatArray:
    """Average the likeness matrices of tunes over the tunes that have both bars.

    Returns:
        (size, size) float64 mean of `compare_bars` of full bars i and j, or NaN.
    """
    total, counts = np.zeros((size, size)), np.zeros((size, size))
    for content in contents:
        matrix = content.get_full_likeness(kind)[:size, :size]
        rows, columns = matrix.shape
        total[:rows, :columns] += matrix
        counts[:rows, :columns] += 1
    missing = np.full((size, size), np.nan)
    means: FloatArray = np.divide(total, counts, out=missing, where=counts > 0)
    return means
