"""Status and curves of training runs, running or finished, from their metrics.jsonl."""

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
    """The runs of a folder; a metrics file is read again only if it has changed."""

    folder: Path
    _cache: dict[str, tuple[object, dict[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """Return a `TrainingRun` for each run, the newest first."""
        runs = sorted(self._find_metrics(), key=lambda run: -run[1].st_mtime_ns)[:MAX_RUNS]
        self._cache = {name: self._describe_run(name, status) for name, status in runs}
        return [description for _, description in self._cache.values() if description]

    def _describe_run(self, name: str, status: os.stat_result) -> tuple[object, dict[str, Any]]:
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        folder = self.folder / name
        cached_stamp, curves = self._cache.get(name, (None, {}))
        if cached_stamp != stamp:
            curves = _read_curves(folder)
        state = {"run": name, "finished": (folder / MANIFEST).is_file(), "updated": status.st_mtime,
               "has_model": bool(list_checkpoint_folders(folder))}  # fmt: skip
        return stamp, curves and curves | state

    def _find_metrics(self) -> Iterator[tuple[str, os.stat_result]]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if entry.name.isprintable()]
        except OSError:
            return
        for name in names:
            with suppress(OSError):  # not a run, or not readable
                yield name, (self.folder / name / METRICS).stat()


def _read_curves(folder: Path) -> dict[str, Any]:
    """Return a run's curves; an empty dict if it has no valid metrics yet."""
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
    """Thin a curve to at most MAX_POINTS points, each the mean of a group of points."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return {
        "steps": [group[-1][0] for group in groups],
        "values": [round(sum(value for _, value in group) / len(group), 5) for group in groups],
    }
