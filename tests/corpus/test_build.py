"""Promises 2, 4, 21 and 24: every tune is counted, and equal tunes give equal tokens."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from musicgen.cli.corpus import corpus
from musicgen.corpus.build import BuildProgress, build
from musicgen.corpus.store import Dataset, get_id_arrays, load
from musicgen.errors import REASONS, MusicgenError, NotFound, OutputExists, Refusal
from musicgen.music.score import Score
from musicgen.tokens.codec import Encoded, Setting
from musicgen.tokens.measures import MeasuresCodec

BAD = "X:77\nT:No key\nM:6/8\nDEF|\n"


def titles(dataset: Dataset) -> list[str]:
    return sorted(tune.title for _, tune in dataset)


def test_found_is_kept_plus_refused(book: Any) -> None:
    book("a.abc", *range(1, 31), extra=BAD)
    folder = book("again.abc", 3, 4)
    dataset, report = build([folder], jobs=0)
    assert (report.found, report.kept, len(dataset)) == (33, 30, 30)
    assert report.codes == {"duplicate": 2, "no-key": 1} == dataset.refusals
    assert report.refused == len(report.refusals) == 3
    assert all(refusal.source.startswith("tunes/") for refusal in report.refusals)
    messages = sorted(str(refusal) for refusal in report.refusals if refusal.code == "duplicate")
    assert (
        "tunes/again.abc: tune 1 'Tune 3': its notes are those of 'Tune 3' in tunes/a.abc"
        in (messages[0])
    )


def test_tune_keeps_its_metadata(book: Any) -> None:
    dataset, _ = build([book("a.abc", 5)], jobs=0)
    (tune,) = dataset.train
    assert (tune.title, tune.source, tune.key, tune.meter, tune.rhythm, tune.notes) == (
        "Tune 5", "tunes/a.abc", "D major", "6/8", "jig", 48
    )  # fmt: skip
    assert Setting.from_json(tune.setting).title == "Tune 5"
    assert (dataset.codec, dataset.vocabulary_size) == ("measures", len(MeasuresCodec.vocabulary))


def test_kept_tunes_decode_and_encode_to_same_ids(book: Any) -> None:
    codec = MeasuresCodec()
    dataset, _ = build([book("a.abc", *range(40))], jobs=0)
    for _, tune in dataset:
        decoded = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting))
        assert decoded.dropped == 0
        assert list(codec.encode(decoded.score).ids) == tune.ids.tolist()


def test_file_names_and_order_do_not_change_the_data_set(book: Any) -> None:
    single = build([book("a.abc", *range(1, 41), folder="one")], jobs=0)[0]
    numbers = list(range(1, 41))
    random.Random(3).shuffle(numbers)
    for index, number in enumerate(numbers):
        folder = book(f"{index}.abc", number, folder="many")
    split_up = build([folder], jobs=0)[0]
    assert split_up.fingerprint == single.fingerprint
    assert [t.content for _, t in split_up] == [t.content for _, t in single]


def test_corpus_change_changes_the_fingerprint(book: Any) -> None:
    folders = [
        book("a.abc", 1, 2, 3, folder="a"),
        book("a.abc", 1, 2, folder="b"),
        book("a.abc", 1, 2, 4, folder="c"),
    ]
    assert len({build([folder], jobs=0)[0].fingerprint for folder in folders}) == 3


def read_all_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a data set, without the names of its sources."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sources"], manifest["check"]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"manifest.json": json.dumps(manifest).encode()}


def write_books(book: Any) -> Path:
    for name in "abcd":
        folder = book(f"{name}.abc", *range(ord(name), ord(name) + 5), extra=BAD)
    assert isinstance(folder, Path)
    return folder


def test_workers_do_not_change_the_bytes(book: Any, tmp_path: Path) -> None:
    folder = write_books(book)
    reports: list[BuildProgress] = []
    outs = [tmp_path / f"{jobs}" for jobs in (0, 1, 2)]
    for jobs, out in enumerate(outs):
        build([folder], out, jobs=jobs, progress=reports.append)
    with ThreadPoolExecutor(2) as executor:
        build([folder], tmp_path / "by executor", executor=executor)
    gc.collect()  # ends the readers of the worker threads
    first, *rest = (read_all_files(out) for out in (*outs, tmp_path / "by executor"))
    assert all(files == first for files in rest)
    finished = [report.files for report in reports if report.files]
    assert sorted(finished) == sorted([1, 2, 3, 4] * 3)
    assert {report.bytes for report in reports if report.files == 4} == {reports[-1].total_bytes}


def test_shard_size_does_not_change_the_tunes(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = book("a.abc", *range(60))
    single, _ = build([folder], tmp_path / "one", jobs=0)
    monkeypatch.setattr("musicgen.corpus.store.ROW_GROUP_TUNES", 4)
    monkeypatch.setattr("musicgen.corpus.store.SHARD_TUNES", 12)
    sharded, _ = build([folder], tmp_path / "many", jobs=0)
    assert len(list((tmp_path / "many").glob("train-*.parquet"))) > 3
    assert sharded == single
    assert sharded.fingerprint == single.fingerprint
    assert [ids.tolist() for ids in get_id_arrays(sharded.train)] == [
        ids.tolist() for ids in get_id_arrays(single.train)
    ]


def test_rebuild_reads_only_changed_files(book: Any, tmp_path: Path) -> None:
    folder = write_books(book)
    out = tmp_path / "data"
    build([folder], out, jobs=0)
    first = read_all_files(out)
    _, again = build([folder], out, jobs=0, force=True)
    assert (again.files, again.reused_files) == (4, 4)
    assert read_all_files(out) == first

    book("b.abc", 500, 501)
    (folder / "c.abc").unlink()
    book("new.abc", 600)
    _, changed = build([folder], out, jobs=0, force=True)
    assert (changed.files, changed.reused_files) == (4, 2)
    build([folder], tmp_path / "fresh", jobs=0)
    assert read_all_files(out) == read_all_files(tmp_path / "fresh")


def test_rebuild_with_other_reading_code_reads_all_files(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_books(book)
    build([folder], tmp_path / "data", jobs=0)
    monkeypatch.setattr("musicgen.corpus.dispatch.hash_reading_code", lambda: "another version")
    _, report = build([folder], tmp_path / "data", jobs=0, force=True)
    assert report.reused_files == 0


def test_damaged_read_cache_is_not_used(book: Any, tmp_path: Path) -> None:
    folder = write_books(book)
    build([folder], tmp_path / "data", jobs=0)
    cache = tmp_path / "data" / "answers.jsonl.zst"
    data = bytearray(cache.read_bytes())
    data[len(data) // 2] ^= 1
    cache.write_bytes(data)
    _, report = build([folder], tmp_path / "data", jobs=0, force=True)
    assert (report.reused_files, report.kept) == (0, 8)


def test_refuses_existing_data_set_before_reading(book: Any, tmp_path: Path) -> None:
    folder = write_books(book)
    build([folder], tmp_path / "data", jobs=0)
    with pytest.raises(OutputExists, match="add --force"):
        build([folder], tmp_path / "data", jobs=0)


def test_temporary_data_set_is_removed_with_its_tunes(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    train = build([book("a.abc", *range(9))], jobs=0)[0].train
    gc.collect()
    assert train[0].ids.size  # still in use
    del train
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["tunes"]


def test_file_name_that_is_not_utf8_is_kept(book: Any, tmp_path: Path) -> None:
    folder = book("a.abc", 1)
    (folder / "a.abc").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.abc"))
    dataset, _ = build([folder], jobs=0)
    assert dataset.train[0].source.encode().endswith(b"ff.abc")


def test_refusals_name_file_place_and_reason(book: Any) -> None:
    _, report = build([write_books(book), book("z.abc", 97)], jobs=0)
    assert {r.code for r in report.refusals} == {"no-key", "duplicate"} <= set(REASONS)
    assert all(refusal.source and refusal.place for refusal in report.refusals)


def test_hash_seed_and_locale_do_not_change_the_fingerprint(book: Any) -> None:
    folder = book("a.abc", *range(20))
    code = "import sys; from musicgen.corpus.build import build;"
    code += "print(build([sys.argv[1]], jobs=0)[0].fingerprint)"
    root = Path(__file__).parents[2]
    fingerprints = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale},
            capture_output=True,
            check=True,
        ).stdout
        for seed, locale in (("1", "C"), ("2", "C.UTF-8"), ("3", "POSIX"))
    }
    assert len(fingerprints) == 1


def test_near_duplicates_share_a_split(book: Any) -> None:
    book("a.abc", *range(60))
    folder = book("b.abc", extra="")
    near_duplicates = (folder / "a.abc").read_text().replace("T:Tune", "T:Another")
    (folder / "b.abc").write_text(near_duplicates.replace(":|", "|Af>d|]"))
    dataset, report = build([folder], jobs=0)
    assert report.kept > 100
    splits_by_group: dict[str, set[str]] = {}
    for split, tune in dataset:
        splits_by_group.setdefault(tune.group, set()).add(split)
    assert len(splits_by_group) == 60
    assert all(len(splits) == 1 for splits in splits_by_group.values())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_corpus_has_a_training_split(book: Any, count: int) -> None:
    dataset, _ = build([book("a.abc", *range(count))], jobs=0)
    assert len(dataset) == count
    assert dataset.train
    assert count < 2 or dataset.valid


def test_joins_sources_and_reads_each_file_once(book: Any) -> None:
    folder = book("a.abc", 1, 2)
    second = book("b.abc", 3, folder="more")
    dataset, report = build([folder, second, folder], jobs=0)
    assert titles(dataset) == ["Tune 1", "Tune 2", "Tune 3"]
    assert report.found == 3


def test_error_without_kept_tunes_names_the_first_reason(book: Any) -> None:
    with pytest.raises(MusicgenError, match=r"none of 1 tunes .* first: .* has no K:") as caught:
        build([book("a.abc", extra=BAD)], jobs=0)
    assert caught.value.exit_code == 1


def test_refuses_empty_folder_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        build([tmp_path], jobs=0)
    assert caught.value.exit_code == 2


class Choosy(MeasuresCodec):
    """A codec that refuses odd numbers of notes."""

    name = "choosy"

    def encode(self, score: Score, velocities: Sequence[int] | None = None) -> Encoded:
        if len(score.notes) % 2:
            raise Refusal("an odd number of notes; the tune was left out", code="no-event")
        return super().encode(score, velocities)


def test_counts_tunes_that_the_codec_refuses(book: Any) -> None:
    folder = book("a.abc", 1, extra="X:9\nT:Odd\nM:6/8\nK:D\nDEF GAB|d6|\n")
    dataset, report = build([folder], codec=Choosy())
    assert (dataset.codec, len(dataset)) == ("choosy", 1)
    assert [str(r) for r in report.refusals] == [
        "tunes/a.abc: tune 2 'Odd': an odd number of notes; the tune was left out"
    ]


def test_midi_and_abc_of_a_tune_are_near_duplicates(book: Any) -> None:
    from musicgen.formats import read, write

    folder = book("a.abc", *range(10))
    for number, score in enumerate(read(folder / "a.abc")[0]):
        write(score.unfolded(), folder / f"{number}.mid")
    dataset, _ = build([folder], jobs=0)
    assert len({tune.group for _, tune in dataset}) == 10


def test_bad_tunes_are_refused_alone(book: Any) -> None:
    bad = "\n".join(BAD.replace("77", str(n)) for n in range(20))
    folder = book("a.abc", *range(180), extra=bad)
    _, report = build([folder], jobs=0)
    assert (report.found, report.kept) == (200, 180)


@pytest.mark.promises
def test_200_bad_tunes_of_20000_are_refused_alone(book: Any) -> None:
    bad = "\n".join(BAD.replace("77", str(n)) for n in range(200))
    folder = book("a.abc", *range(19_800), extra=bad)
    _, report = build([folder], jobs=0)
    assert (report.found, report.kept) == (20_000, 19_800)


@pytest.mark.promises
def test_dance_tunes_are_kept_and_encode_to_same_ids(tmp_path: Path) -> None:
    codec = MeasuresCodec()
    dataset, report = build(["dance-tunes"], jobs=2)
    assert report.found == 4_248
    assert report.kept > 4_100
    for _, tune in dataset:
        decoded = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting))
        assert (decoded.dropped, list(codec.encode(decoded.score).ids)) == (0, tune.ids.tolist())


# The command line


def test_corpus_list_names_all_cards() -> None:
    result = CliRunner().invoke(corpus, ["list"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(line.startswith("dance-tunes    4248 tunes  Dance") for line in lines)
    assert "non-commercial" in result.stdout
    assert "Dahlig-Turek" in CliRunner().invoke(corpus, ["list", "-v"]).stdout


def test_corpus_build_writes_data_set_and_summary(book: Any, tmp_path: Path) -> None:
    folder = book("a.abc", *range(30), extra=BAD)
    out = tmp_path / "data"
    arguments = ["build", str(folder), "--out", str(out), "--jobs", "1"]
    result = CliRunner().invoke(corpus, arguments)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "kept 30 of 31 tunes (train " in result.stderr
    assert "left out 1 (1 no-key)" in result.stderr
    assert len(load(out)) == 30

    again = CliRunner().invoke(corpus, arguments)
    assert isinstance(again.exception, OutputExists)
    forced = CliRunner().invoke(corpus, [*arguments, "--force", "--quiet"])
    assert (forced.exit_code, forced.output) == (0, "")


def test_corpus_build_refuses_existing_output_first(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    arguments = ["build", "no such source", "--out", str(tmp_path / "data")]
    assert isinstance(CliRunner().invoke(corpus, arguments).exception, OutputExists)


def test_titles_are_escaped_in_messages(book: Any, tmp_path: Path) -> None:
    evil = "X:1\nT:\x1b[2J\x07../../evil\nM:6/8\nK:D\n" + "DEF|" * 9 + "\n\n"
    folder = book("a.abc", 1, extra=evil + evil)
    arguments = ["build", str(folder), "--out", str(tmp_path / "data"), "-v"]
    result = CliRunner().invoke(corpus, arguments)
    assert result.exit_code == 0
    assert "evil" in result.stderr
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr


BOOKS = [(300, 3), pytest.param(20_000, 200, marks=pytest.mark.promises)]


@pytest.mark.parametrize(("tunes", "bad"), BOOKS)
def test_large_book_loses_only_its_bad_tunes(tmp_path: Path, tunes: int, bad: int) -> None:
    """Run the command, so that the limits per tune apply, which a whole book would exceed."""
    interval = tunes // bad
    lines = [
        f"X:{n}\nM:C\n" + ("DEF|" if n % interval == 0 else f"L:1/8\nK:D\n{melody(n)}|")
        for n in range(1, tunes + 1)
    ]
    (tmp_path / "book.abc").write_text("\n\n".join(lines), "utf-8")
    out = tmp_path / "data"
    command = ["build", str(tmp_path / "book.abc"), "--out", str(out), "--jobs", "1", "-v"]
    result = CliRunner().invoke(corpus, command)
    assert result.exit_code == 0, result.output
    refused = re.findall(r"book\.abc: tune X:(\d+), line (\d+)", result.output)
    numbers = range(interval, tunes + 1, interval)
    assert sorted({int(number) for number, _ in refused}) == list(numbers)
    assert f"kept {tunes - bad:,} of {tunes:,} tunes" in result.output


def melody(number: int) -> str:
    """Write a number in notes, so that all tunes differ."""
    return "".join("CDEFGABcde"[int(digit)] for digit in f"{number:08d}") * 2
