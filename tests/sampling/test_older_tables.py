"""Models and data sets of an older, shorter table of events are used as they are."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from musicgen.corpus import store
from musicgen.corpus.build import build
from musicgen.formats import midi
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.tokens.registry import restore_codec
from musicgen.trained_model import load
from tests.fake_models import untrained
from tests.synthetic_tunes import tune

FIRST_TABLE = 844  # events before line-ups were added
# Of the tunes that the version before line-ups sampled from the same weights: options, start of
# the SHA-256 of the MIDI file.
GOLDEN: tuple[tuple[dict[str, Any], str], ...] = (
    ({"bars": 8}, "9d20bb428f593dca"),
    ({"bars": 8, "key": "Edor", "end": "tonic"}, "34fc26d50e5475a1"),
    ({"form": "ABAC", "bars": 16, "end": "cadence"}, "691b3566b068ac25"),
)


def test_model_of_the_first_table_samples_the_same_bytes(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "older", events=FIRST_TABLE))
    assert model.checkpoint.fingerprint == "911408dcde4ffa28"
    for number, (options, digest) in enumerate(GOLDEN):
        score = model.draw(SamplingOptions.parse(**options), 7, number).score
        assert hashlib.sha256(midi.render(score)).hexdigest()[:16] == digest


def test_shipped_model_loads_and_draws_no_event_beyond_its_table() -> None:
    model = load("folk")
    events = len(model.checkpoint.vocabulary)
    requests = (GenerationRequest(SamplingOptions(bars=8), 1, number) for number in range(3))
    ids = [id_ for request in requests for id_ in model.generate(request).encoded.ids]
    assert max(ids) < events


def test_data_set_of_the_first_table_loads(tmp_path: Path) -> None:
    (tmp_path / "tunes.abc").write_text("\n".join(map(tune, range(1, 9))), encoding="utf-8")
    dataset, _ = build([tmp_path / "tunes.abc"], jobs=0)
    older = replace(dataset, vocabulary=dataset.vocabulary[:FIRST_TABLE])
    store.save(older, tmp_path / "data")
    loaded = store.load(tmp_path / "data")
    assert loaded.fingerprint == dataset.fingerprint
    assert restore_codec(loaded.codec, loaded.vocabulary, "data").name == "measures"
    assert len(loaded) == len(dataset)


def test_data_set_without_the_orders_of_parts_loads(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "tunes.abc").write_text("\n".join(map(tune, range(1, 9))), encoding="utf-8")
    dataset, _ = build([tmp_path / "tunes.abc"], jobs=0)
    folder = tmp_path / "data"
    store.save(dataset, folder)
    for path in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["order"]), path)
    (folder / "manifest.json").unlink()
    store.write_manifest(
        folder, codec=dataset.codec, vocabulary=dataset.vocabulary,
        fingerprint=dataset.fingerprint, sources=(), tunes={}, refusals={},
    )  # fmt: skip
    assert [tune.order for _, tune in store.load(folder)] == [0] * len(dataset)
