"""What is customary where nothing is asked for: tempos of dances and meters, tonics of modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Quarters a minute at which a tune is played where none is asked for: by dance, else by meter.
RHYTHM_QPM: Final[Mapping[str, float]] = {
    "air": 80, "clog": 150, "double jig": 174, "fling": 160, "highland fling": 160, "hornpipe": 160,
    "jig": 174, "march": 110, "reel": 200, "set dance": 160, "single jig": 180, "slide": 190,
    "slip jig": 174, "strathspey": 136, "waltz": 150,
}  # fmt: skip
METER_QPM: Final[Mapping[str, float]] = {
    "2/2": 180, "2/4": 112, "3/2": 140, "3/4": 132, "4/4": 150, "6/4": 150,
    "3/8": 132, "6/8": 165, "9/8": 165, "12/8": 165,
}  # fmt: skip
# Tonics as tunebooks use them, for models that do not say what they learnt from.
TONICS: Final[Mapping[str, Mapping[str, int]]] = {
    "major": {"D": 4, "G": 4, "A": 2, "C": 1, "F": 1, "Bb": 1},
    "minor": {"A": 3, "E": 2, "D": 2, "G": 2, "B": 1},
    "dorian": {"D": 2, "E": 2, "A": 2, "G": 1},
    "mixolydian": {"D": 2, "A": 2, "G": 1},
    "lydian": {"G": 1, "F": 1}, "phrygian": {"E": 1, "A": 1}, "locrian": {"B": 1, "E": 1},
}  # fmt: skip
USUAL_QPM: Final = 120.0


def unmet_dance(dances: Mapping[str, Mapping[str, int]], rhythm: str, meter: str) -> str | None:
    """Say that no training tune is such a dance in such a meter; None where some is.

    Args:
        dances: how many training tunes there are of each dance in each meter.
        rhythm: the dance that is asked for.
        meter: the meter that is asked for.
    """
    meters = dances.get(rhythm, {})
    if not meters or meter in meters:
        return None
    known = ", ".join(sorted(meters, key=lambda name: -meters[name]))
    return f"the corpus has no {rhythm} in {meter}, only in {known}; it is written anyway"


def usual_qpm(rhythm: str, meter: str) -> float:
    """Return the quarters a minute at which a dance, or a meter, is played."""
    return RHYTHM_QPM.get(rhythm) or METER_QPM.get(meter, USUAL_QPM)
