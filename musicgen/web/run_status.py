"""Runs in ./checkpoints, under way or finished: what their metrics.jsonl says so far."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final

from musicgen.checkpoint import places
from musicgen.errors import MusicgenError
from musicgen.folder_contents import MANIFEST, METRICS
from musicgen.training.observers import read_metrics

MOST_RUNS: Final = 50
MOST_POINTS: Final = 400
_HELD: Final = ("held_loss", "held_bits_per_note")


@dataclass
class Runs:
    """The runs of a folder; a file is read again only once it has grown."""

    folder: Path
    _read: dict[str, tuple[object, dict[str, Any]]] = field(default_factory=dict)

    def told(self) -> list[dict[str, Any]]:
        """Return what there is to say of each run, the newest first."""
        found = sorted(self._metrics(), key=lambda one: -one[1].st_mtime_ns)[:MOST_RUNS]
        self._read = {name: self._run(name, status) for name, status in found}
        return [told for _, told in self._read.values() if told]

    def _run(self, name: str, status: os.stat_result) -> tuple[object, dict[str, Any]]:
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        known = self._read.get(name)
        told = known[1] if known and known[0] == stamp else _curves(self.folder / name)
        folder = self.folder / name
        now = {"run": name, "finished": (folder / MANIFEST).is_file(), "updated": status.st_mtime,
               "has_model": bool(places(folder))}  # fmt: skip
        return stamp, told and told | now

    def _metrics(self) -> Iterator[tuple[str, os.stat_result]]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if entry.name.isprintable()]
        except OSError:
            return
        for name in names:
            with suppress(OSError):  # it is no run, or cannot be read: that hides no other
                yield name, (self.folder / name / METRICS).stat()


def _curves(folder: Path) -> dict[str, Any]:
    """Return a run's curves; nothing where there is no line yet."""
    try:
        rows = read_metrics(folder)
        held = {name: _curve(_column(rows, name)) for name in _HELD}
        loss = _curve(_column(rows, "loss"))
        best = min(held["held_bits_per_note"]["values"], default=None)
        step, tokens = int(rows[-1]["step"]), int(rows[-1].get("tokens", 0))
    except (MusicgenError, TypeError, ValueError, OverflowError):
        return {}
    return {"step": step, "tokens": tokens, "best": best, "loss": loss, **held}


def _column(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    points = ((int(row["step"]), float(row[name])) for row in rows if name in row)
    return [(step, value) for step, value in points if isfinite(value)]


def _curve(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Thin a curve: each point that is left is the mean of those about it."""
    wide = -(-len(points) // MOST_POINTS) or 1
    groups = [points[at : at + wide] for at in range(0, len(points), wide)]
    return {
        "steps": [group[-1][0] for group in groups],
        "values": [round(sum(value for _, value in g) / len(g), 5) for g in groups],
    }
