"""What there is: models by name, and the ids of tunes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from musicgen.checkpoint import FORMAT, MANIFEST, places, read_manifest
from musicgen.errors import MusicgenError
from musicgen.music.theory import Key
from musicgen.sampling.customs import TONICS
from musicgen.sampling.default_form import default_form_of
from musicgen.sampling.known import NAME as INDEX
from musicgen.sampling.wishes import MOST_BARS
from musicgen.tokens.vocabulary import MEASURES
from musicgen.tune import known

FIRST: Final = "folk"
FORMS: Final = ("AABB", "ABAC", "AABA", "AABBCC", "AB", "through", "free")


def tune_id(recipe: str) -> str:
    """Return the id of the tune that a recipe makes."""
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


@dataclass
class Models:
    """The models that write bars; a manifest is read again only once it has changed."""

    runs: Path
    _read: dict[Path, tuple[object, dict[str, Any] | None]] = field(default_factory=dict)

    def told(self) -> list[dict[str, Any]]:
        """Say what can be asked of each; `folk` comes first."""
        found = known(self.runs)
        self._read = {folder: self._one(name, folder) for name, folder in found.items()}
        told = [about for _, about in self._read.values() if about is not None]
        return sorted(told, key=lambda about: (about["name"] != FIRST, about["name"]))

    def _one(self, name: str, folder: Path) -> tuple[object, dict[str, Any] | None]:
        stamp = stamp_of(folder)
        before = self._read.get(folder)
        return before if before and before[0] == stamp else (stamp, about(name, folder))


def stamp_of(folder: Path) -> object:
    """Return what changes when a model is trained on, or replaced."""
    return [(str(place), (place / MANIFEST).stat().st_mtime_ns)
            for place in places(folder)[:1] if (place / MANIFEST).is_file()]  # fmt: skip


def about(name: str, folder: Path) -> dict[str, Any] | None:
    """Say what can be asked of a model; None of one that writes no bars, or is damaged."""
    for place in places(folder):
        try:
            body = read_manifest(place, FORMAT)
        except MusicgenError:
            continue
        if body.get("codec") != "measures" or len(body.get("seen", ())) != len(MEASURES):
            return None
        return {
            "name": name, "version": body["version"], "keys": _keys(body),
            "meters": _values(body, "meter"), "rhythms": _values(body, "rhythm"),
            "max_bars": MOST_BARS, "forms": list(FORMS),
            "default_form": default_form_of(body["seen"]), "has_index": (place / INDEX).is_file(),
        }  # fmt: skip
    return None


def _values(body: dict[str, Any], kind: str) -> list[str]:
    """Return the values of a kind of event that the model has met, the commonest first."""
    seen = body["seen"]
    ids = sorted((id_ for id_ in MEASURES.ranges[kind] if seen[id_]), key=lambda id_: -seen[id_])
    values = (str(MEASURES.events[id_].value) for id_ in ids)
    return [value for value in values if value not in ("", "other")]


def _keys(body: dict[str, Any]) -> list[str]:
    """Return the keys that the model's tunes have, the commonest first."""
    tonics = body["corpus"].get("tonics") or TONICS
    counts = {str(Key(tonic, mode)): count for mode, names in tonics.items()
              for tonic, count in names.items()}  # fmt: skip
    return sorted(counts, key=lambda key: -counts[key])
