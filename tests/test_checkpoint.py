from __future__ import annotations

import contextlib
import json
import struct
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as render_weights

from musicgen import checkpoint
from musicgen.checkpoint import (
    FORMAT,
    Checkpoint,
    Manifest,
    Weights,
    list_checkpoint_folders,
    load,
    load_one,
    previous_run_path,
    publish,
    render_manifest,
    round_to_float16,
    save,
    weight_shapes,
)
from musicgen.config import CELLS, CONTEXTS, ModelSettings
from musicgen.errors import (
    DamagedCheckpoint,
    InvalidValue,
    Mismatch,
    NotFound,
    OutputExists,
    WriteFailed,
)
from musicgen.files import remove_folder, sha256_hex, write_atomically
from tests.damage import DAMAGES, Damage, damage_files

SETTINGS = ModelSettings(vocabulary_size=9, layers=2, hidden=4, embedding=3)
MANIFEST = Manifest(
    name="small",
    version=1,
    settings=SETTINGS,
    vocabulary=tuple(f"event {number}" for number in range(9)),
    seen=tuple(range(9)),
    corpus={"sources": ["dance-tunes"], "fingerprint": "ab12"},
    scores={"valid_bits_per_note": 2.5},
)
EXTRA = {"MODEL_CARD.md": b"# small 1\n", "metrics.jsonl": b'{"step": 1}\n'}


def random_weights(settings: ModelSettings = SETTINGS) -> Weights:
    generator = np.random.default_rng(1)
    return {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in weight_shapes(settings).items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    save(folder, random_weights(), MANIFEST, EXTRA)
    return folder


def test_load_returns_what_was_saved(folder: Path) -> None:
    loaded = load(folder)
    assert replace(loaded.manifest, packages={}) == MANIFEST
    assert loaded.manifest.packages["numpy"] == np.__version__
    assert loaded.vocabulary == MANIFEST.vocabulary
    assert loaded.read_extra_file("metrics.jsonl") == b'{"step": 1}\n'
    expected = round_to_float16(random_weights())
    assert loaded.weights.keys() == expected.keys()
    for name, array in loaded.weights.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, expected[name])
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["MODEL_CARD.md", "manifest.json", "metrics.jsonl", "weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


@pytest.mark.parametrize("times", [30, pytest.param(300, marks=pytest.mark.promises)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_load_detects_damage(folder: Path, damage: Damage, times: int) -> None:
    for path in damage_files(folder, damage, times):
        with pytest.raises(DamagedCheckpoint, match=path.name):
            load(folder)
    load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "MODEL_CARD.md"])
def test_load_names_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DamagedCheckpoint, match=f"small/{name}: it is missing; install or train"):
        load(folder)


def rewrite(folder: Path, **changes: object) -> None:
    body = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(render_manifest(body | changes))


def test_refuses_newer_format_naming_both(folder: Path) -> None:
    rewrite(folder, format=FORMAT + 1)
    with pytest.raises(Mismatch, match=r"small: its format is 2, this musicgen reads format 1"):
        load(folder)


def swap_weights(folder: Path, data: bytes) -> None:
    import hashlib

    (folder / "weights.safetensors").write_bytes(data)
    body = json.loads((folder / "manifest.json").read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    rewrite(folder, sha256=body["sha256"] | {"weights.safetensors": digest})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2**20) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"a":[]}',
        b"".join(
            [
                struct.pack("<Q", 71),
                b'{"a":{"dtype":"F16","shape":[4000000000,9],"data_offsets":[0,72000000000]}}',
            ]
        ),
        render_weights({"other": np.zeros(3, np.float16)}),
        render_weights({**random_weights(), "head.bias": np.zeros(8, np.float32)}),
        render_weights({**random_weights(), "head.bias": np.full(9, np.nan, np.float32)}),
    ],
)
def test_refuses_malformed_weights_quickly(folder: Path, data: bytes) -> None:
    swap_weights(folder, data)
    started = time.process_time()
    with pytest.raises(DamagedCheckpoint, match="small: its contents do not fit"):
        load(folder)
    assert time.process_time() - started < 2


def test_refuses_paths_in_file_table(folder: Path) -> None:
    body = json.loads((folder / "manifest.json").read_bytes())
    rewrite(folder, sha256=body["sha256"] | {"../outside": "00"})
    with pytest.raises(DamagedCheckpoint, match=r"manifest.json: the file table"):
        load(folder)


TOO_MANY = 10**400


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"corpus": {"dances": 5}}, "corpus.dances"),
        ({"corpus": {"dances": {"jig": [1]}}}, "corpus.dances"),
        ({"corpus": {"dances": {"jig": {"6/8": "x"}}}}, "corpus.dances"),
        ({"corpus": {"dances": {"jig": {"6/8": TOO_MANY}}}}, "corpus.dances"),
        ({"corpus": {"tonics": {"major": {"C": TOO_MANY}}}}, "corpus.tonics"),
        ({"corpus": {"tonics": {"ionic": {"C": 1}}}}, "corpus.tonics"),
        ({"seen": [TOO_MANY] * len(MANIFEST.seen)}, "seen"),
        ({"sampling": {"temperature": -1}}, "sampling"),
        ({"sampling": {"rhythm": 1}}, "sampling"),
        ({"version": TOO_MANY}, "version"),
        ({"version": -1}, "version"),
        ({"name": "../../x"}, "name"),
        ({"name": "x\x1b[31m"}, "name"),
        ({"name": "\u00e9" * 128}, "name"),
        ({"name": ""}, "name"),
    ],
)
def test_refuses_manifest_values_out_of_bounds(
    folder: Path, changes: dict[str, object], place: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(DamagedCheckpoint, match=rf"^.*{place}.*install or train the model again$"):
        load(folder)


@pytest.mark.parametrize("name", ["folk", "mine-2.1", "a b", "\u00e9" * 127, "x" * 255])
def test_accepts_names_of_old_checkpoints(folder: Path, name: str) -> None:
    rewrite(folder, name=name)
    assert load(folder).manifest.name == name


def test_checkpoint_of_an_older_version_keeps_its_fingerprint(folder: Path) -> None:
    before = load(folder)
    body = json.loads((folder / "manifest.json").read_text())
    assert body["settings"].pop("context") == ""
    assert body.pop("sampling") == {}
    (folder / "manifest.json").write_bytes(render_manifest(body))
    old = load(folder)
    assert (old.settings, old.manifest.sampling) == (before.settings, {})
    assert old.fingerprint == before.fingerprint
    new = ("context", "context_dropout", "input_dropout")
    settings = {name: value for name, value in asdict(SETTINGS).items() if name not in new}
    fields = [before.hashes["weights.safetensors"], settings, "measures", MANIFEST.vocabulary,
              list(range(1, 9)), {}]  # fmt: skip
    assert old.fingerprint == sha256_hex(json.dumps(fields, sort_keys=True).encode())[:16]


def test_sampling_defaults_do_not_change_the_fingerprint(tmp_path: Path, folder: Path) -> None:
    tuned = replace(MANIFEST, sampling={"temperature": 0.9, "min_p": 0.05})
    save(tmp_path / "tuned", random_weights(), tuned)
    assert load(tmp_path / "tuned").manifest.sampling == {"temperature": 0.9, "min_p": 0.05}
    assert load(tmp_path / "tuned").fingerprint == load(folder).fingerprint


def test_drops_unknown_corpus_fields(folder: Path) -> None:
    known_fields = {"tunes": {"train": 3}, "dances": {"jig": {"6/8": 3}}}
    rewrite(folder, corpus=known_fields | {"unknown": 5})
    assert load(folder).manifest.corpus == known_fields


def test_refuses_manifest_over_8_mib(folder: Path) -> None:
    rewrite(folder, training={"remark": "x" * 2**23})
    with pytest.raises(DamagedCheckpoint, match=r"manifest.json: it .*; install or train"):
        load(folder)


def test_refuses_unknown_settings(folder: Path) -> None:
    body = json.loads((folder / "manifest.json").read_bytes())
    rewrite(folder, settings=body["settings"] | {"attention": 4})
    with pytest.raises(DamagedCheckpoint, match="setting 'attention' is unknown"):
        load(folder)


def test_refuses_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no such model"):
        load(tmp_path / "none")


def test_save_replaces_only_with_force(folder: Path) -> None:
    with pytest.raises(OutputExists, match="--force"):
        save(folder, random_weights(), MANIFEST)
    save(folder, random_weights(), replace(MANIFEST, version=2), force=True)
    assert load(folder).manifest.version == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_save_refuses_nonfinite_weights(tmp_path: Path, value: float) -> None:
    weights = random_weights()
    weights["head.bias"][3] = value
    with pytest.raises(InvalidValue, match=r"'head\.bias' contains NaN or infinity"):
        save(tmp_path / "bad", weights, MANIFEST)
    assert not list(tmp_path.iterdir())


def test_refuses_vocabulary_of_other_size() -> None:
    with pytest.raises(InvalidValue, match="vocabulary has 8 entries, the settings say 9"):
        replace(MANIFEST, vocabulary=MANIFEST.vocabulary[1:])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return an unfinished run: two best checkpoints, and no manifest of its own."""
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    save(run / "best" / "00000040", random_weights(), replace(MANIFEST, version=4), EXTRA)
    save(run / "best" / "00000120", random_weights(), replace(MANIFEST, version=12), EXTRA)
    return run


def test_loads_newest_best_checkpoint_of_unfinished_run(run: Path) -> None:
    assert load(run).manifest.version == 12
    assert load(run).folder == run / "best" / "00000120"
    assert [place.name for place in list_checkpoint_folders(run)] == ["00000120", "00000040"]


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "MODEL_CARD.md"])
def test_falls_back_from_damaged_best_checkpoint(run: Path, name: str) -> None:
    (run / "best" / "00000120" / name).write_bytes(b"")
    assert load(run).manifest.version == 4
    (run / "best" / "00000040" / name).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=f"best/00000120/{name}: its bytes changed"):
        load(run)


def test_finished_run_loads_its_own_checkpoint(run: Path) -> None:
    publish(run, random_weights(), MANIFEST, EXTRA)
    assert load(run).folder == run
    assert load(run).manifest.version == 1
    (run / "weights.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"run/weights\.safetensors: its bytes changed"):
        load(run)
    publish(run, random_weights(), replace(MANIFEST, version=3), EXTRA)
    assert load(run).manifest.version == 3


def test_interrupted_publish_leaves_a_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(run, random_weights(), MANIFEST, EXTRA)
    for number in range(1, 6):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_atomically", FailingWriter(number))
            with contextlib.suppress(WriteFailed):
                publish(run, random_weights(), replace(MANIFEST, version=2), EXTRA)
        assert load(run).manifest.version == (12 if number <= 4 else 2)


class FailingWriter:
    """Write files, but fail at the n-th."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, path: Path, data: bytes, *, force: bool) -> None:
        self.left -= 1
        if not self.left:
            raise WriteFailed(f"{path} was not written")
        write_atomically(path, data, force=force)


def test_replaced_run_is_loaded_until_successor_saves(run: Path) -> None:
    run.rename(previous_run_path(run))
    run.mkdir()
    assert load(run).manifest.version == 12
    (run / "best").mkdir()
    save(run / "best" / "00000001", random_weights(), replace(MANIFEST, version=1), EXTRA)
    assert load(run).manifest.version == 1


def test_load_lists_again_if_checkpoints_change(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_vanishing(folder: Path) -> Checkpoint:
        if folder.name == "00000040":
            remove_folder(folder)
            remove_folder(run / "best" / "00000120")
            save(run / "best" / "00000200", random_weights(), replace(MANIFEST, version=20), EXTRA)
        if folder.name == "00000120":
            raise DamagedCheckpoint("gone")
        return load_one(folder)

    monkeypatch.setattr(checkpoint, "load_one", load_vanishing)
    assert load(run).manifest.version == 20


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("embedding", [3, 4])
@pytest.mark.parametrize("context", list(CONTEXTS.values()))
def test_weight_shapes_match_the_network(
    cell: str, tied: bool, embedding: int, context: str
) -> None:
    from musicgen.model.network import LanguageModel

    settings = replace(SETTINGS, cell=cell, tied=tied, embedding=embedding, context=context)
    arrays = LanguageModel(settings).copy_weights()
    assert {name: array.shape for name, array in arrays.items()} == weight_shapes(settings)
