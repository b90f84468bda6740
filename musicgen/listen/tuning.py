"""How far the samples of a font are out of tune: some were recorded up to 15 cents off."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from musicgen.listen.soundfont import Region
from musicgen.listen.voice import RATE, speed

FARTHEST: Final = 48.0  # cents; what is farther off is nearer to another key
_SKIPPED: Final = 0.1  # seconds of a note's attack
_HEARD: Final = 1.0  # seconds that are looked at
_LINES: Final = 2**17  # of the spectrum, both halves
_FAINT: Final = 0.1  # of the loudest partial: a fainter fundamental tells no pitch


def mistuning(regions: Sequence[Region], key: int) -> float:
    """Return by how many cents the regions that sound together at a key are sharp, on average.

    They are moved together, by their loudness: reeds that are tuned apart stay so. Beside a tone
    that lasts, what does not is the noise of its attack.
    """
    lasting = [region for region in regions if region.loop is not None] or regions
    found = [(10 ** (-r.amounts["attenuation"] / 500), _of_one(r, key)) for r in lasting]
    known = [(weight, cents) for weight, cents in found if cents is not None]
    return sum(w * c for w, c in known) / sum(w for w, _ in known) if known else 0.0


@lru_cache(maxsize=1024)
def _of_one(region: Region, key: int) -> float | None:
    """Return by how many cents a region is sharp at a key; None where its sound does not tell."""
    if region.amounts["cents_a_key"] != 100 or region.amounts["sweep_pitch"]:
        return None
    pace = speed(region, key)
    heard = _heard(region, pace)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), _LINES))
    semitones = round(region.cents / 100)  # a fifth or an octave between layers is meant
    place = 440 * 2 ** ((key + semitones - 69) / 12) / (RATE * pace) * _LINES
    low, high = (round(place * 2 ** (cents / 1200)) for cents in (-FARTHEST, FARTHEST))
    if low < 8 or high + 2 > len(spectrum):
        return None
    peak = low + int(spectrum[low : high + 1].argmax())
    if not low < peak < high or spectrum[peak] < _FAINT * spectrum.max():
        return None
    return float(1200 * np.log2(peak / place))


def _heard(region: Region, pace: float) -> Any:
    """Return what a note reads of a sample after its attack: to the loop's end, round and round."""
    sample = region.sample
    skipped, stop = (round(seconds * RATE * pace) for seconds in (_SKIPPED, _SKIPPED + _HEARD))
    if region.loop is not None:
        first, last = region.loop
        again = np.resize(sample[first:last], max(stop - last, 0))
        sample = np.concatenate([sample[:last], again])
    return sample[min(skipped, len(sample) // 2) : stop][:_LINES].astype(np.float32)
