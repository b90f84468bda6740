"""The likelihood of held-out tunes as figures of the score card."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from musicgen.evaluation.figures import PERCENT, Figure
from musicgen.evaluation.likelihood import BaselineScore, Estimate, LikelihoodReport

_MEMORY_LABELS: Final = {
    "bar_occurrence": "bars that return, occurrence {}",
    "phrase_occurrence": "phrases that return, occurrence {}",
}
_LAST_OCCURRENCE: Final = 2  # in tables


def list_model_figures(
    report: LikelihoodReport, text_baselines: Sequence[BaselineScore] = ()
) -> tuple[Figure, ...]:
    """Return the figures of a model: bits, accuracy, calibration, baselines, memory.

    Args:
        report: the likelihood of held-out tunes.
        text_baselines: the baselines on the same tunes as text.
    """
    return (
        *_list_own_figures(report),
        *_list_baselines("baseline", "", report.baselines),
        *_list_baselines("text_baseline", ", as text", text_baselines),
        *_list_memory(report),
    )


def _list_own_figures(report: LikelihoodReport) -> Iterator[Figure]:
    unit, bits = report.units.unit, report.unmasked
    yield _make_figure("bits_per_note", f"bits per {unit}", bits.bits_per_note)
    masked = report.masked.bits_per_note
    yield _make_figure("bits_per_note_masked", f"bits per {unit}, legal events only", masked)
    if bits.bits_per_bar is not None:
        yield _make_figure("bits_per_bar", "bits per bar", bits.bits_per_bar)
    yield _make_figure("bits_per_tune", "bits per tune", bits.bits_per_tune)
    label = "most likely event is right"
    yield _make_figure("top_1_accuracy", label, report.top_1_accuracy, PERCENT)
    error = Estimate(report.calibration.error, math.nan, math.nan)
    yield _make_figure("calibration_error", "calibration error", error, PERCENT)


def _list_baselines(key: str, suffix: str, baselines: Iterable[BaselineScore]) -> Iterator[Figure]:
    for baseline in baselines:
        name, label = f"{key}.{baseline.name}", f"{baseline.title}{suffix}"
        yield _make_figure(name, label, baseline.bits_per_note, is_detail=not baseline.is_chosen)


def _list_memory(report: LikelihoodReport) -> Iterator[Figure]:
    """Yield the bits of notes that return, by occurrence."""
    for row in report.places:
        if row.place.kind in _MEMORY_LABELS:
            number = row.place.number
            bits = Estimate(row.bits_per_note, math.nan, math.nan)
            label = _MEMORY_LABELS[row.place.kind].format(number)
            name = f"{row.place.kind}.{number}"
            yield _make_figure(name, label, bits, is_detail=number > _LAST_OCCURRENCE)


def _make_figure(
    key: str, label: str, estimate: Estimate, unit: str = "", *, is_detail: bool = False
) -> Figure:
    value, low, high = estimate.value, estimate.low, estimate.high
    return Figure(
        key, label, unit, value, math.nan, low, high, is_model_measure=True, is_detail=is_detail
    )
