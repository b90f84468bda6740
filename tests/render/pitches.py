"""Measure the pitch of synthesised sound."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RATE = 44_100  # samples per second
Float32Array: TypeAlias = NDArray[np.float32]


def cents_off(sound: Float32Array, pitch: int) -> float:
    """Return by how many cents the fundamental of a (2, sample) float32 sound is off.

    It is searched within a quarter tone around the MIDI pitch.
    """
    second = sound.mean(axis=0)[RATE // 8 : RATE // 8 + RATE]
    spectrum = np.abs(np.fft.rfft(second * np.hanning(len(second)), 2**18))
    expected = 440 * 2 ** ((pitch - 69) / 12) * 2**18 / RATE
    low, high = (round(expected * 2 ** (cents / 1200)) for cents in (-50, 50))
    peak = low + int(spectrum[low : high + 1].argmax())
    assert spectrum[peak] > 0.05 * spectrum.max(), "there is no fundamental"
    return float(1200 * np.log2(peak / expected))
