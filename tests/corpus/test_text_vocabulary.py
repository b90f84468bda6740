"""Build a data set of text: the vocabulary is learnt from the training split only."""

from __future__ import annotations

from pathlib import Path

import pytest

from musicgen.corpus import store
from musicgen.corpus.build import build
from musicgen.tokens.codec import Setting
from musicgen.tokens.registry import find_codec, restore_codec

SETTING = Setting()
WORDS = ("GAB", "c2A", "|:", ":|", "AGE", "d^cd", "z4", "[FA]")


def paragraph(number: int) -> str:
    """Return a text without near-duplicates, with a character that no other text has."""
    body = " ".join(WORDS[(number * 7 + n * n * (number + 1)) % len(WORDS)] for n in range(30))
    return f"{chr(0x3B1 + number)}{number}\n{body}"


PIECES = [paragraph(number) for number in range(24)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(PIECES[:20]), "utf-8")
    (folder / "b.txt").write_text("\n\n".join([*PIECES[20:], PIECES[3]]), "utf-8")
    return folder


def texts(dataset: store.Dataset, part: str) -> list[str]:
    codec = restore_codec(dataset.codec, dataset.vocabulary, "here")
    return [codec.decode(t.ids.tolist(), SETTING).piece for t in getattr(dataset, part)]


@pytest.mark.parametrize("name", ["text", "text-words"])
def test_vocabulary_is_learnt_from_the_training_split(folder: Path, name: str) -> None:
    dataset, report = build([folder], codec=find_codec(name), jobs=0)
    assert (report.kept, dict(report.codes)) == (24, {"duplicate": 1})
    train_texts = texts(dataset, "train")
    assert set(train_texts) <= set(PIECES)
    held_out_tunes = dataset.valid or dataset.test
    assert held_out_tunes
    unseen = next(chr(c) for c in range(0x3B1, 0x3C9) if not any(chr(c) in t for t in train_texts))
    assert not any(unseen in event for event in dataset.vocabulary)
    held_out = texts(dataset, "valid") + texts(dataset, "test")
    assert all("\ufffd" in text for text in held_out)
    assert all(tune.remarks for part in (dataset.valid, dataset.test) for tune in part)
    fitted = find_codec(name).fit(train_texts)  # type: ignore[attr-defined]
    assert dataset.vocabulary == fitted.vocabulary.names


def test_text_data_set_is_loaded_and_rebuilt_identically(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    dataset, _ = build([folder], out, codec=find_codec("text"), jobs=2)
    loaded = store.load(out)
    assert loaded == dataset
    assert store.read_manifest(out)["fingerprint"] == dataset.fingerprint
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    build([folder], out, codec=find_codec("text"), jobs=0, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
