"""Learn from a folder of tunes and write new ones.

import musicgen

tune = musicgen.load("folk").sample(key="Dmix", bars=32, seed=7)
tune.write("song.mid")
tune.tweak(temperature=0.85).write("near.mid")
scores, refusals = musicgen.read("book.abc")
"""

from musicgen.checkpoint import get_package_version
from musicgen.errors import MusicgenError, Refusal
from musicgen.formats import read, write
from musicgen.music.score import STEPS_PER_QUARTER, Ending, Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.trained_model import Model, load
from musicgen.tune import Tune
from musicgen.variants import tweak

__version__: str

__all__ = [
    "STEPS_PER_QUARTER",
    "Ending",
    "Key",
    "Mark",
    "Meter",
    "Model",
    "MusicgenError",
    "Note",
    "Part",
    "Refusal",
    "Score",
    "Tune",
    "__version__",
    "load",
    "read",
    "tweak",
    "write",
]


def __getattr__(name: str) -> str:
    """Return `__version__`, read from the package metadata on first use."""
    if name == "__version__":
        return get_package_version("musicgen")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
