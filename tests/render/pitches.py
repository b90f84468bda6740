"""What pitch a note has that was synthesised."""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 44_100


def cents_off(sound: Any, pitch: int) -> float:
    """Return by how many cents the fundamental is off, within a quarter tone on either side."""
    heard = sound.mean(axis=0)[RATE // 8 : RATE // 8 + RATE]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), 2**18))
    place = 440 * 2 ** ((pitch - 69) / 12) * 2**18 / RATE
    low, high = (round(place * 2 ** (cents / 1200)) for cents in (-50, 50))
    peak = low + int(spectrum[low : high + 1].argmax())
    assert spectrum[peak] > 0.05 * spectrum.max(), "there is no fundamental"
    return float(1200 * np.log2(peak / place))
