"""`musicgen origin`: shared runs for files of every format, and the bits of each note."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen import checkpoint, formats
from musicgen.similarity.note_index import INDEX_FILE
from tests import synthetic_tunes
from tests.command_runner import assert_refused, run
from tests.fake_models import untrained
from tests.related_tunes import indexed

BOOK = "".join(synthetic_tunes.tune(number) for number in range(1, 6))


def save_indexed_model(folder: Path, book: Path) -> Path:
    """Write untrained weights with the index of a book of tunes and return the model's folder."""
    scores, _ = formats.read(book)
    note_index = indexed(scores).note_index.with_reference_stats(
        [4, 6, 8, 200], [0.0, 0.1, 0.2, 1.0]
    )
    model = checkpoint.load(untrained(folder))
    checkpoint.publish(folder, model.weights, model.manifest, {INDEX_FILE: note_index.to_bytes()})
    return folder


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.abc").write_text(BOOK)
    save_indexed_model(tmp_path / "model", tmp_path / "book.abc")
    return tmp_path


@pytest.mark.parametrize("suffix", [".abc", ".mid", ".musicxml"])
def test_origin_finds_the_training_tune_in_each_format(cwd: Path, suffix: str) -> None:
    path = cwd / f"song{suffix}"
    if suffix == ".musicxml":
        path.write_text(export_musicxml(cwd / "book.abc"))
    else:
        scores, _ = formats.read(cwd / "book.abc")
        formats.write(scores[2].transpose(3), path)
    result = run("origin", str(path), "--model", "model")
    assert result.exit_code == 0, result.output
    assert "is 72 of 72 notes, bars 1-12, from 'Tune 3' (book.abc, tune 3)" in result.stdout
    assert "longer than in 75% of real tunes" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def export_musicxml(path: Path) -> str:
    """Export the third tune in another key with music21."""
    import music21
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    scores, _ = formats.read(path)
    notes = [
        music21.note.Note(note.pitch - 5, quarterLength=note.duration / 48)
        for note in scores[2].notes
    ]
    stream: Any = music21.stream.Part()  # type: ignore[no-untyped-call]
    stream.append([music21.meter.TimeSignature("6/8"), *notes])
    return str(GeneralObjectExporter(stream).parse().decode())


def test_json_of_one_tune_is_an_object(cwd: Path) -> None:
    (cwd / "one.abc").write_text(synthetic_tunes.tune(4))
    rows = json.loads(run("origin", "one.abc", "--model", "model", "--json").stdout)
    assert (rows["longest_run"], rows["tune"], rows["bars"]) == (72, "Tune 4", [1, 12])
    assert (rows["share"], rows["longer_than"]) == (1.0, 0.75)


def test_each_tune_of_a_book_is_reported(cwd: Path) -> None:
    (cwd / "more.abc").write_text(
        synthetic_tunes.tune(9) + synthetic_tunes.tune(8, K="H") + synthetic_tunes.tune(2)
    )
    result = run("origin", "more.abc", "--model", "model")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["1. Tune 9", "2. Tune 2"]
    assert "72 of 72 notes" in lines[1]
    assert "72 of 72 notes" not in lines[0]
    assert "tune X:8" in result.stderr
    rows = json.loads(run("origin", "more.abc", "--model", "model", "--json").stdout)
    assert [row["title"] for row in rows] == ["Tune 9", "Tune 2"]


def test_surprise_lists_bits_per_note(cwd: Path) -> None:
    (cwd / "one.abc").write_text(synthetic_tunes.tune(4))
    result = run("origin", "one.abc", "--model", "model", "--surprise")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:13]] == [
        f"bar {n}" for n in range(1, 13)
    ]
    assert "a note; of them" in lines[13]
    rows = json.loads(run("origin", "one.abc", "--model", "model", "--surprise", "--json").stdout)
    assert len(rows["surprise"]["notes"]) == rows["notes"] == 72
    assert rows["longest_run"] == 72


def test_surprise_compares_phrases_that_return_with_the_first_time(cwd: Path) -> None:
    bars = "DFA dAF|GBd gdB|ABc def|d3 D3|"
    (cwd / "twice.abc").write_text(f"X:1\nM:6/8\nL:1/8\nK:D\n{bars}\n{bars}\n")
    result = run("origin", "twice.abc", "--model", "model", "--surprise")
    assert result.exit_code == 0, result.output
    returned = re.search(
        r"bars 5-8 return bars 1-4 \(exact\): (.+) bits per note, (.+) the first time",
        result.stdout,
    )
    assert returned is not None
    rows = json.loads(run("origin", "twice.abc", "--model", "model", "--surprise", "--json").stdout)
    notes = rows["surprise"]["notes"]
    means = [np.mean([n["bits"] for n in notes if (n["bar"] > 4) == later]) for later in (1, 0)]
    assert [float(text) for text in returned.groups()] == pytest.approx(means, abs=0.006)


def test_model_without_index_is_refused(cwd: Path) -> None:
    untrained(cwd / "bare")
    assert_refused(run("origin", "book.abc", "--model", "bare"), 2, "bare: the model has no index")


@pytest.mark.parametrize(
    ("name", "content", "code", "args"),
    [
        ("none.abc", None, 2, "none.abc does not exist"),
        ("song.wav", "", 2, "choose a file of type .abc, .mid"),
        ("bad.abc", synthetic_tunes.tune(1, K="H"), 1, "key 'H' is unknown"),
        ("empty.abc", "", 1, "empty.abc"),
        ("noise.mid", "no midi", 1, "MThd is missing"),
    ],
)
def test_unreadable_file_is_refused_in_one_line(
    cwd: Path, name: str, content: str | None, code: int, args: str
) -> None:
    if content is not None:
        (cwd / name).write_text(content)
    assert_refused(run("origin", name, "--model", "model"), code, args)


def test_damaged_index_is_refused(cwd: Path) -> None:
    path = cwd / "model" / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert_refused(run("origin", "book.abc", "--model", "model"), 1, "its bytes changed")


def test_control_characters_of_titles_are_escaped(cwd: Path) -> None:
    (cwd / "one.abc").write_text(synthetic_tunes.tune(4, T="\x1b[31mred"))
    result = run("origin", "one.abc", "--model", "model")
    assert "\x1b" not in result.output


def test_origin_imports_no_torch(cwd: Path) -> None:
    heavy = "print([m for m in ('torch', 'music21', 'pyarrow', 'numpy.ma') if m in sys.modules])"
    args = ["origin", "book.abc", "--model", "model"]
    code = f"import sys; from musicgen.cli import commands; commands({args}, standalone_mode=False)"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}; {heavy}"],
        capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout.splitlines()[-1] == "[]"
