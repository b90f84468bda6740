"""The source distribution holds only what git tracks."""

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


def run_git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def build_sdist(folder: Path) -> set[str]:
    """Build the source distribution of a folder; return the names of its files."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", "built"]
    process = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (archive,) = (folder / "built").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_source_distribution_holds_only_tracked_files(tmp_path: Path) -> None:
    for name in TRACKED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path, "add", *TRACKED)
    for name in STRAYS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("stray")
    assert build_sdist(tmp_path) == {*TRACKED, "PKG-INFO"}
