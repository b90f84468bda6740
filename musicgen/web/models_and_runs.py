"""What the page lists: models with the options they support, and training runs with their curves.

Manifests are read through a schema. A model whose manifest does not match it, or is damaged, is
left out of the list, with a warning on the terminal. Runs, running or finished, are read from their
metrics.jsonl.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final

import msgspec

from musicgen.checkpoint import (
    FORMAT,
    SamplingDefaults,
    Tonics,
    list_checkpoint_folders,
    read_manifest,
)
from musicgen.errors import InvalidValue, MusicgenError, escape_unprintable
from musicgen.folder_contents import MANIFEST, METRICS
from musicgen.model_folders import list_models
from musicgen.music.theory import Key
from musicgen.sampling.option_table import (
    COMMON_FORMS,
    MAX_BARS,
    list_codec_options,
)
from musicgen.sampling.options import TONICS, choose_default_form, find_accompaniment_default
from musicgen.similarity.note_index import INDEX_FILE as INDEX
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import CODECS
from musicgen.tokens.song_form import FREE
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training.run_folder import read_metrics
from musicgen.typed_data import Count, check_schema

LOG = logging.getLogger(__name__)
FIRST_MODEL: Final = "folk"
MAX_RUNS: Final = 50
MAX_POINTS: Final = 400
_HELD_OUT_METRICS: Final = ("held_loss", "held_bits_per_note")


def tune_id(recipe: str) -> str:
    """Return the id of a tune, the hash of its recipe."""
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


@dataclass
class ModelList:
    """The models that write notes; a manifest is read again only if it has changed."""

    runs: Path
    _cache: dict[Path, tuple[object, dict[str, Any] | None]] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """Return a `ModelInfo` per model, `folk` first, the others by name."""
        self._cache = {
            folder: self._describe_cached(name, folder)
            for name, folder in list_models(self.runs).items()
        }
        models = [model for _, model in self._cache.values() if model is not None]
        return sorted(models, key=lambda model: (model["name"] != FIRST_MODEL, model["name"]))

    def _describe_cached(self, name: str, folder: Path) -> tuple[object, dict[str, Any] | None]:
        stamp = get_model_stamp(folder)
        cached = self._cache.get(folder)
        return cached if cached and cached[0] == stamp else (stamp, describe_model(name, folder))


def get_model_stamp(folder: Path) -> object:
    """Return a value that changes when a model is trained further, or replaced."""
    try:
        return [
            (str(checkpoint_folder), (checkpoint_folder / MANIFEST).stat().st_mtime_ns)
            for checkpoint_folder in list_checkpoint_folders(folder)[:1]
        ]
    except OSError:  # just replaced, or not readable
        return None


class _Corpus(msgspec.Struct):
    """The part of a manifest on the training data."""

    tonics: Tonics | None = None  # mode -> tonic -> number of tunes
    densities: dict[str, tuple[Count, Count]] = {}  # role -> onsets per bar, thirds


class _Manifest(msgspec.Struct):
    """The fields of a manifest that the list needs."""

    codec: str
    version: Count
    seen: list[Count]
    corpus: _Corpus
    sampling: SamplingDefaults = {}


def describe_model(name: str, folder: Path) -> dict[str, Any] | None:
    """Return a `ModelInfo`, or None for a model that writes no notes or is damaged."""
    errors: list[str] = []
    for checkpoint_folder in list_checkpoint_folders(folder):
        try:
            body = read_manifest(checkpoint_folder, FORMAT)
            manifest = check_schema(body, _Manifest, f"{folder.name}/{MANIFEST}")
            codec = CODECS.get(manifest.codec)
            if codec is None or codec.unit != "note":
                return None
            return _describe_manifest(name, checkpoint_folder, manifest, codec)
        except MusicgenError as error:
            errors.append(str(error))
    LOG.warning(
        "model %s was left out: %s",
        escape_unprintable(name),
        escape_unprintable(errors[0]) if errors else "it was removed",
    )
    return None


_FEWEST_EVENTS: Final = MEASURES.ranges["drum"].stop  # of the first table, without line-ups


def _describe_manifest(
    name: str, checkpoint_folder: Path, manifest: _Manifest, codec: AnyCodec
) -> dict[str, Any]:
    """Return a `ModelInfo`. Raises InvalidValue for counts or keys that do not match."""
    writes_bars = codec.has_bars
    if writes_bars and not _FEWEST_EVENTS <= len(manifest.seen) <= len(MEASURES):
        raise InvalidValue(f"{len(manifest.seen)} event counts for {len(MEASURES)} events")
    options = list_codec_options(codec)
    pitch_ids = MEASURES.ranges["pitch"]
    has_pitches = writes_bars and any(manifest.seen[pitch_ids.start : pitch_ids.stop])
    return {
        "name": name, "version": manifest.version, "codec": manifest.codec,
        "options": [option.name for option in options],
        "controls": {option.name: option.control for option in options if option.control},
        "keys": _rank_keys(manifest.corpus) if has_pitches else [],
        "meters": _rank_values(manifest.seen, "meter") if writes_bars else [],
        "rhythms": _rank_values(manifest.seen, "rhythm") if writes_bars else [],
        "max_bars": MAX_BARS if writes_bars else 0,
        "forms": list(COMMON_FORMS) if writes_bars else [],
        "defaults": {
            **manifest.sampling,
            **find_accompaniment_default(manifest.seen, manifest.codec),
        },
        "default_form": choose_default_form(manifest.seen) if writes_bars else FREE,
        "roles": _rank_values(manifest.seen, "role") if writes_bars else [],
        "density_roles": sorted(manifest.corpus.densities),
        "has_index": (checkpoint_folder / INDEX).is_file(),
    }  # fmt: skip


def _rank_values(event_counts: Sequence[int], kind: str) -> list[str]:
    """Return the values of a kind of event in the training data, the most frequent first."""
    ids = sorted(
        (id_ for id_ in MEASURES.ids_by_kind[kind] if any(event_counts[id_ : id_ + 1])),
        key=lambda id_: -event_counts[id_],
    )
    values = (str(MEASURES.events[id_].value) for id_ in ids)
    return [value for value in values if value not in ("", "other")]


def _rank_keys(corpus: _Corpus) -> list[str]:
    """Return the keys of the training tunes, most frequent first. Raises InvalidValue."""
    counts = {str(Key(tonic, mode)): count for mode, names in (corpus.tonics or TONICS).items()
              for tonic, count in names.items()}  # fmt: skip
    return sorted(counts, key=lambda key: -counts[key])


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
