"""Promise 26: nothing named in data is imported, and no path in data leaves its folder.

An audit hook records each import and each opened file while a process of its own reads cards,
recipes, manifests and archives that name modules and paths.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from musicgen import checkpoint, formats, load, tweak
from musicgen.checkpoint import render_manifest
from musicgen.corpus import sources, store
from musicgen.errors import DamagedCheckpoint, InvalidValue, MusicgenError, NotFound
from musicgen.files import is_plain_name
from musicgen.model_folders import find_named_folder
from tests.corpus.test_store import dataset
from tests.fake_models import untrained

ROOT = Path(__file__).parents[1]
TUNE = b"X:1\nT:a\nM:4/4\nK:C\nCDEF GABc|cBAG FEDC|\n"
LOCATIONS = ("this", "this.x:foo", "evilpkg.x:foo", "evilpkg:tunes", "music21:../../elsewhere",
          "music21:..", "music21:/etc", "/etc", "../elsewhere", "file:///etc/passwd", "music21:",
          "music21:bach/../../..", "music21:bach\n", "music21.corpus:bach")  # fmt: skip
NAMES = ("../model", "./model", "/etc", "..", ".", "", "model/", "a/b", "a\\b", "C:model", "\x00",
         "m" * 300, "m" * 10_000, "model\n")  # fmt: skip

PROGRAM = """
import os, sys
from pathlib import Path
import musicgen
from musicgen.cli.render import render
from musicgen.corpus.sources import find_files
from musicgen.errors import MusicgenError

def hook(event, arguments):
    if event == "import" and arguments[0].split(".")[0] in ("this", "evilpkg", "elsewhere"):
        seen.append(f"imported {arguments[0]}")
    if event in ("open", "os.scandir", "os.listdir") and not isinstance(arguments[0], int | None):
        if "elsewhere" in os.path.realpath(os.fsdecode(arguments[0])):
            seen.append(f"opened {arguments[0]}")

seen = []
sys.path.insert(0, os.getcwd())
sys.addaudithook(hook)
for name in sys.argv[2:]:
    try:
        if sys.argv[1] == "card":
            for file in find_files(name).files:
                file.read()
        elif sys.argv[1] == "render":
            outs = ["--out", "shown.html", "--out", "shown.svg", "--force", "--quiet"]
            render.main([name, *outs], standalone_mode=False)
        else:
            musicgen.tweak(name)
    except MusicgenError:
        continue
    seen.append(f"read {name}")
print(seen)
"""


def run_under_hook(kind: str, folder: Path, names: list[str]) -> str:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, *names], cwd=folder, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder beside `elsewhere`, which nothing may open."""
    for name in ("here", "here/evilpkg", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "evilpkg" / "__init__.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "here" / "evilpkg" / "x.py").write_text("")
    (tmp_path / "elsewhere" / "a.abc").write_bytes(TUNE)
    return tmp_path / "here"


def test_card_imports_no_module_and_follows_no_path(folder: Path) -> None:
    up = f"music21:{'../' * 12}{folder.parent.as_posix().lstrip('/')}/elsewhere"
    for number, location in enumerate((*LOCATIONS, up, str(folder.parent / "elsewhere"))):
        text = f'title = "t"\ndescription = "d"\nwhere = {json.dumps(location)}\n'
        (folder / f"{number}.toml").write_text(text)
    names = sorted(path.name for path in folder.glob("*.toml"))
    assert run_under_hook("card", folder, names) == "[]"


@pytest.mark.parametrize("location", LOCATIONS)
def test_refuses_other_locations_in_card(tmp_path: Path, location: str) -> None:
    (tmp_path / "a.toml").write_text(
        f'title = "t"\ndescription = "d"\nwhere = {json.dumps(location)}\n'
    )
    with pytest.raises(
        InvalidValue, match="write https://HOST/FILE, music21:FOLDER for"
    ) as refusal:
        sources.find_files(str(tmp_path / "a.toml"))
    assert "pip install" not in str(refusal.value)


def test_recipe_names_no_model_by_path(folder: Path) -> None:
    """A checkpoint at a path is loaded if the user names it, never if a file does."""
    model = untrained(folder.parent / "elsewhere" / "model")
    sampled = load(model).sample(seed=1, bars=2)
    songs = []
    for number, name in enumerate((str(model), "../elsewhere/model", *NAMES)):
        recipe = replace(sampled.recipe, model=replace(sampled.recipe.model, name=name))
        replace(sampled, recipe=recipe).write(folder / f"{number}.mid")
        songs.append(f"{number}.mid")
    assert run_under_hook("recipe", folder, songs) == "[]"
    tweaked = tweak(folder / "0.mid", model)
    assert tweaked.score == sampled.score


def test_render_loads_no_model_by_path(folder: Path) -> None:
    """Performance formats are rendered as their model wrote them."""
    model = untrained(folder.parent / "elsewhere" / "model")
    sampled = load(model).sample(seed=1, bars=2)
    played = sorted(
        s for s, form in formats.FORMAT_BY_SUFFIX.items() if form.parse_performance and form.render
    )
    songs: list[str] = []
    for name, suffix in product((str(model), "../elsewhere/model"), (*played, ".abc")):
        recipe = replace(sampled.recipe, model=replace(sampled.recipe.model, name=name))
        songs.append(f"{len(songs)}{suffix}")
        replace(sampled, recipe=recipe).write(folder / songs[-1])
    assert played
    assert run_under_hook("render", folder, songs) == str([f"read {song}" for song in songs])


@pytest.mark.parametrize("name", NAMES)
def test_path_is_not_a_model_name(name: str) -> None:
    assert not is_plain_name(name)
    with pytest.raises(NotFound, match="is unknown"):
        find_named_folder(name)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", "", "a\x00b", "a\n"])
def test_refuses_paths_in_checkpoint_manifest(tmp_path: Path, name: str) -> None:
    model = untrained(tmp_path / "model")
    body = json.loads((model / "manifest.json").read_bytes())
    body["sha256"][name] = "0" * 64
    (model / "manifest.json").write_bytes(render_manifest(body))
    with pytest.raises(DamagedCheckpoint, match=r"manifest.json: the file table, sha256"):
        checkpoint.load(model)


def test_refuses_paths_in_data_set_manifest(tmp_path: Path) -> None:
    """`train-/../../elsewhere` starts like the name of a shard."""
    data = tmp_path / "data"
    store.save(dataset(3, 4, 5), data)
    (tmp_path / "elsewhere").write_bytes((data / "train-00000.parquet").read_bytes())
    body = json.loads((data / "manifest.json").read_text())
    body["sha256"]["train-/../../elsewhere"] = body["sha256"].pop("train-00000.parquet")
    body["check"] = store._hash_manifest(body)
    (data / "manifest.json").write_text(json.dumps(body))
    (data / "train-").mkdir()
    with pytest.raises(InvalidValue, match=r"manifest.json, sha256"):
        store.load(data)


def test_archive_members_are_read_in_memory(folder: Path) -> None:
    outside = folder.parent / "elsewhere" / "b.abc"
    with zipfile.ZipFile(folder / "a.zip", "w") as zipped:
        zipped.writestr("../elsewhere/b.abc", TUNE)
        zipped.writestr(str(outside), TUNE)
    with tarfile.open(folder / "a.tar", "w") as tarred:
        link = tarfile.TarInfo("link.abc")
        link.type, link.linkname = tarfile.SYMTYPE, "../elsewhere/a.abc"
        tarred.addfile(link)
        member = tarfile.TarInfo("../elsewhere/b.abc")
        member.size = len(TUNE)
        tarred.addfile(member, io.BytesIO(TUNE))
    assert run_under_hook("card", folder, ["a.zip", "a.tar"]) == "['read a.zip', 'read a.tar']"
    assert not outside.exists()


def test_audit_hook_detects(folder: Path) -> None:
    """A path that the user names is opened, and recorded."""
    assert "opened" in run_under_hook("card", folder, ["../elsewhere"])


def test_error_for_long_name_is_short() -> None:
    with pytest.raises(MusicgenError) as refusal:
        load("m" * 10_000)
    assert len(str(refusal.value)) < 500
