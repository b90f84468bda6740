"""Names in MusicXML that the reader and the writer share."""

from __future__ import annotations

from typing import Final

REMARK: Final = "musicgen"  # names the miscellaneous fields that hold remarks
RHYTHM: Final = "rhythm"

# Kinds of harmony by the qualities of theory.CHORD_QUALITIES.
HARMONY_KINDS: Final = {
    "": "major", "m": "minor", "7": "dominant", "m7": "minor-seventh", "maj7": "major-seventh",
    "dim": "diminished", "aug": "augmented", "sus4": "suspended-fourth",
    "sus2": "suspended-second", "6": "major-sixth", "m6": "minor-sixth", "9": "dominant-ninth",
    "dim7": "diminished-seventh", "m7b5": "half-diminished",
}  # fmt: skip
NO_CHORD: Final = "none"

NOTE_TYPES: Final = {
    0: "breve", 1: "whole", 2: "half", 4: "quarter", 8: "eighth", 16: "16th", 32: "32nd",
    64: "64th", 128: "128th",
}  # fmt: skip
ACCIDENTALS: Final = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}

# The dynamics attribute of a note is a percentage of this velocity.
FORTE_VELOCITY: Final = 90
