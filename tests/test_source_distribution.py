"""The source distribution holds what git tracks, whatever else lies in the working tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TRACKED: Final = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore",
                  "musicgen/__init__.py", "musicgen/errors.py",
                  "checkpoints/folk/MODEL_CARD.md")  # fmt: skip
STRAYS: Final = (".venv/bin/python", "checkpoints/mine/weights.safetensors", "song.mid",
                 "notes.txt", "tunes/tune-1.mid", "song.txt.recipe.json", ".song.mid.x.partial",
                 "musicgen/scratch.py", "mine.data/train.parquet")  # fmt: skip


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def built(folder: Path) -> set[str]:
    """Build the distribution of a folder; return the names in it, relative to its root."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", "built"]
    done = subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "built").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_it_holds_only_what_git_tracks(tmp_path: Path) -> None:
    for name in TRACKED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", *TRACKED)
    for name in STRAYS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("stray")
    assert built(tmp_path) == {*TRACKED, "PKG-INFO"}
