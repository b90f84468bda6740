"""Edited manifests and data sets are refused quickly, in one line that names the place."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen import checkpoint
from musicgen.checkpoint import render_manifest
from musicgen.config import ModelSettings, TrainingSettings
from musicgen.corpus import store
from musicgen.errors import DamagedCheckpoint, InvalidValue, Mismatch
from musicgen.files import hash_file
from tests.corpus.test_store import dataset
from tests.fake_models import untrained


def with_value(body: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a copy with another value at a dotted place."""
    copy: dict[str, Any] = json.loads(json.dumps(body))
    *keys, name = place.split(".")
    table = copy
    for folder in keys:
        table = table[folder]
    table[name] = value
    return copy


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("settings.hidden", 256.0, "settings, hidden: expected int, got float"),
        ("settings.hidden", [256], "settings, hidden: expected int, got array"),
        ("settings.layers", 10**9, "layers is 1000000000: it must be 1 to 64"),
        ("settings.layers", True, "settings, layers: expected int, got bool"),
        ("settings.hidden", 10**6, "hidden is 1000000: it must be 1 to 65,536"),
        ("settings.hidden", 10**40, "hidden"),
        ("settings.dropout", "0.5", "settings, dropout: expected float, got str"),
        ("settings", [], "settings: expected object, got array"),
        ("name", ["folk"], "manifest.json, name: expected str, got array"),
        ("name", None, "manifest.json, name: expected str, got null"),
        ("version", "1", "manifest.json, version: expected int, got str"),
        ("vocabulary", {"a": 1}, "manifest.json, vocabulary: expected array, got object"),
        ("seen", [-1], r"manifest.json, seen\[0\]: expected int >= 0"),
        ("codec", 5, "manifest.json, codec: expected str, got int"),
        ("corpus.tonics", {"major": {"H": 1}}, "corpus.tonics"),
        ("corpus.tonics", {"major": {"C": 0}}, r"corpus.tonics.*: expected int >= 1"),
        ("corpus.cards", "x", "corpus.cards: expected array, got str"),
        ("scores", {"valid": 5}, "scores.valid: expected object"),
        ("packages", [], "packages: expected object, got array"),
        ("sha256", {"a\x00b": "0" * 64}, "sha256"),
        ("sha256", {"weights.safetensors": 5}, "sha256"),
        ("sha256", [], "sha256: expected object, got array"),
    ],
)
def test_refuses_edited_manifest_naming_the_place(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    model = untrained(tmp_path / "model")
    body = json.loads((model / "manifest.json").read_bytes())
    (model / "manifest.json").write_bytes(render_manifest(with_value(body, place, value)))
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedCheckpoint, match=message) as refusal:
        checkpoint.load(model)
    assert "\n" not in str(refusal.value)
    assert time.perf_counter() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_integer_dropout_keeps_its_type() -> None:
    """0 and 0.0 are equal, but give different fingerprints, which recipes contain."""
    body = {"vocabulary_size": 3, "dropout": 0}
    assert json.dumps(ModelSettings.from_dict(body).dropout) == "0"


@pytest.mark.parametrize(
    ("values", "message"),
    [({"tokens": 1.5}, "settings, tokens"), ({"tokens": 10**40}, "tokens"),
     ({"tokens": 1, "lanes": 10**9}, "lanes is 1000000000"), ({"odd": 1}, "'odd' is unknown"),
     ({}, "missing required field tokens")],
)  # fmt: skip
def test_refuses_training_settings_out_of_bounds(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        TrainingSettings.from_dict(values)


@pytest.mark.parametrize("invalid_id", [30_000, -1, 700])
def test_refuses_ids_outside_the_vocabulary(tmp_path: Path, invalid_id: int) -> None:
    valid = dataset(3, 4, 5, 6)
    ids = np.array([1, invalid_id, 2], np.int16)
    store.save(replace(valid, train=(replace(valid.train[0], ids=ids),)), tmp_path / "data")
    with pytest.raises(
        Mismatch, match=f"train: a tune holds the id {invalid_id}, and the vocabulary has"
    ):
        store.load(tmp_path / "data")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("codec", ["measures"], "manifest.json, codec: expected str, got array"),
        ("vocabulary", "abc", "manifest.json, vocabulary: expected array, got str"),
        ("vocabulary", [1], r"vocabulary\[0\]: expected str, got int"),
        ("tunes", {"train": -1}, "tunes"),
        ("sources", None, "sources: expected array, got null"),
        ("refusals", {"a": "b"}, "refusals"),
        ("sha256", [], "sha256: expected object, got array"),
    ],
)
def test_refuses_edited_data_set_naming_the_place(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    data = tmp_path / "data"
    store.save(dataset(3, 4, 5), data)
    body = with_value(json.loads((data / "manifest.json").read_text()), place, value)
    body["check"] = store._hash_manifest(body)
    (data / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(InvalidValue, match=message):
        store.load(data)


def test_refuses_columns_of_other_type(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = tmp_path / "data"
    store.save(dataset(3, 4, 5), data)
    shard = data / "train-00000.parquet"
    table = pq.read_table(shard)
    column = table.column_names.index("notes")
    pq.write_table(table.set_column(column, "notes", pa.array(["x"] * len(table))), shard)
    body = json.loads((data / "manifest.json").read_text())
    body["sha256"][shard.name] = hash_file(shard)
    body["check"] = store._hash_manifest(body)
    (data / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(Mismatch, match="train: its columns are not those of a data set"):
        store.load(data)
