"""Runs in ./checkpoints, under way or finished: what their metrics.jsonl says so far."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final

from musicgen.checkpoint import list_checkpoint_folders
from musicgen.errors import MusicgenError
from musicgen.folder_contents import MANIFEST, METRICS
from musicgen.training.run_folder import read_metrics

MAX_RUNS: Final = 50
MAX_POINTS: Final = 400
_HELD_OUT_METRICS: Final = ("held_loss", "held_bits_per_note")


@dataclass
class RunList:
    """The runs of a folder; a file is read again only once it has grown."""

    folder: Path
    _cache: dict[str, tuple[object, dict[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """Return what there is to say of each run, the newest first."""
        found = sorted(self._find_metrics(), key=lambda one: -one[1].st_mtime_ns)[:MAX_RUNS]
        self._cache = {name: self._describe_run(name, status) for name, status in found}
        return [told for _, told in self._cache.values() if told]

    def _describe_run(self, name: str, status: os.stat_result) -> tuple[object, dict[str, Any]]:
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        known = self._cache.get(name)
        told = known[1] if known and known[0] == stamp else _read_curves(self.folder / name)
        folder = self.folder / name
        now = {"run": name, "finished": (folder / MANIFEST).is_file(), "updated": status.st_mtime,
               "has_model": bool(list_checkpoint_folders(folder))}  # fmt: skip
        return stamp, told and told | now

    def _find_metrics(self) -> Iterator[tuple[str, os.stat_result]]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if entry.name.isprintable()]
        except OSError:
            return
        for name in names:
            with suppress(OSError):  # it is no run, or cannot be read: that hides no other
                yield name, (self.folder / name / METRICS).stat()


def _read_curves(folder: Path) -> dict[str, Any]:
    """Return a run's curves; nothing where there is no line yet."""
    try:
        rows = read_metrics(folder)
        held = {name: _thin_curve(_select_points(rows, name)) for name in _HELD_OUT_METRICS}
        loss = _thin_curve(_select_points(rows, "loss"))
        best = min(held["held_bits_per_note"]["values"], default=None)
        step, tokens = int(rows[-1]["step"]), int(rows[-1].get("tokens", 0))
    except (MusicgenError, TypeError, ValueError, OverflowError):
        return {}
    return {"step": step, "tokens": tokens, "best": best, "loss": loss, **held}


def _select_points(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    points = ((int(row["step"]), float(row[name])) for row in rows if name in row)
    return [(step, value) for step, value in points if isfinite(value)]


def _thin_curve(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Thin a curve: each point that is left is the mean of those about it."""
    wide = -(-len(points) // MAX_POINTS) or 1
    groups = [points[at : at + wide] for at in range(0, len(points), wide)]
    return {
        "steps": [group[-1][0] for group in groups],
        "values": [round(sum(value for _, value in g) / len(g), 5) for g in groups],
    }
