"""Saved tunes: files of one folder, identified by the hashes of their recipes."""

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
from tests.live_server import LiveServer, run_server
from tests.malformed_files import make

SAMPLE_REQUEST: dict[str, Any] = {"do": "sample", "seed": 7, "bars": 4, "key": "Edor"}


@pytest.fixture
def server_with_folder(
    playground: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LiveServer:
    """Return a server with an empty folder and an empty cache."""
    reset_server(playground, tmp_path / "tunes", monkeypatch)
    return playground


def reset_server(server: LiveServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a server a folder and an empty cache, as after a restart."""
    state = server.playground
    monkeypatch.setattr(state, "saved_tunes", SavedTunes(folder, state.saved_tunes.describe))
    monkeypatch.setattr(state, "tune_cache", TuneCache(2**20))


def list_saved(server: LiveServer) -> list[SavedTuneResponse]:
    return [SavedTuneResponse(**describe) for describe in server.get("/api/shelf")]


def test_saved_tune_is_restored(
    server_with_folder: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, data = save_tune(server_with_folder, tmp_path / "tunes")
    reset_server(server_with_folder, tmp_path / "tunes", monkeypatch)
    assert_restored(server_with_folder, first, data)
    variant = server_with_folder.generate(do="tweak", of=first["id"], temperature=0.9)
    assert variant["key"] == "E dorian"
    assert server_with_folder.client.delete(f"/api/shelf/{first['id']}").json() == []
    assert list((tmp_path / "tunes").iterdir()) == []


@pytest.mark.promises
def test_saved_tune_is_restored_after_a_restart(tmp_path: Path) -> None:
    with run_server(tmp_path / "tunes", tmp_path, ServerLimits(workers=1)) as before:
        first, data = save_tune(before, tmp_path / "tunes")
    with run_server(tmp_path / "tunes", tmp_path, ServerLimits(workers=2)) as after:
        assert_restored(after, first, data)


def save_tune(server: LiveServer, folder: Path) -> tuple[dict[str, Any], bytes]:
    """Save a tune; return its JSON, and the bytes of its file."""
    first = server.generate(**SAMPLE_REQUEST)
    (describe,) = server.client.put(f"/api/shelf/{first['id']}").json()
    assert (describe["id"], describe["title"], describe["key"]) == (
        first["id"],
        first["title"],
        "E dorian",
    )
    assert server.client.put(f"/api/shelf/{first['id']}").json() == [describe]
    data = server.client.get(f"/api/tunes/{first['id']}/file/mid").content
    (file,) = folder.iterdir()
    assert file.read_bytes() == data
    return first, data


def assert_restored(server: LiveServer, first: dict[str, Any], data: bytes) -> None:
    """Check that a restored tune equals the original."""
    assert server.get(f"/api/tunes/{first['id']}") == first | {"kept": True}
    assert server.client.get(f"/api/tunes/{first['id']}/file/mid").content == data


def test_only_files_of_the_server_are_listed(
    server_with_folder: LiveServer, tmp_path: Path
) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    id_ = server_with_folder.generate(**SAMPLE_REQUEST)["id"]
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
    assert list_saved(server_with_folder) == []
    before = sorted(path.name for path in folder.iterdir())
    (describe,) = server_with_folder.client.put(f"/api/shelf/{id_}").json()
    assert describe["id"] == id_
    assert server_with_folder.client.delete(f"/api/shelf/{id_}").json() == []
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (tmp_path / "outside.mid").exists()


def test_hostile_files_are_skipped(server_with_folder: LiveServer, tmp_path: Path) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    hostile = [data for name, data in make(big=False).items() if name.endswith(".mid")][:30]
    for number, data in enumerate(hostile):
        (folder / f"{number:016x}.mid").write_bytes(data)
    id_ = server_with_folder.generate(**SAMPLE_REQUEST)["id"]
    (describe,) = server_with_folder.client.put(f"/api/shelf/{id_}").json()
    assert describe["id"] == id_


def test_edited_file_belongs_to_the_user(server_with_folder: LiveServer, tmp_path: Path) -> None:
    """It is not listed, replaced, deleted or served as the tune."""
    id_ = server_with_folder.generate(**SAMPLE_REQUEST)["id"]
    server_with_folder.client.put(f"/api/shelf/{id_}")
    (file,) = (tmp_path / "tunes").iterdir()
    original = file.read_bytes()
    formats.write(Score((Note(0, 60, 48),)), file, force=True, remarks=formats.read_remarks(file))
    edited = file.read_bytes()
    assert list_saved(server_with_folder) == []
    (describe,) = server_with_folder.client.put(f"/api/shelf/{id_}").json()
    assert describe["id"] == id_
    second = tmp_path / "tunes" / f"{id_}-2.mid"
    assert (file.read_bytes(), second.read_bytes()) == (edited, original)
    assert server_with_folder.client.delete(f"/api/shelf/{id_}").json() == []
    assert (file.read_bytes(), second.exists()) == (edited, False)
    server_with_folder.playground.tune_cache = TuneCache(2**20)
    server_with_folder.assert_refused(
        server_with_folder.client.get(f"/api/tunes/{id_}"), 404, "no longer available"
    )


def test_another_model_of_the_same_name_is_refused(server_with_folder: LiveServer) -> None:
    folder = server_with_folder.playground.runs.folder / "other"
    untrained(folder, seed=1)
    first = server_with_folder.generate(**SAMPLE_REQUEST, model="other")
    server_with_folder.client.put(f"/api/shelf/{first['id']}")
    server_with_folder.playground.tune_cache = TuneCache(2**20)
    shutil.rmtree(folder)
    server_with_folder.assert_refused(
        server_with_folder.client.get(f"/api/tunes/{first['id']}"), 404, "unknown model 'other'"
    )
    untrained(folder, seed=2)
    server_with_folder.assert_refused(
        server_with_folder.client.get(f"/api/tunes/{first['id']}"), 400, "it was made by other 1"
    )
    shutil.rmtree(folder)


def test_unwritable_folder_is_reported(server_with_folder: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "tunes").write_text("a file")
    id_ = server_with_folder.generate(**SAMPLE_REQUEST)["id"]
    server_with_folder.assert_refused(
        server_with_folder.client.put(f"/api/shelf/{id_}"), 400, "the tune was not saved"
    )
    assert list_saved(server_with_folder) == []


@pytest.mark.parametrize("id_", ["0123456789abcdef", "..", "%2e%2e", "x" * 3000])
def test_unsaved_tune_cannot_be_deleted(idle: LiveServer, id_: str) -> None:
    assert idle.client.delete(f"/api/shelf/{id_}").status_code in (404, 405)


# Saved tunes without a server, with files that crash workers


X, Y, Z = ("0" * 15 + letter for letter in "abc")


async def describe(files: list[bytes]) -> list[dict[str, Any] | None]:
    """Describe each file as a tune whose id is its content; crash on the content "bad"."""
    if b"bad" in files:
        raise HttpError(503, "the worker process crashed")
    plain = {"title": "", "key": "C", "meter": "4/4", "bars": 1, "seconds": 2.0}
    return [plain | {"id": data.decode()[:16]} for data in files]


def list_ids(saved_tunes: SavedTunes) -> list[str]:
    return sorted(entry.id for entry in asyncio.run(saved_tunes.list_tunes()))


def write_files(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name.removeprefix('_').replace('_', '-')}.mid").write_text(text)
    return folder


def test_file_that_crashes_a_worker_hides_no_other(tmp_path: Path) -> None:
    described: list[list[bytes]] = []

    async def describe_and_record(files: list[bytes]) -> list[dict[str, Any] | None]:
        described.append(files)
        return await describe(files)

    saved_tunes = SavedTunes(write_files(tmp_path, **{X: X, Y: "bad", Z: Z}), describe_and_record)
    assert list_ids(saved_tunes) == [X, Z]
    described.clear()
    assert (list_ids(saved_tunes), described) == ([X, Z], [])
    write_files(tmp_path, **{Y: f"{Y}, mended"})
    assert list_ids(saved_tunes) == [X, Y, Z]


@pytest.mark.parametrize(
    "fault", [WorkerUnavailable(503, "the server is stopping"), HttpError(429, "wait")]
)
def test_unavailable_worker_is_retried_later(tmp_path: Path, fault: HttpError) -> None:
    faults = [fault]

    async def describe_later(files: list[bytes]) -> list[dict[str, Any] | None]:
        if faults:
            raise faults.pop()
        return await describe(files)

    saved_tunes = SavedTunes(write_files(tmp_path, **{X: X}), describe_later)
    with pytest.raises(HttpError):
        list_ids(saved_tunes)
    assert list_ids(saved_tunes) == [X]


def test_tune_is_saved_without_a_worker(tmp_path: Path) -> None:
    async def fail(_: list[bytes]) -> list[dict[str, Any] | None]:
        raise WorkerUnavailable(503, "the server is stopping")

    saved_tunes = SavedTunes(tmp_path, fail)
    for _ in range(2):  # the second time, the file exists
        asyncio.run(saved_tunes.save(X, b"data"))
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_bytes()) == (f"{X}.mid", b"data")


def test_file_deleted_during_the_scan_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, **{X: X})
    with os.scandir(tmp_path) as entries:
        stale_entries = list(entries)
    write_files(tmp_path, **{Y: Y})
    with os.scandir(tmp_path) as entries:
        stale_entries += [entry for entry in entries if entry.name == f"{Y}.mid"]
    (tmp_path / f"{X}.mid").unlink()
    monkeypatch.setattr(os, "scandir", lambda _: contextlib.nullcontext(stale_entries))
    assert list_ids(SavedTunes(tmp_path, describe)) == [Y]


def test_all_files_of_a_tune_are_deleted(tmp_path: Path) -> None:
    saved_tunes = SavedTunes(
        write_files(tmp_path, **{X: X, f"{X}_2": X, f"{X}_3": Y, Z: Z, f"{X}_copy": X}), describe
    )
    assert list_ids(saved_tunes) == [X, Z]
    asyncio.run(saved_tunes.remove(X))
    assert [entry.id for entry in saved_tunes.get_cached_tunes()] == [Z]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{X}-3.mid", f"{X}-copy.mid", f"{Z}.mid"]


def test_taken_file_names_are_skipped(tmp_path: Path) -> None:
    saved_tunes = SavedTunes(write_files(tmp_path, **{X: "mine", f"{X}_2": "mine too"}), describe)
    asyncio.run(saved_tunes.save(X, X.encode()))
    assert list_ids(saved_tunes) == [X]
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {f"{X}.mid": "mine", f"{X}-2.mid": "mine too", f"{X}-3.mid": X}


def test_file_changed_after_the_scan_is_not_deleted(tmp_path: Path) -> None:
    saved_tunes = SavedTunes(write_files(tmp_path, **{X: X}), describe)
    assert list_ids(saved_tunes) == [X]
    write_files(tmp_path, **{X: "edited meanwhile"})
    with pytest.raises(HttpError, match="changed meanwhile and was not deleted"):
        saved_tunes._unlink(f"{X}.mid", next(iter(saved_tunes._entries))[1])
    assert (tmp_path / f"{X}.mid").read_text() == "edited meanwhile"


def test_texts_of_a_file_are_truncated(tmp_path: Path) -> None:
    score = Score((Note(0, 60, 48),), title="t" * 5000)
    drawn = DrawnHeader(None, None, None, None, None, None)
    model = ModelName("folk", 1, "")
    recipe = Recipe(
        GenerationRequest(SamplingOptions(), 1, drawn=drawn), model, "1", hash_notes(score)
    )
    formats.write(score, tmp_path / "a.mid", remarks=tuple(recipe.remarks()))
    description = _describe_file((tmp_path / "a.mid").read_bytes())
    assert description is not None
    assert description["title"] == "t" * 200
    assert _truncate("\ud800" + "m" * 300) == "?" + "m" * 199
