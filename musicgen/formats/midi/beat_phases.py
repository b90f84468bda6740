"""How likely onsets are at each phase of the beat: the evidence for an offset and for swing.

A beat, a quarter note, is divided into PHASES bins. Each hypothesis has a profile, a mixture of
normal densities of TIMING_SPREAD steps at the divisions of the beat and a uniform background:

===========  ================================================================
hypothesis   divisions
===========  ================================================================
straight     the beat, its eighth, its sixteenths; rarely triplets
triplet      the beat and the two other eighths of a triplet
swing        the beat, the late eighth or sixteenth of a ratio, what lies between
===========  ================================================================

The log-likelihood of onsets that are late by a phase is the circular correlation of their histogram
with the logarithm of the profile, computed by FFT for all phases and hypotheses at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from musicgen.music.arrays import FloatArray, IntArray
from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.swing import Swing

BINS_PER_STEP: Final = 4
PHASES: Final = STEPS_PER_QUARTER * BINS_PER_STEP  # bins of a beat
TIMING_SPREAD: Final = 1.5  # steps; standard deviation of an onset from its division
_BACKGROUND: Final = 0.1  # share of onsets anywhere in the beat

_Division = tuple[float, float]  # steps from the beat, share of the onsets

_STRAIGHT: Final[Sequence[_Division]] = (
    (0, 0.42), (24, 0.24), (12, 0.10), (36, 0.10), (16, 0.06), (32, 0.08)
)  # fmt: skip
_TRIPLET: Final[Sequence[_Division]] = (
    (0, 0.42), (16, 0.21), (32, 0.27), (24, 0.06), (8, 0.02), (40, 0.02)
)  # fmt: skip
_EIGHTH_RATIOS: Final = tuple(percent / 100 for percent in range(56, 74))
_SIXTEENTH_RATIOS: Final = tuple(percent / 100 for percent in range(57, 74))
SWINGS: Final = (
    *(Swing(ratio, 24) for ratio in _EIGHTH_RATIOS),
    *(Swing(ratio, 12) for ratio in _SIXTEENTH_RATIOS),
)
FIRST_SWING: Final = 2  # row of the first swing; straight and triplet are rows 0 and 1


def _list_swung_divisions(swing: Swing) -> Sequence[_Division]:
    if swing.unit == 12:
        late = 24 * swing.ratio
        return (0, 0.34), (late, 0.14), (24, 0.24), (24 + late, 0.14), (16, 0.06), (32, 0.08)
    late = 48 * swing.ratio
    between = (late / 2, 0.08), (late + (48 - late) / 2, 0.08)
    return (0, 0.42), (late, 0.30), *between, (16, 0.06), (32, 0.06)


def _make_log_profile(divisions: Sequence[_Division]) -> FloatArray:
    """Return the logarithm of a profile, (phase,) float64 densities per step."""
    phases = np.arange(PHASES) / BINS_PER_STEP
    density = np.full(PHASES, _BACKGROUND / STEPS_PER_QUARTER)
    height = (1 - _BACKGROUND) / (TIMING_SPREAD * np.sqrt(2 * np.pi))
    for step, share in divisions:
        distances = (phases - step + 24) % 48 - 24
        density += height * share * np.exp(-(distances**2) / (2 * TIMING_SPREAD**2))
    log_density: FloatArray = np.log(density)
    return log_density


_SPECTRA: Final = np.conj(
    np.fft.rfft(
        [_make_log_profile(d) for d in (_STRAIGHT, _TRIPLET, *map(_list_swung_divisions, SWINGS))]
    )
)


def count_phases(steps: FloatArray, weights: FloatArray) -> FloatArray:
    """Count onsets by phase.

    Args:
        steps: (note,) float64 onsets.
        weights: (note,) float64.

    Returns:
        (phase,) float64 sums of weights.
    """
    counts = np.bincount(to_bins(steps) % PHASES, weights, minlength=PHASES)
    return counts.astype(np.float64, copy=False)


def to_bins(steps: FloatArray) -> IntArray:
    """Convert (n,) float64 steps to (n,) int64 bins."""
    return np.floor(steps * BINS_PER_STEP + 0.5).astype(np.int64)


def phase_likelihoods(counts: FloatArray, hypotheses: int | None = None) -> FloatArray:
    """Return how well onsets that are late by each phase fit each hypothesis.

    Args:
        counts: (phase,) float64, from `count_phases`.
        hypotheses: only the first ones; all by default.

    Returns:
        (hypothesis, phase) float64 log-likelihoods in nats; rows straight, triplet, then SWINGS.
    """
    likelihoods: FloatArray = np.fft.irfft(np.fft.rfft(counts) * _SPECTRA[:hypotheses], n=PHASES)
    return likelihoods


def section_likelihoods(counts: FloatArray, hypothesis: int) -> FloatArray:
    """Return how well the onsets of each section fit one hypothesis at each phase.

    Args:
        counts: (section, phase) float64.
        hypothesis: a row of `phase_likelihoods`.

    Returns:
        (section, phase) float64 log-likelihoods in nats.
    """
    spectra = np.fft.rfft(counts, axis=1) * _SPECTRA[hypothesis]
    likelihoods: FloatArray = np.fft.irfft(spectra, n=PHASES, axis=1)
    return likelihoods


def to_offset(phase: int) -> float:
    """Convert a phase bin to an offset in steps, from -24 to just below 24."""
    return ((phase + PHASES // 2) % PHASES - PHASES // 2) / BINS_PER_STEP
