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
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import DrawnHeader, GenerationRequest, ModelName, Recipe, hash_notes
from musicgen.web.app import TuneCache
from musicgen.web.handlers import _describe_file, _truncate
from musicgen.web.limits import ServerLimits
from musicgen.web.saved_tunes import SavedTunes
from musicgen.web.schemas import SavedTuneResponse
from musicgen.web.worker_process import HttpError, WorkerUnavailable
from tests.fake_models import untrained
from tests.live_server import Served, served
from tests.malformed_files import make

ASKED: dict[str, Any] = {"do": "sample", "seed": 7, "bars": 4, "key": "Edor"}


@pytest.fixture
def shelf(playground: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Return a server with a shelf of its own."""
    put_up(playground, tmp_path / "tunes", monkeypatch)
    return playground


def put_up(server: Served, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server know of a folder, and of no tune, as if it had just been started."""
    place = server.playground
    monkeypatch.setattr(place, "saved_tunes", SavedTunes(folder, place.saved_tunes.describe))
    monkeypatch.setattr(place, "tune_cache", TuneCache(2**20))


def kept(server: Served) -> list[SavedTuneResponse]:
    return [SavedTuneResponse(**told) for told in server.get("/api/shelf")]


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
    with served(tmp_path / "tunes", tmp_path, ServerLimits(workers=1)) as before:
        first, data = kept_once(before, tmp_path / "tunes")
    with served(tmp_path / "tunes", tmp_path, ServerLimits(workers=2)) as after:
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


def test_only_files_that_the_shelf_wrote_are_on_it(shelf: Served, tmp_path: Path) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    id_ = shelf.tune_of(**ASKED)["id"]
    tune = load("folk").sample(seed=7, bars=4, key="Edor")
    tune.write(folder / "mine; rm -rf.mid")
    tune.write(tmp_path / "outside.mid")
    formats.write(Score((Note(0, 60, 48),), title="no recipe"), folder / f"{'0' * 16}.mid")
    (folder / f"{id_}-2.mid").symlink_to(tmp_path / "outside.mid")
    os.mkfifo(folder / f"{id_}-3.mid")
    (folder / f"{id_}-4.mid").mkdir()
    (folder / f"{id_}-5.mid").write_bytes(bytes(2**20 + 1))
    shutil.copy(tmp_path / "outside.mid", folder / f"{id_}-copy.mid")
    shutil.copy(tmp_path / "outside.mid", folder / f"{'1' * 16}.mid")  # another tune's name
    assert kept(shelf) == []
    before = sorted(path.name for path in folder.iterdir())
    (told,) = shelf.client.put(f"/api/shelf/{id_}").json()
    assert told["id"] == id_
    assert shelf.client.delete(f"/api/shelf/{id_}").json() == []
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (tmp_path / "outside.mid").exists()


def test_hostile_files_of_the_names_of_tunes_are_passed_over(shelf: Served, tmp_path: Path) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    hostile = [data for name, data in make(big=False).items() if name.endswith(".mid")][:30]
    for number, data in enumerate(hostile):
        (folder / f"{number:016x}.mid").write_bytes(data)
    id_ = shelf.tune_of(**ASKED)["id"]
    (told,) = shelf.client.put(f"/api/shelf/{id_}").json()
    assert told["id"] == id_


def test_a_kept_tune_that_was_edited_is_the_users(shelf: Served, tmp_path: Path) -> None:
    """It is not listed, replaced, removed or passed off as the tune."""
    id_ = shelf.tune_of(**ASKED)["id"]
    shelf.client.put(f"/api/shelf/{id_}")
    (file,) = (tmp_path / "tunes").iterdir()
    whole = file.read_bytes()
    formats.write(Score((Note(0, 60, 48),)), file, force=True, remarks=formats.read_remarks(file))
    edited = file.read_bytes()
    assert kept(shelf) == []
    (told,) = shelf.client.put(f"/api/shelf/{id_}").json()
    assert told["id"] == id_
    second = tmp_path / "tunes" / f"{id_}-2.mid"
    assert (file.read_bytes(), second.read_bytes()) == (edited, whole)
    assert shelf.client.delete(f"/api/shelf/{id_}").json() == []
    assert (file.read_bytes(), second.exists()) == (edited, False)
    shelf.playground.tune_cache = TuneCache(2**20)
    shelf.refused(shelf.client.get(f"/api/tunes/{id_}"), 404, "not at hand any more")


def test_another_model_of_the_name_is_not_taken_for_it(shelf: Served) -> None:
    folder = shelf.playground.runs.folder / "other"
    untrained(folder, seed=1)
    first = shelf.tune_of(**ASKED, model="other")
    shelf.client.put(f"/api/shelf/{first['id']}")
    shelf.playground.tune_cache = TuneCache(2**20)
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


X, Y, Z = ("0" * 15 + letter for letter in "abc")


async def told(files: list[bytes]) -> list[dict[str, Any] | None]:
    """Say of a file that its bytes are the id of its tune; die of one that is bad."""
    if b"bad" in files:
        raise HttpError(503, "the process that worked on it died")
    plain = {"title": "", "key": "C", "meter": "4/4", "bars": 1, "seconds": 2.0}
    return [plain | {"id": data.decode()[:16]} for data in files]


def ids(shelf: SavedTunes) -> list[str]:
    return sorted(entry.id for entry in asyncio.run(shelf.list_tunes()))


def laid(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name.removeprefix('_').replace('_', '-')}.mid").write_text(text)
    return folder


def test_a_file_that_kills_a_worker_hides_no_other(tmp_path: Path) -> None:
    asked: list[list[bytes]] = []

    async def noted(files: list[bytes]) -> list[dict[str, Any] | None]:
        asked.append(files)
        return await told(files)

    shelf = SavedTunes(laid(tmp_path, **{X: X, Y: "bad", Z: Z}), noted)
    assert ids(shelf) == [X, Z]
    asked.clear()
    assert (ids(shelf), asked) == ([X, Z], [])
    laid(tmp_path, **{Y: f"{Y}, mended"})
    assert ids(shelf) == [X, Y, Z]


@pytest.mark.parametrize(
    "fault", [WorkerUnavailable(503, "the server is stopping"), HttpError(429, "wait")]
)
def test_files_that_nobody_looked_at_are_looked_at_later(tmp_path: Path, fault: HttpError) -> None:
    faults = [fault]

    async def away(files: list[bytes]) -> list[dict[str, Any] | None]:
        if faults:
            raise faults.pop()
        return await told(files)

    shelf = SavedTunes(laid(tmp_path, **{X: X}), away)
    with pytest.raises(HttpError):
        ids(shelf)
    assert ids(shelf) == [X]


def test_what_is_kept_is_kept_though_nobody_can_look_at_it(tmp_path: Path) -> None:
    async def away(_: list[bytes]) -> list[dict[str, Any] | None]:
        raise WorkerUnavailable(503, "the server is stopping")

    shelf = SavedTunes(tmp_path, away)
    for _ in range(2):  # the second time it is there
        asyncio.run(shelf.save(X, b"data"))
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_bytes()) == (f"{X}.mid", b"data")


def test_a_file_that_goes_while_the_folder_is_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(tmp_path, **{X: X})
    with os.scandir(tmp_path) as entries:
        found = list(entries)
    laid(tmp_path, **{Y: Y})
    with os.scandir(tmp_path) as entries:
        found += [entry for entry in entries if entry.name == f"{Y}.mid"]
    (tmp_path / f"{X}.mid").unlink()
    monkeypatch.setattr(os, "scandir", lambda _: contextlib.nullcontext(found))
    assert ids(SavedTunes(tmp_path, told)) == [Y]


def test_every_file_of_a_tune_is_taken_off(tmp_path: Path) -> None:
    shelf = SavedTunes(
        laid(tmp_path, **{X: X, f"{X}_2": X, f"{X}_3": Y, Z: Z, f"{X}_copy": X}), told
    )
    assert ids(shelf) == [X, Z]
    asyncio.run(shelf.remove(X))
    assert [entry.id for entry in shelf.get_cached_tunes()] == [Z]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"{X}-3.mid", f"{X}-copy.mid", f"{Z}.mid"]


def test_names_that_files_of_others_have_are_left_alone(tmp_path: Path) -> None:
    shelf = SavedTunes(laid(tmp_path, **{X: "mine", f"{X}_2": "mine too"}), told)
    asyncio.run(shelf.save(X, X.encode()))
    assert ids(shelf) == [X]
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {f"{X}.mid": "mine", f"{X}-2.mid": "mine too", f"{X}-3.mid": X}


def test_a_file_that_changed_after_the_last_look_stays(tmp_path: Path) -> None:
    shelf = SavedTunes(laid(tmp_path, **{X: X}), told)
    assert ids(shelf) == [X]
    laid(tmp_path, **{X: "edited meanwhile"})
    with pytest.raises(HttpError, match="just been changed, and stays"):
        shelf._unlink(f"{X}.mid", next(iter(shelf._entries))[1])
    assert (tmp_path / f"{X}.mid").read_text() == "edited meanwhile"


def test_what_a_file_says_of_itself_is_cut(tmp_path: Path) -> None:
    score = Score((Note(0, 60, 48),), title="t" * 5000)
    drawn = DrawnHeader(None, None, None, None, None, None)
    model = ModelName("folk", 1, "")
    recipe = Recipe(
        GenerationRequest(SamplingOptions(), 1, drawn=drawn), model, "1", hash_notes(score)
    )
    formats.write(score, tmp_path / "a.mid", remarks=tuple(recipe.remarks()))
    about = _describe_file((tmp_path / "a.mid").read_bytes())
    assert about is not None
    assert about["title"] == "t" * 200
    assert _truncate("\ud800" + "m" * 300) == "?" + "m" * 199
