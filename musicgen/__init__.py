"""Learn from a folder of tunes and write new ones.

import musicgen

tune = musicgen.load("folk").sample(key="Dmix", bars=32, seed=7)
tune.write("song.mid")
tune.tweak(temperature=1.1).write("near.mid")
scores, refusals = musicgen.read("book.abc")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from musicgen.errors import MusicgenError, Refusal
    from musicgen.formats import read, write
    from musicgen.music.accompaniment import accompany
    from musicgen.music.chord_recognition import RecognisedChord, recognise_chords
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
    "RecognisedChord",
    "Refusal",
    "Score",
    "Tune",
    "__version__",
    "accompany",
    "load",
    "read",
    "recognise_chords",
    "tweak",
    "write",
]


# Imported on first use: reading a file needs no model, and a child process only one module.
_MODULES: Final = {
    "STEPS_PER_QUARTER": "music.score",
    "Ending": "music.score",
    "Key": "music.theory",
    "Mark": "music.score",
    "Meter": "music.theory",
    "Model": "trained_model",
    "MusicgenError": "errors",
    "Note": "music.score",
    "Part": "music.score",
    "RecognisedChord": "music.chord_recognition",
    "Refusal": "errors",
    "Score": "music.score",
    "Tune": "tune",
    "accompany": "music.accompaniment",
    "load": "trained_model",
    "read": "formats",
    "recognise_chords": "music.chord_recognition",
    "tweak": "variants",
    "write": "formats",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or read `__version__` from the package metadata, on first use."""
    if name == "__version__":
        from musicgen.checkpoint import get_package_version

        return get_package_version("musicgen")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"musicgen.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
