"""The shelf: files of one folder, known by the hash of their recipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from musicgen import formats, load
from musicgen.music.score import Note, Score
from musicgen.sampling.recipe import Drawn, ModelName, Order, Recipe, hash_of
from musicgen.sampling.wishes import Wishes
from musicgen.web.craft import _cut, _described
from musicgen.web.limits import Limits
from musicgen.web.shelf import Shelf
from musicgen.web.tunes import Tunes
from musicgen.web.wire import Kept
from musicgen.web.worker import Away, Refused
from tests.hostile import make
from tests.models import untrained
from tests.served import Served, served

ASKED: dict[str, Any] = {"do": "sample", "seed": 7, "bars": 4, "key": "Edor"}


@pytest.fixture
def shelf(playground: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Return a server with a shelf of its own."""
    put_up(playground, tmp_path / "tunes", monkeypatch)
    return playground


def put_up(server: Served, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server know of a folder, and of no tune, as if it had just been started."""
    place = server.playground
    monkeypatch.setattr(place, "shelf", Shelf(folder, place.shelf.describe))
    monkeypatch.setattr(place, "tunes", Tunes(2**20))


def kept(server: Served) -> list[Kept]:
    return [Kept(**told) for told in server.get("/api/shelf")]


def test_a_tune_that_is_kept_comes_back(
    shelf: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, data = kept_once(shelf, tmp_path / "tunes")
    put_up(shelf, tmp_path / "tunes", monkeypatch)
    brought_back(shelf, first, data)
    near = shelf.tune_of(do="tweak", of=first["id"], temperature=0.9)
    assert near["key"] == "E dorian"
    assert shelf.client.delete(f"/api/shelf/{first['id']}").json() == []
    assert list((tmp_path / "tunes").iterdir()) == []


@pytest.mark.promises
def test_a_tune_that_is_kept_comes_back_after_a_restart(tmp_path: Path) -> None:
    with served(tmp_path / "tunes", tmp_path, Limits(workers=1)) as before:
        first, data = kept_once(before, tmp_path / "tunes")
    with served(tmp_path / "tunes", tmp_path, Limits(workers=2)) as after:
        brought_back(after, first, data)


def kept_once(server: Served, folder: Path) -> tuple[dict[str, Any], bytes]:
    """Keep a tune; return what is shown of it, and the bytes of its file."""
    first = server.tune_of(**ASKED)
    (told,) = server.client.put(f"/api/shelf/{first['id']}").json()
    assert (told["id"], told["title"], told["key"]) == (first["id"], first["title"], "E dorian")
    assert server.client.put(f"/api/shelf/{first['id']}").json() == [told]
    data = server.client.get(f"/api/tunes/{first['id']}/file/mid").content
    (file,) = folder.iterdir()
    assert file.read_bytes() == data
    return first, data


def brought_back(server: Served, first: dict[str, Any], data: bytes) -> None:
    """Check that a tune is what it was."""
    assert server.get(f"/api/tunes/{first['id']}") == first | {"kept": True}
    assert server.client.get(f"/api/tunes/{first['id']}/file/mid").content == data


def test_files_of_the_command_are_on_the_shelf_and_others_are_not(
    shelf: Served, tmp_path: Path
) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    tune = load("folk").sample(seed=7, bars=4, key="Edor")
    tune.write(folder / "mine; rm -rf.mid")
    formats.write(Score((Note(0, 60, 48),), title="no recipe"), folder / "plain.mid")
    for name, data in list(make(big=False).items())[:40]:
        if name.endswith(".mid"):
            (folder / name).write_bytes(data)
    tune.write(tmp_path / "outside.mid")
    (folder / "link.mid").symlink_to(tmp_path / "outside.mid")
    os.mkfifo(folder / "pipe.mid")
    (folder / "folder.mid").mkdir()
    (folder / "large.mid").write_bytes(bytes(2**20 + 1))
    (told,) = kept(shelf)
    assert told.title == tune.score.title
    assert shelf.get(f"/api/tunes/{told.id}")["kept"]
    assert shelf.client.delete(f"/api/shelf/{told.id}").json() == []
    assert not (folder / "mine; rm -rf.mid").exists()
    assert (tmp_path / "outside.mid").exists()


def test_a_file_that_was_edited_is_not_passed_off_as_the_tune(
    shelf: Served, tmp_path: Path
) -> None:
    first = shelf.tune_of(**ASKED)
    (told,) = shelf.client.put(f"/api/shelf/{first['id']}").json()
    (file,) = (tmp_path / "tunes").iterdir()
    remarks = formats.remarks(file)
    formats.write(Score((Note(0, 60, 48),)), file, force=True, remarks=remarks)
    shelf.playground.tunes = Tunes(2**20)
    shelf.refused(shelf.client.get(f"/api/tunes/{told['id']}"), 400, "edited since it was written")


def test_another_model_of_the_name_is_not_taken_for_it(shelf: Served) -> None:
    folder = shelf.playground.runs.folder / "other"
    untrained(folder, seed=1)
    first = shelf.tune_of(**ASKED, model="other")
    shelf.client.put(f"/api/shelf/{first['id']}")
    shelf.playground.tunes = Tunes(2**20)
    shutil.rmtree(folder)
    shelf.refused(shelf.client.get(f"/api/tunes/{first['id']}"), 404, "model 'other' is unknown")
    untrained(folder, seed=2)
    shelf.refused(shelf.client.get(f"/api/tunes/{first['id']}"), 400, "it was made by other 1")
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_said(shelf: Served, tmp_path: Path) -> None:
    (tmp_path / "tunes").write_text("a file")
    id_ = shelf.tune_of(**ASKED)["id"]
    shelf.refused(shelf.client.put(f"/api/shelf/{id_}"), 400, "the tune was not kept")
    assert kept(shelf) == []


@pytest.mark.parametrize("id_", ["0123456789abcdef", "..", "%2e%2e", "x" * 3000])
def test_what_is_not_on_the_shelf_cannot_be_taken_off(idle: Served, id_: str) -> None:
    assert idle.client.delete(f"/api/shelf/{id_}").status_code in (404, 405)


# A shelf by itself, with files that spoil what is asked of them


async def told(files: list[bytes]) -> list[dict[str, Any] | None]:
    """Say of a file that its tune is its first letter; die of one that is bad."""
    if b"bad" in files:
        raise Refused(503, "the process that worked on it died")
    plain = {"title": "", "key": "C", "meter": "4/4", "bars": 1}
    return [plain | {"id": data[:1].decode()} for data in files]


def ids(shelf: Shelf) -> list[str]:
    return sorted(entry.id for entry in asyncio.run(shelf.entries()))


def laid(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        (folder / f"{name}.mid").write_bytes(data)
    return folder


def test_a_file_that_kills_a_worker_hides_no_other(tmp_path: Path) -> None:
    asked: list[list[bytes]] = []

    async def noted(files: list[bytes]) -> list[dict[str, Any] | None]:
        asked.append(files)
        return await told(files)

    shelf = Shelf(laid(tmp_path, x=b"x", y=b"bad", z=b"z"), noted)
    assert ids(shelf) == ["x", "z"]
    asked.clear()
    assert (ids(shelf), asked) == (["x", "z"], [])
    laid(tmp_path, y=b"y, mended")
    assert ids(shelf) == ["x", "y", "z"]


@pytest.mark.parametrize("fault", [Away(503, "the server is stopping"), Refused(429, "wait")])
def test_files_that_nobody_looked_at_are_looked_at_later(tmp_path: Path, fault: Refused) -> None:
    faults = [fault]

    async def away(files: list[bytes]) -> list[dict[str, Any] | None]:
        if faults:
            raise faults.pop()
        return await told(files)

    shelf = Shelf(laid(tmp_path, x=b"x"), away)
    with pytest.raises(Refused):
        ids(shelf)
    assert ids(shelf) == ["x"]


def test_what_is_kept_is_kept_though_nobody_can_look_at_it(tmp_path: Path) -> None:
    async def away(_: list[bytes]) -> list[dict[str, Any] | None]:
        raise Away(503, "the server is stopping")

    asyncio.run(Shelf(tmp_path, away).keep("x", b"data"))
    assert (tmp_path / "x.mid").read_bytes() == b"data"


def test_a_file_that_goes_while_the_folder_is_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(tmp_path, x=b"x")
    with os.scandir(tmp_path) as entries:
        found = list(entries)
    laid(tmp_path, y=b"y")
    with os.scandir(tmp_path) as entries:
        found += [entry for entry in entries if entry.name == "y.mid"]
    (tmp_path / "x.mid").unlink()
    monkeypatch.setattr(os, "scandir", lambda _: contextlib.nullcontext(found))
    assert ids(Shelf(tmp_path, told)) == ["y"]


def test_every_file_of_a_tune_is_taken_off(tmp_path: Path) -> None:
    shelf = Shelf(laid(tmp_path, a=b"x", b=b"x", c=b"z"), told)
    assert ids(shelf) == ["x", "z"]
    shelf.remove("x")
    assert [entry.id for entry in shelf.listed()] == ["z"]
    assert [path.name for path in tmp_path.iterdir()] == ["c.mid"]


def test_what_a_file_says_of_itself_is_cut(tmp_path: Path) -> None:
    score = Score((Note(0, 60, 48),), title="t" * 5000)
    drawn = Drawn(None, None, None, None, None, None)
    model = ModelName("folk", 1, "")
    recipe = Recipe(Order(Wishes(), 1, drawn=drawn), model, "1", hash_of(score))
    formats.write(score, tmp_path / "a.mid", remarks=tuple(recipe.remarks()))
    about = _described((tmp_path / "a.mid").read_bytes())
    assert about is not None
    assert about["title"] == "t" * 200
    assert _cut("\ud800" + "m" * 300) == "?" + "m" * 199
