"""How far the samples of a font are out of tune: its accordion by over half a semitone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from musicgen.listen.soundfont import Region
from musicgen.listen.voice import RATE, speed

FARTHEST: Final = 75.0  # cents; what is farther off was meant to be
_SKIPPED: Final = 0.1  # seconds of a note's attack
_HEARD: Final = 1.0  # seconds that are looked at
_LINES: Final = 2**17  # of the spectrum, both halves
_FAINT: Final = 0.1  # of the loudest partial: a fainter fundamental tells no pitch


def mistuning(regions: Sequence[Region], key: int) -> float:
    """Return by how many cents the loudest of the regions that a key plays is sharp.

    All are to be moved by it: reeds that are tuned apart stay so. Beside a tone that lasts, what
    does not is the noise of its attack.
    """
    lasting = [region for region in regions if region.loop is not None] or regions
    return max((_of_one(region, key) for region in lasting), default=(0.0, 0.0))[1]


@lru_cache(maxsize=1024)
def _of_one(region: Region, key: int) -> tuple[float, float]:
    """Return how loud a region's fundamental is at a key, and by how many cents it is sharp.

    It is neither where the fundamental tells no pitch.
    """
    if _is_bent(region):
        return 0.0, 0.0
    pace = speed(region, key)
    heard = _heard(region, pace)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), _LINES)) / len(heard)
    semitones = round(region.cents / 100)  # a fifth or an octave between layers is meant
    place = 440 * 2 ** ((key + semitones - 69) / 12) / (RATE * pace) * _LINES
    low, high = (round(place * 2 ** (cents / 1200)) for cents in (-FARTHEST, FARTHEST))
    if low < 8 or high + 2 > len(spectrum):
        return 0.0, 0.0
    peak = low + int(spectrum[low : high + 1].argmax())
    if not low < peak < high or spectrum[peak] < _FAINT * spectrum.max():
        return 0.0, 0.0
    loud = spectrum[peak] * 10 ** (-region.amounts["attenuation"] / 500)
    return float(loud), float(1200 * np.log2(peak / place))


def _is_bent(region: Region) -> bool:
    """Tell whether the font itself moves a region's pitch away, or does not tune it by keys."""
    amounts = region.amounts
    away = amounts["sweep_pitch"] != 0 and amounts["sweep_sustain"] < 1000
    return away or amounts["cents_a_key"] != 100


def _heard(region: Region, pace: float) -> Any:
    """Return what a note reads of a sample after its attack: to the loop's end, round and round."""
    sample = region.sample
    skipped, stop = (round(seconds * RATE * pace) for seconds in (_SKIPPED, _SKIPPED + _HEARD))
    if region.loop is not None:
        first, last = region.loop
        again = np.resize(sample[first:last], max(stop - last, 0))
        sample = np.concatenate([sample[:last], again])
    return sample[min(skipped, len(sample) // 2) : stop][:_LINES].astype(np.float32)
