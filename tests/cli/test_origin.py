"""`musicgen origin`: whose tune this is, for files of every format, and the bits of each note."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from musicgen import checkpoint, formats
from musicgen.similarity.note_index import INDEX_FILE
from tests import synthetic_tunes
from tests.command_runner import refused, run
from tests.fake_models import untrained
from tests.related_tunes import indexed

BOOK = "".join(synthetic_tunes.tune(number) for number in range(1, 6))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.abc").write_text(BOOK)
    known, _ = formats.read(tmp_path / "book.abc")
    found = indexed(known).note_index.with_reference_stats([4, 6, 8, 200], [0.0, 0.1, 0.2, 1.0])
    model = checkpoint.load(untrained(tmp_path / "model"))
    checkpoint.publish(model.folder, model.weights, model.manifest, {INDEX_FILE: found.to_bytes()})
    return tmp_path


@pytest.mark.parametrize("suffix", [".abc", ".mid", ".musicxml"])
def test_a_file_of_any_make_is_traced(here: Path, suffix: str) -> None:
    path = here / f"song{suffix}"
    if suffix == ".musicxml":
        path.write_text(musicxml_of(here / "book.abc"))
    else:
        scores, _ = formats.read(here / "book.abc")
        formats.write(scores[2].transpose(3), path)
    result = run("origin", str(path), "--model", "model")
    assert result.exit_code == 0, result.output
    assert "is 72 of 72 notes, bars 1-12, from 'Tune 3' (book.abc, tune 3)" in result.stdout
    assert "longer than in 75% of real tunes" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def musicxml_of(path: Path) -> str:
    """Write the third tune, by music21, in another key."""
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


def test_one_tune_is_one_object(here: Path) -> None:
    (here / "one.abc").write_text(synthetic_tunes.tune(4))
    told = json.loads(run("origin", "one.abc", "--model", "model", "--json").stdout)
    assert (told["longest_run"], told["tune"], told["bars"]) == (72, "Tune 4", [1, 12])
    assert (told["share"], told["longer_than"]) == (1.0, 0.75)


def test_each_tune_of_a_book_has_its_line_and_refusals_are_told(here: Path) -> None:
    (here / "more.abc").write_text(
        synthetic_tunes.tune(9) + synthetic_tunes.tune(8, K="H") + synthetic_tunes.tune(2)
    )
    result = run("origin", "more.abc", "--model", "model")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["1. Tune 9", "2. Tune 2"]
    assert "72 of 72 notes" in lines[1]
    assert "72 of 72 notes" not in lines[0]
    assert "tune X:8" in result.stderr
    told = json.loads(run("origin", "more.abc", "--model", "model", "--json").stdout)
    assert [row["title"] for row in told] == ["Tune 9", "Tune 2"]


def test_the_surprise_of_each_note_is_told(here: Path) -> None:
    (here / "one.abc").write_text(synthetic_tunes.tune(4))
    result = run("origin", "one.abc", "--model", "model", "--surprise")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:13]] == [
        f"bar {n}" for n in range(1, 13)
    ]
    assert "a note; of them" in lines[-1]
    told = json.loads(run("origin", "one.abc", "--model", "model", "--surprise", "--json").stdout)
    assert len(told["surprise"]["notes"]) == told["notes"] == 72
    assert told["longest_run"] == 72


def test_a_model_without_an_index_says_so(here: Path) -> None:
    untrained(here / "bare")
    refused(run("origin", "book.abc", "--model", "bare"), 2, "bare: the model has no index")


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("none.abc", None, 2, "none.abc does not exist"),
        ("song.wav", "", 2, "known are .abc, .mid"),
        ("bad.abc", synthetic_tunes.tune(1, K="H"), 1, "key 'H' is unknown"),
        ("empty.abc", "", 1, "empty.abc"),
        ("noise.mid", "no midi", 1, "MThd is missing"),
    ],
)
def test_what_cannot_be_traced_costs_one_line(
    here: Path, name: str, content: str | None, code: int, words: str
) -> None:
    if content is not None:
        (here / name).write_text(content)
    refused(run("origin", name, "--model", "model"), code, words)


def test_a_damaged_index_is_noticed(here: Path) -> None:
    path = here / "model" / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused(run("origin", "book.abc", "--model", "model"), 1, "its bytes changed")


def test_titles_steer_no_terminal(here: Path) -> None:
    (here / "one.abc").write_text(synthetic_tunes.tune(4, T="\x1b[31mred"))
    result = run("origin", "one.abc", "--model", "model")
    assert "\x1b" not in result.output


def test_it_starts_without_torch(here: Path) -> None:
    heavy = "print([m for m in ('torch', 'music21', 'pyarrow', 'numpy.ma') if m in sys.modules])"
    words = ["origin", "book.abc", "--model", "model"]
    code = (
        f"import sys; from musicgen.cli import commands; commands({words}, standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {heavy}"],
        capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
