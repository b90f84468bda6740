"""Promises 2 and 7: which files a source stands for, and nothing else is opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from musicgen.corpus import sources
from musicgen.corpus.sources import (
    CorpusCard,
    TuneFile,
    count_tunes,
    find_card,
    iter_tunes,
    list_cards,
    list_files,
)
from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.music.score import Score

NAMES = ["aird", "chorales", "dance-tunes", "essen", "josquin", "miscfolk", "nottingham", "oneill",
         "palestrina", "ryan", "trecento"]  # fmt: skip


def test_the_cards_are_these() -> None:
    assert [card.name for card in list_cards()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_whose_its_tunes_are_and_on_what_terms(name: str) -> None:
    card = find_card(name)
    assert card.title
    assert card.description
    assert card.in_short
    assert card.includes or card.source
    assert "may be restrictions on commercial use" in card.terms or not card.ships
    assert bool(card.where) != bool(card.includes)


def test_what_may_not_ship_does_not() -> None:
    assert [card.name for card in list_cards() if card.ships] == [
        "aird",
        "dance-tunes",
        "oneill",
        "ryan",
    ]
    assert "given permission for non-commercial distribution" in find_card("essen").terms
    assert all(find_card(name).ships for name in find_card("dance-tunes").includes)


def test_quoted_terms_stand_in_music21s_own_files() -> None:
    folder = list_files("essen")[0].path.parents[1]
    words = " ".join((folder / "license.txt").read_text().split())
    words += " ".join((folder / "essenFolksong" / "license.txt").read_text().split())
    own = {"josquin": 1, "palestrina": 0}  # these say their terms in each file: here in this one
    for card in list_cards():
        said = words
        if card.name in own:
            said += " ".join(
                list_files(card.name)[own[card.name]].path.read_text().replace("%", "").split()
            )
        for quoted in card.terms.split('"')[1::2]:
            assert quoted in said or quoted in "Jack Campin * www.campin.me.uk * 2009"


def test_a_card_is_found_without_importing_music21() -> None:
    code = (
        "import sys; from musicgen.corpus.sources import files;"
        "print(len(files('oneill')), sorted({'music21', 'torch', 'pyarrow'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == [str(len(list_files("oneill"))), "[]\n"]


def test_dance_tunes_are_three_books() -> None:
    together = [file for name in ("oneill", "ryan", "aird") for file in list_files(name)]
    assert list(list_files("dance-tunes")) == together
    assert count_tunes(find_card("dance-tunes")) == 4_248


def test_a_card_reads_its_own_kind_of_file_and_no_stray() -> None:
    for name in ("aird", "essen", "oneill", "ryan"):
        assert {file.path.suffix for file in list_files(name)} == {".abc"}
        assert find_card(name).files == "*.abc"


def test_chorales_are_bachs() -> None:
    assert all(file.path.name.startswith("bwv") for file in list_files("chorales"))
    assert count_tunes(find_card("chorales")) == len(list_files("chorales")) > 370


def test_an_unknown_source_names_the_known() -> None:
    with pytest.raises(NotFound, match="no file, folder or corpus 'nowhere'; known are aird, chor"):
        list_files("nowhere")


def test_a_folder_that_music21_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = CorpusCard(name="lost", title="Lost", description="", where="music21:no_such_folder")
    monkeypatch.setattr(sources, "list_cards", lambda: (lost,))
    with pytest.raises(NotFound, match="corpus lost: music21's corpus holds no folder music21:no_"):
        list_files("lost")
    assert count_tunes(lost) is None


def test_cards_travel_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('title = "Mine"\ndescription = "d"\nincludes = ["aird"]\n')
    monkeypatch.setattr(sources, "_CARD_FOLDERS", (tmp_path, Path("/nowhere")))
    assert [card.name for card in list_cards()] == ["mine"]


def test_a_folder_is_read_with_its_folders_in_the_order_of_names(book: Any) -> None:
    for name in ("b.abc", "a.ABC", "deep/c.abc", "notes.txt", "deep/.hidden.abc"):
        folder = book(name, 1)
    assert [file.name for file in list_files(folder)] == [
        "tunes/a.ABC", "tunes/b.abc", "tunes/deep/.hidden.abc", "tunes/deep/c.abc"
    ]  # fmt: skip
    assert len(list(iter_tunes(folder))) == 4


def test_what_is_no_regular_file_is_refused_and_no_link_is_followed(
    book: Any, tmp_path: Path
) -> None:
    folder = book("a.abc", 1)
    book("secret.abc", 2, folder="elsewhere")
    (folder / "link.abc").symlink_to(tmp_path / "elsewhere" / "secret.abc")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked.mid").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    (folder / "folder.mid").mkdir()
    os.mkfifo(folder / "pipe.mid")
    found = list(iter_tunes(folder))
    assert [name for what, name in found if isinstance(what, Score)] == ["tunes/a.abc"]
    refused = {name: what.code for what, name in found if isinstance(what, Refusal)}
    assert refused == dict.fromkeys(
        ("tunes/folder.mid", "tunes/link.abc", "tunes/linked.mid", "tunes/pipe.mid"), "not-regular"
    )


@pytest.mark.parametrize("name", ["set.mid", "set.zip"])
def test_what_lies_in_a_folder_named_like_a_file_is_read(book: Any, name: str) -> None:
    folder = book("a.abc", 1, folder=f"tunes/{name}").parent
    found = {where: getattr(what, "message", "kept") for what, where in iter_tunes(folder)}
    said = (
        "it is a folder; only regular files are read; what lies in it is read under its own names"
    )
    assert found.pop(f"tunes/{name}") == said
    assert found == {f"tunes/{name}/a.abc": "kept"}


def test_a_link_that_the_user_names_is_followed(book: Any, tmp_path: Path) -> None:
    folder = book("a.abc", 1)
    (tmp_path / "link.abc").symlink_to(folder / "a.abc")
    assert [
        what.title for what, _ in iter_tunes(tmp_path / "link.abc") if isinstance(what, Score)
    ] == ["Tune 1"]


def test_a_folder_without_tunes_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no tunes; \.abc, \.mid") as caught:
        list_files(tmp_path)
    assert caught.value.exit_code == 2


def test_a_file_of_an_unknown_kind_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "tune.pdf").write_bytes(b"")
    with pytest.raises(
        InvalidValue, match=r"only \.abc, .*\.zip, .* folders of them and corpus cards"
    ):
        list_files(tmp_path / "tune.pdf")


def test_a_card_goes_before_a_folder_of_its_name(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book("a.abc", 1, folder="ryan")
    monkeypatch.chdir(tmp_path)
    assert len(list_files("ryan")) > 100
    assert [file.name for file in list_files("./ryan")] == ["ryan/a.abc"]


def test_a_file_that_went_away_is_one_refusal(tmp_path: Path) -> None:
    scores, (refusal,) = TuneFile(tmp_path / "gone.abc", "x/gone.abc").read()
    assert scores == ()
    assert refusal.code == "unreadable"


def test_a_folder_deeper_than_a_path_can_be_is_refused_and_the_rest_read(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = book("a.abc", 1)
    monkeypatch.chdir(folder)
    for _ in range(30):  # 6,000 letters, where 4,095 are the most
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
from musicgen.corpus.sources import find
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
# A path, and no text: the names of corpus cards are not asked, which this user may not read.
print([file.name for file in find(Path(sys.argv[1])).files])
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_cannot_be_listed_or_entered_ends_nothing(mode: int) -> None:
    """Of a folder without the right to enter it, the names can be listed and nothing else."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        inner = Path(place, "tunes", "inner")
        (inner / "deeper").mkdir(parents=True)
        Path(place, "tunes", "a.abc").write_text("X:1\nK:C\nCDEF|\n")
        inner.chmod(mode)
        try:
            done = subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, str(inner.parent)],
                cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
            )  # fmt: skip
        finally:
            inner.chmod(0o755)
    assert done.stderr == ""
    assert "'tunes/a.abc'" in done.stdout
    assert "'tunes/inner" in done.stdout
