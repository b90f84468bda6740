"""A data set is loaded as it was saved; incomplete or changed ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musicgen.corpus.store import Dataset, EncodedTune, check_output_folder, is_dataset, load, save
from musicgen.errors import Mismatch, NotFound, OutputExists, WriteFailed

NAMES = tuple(map(str, range(700)))


def encoded(number: int, title: str = "") -> EncodedTune:
    ids = np.arange(number, dtype=np.int16)
    return EncodedTune(
        ids, number, title or f"☘ {number}", "x/a.abc", "0f", "D major", "6/8", "jig", "{}"
    )


def dataset(*numbers: int) -> Dataset:
    tunes = [encoded(number) for number in numbers]
    return Dataset(
        tuple(tunes[2:]), tuple(tunes[:1]), tuple(tunes[1:2]), "measures", NAMES, {"key": 3}, ("x",)
    )


@pytest.mark.parametrize("numbers", [(), (3,), (0, 1, 2), range(50)])
def test_load_returns_what_was_saved(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    saved = dataset(*numbers)
    save(saved, tmp_path / "data")
    loaded = load(tmp_path / "data")
    assert loaded == saved
    assert all(tune.ids.dtype == np.int16 for _, tune in loaded)
    assert loaded.fingerprint == saved.fingerprint
    assert len(loaded) == len(numbers)


def test_manifest_lists_counts(tmp_path: Path) -> None:
    save(dataset(4, 5, 6, 7), tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["tunes"] == {"train": 2, "valid": 1, "test": 1}
    assert manifest["refusals"] == {"key": 3}


def test_fingerprint_depends_on_content_not_order() -> None:
    base = dataset(*range(9))
    assert replace(base, train=base.train[::-1], sources=()).fingerprint == base.fingerprint
    for changed in (
        replace(base, train=base.train[1:]),
        replace(base, train=base.valid, valid=base.train),
        replace(base, codec="frames"),
        replace(base, vocabulary=NAMES[1:]),
        replace(base, test=(encoded(1, "another title"),)),
        replace(base, test=(encoded(20, "☘ 1"),)),
    ):
        assert changed.fingerprint != base.fingerprint


def test_refuses_changed_shard(tmp_path: Path) -> None:
    save(dataset(1, 2, 3, 4), tmp_path / "data")
    file = tmp_path / "data" / "train-00000.parquet"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(Mismatch, match="its bytes changed since it was built; build it again"):
        load(tmp_path / "data")


def test_refuses_data_set_without_manifest(tmp_path: Path) -> None:
    save(dataset(1, 2, 3, 4), tmp_path / "data")
    (tmp_path / "data" / "manifest.json").unlink()
    assert not is_dataset(tmp_path / "data")
    with pytest.raises(NotFound, match="is not a data set; make one with musicgen corpus build"):
        load(tmp_path / "data")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 2}'])
def test_refuses_other_manifests(tmp_path: Path, text: str) -> None:
    save(dataset(1, 2, 3, 4), tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_text(text)
    with pytest.raises(Mismatch, match="build it again"):
        load(tmp_path / "data")


def test_refuses_manifest_over_8_mib(tmp_path: Path) -> None:
    save(replace(dataset(1, 2), sources=("x" * 2**23,)), tmp_path / "data")
    with pytest.raises(Mismatch, match=r"^[^\n]*build it again$"):
        load(tmp_path / "data")


def test_reads_data_set_with_many_sources(tmp_path: Path) -> None:
    sources = tuple(f"tunes/{number:06d}-with-a-long-name.abc" for number in range(100_000))
    save(replace(dataset(1, 2), sources=sources), tmp_path / "data")
    assert load(tmp_path / "data").sources == sources


def test_save_replaces_data_set_only_with_force(tmp_path: Path) -> None:
    save(dataset(1), tmp_path / "data")
    with pytest.raises(OutputExists, match="add --force"):
        check_output_folder(tmp_path / "data")
    with pytest.raises(OutputExists):
        save(dataset(2), tmp_path / "data")
    check_output_folder(tmp_path / "data", force=True)
    save(dataset(2), tmp_path / "data", force=True)
    assert load(tmp_path / "data") == dataset(2)


def test_never_replaces_other_folders(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(OutputExists, match="not a data set; choose another name"):
        check_output_folder(tmp_path / "photos", force=True)


def test_failed_save_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteFailed, match="No space left on device"):
        save(dataset(1, 2, 3), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
