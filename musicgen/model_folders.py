"""Folders of trained models, by name: the user's own training runs, then the shipped models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from musicgen.checkpoint import list_checkpoint_folders
from musicgen.errors import NotFound
from musicgen.files import is_folder, is_plain_name
from musicgen.typed_data import shorten

RUNS_FOLDER: Final = Path("checkpoints")  # where `musicgen train` creates its runs
_PACKAGE: Final = Path(__file__).parent
_SHIPPED_FOLDERS: Final = (_PACKAGE / "_checkpoints", _PACKAGE.parent / "checkpoints")


def find_model_folder(model: str | Path) -> Path:
    """Find the folder of a model by its path or name.

    Raises:
        NotFound: no such folder holds a checkpoint.
    """
    return _find_first_model(str(model), (Path(model), *_list_candidate_folders(str(model))))


def find_named_folder(name: str) -> Path:
    """Find the folder of a model that a file names.

    A name that a file contains is never taken as a path.

    Raises:
        NotFound: there is no model of that name.
    """
    return _find_first_model(name, _list_candidate_folders(name) if is_plain_name(name) else ())


def list_models(runs_folder: Path = RUNS_FOLDER) -> dict[str, Path]:
    """Return the folders of all models by name; a run of the user hides a shipped namesake."""
    folders: dict[str, Path] = {}
    for parent in (runs_folder, *_SHIPPED_FOLDERS):
        for folder in sorted(parent.glob("[!.]*")):
            if folder.name.isprintable() and list_checkpoint_folders(folder):
                folders.setdefault(folder.name, folder)
    return folders


def _list_candidate_folders(name: str) -> Iterator[Path]:
    return (parent / name for parent in (RUNS_FOLDER, *_SHIPPED_FOLDERS))


def _find_first_model(name: str, folders: Iterable[Path]) -> Path:
    """Return the first folder that holds a checkpoint."""
    candidates = list(folders)
    for folder in candidates:
        if list_checkpoint_folders(folder):
            return folder
    if any(is_folder(folder / "progress") for folder in candidates):
        raise NotFound(
            f"{name}: the run has no checkpoint yet; wait until it has evaluated the model once"
        )
    if any(map(is_folder, candidates)):
        raise NotFound(f"{name}: the folder has no manifest.json: it is not a complete checkpoint")
    names = ", ".join(sorted(list_models())) or "none"
    raise NotFound(
        f"model {shorten(name)!r} is unknown: there are {names};"
        " or name the folder of a run with --model"
    )
