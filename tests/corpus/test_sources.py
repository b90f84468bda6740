"""Promises 2 and 7: a source lists its files, and only these are opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from musicgen.corpus import sources
from musicgen.corpus.build import build
from musicgen.corpus.dispatch import PackedFiles
from musicgen.corpus.encode import encode_file
from musicgen.corpus.sources import (
    CardSchema,
    CorpusCard,
    TuneFile,
    count_tunes,
    expand_cards,
    find_card,
    is_title_hash_divisible,
    iter_tunes,
    list_cards,
    list_files,
)
from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.music.key_labels import KEY_RULES
from musicgen.music.score import Score
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import MEASURES

NAMES = ["aird", "chorales", "dance-tunes", "essen", "freedoom", "groove", "josquin", "miscfolk",
         "nottingham-chords", "nottingham", "oneill", "palestrina", "ryan", "trecento"]  # fmt: skip


def test_lists_the_shipped_cards() -> None:
    assert [card.name for card in list_cards()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_card_names_source_and_terms(name: str) -> None:
    card = find_card(name)
    assert card.title
    assert card.description
    assert card.in_short
    assert card.includes or card.source
    quoted = (
        "may be restrictions on commercial use",
        "CC BY 4.0",
        "Redistributions of source code",
        "GNU General Public License, version 3",
    )
    assert any(words in card.terms for words in quoted) or not card.ships
    assert bool(card.where) != bool(card.includes)


def test_only_free_corpora_are_marked_as_shipping() -> None:
    assert [card.name for card in list_cards() if card.ships] == [
        "aird",
        "chorales",
        "dance-tunes",
        "freedoom",
        "groove",
        "nottingham-chords",
        "oneill",
        "ryan",
    ]
    assert "given permission for non-commercial distribution" in find_card("essen").terms
    assert all(find_card(name).ships for name in find_card("dance-tunes").includes)


def read_compressed_xml(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if not n.startswith("META-INF"))
        return archive.read(name).decode("utf-8")


def test_quoted_terms_are_in_the_files_of_music21() -> None:
    folder = list_files("essen")[0].path.parents[1]
    license_text = " ".join((folder / "license.txt").read_text().split())
    license_text += " ".join((folder / "essenFolksong" / "license.txt").read_text().split())
    files_with_terms = {
        "josquin": 1,
        "palestrina": 0,
    }  # index of a file that quotes the terms
    for card in list_cards():
        text = license_text
        if card.name == "chorales":
            text += read_compressed_xml(list_files(card.name)[10].path)
        if card.name in files_with_terms:
            text += " ".join(
                list_files(card.name)[files_with_terms[card.name]]
                .path.read_text()
                .replace("%", "")
                .split()
            )
        for quoted in card.terms.split('"')[1::2]:
            assert quoted in text or quoted in "Jack Campin * www.campin.me.uk * 2009"


def test_finds_card_without_importing_music21() -> None:
    code = (
        "import sys; from musicgen.corpus.sources import list_files;"
        "heavy = {'music21', 'torch', 'pyarrow'} & {*sys.modules};"
        "print(len(list_files('oneill')), sorted(heavy))"
    )
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert process.stdout.split(maxsplit=1) == [str(len(list_files("oneill"))), "[]\n"]


def test_dance_tunes_include_three_books() -> None:
    together = [file for name in ("oneill", "ryan", "aird") for file in list_files(name)]
    assert list(list_files("dance-tunes")) == together
    assert count_tunes(find_card("dance-tunes")) == 4_248


def test_card_pattern_selects_files() -> None:
    for name in ("aird", "essen", "oneill", "ryan"):
        assert {file.path.suffix for file in list_files(name)} == {".abc"}
        assert find_card(name).files == "*.abc"


def test_chorales_are_by_bach() -> None:
    assert all(file.path.name.startswith("bwv") for file in list_files("chorales"))
    assert count_tunes(find_card("chorales")) == len(list_files("chorales")) > 370


def test_unknown_source_error_lists_the_cards() -> None:
    with pytest.raises(NotFound, match="no file, folder or corpus 'nowhere'; known are aird, chor"):
        list_files("nowhere")


def test_missing_folder_of_music21_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = CorpusCard(name="lost", title="Lost", description="", where="music21:no_such_folder")
    monkeypatch.setattr(sources, "list_cards", lambda: (lost,))
    with pytest.raises(NotFound, match="corpus lost: music21's corpus holds no folder music21:no_"):
        list_files("lost")
    assert count_tunes(lost) is None


def test_reads_cards_from_the_installed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text('title = "Mine"\ndescription = "d"\nincludes = ["aird"]\n')
    monkeypatch.setattr(sources, "_CARD_FOLDERS", (tmp_path, Path("/nowhere")))
    assert [card.name for card in list_cards()] == ["mine"]


def test_reads_folder_recursively_sorted_by_name(book: Any) -> None:
    for name in ("b.abc", "a.ABC", "deep/c.abc", "notes.txt", "deep/.hidden.abc"):
        folder = book(name, 1)
    assert [file.name for file in list_files(folder)] == [
        "tunes/a.ABC", "tunes/b.abc", "tunes/deep/.hidden.abc", "tunes/deep/c.abc"
    ]  # fmt: skip
    assert len(list(iter_tunes(folder))) == 4


def test_refuses_special_files_and_links(book: Any, tmp_path: Path) -> None:
    folder = book("a.abc", 1)
    book("secret.abc", 2, folder="elsewhere")
    (folder / "link.abc").symlink_to(tmp_path / "elsewhere" / "secret.abc")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked.mid").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    (folder / "folder.mid").mkdir()
    os.mkfifo(folder / "pipe.mid")
    results = list(iter_tunes(folder))
    assert [name for result, name in results if isinstance(result, Score)] == ["tunes/a.abc"]
    refused = {name: result.code for result, name in results if isinstance(result, Refusal)}
    assert refused == dict.fromkeys(
        ("tunes/folder.mid", "tunes/link.abc", "tunes/linked.mid", "tunes/pipe.mid"), "not-regular"
    )


@pytest.mark.parametrize("name", ["set.mid", "set.zip"])
def test_reads_files_in_folder_named_like_a_file(book: Any, name: str) -> None:
    folder = book("a.abc", 1, folder=f"tunes/{name}").parent
    outcomes = {source: getattr(result, "message", "kept") for result, source in iter_tunes(folder)}
    message = (
        "it is a folder; only regular files are read;"
        " the files in it are read under their own names"
    )
    assert outcomes.pop(f"tunes/{name}") == message
    assert outcomes == {f"tunes/{name}/a.abc": "kept"}


def test_follows_link_named_by_the_user(book: Any, tmp_path: Path) -> None:
    folder = book("a.abc", 1)
    (tmp_path / "link.abc").symlink_to(folder / "a.abc")
    assert [
        result.title for result, _ in iter_tunes(tmp_path / "link.abc") if isinstance(result, Score)
    ] == ["Tune 1"]


def test_refuses_folder_without_tunes(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no tunes; \.abc, \.mid") as caught:
        list_files(tmp_path)
    assert caught.value.exit_code == 2


def test_unknown_suffix_error_lists_the_suffixes(tmp_path: Path) -> None:
    (tmp_path / "tune.pdf").write_bytes(b"")
    with pytest.raises(
        InvalidValue, match=r"only \.abc, .*\.zip, .* folders of them and corpus cards"
    ):
        list_files(tmp_path / "tune.pdf")


def test_card_hides_folder_of_the_same_name(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book("a.abc", 1, folder="ryan")
    monkeypatch.chdir(tmp_path)
    assert len(list_files("ryan")) > 100
    assert [file.name for file in list_files("./ryan")] == ["ryan/a.abc"]


def test_missing_file_is_one_refusal(tmp_path: Path) -> None:
    scores, (refusal,) = TuneFile(tmp_path / "gone.abc", "x/gone.abc").read()
    assert scores == ()
    assert refusal.code == "unreadable"


def test_refuses_too_deep_folder_and_reads_the_rest(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = book("a.abc", 1)
    monkeypatch.chdir(folder)
    for _ in range(30):  # 6,000 characters; the limit is 4,095
        Path("d" * 200).mkdir()
        monkeypatch.chdir(Path("d" * 200))
    monkeypatch.chdir(tmp_path)
    try:
        first, deep = list_files(folder)
        assert len(first.read()[0]) == 1
        scores, (refusal,) = deep.read()
        assert (scores, refusal.code) == ((), "unreadable")
        assert "name too long" in str(refusal).lower()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from musicgen.corpus.sources import find_files
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
# A Path rather than text, which would read the corpus cards: this user may not.
print([file.name for file in find_files(Path(sys.argv[1])).files])
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_unreadable_folder_does_not_stop_the_search(mode: int) -> None:
    """Mode 444 allows listing a folder, but not entering it."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        inner = Path(root, "tunes", "inner")
        (inner / "deeper").mkdir(parents=True)
        Path(root, "tunes", "a.abc").write_text("X:1\nK:C\nCDEF|\n")
        inner.chmod(mode)
        try:
            process = subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, str(inner.parent)],
                cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
            )  # fmt: skip
        finally:
            inner.chmod(0o755)
    assert process.stderr == ""
    assert "'tunes/a.abc'" in process.stdout
    assert "'tunes/inner" in process.stdout


def test_card_beside_its_files_reads_them(tmp_path: Path) -> None:
    card = 'title = "Ours"\ndescription = ""\nwhere = "."\nfiles = "*.abc"\nsource = "us"\n'
    (tmp_path / "ours.toml").write_text(card)
    (tmp_path / "one.abc").write_text("X:1\nT:One\nK:C\nCDEF GABc|\n")
    (tmp_path / "two.txt").write_text("no tune")
    assert [file.name for file in list_files(tmp_path / "ours.toml")] == ["ours/one.abc"]
    assert [card.source for card in expand_cards([str(tmp_path / "ours.toml")])] == ["us"]


CHOIR_CARD = """
title = "Songs"
description = ""
source = "us"
where = "."
files = "*.abc"
parts = ["Soprano", "Bass"]
rhythm = "chorale"
"""
DUET = 'X:1\nT:Duet\nM:4/4\nL:1/4\nV:1 name="{}"\nV:2 name="{}"\nK:C\nV:1\ncdef|\nV:2\nCCCC|\n'


def test_card_reads_only_tunes_with_its_parts_and_adds_its_rhythm(tmp_path: Path) -> None:
    (tmp_path / "songs.toml").write_text(CHOIR_CARD)
    for name, parts in (("kept", ("Soprano", "Bass")), ("left", ("Soprano", "Alto"))):
        (tmp_path / f"{name}.abc").write_text(DUET.format(*parts))
    dataset, report = build([str(tmp_path / "songs.toml")], tmp_path / "data", jobs=1)
    assert report.codes == {"parts": 1}
    assert {tune.source for _, tune in dataset} == {"songs/kept.abc"}
    assert {tune.order for _, tune in dataset} == {0, 1}  # soprano first, bass first
    ids = {int(id_) for _, tune in dataset for id_ in tune.ids[:4]}
    assert MEASURES.id("rhythm", "chorale") in ids
    (score,) = [score for score, _ in iter_tunes(tmp_path / "songs.toml")]
    assert isinstance(score, Score)
    assert score.rhythm == "chorale"


def test_files_pass_between_processes_with_what_their_card_says(tmp_path: Path) -> None:
    (tmp_path / "songs.toml").write_text(CHOIR_CARD)
    (tmp_path / "kept.abc").write_text(DUET)
    (file,) = list_files(tmp_path / "songs.toml")
    assert file.part_names == ("Soprano", "Bass")
    assert TuneFile.from_fields(json.loads(json.dumps(file.to_fields()))) == file
    assert list(PackedFiles([file])) == [file]


def test_card_of_files_that_do_not_come_along_says_where_they_are() -> None:
    with pytest.raises(NotFound, match=r"get them from .*github.com/freedoom.*name the copy"):
        list_files("freedoom")


def test_card_of_nottingham_chords_names_its_files() -> None:
    card = find_card("nottingham-chords")
    assert "0992bb6cd864f6d4b90d6663e08c0ef53ffaa08f/ABC_cleaned/" in card.where
    assert len(card.downloads) == 14
    slip = next(file for file in card.downloads if file.name == "slip.abc")
    assert (slip.sha256[:8], slip.bytes) == ("da686b3a", 3838)


@pytest.mark.parametrize(
    ("title", "is_left_out"),
    [("The Rocky Road To Dublin", True), ("SIR ROGER DE COVERLEY ", True), ("Slip Jig", False)],
)
def test_rule_on_titles_leaves_out_one_tune_in_eight(title: str, is_left_out: bool) -> None:
    assert is_title_hash_divisible(title) == is_left_out
    number = int(hashlib.sha256(title.strip().lower().encode()).hexdigest(), 16)
    assert (number % 8 == 0) == is_left_out


BOOK = """X:1\nT:Slip Jig\nM:4/4\nK:C\nCDEF GABc|cBAG FEDC|\n
X:2\nT:The Rocky Road To Dublin\nM:4/4\nK:C\nEFGA GFED|CDEF GABc|\n
X:3\nT:Third\nM:4/4\nK:C\nGABc BAGF|EDCD EFGA|\n"""
RULE = "title SHA-256 divisible by 8"
CARD_HERE = f'title = "T"\ndescription = "d"\nwhere = "."\nleft_out = "{RULE}"\n'


def test_card_leaves_out_tunes_and_reports_them(tmp_path: Path) -> None:
    (tmp_path / "book.abc").write_text(BOOK)
    (tmp_path / "my.toml").write_text(CARD_HERE)
    (file,) = list_files(tmp_path / "my.toml")
    assert [score.title for score in file.read()[0]] == ["Slip Jig", "Third"]
    lines = [json.loads(line) for line in encode_file(file, find_codec("measures"))]
    tunes = [line["tune"] for line in lines if "tune" in line]
    assert [(tune["title"], tune["number"]) for tune in tunes] == [("Slip Jig", 1), ("Third", 3)]
    (refusal,) = (line["refusal"] for line in lines if "refusal" in line)
    assert (refusal["code"], refusal["place"]) == ("left-out", "tune 2 'The Rocky Road To Dublin'")
    assert "its corpus card leaves it out" in refusal["message"]


@pytest.mark.parametrize("jobs", [0, 1])
def test_build_leaves_tunes_out_in_this_process_and_in_children(tmp_path: Path, jobs: int) -> None:
    (tmp_path / "book.abc").write_text(BOOK)
    (tmp_path / "my.toml").write_text(CARD_HERE)
    _, report = build([tmp_path / "my.toml"], jobs=jobs)
    assert (report.found, report.kept) == (3, 2)


def test_text_codec_leaves_tunes_out_too(tmp_path: Path) -> None:
    (tmp_path / "book.abc").write_text(BOOK)
    (tmp_path / "my.toml").write_text(CARD_HERE)
    (file,) = list_files(tmp_path / "my.toml")
    lines = [json.loads(line) for line in encode_file(file, find_codec("text"))]
    assert [line["refusal"]["code"] for line in lines if "refusal" in line] == ["left-out"]


def test_card_with_a_folder_url_needs_downloads(tmp_path: Path) -> None:
    text = 'title = "T"\ndescription = "d"\nwhere = "https://example.org/tunes/"\n'
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InvalidValue, match="downloads name the files below a URL that ends in /"):
        list_files(tmp_path / "bad.toml")


def test_card_replaces_keys_by_the_last_bass_note(tmp_path: Path) -> None:
    card = CHOIR_CARD + 'tonic = "last bass note"\n'
    (tmp_path / "songs.toml").write_text(card)
    (tmp_path / "modal.abc").write_text(DUET.format("Soprano", "Bass").replace("CCCC", "CCCA,"))
    (score,) = [score for score, _ in iter_tunes(tmp_path / "songs.toml")]
    assert isinstance(score, Score)
    assert str(score.key) == "A minor"
    dataset, _ = build([str(tmp_path / "songs.toml")], tmp_path / "data", jobs=1)
    assert {tune.key for _, tune in dataset} == {"A minor"}


def test_card_replaces_keys_by_all_notes(tmp_path: Path) -> None:
    card = 'title = "T"\ndescription = "d"\nwhere = "."\ntonic = "all notes"\n'
    (tmp_path / "songs.toml").write_text(card)
    scale = "G2 A2 B2 c2 d2 e2 f2 g2 d2 B2 G4 D4 G4"
    (tmp_path / "default.abc").write_text(f"X:1\nM:4/4\nL:1/8\nK:C\n{scale.replace('f', '^f')}|\n")
    (score,) = [score for score, _ in iter_tunes(tmp_path / "songs.toml")]
    assert isinstance(score, Score)
    assert str(score.key) == "G major"


def test_card_schema_names_all_key_rules() -> None:
    assert set(get_args(get_type_hints(CardSchema)["tonic"])) == {"", *KEY_RULES}
