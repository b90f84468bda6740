"""What resuming needs, on disk: whole folders named by their updates, the last three of them.

    RUN/progress/00000240/
    ├── arrays.safetensors   weights, moments, recurrent states, generators, the best weights
    ├── values.json          all the rest
    └── manifest.json        the SHA-256 of both, and of itself

An old folder goes only after the new one was read back and its hashes matched. A folder whose
bytes changed since is noticed, and the one before it is taken.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as render_arrays

from musicgen.checkpoint import (
    WAY_OUT,
    damaged,
    digest,
    numbered,
    read_files,
    read_manifest,
    render_manifest,
)
from musicgen.errors import DamagedCheckpoint, MusicgenError, OutputExists, WriteFailed
from musicgen.files import (
    explaining,
    hash_regular,
    new_folder,
    remove_folder,
    sweep_partials,
    write_new,
)
from musicgen.folder_contents import MANIFEST, is_step

FORMAT: Final = 2
KEPT: Final = 3
PROGRESS: Final = "progress"
ARRAYS: Final = "arrays.safetensors"
VALUES: Final = "values.json"


@dataclass(frozen=True, eq=False)
class Saved:
    """A run between two updates, as it was saved."""

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]  # JSON's own types
    folder: Path


def save(run: Path, step: int, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> Path:
    """Save the progress of a run, read it back, and let the oldest go.

    Raises WriteFailed, or MusicgenError for what is not finite: then nothing was saved.
    """
    refuse_odd(arrays, step)
    files = {ARRAYS: render_arrays(dict(arrays)), VALUES: _json(values)}
    hashes = {name: digest(data) for name, data in files.items()}
    files[MANIFEST] = render_manifest({"format": FORMAT, "sha256": hashes})
    folder = place(run / PROGRESS, step)
    needed = sum(map(len, files.values()))
    with new_folder(folder) as staging, explaining(folder, needed):
        for name, data in files.items():
            write_new(staging / name, data)
    let_go(folder, KEPT, FORMAT)
    return folder


def refuse_odd(arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Raise MusicgenError for an array that holds infinity or what is no number."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise MusicgenError(
                f"update {step}: {name} is no longer finite; it was not saved, and what was saved"
                " before is whole. Go on from there with --resume and a lower --learning-rate"
            )


def place(shelf: Path, step: int) -> Path:
    """Return the name for the folder of an update; a damaged state that has it goes.

    Raises OutputExists for anything else of that name.
    """
    with explaining(shelf):
        shelf.mkdir(parents=True, exist_ok=True)
    folder = shelf / f"{step:08d}"
    if is_step(folder):
        remove_folder(folder)
    elif os.path.lexists(folder):
        raise OutputExists(f"{folder} is not a saved state of the run; move it away")
    return folder


def let_go(newest: Path, kept: int, known: int) -> None:
    """Remove all but the newest folders, once the newest of all was read back from the disk."""
    verify(newest, known)
    step = int(newest.name)
    others = [folder for folder in numbered(newest.parent) if folder != newest and is_step(folder)]
    before = [folder for folder in others if int(folder.name) < step]
    staying = before[max(0, len(before) - kept + 1) :]
    for folder in others:
        if folder not in staying:
            remove_folder(folder)


def verify(folder: Path, known: int) -> None:
    """Raise WriteFailed unless all files on the disk are what their manifest says."""
    hashes: dict[str, str] = {}
    with contextlib.suppress(DamagedCheckpoint):
        hashes = read_manifest(folder, known)["sha256"]
    kept = (hash_regular(folder / name, from_disk=True).hex() == hashes[name] for name in hashes)
    if not hashes or not all(kept):
        raise WriteFailed(
            f"{folder}: what was written is not what is read back; what was saved before is whole."
            " The disk may be failing: copy the run to another one and go on there with --resume"
        )


def load(folder: Path) -> Saved:
    """Read what was saved. Raises DamagedCheckpoint, or Mismatch for another format."""
    body = read_manifest(folder, FORMAT)
    contents = read_files(folder, body, ARRAYS, VALUES)
    try:
        values = json.loads(contents[VALUES])
        return Saved(parse_arrays(contents[ARRAYS]), values, folder)
    except (SafetensorError, ValueError, TypeError, KeyError) as fault:
        raise damaged(folder, f"its contents do not fit ({fault})") from fault


def latest(run: Path) -> tuple[Saved | None, list[str]]:
    """Return what was saved last and is whole, and a line for each later one that is not.

    Raises DamagedCheckpoint where nothing that was saved is whole, Mismatch for another format.
    """
    faults: list[str] = []
    for folder in reversed(numbered(run / PROGRESS)):
        try:
            return load(folder), faults
        except DamagedCheckpoint as fault:
            faults.append(str(fault).removesuffix(f"; {WAY_OUT}"))
    if faults:
        raise DamagedCheckpoint(
            f"{faults[0]}; nothing else that was saved is whole: begin again with --force"
        )
    return None, []


def sweep(run: Path) -> int:
    """Remove what killed writers left in the folders of a run whose lock is held; count them."""
    folders = [path for path in run.iterdir() if path.is_dir()] if run.is_dir() else []
    return sum(sweep_partials(folder) for folder in (*folders, run))


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, sort_keys=True).encode()
