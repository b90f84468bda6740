"""The shelf: files of one folder, known by the hash of their recipes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from musicgen import formats, load
from musicgen.music.score import Note, Score
from musicgen.web.limits import Limits
from musicgen.web.tunes import Tunes
from musicgen.web.wire import Kept
from tests.hostile import make
from tests.models import untrained
from tests.served import Served, served

ASKED = {"do": "sample", "seed": 7, "bars": 4, "key": "Edor"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def shelf(tmp_path: Path, runs: Path) -> Iterator[Served]:
    with served(tmp_path / "tunes", runs, Limits(workers=1)) as found:
        yield found


def kept(server: Served) -> list[Kept]:
    return [Kept(**told) for told in server.get("/api/shelf")]


def test_a_tune_that_is_kept_comes_back_after_a_restart(tmp_path: Path, runs: Path) -> None:
    limits = Limits(workers=1)
    with served(tmp_path / "tunes", runs, limits) as before:
        first = before.tune_of(**ASKED)
        (told,) = before.client.put(f"/api/shelf/{first['id']}").json()
        assert (told["id"], told["title"], told["key"]) == (first["id"], first["title"], "E dorian")
        assert before.client.put(f"/api/shelf/{first['id']}").json() == [told]
        assert before.get(f"/api/tunes/{first['id']}")["kept"]
        data = before.client.get(f"/api/tunes/{first['id']}/file/mid").content
    (file,) = (tmp_path / "tunes").iterdir()
    assert file.read_bytes() == data
    with served(tmp_path / "tunes", runs, limits) as after:
        again = after.get(f"/api/tunes/{first['id']}")
        assert again == first | {"kept": True}
        assert after.client.get(f"/api/tunes/{first['id']}/file/mid").content == data
        near = after.tune_of(do="tweak", of=first["id"], temperature=0.9)
        assert near["key"] == "E dorian"
        assert after.client.delete(f"/api/shelf/{first['id']}").json() == []
    assert list((tmp_path / "tunes").iterdir()) == []


def test_files_of_the_command_are_on_the_shelf_and_others_are_not(
    shelf: Served, tmp_path: Path, runs: Path
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


def test_another_model_of_the_name_is_not_taken_for_it(shelf: Served, runs: Path) -> None:
    untrained(runs / "mine", seed=1)
    first = shelf.tune_of(**ASKED, model="mine")
    shelf.client.put(f"/api/shelf/{first['id']}")
    shelf.playground.tunes = Tunes(2**20)
    for file in (runs / "mine").iterdir():
        file.unlink()
    (runs / "mine").rmdir()
    shelf.refused(shelf.client.get(f"/api/tunes/{first['id']}"), 404, "model 'mine' is unknown")
    untrained(runs / "mine", seed=2)
    shelf.refused(shelf.client.get(f"/api/tunes/{first['id']}"), 400, "it was made by mine 1")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "tunes").write_text("a file")
    with served(tmp_path / "tunes", runs, Limits(workers=1)) as found:
        id_ = found.tune_of(**ASKED)["id"]
        found.refused(found.client.put(f"/api/shelf/{id_}"), 400, "the tune was not kept")
        assert kept(found) == []


@pytest.mark.parametrize("id_", ["0123456789abcdef", "..", "%2e%2e", "x" * 3000])
def test_what_is_not_on_the_shelf_cannot_be_taken_off(idle: Served, id_: str) -> None:
    assert idle.client.delete(f"/api/shelf/{id_}").status_code in (404, 405)
