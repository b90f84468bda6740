"""Which folders the program filled itself, known by what they hold: only those are replaced.

A data set and a checkpoint list their files in a manifest. The folder of a run holds checkpoints,
saved states and records; each has its place, and contents by which it is known.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from musicgen.errors import OutputExists
from musicgen.files import hash_regular, is_partial

MANIFEST: Final = "manifest.json"
CARD: Final = "MODEL_CARD.md"
METRICS: Final = "metrics.jsonl"
CONFIG: Final = "config.toml"
CONFIG_HEAD: Final = "# musicgen train --config THIS_FILE trains in the same way"
MOST_MANIFEST_BYTES: Final = 8 * 2**20
_HEAD_BYTES: Final = 4096
_STEP: Final = re.compile(r"[0-9]{8,12}")
_HEARD: Final = re.compile(r"[0-9]{6,12}\.(mid|abc|txt)")
_EVENTS: Final = re.compile(r"events\.out\.tfevents\..*")


def is_listed(folder: Path) -> bool:
    """Tell whether a folder holds a manifest of ours, and nothing that it does not list."""
    names = listed_files(folder)
    return (
        bool(names)
        and not _is_link(folder)
        and _find(folder, lambda path: path.name in names) is None
    )


def is_run(folder: Path) -> bool:
    """Tell whether a folder is one that a training run filled, or an empty one."""
    return find_foreign(folder) is None


def refuse_foreign_run(folder: Path) -> None:
    """Raise OutputExists for a folder that is not a training run, or holds more than one."""
    foreign = find_foreign(folder)
    if foreign is None:
        return
    if foreign == folder:
        kind = "a link" if folder.is_symlink() else "a folder" if folder.is_dir() else "a file"
        raise OutputExists(
            f"{folder} is {kind} and not the folder of a training run; it is not replaced:"
            " choose another --name, or move it away"
        )
    raise OutputExists(
        f"{foreign} is not from a training run; {folder} is not replaced: move the file away, or"
        " choose another --name"
    )


def find_foreign(folder: Path) -> Path | None:
    """Return what no training run wrote: the folder itself, or something in it; else None."""
    if _is_link(folder) or not folder.is_dir():
        return folder
    if not any(folder.iterdir()):
        return None
    if not _has_proof(folder):
        return folder
    listed = listed_files(folder)
    return _find(folder, lambda path: _is_of_run(path, listed))


def has_manifest(folder: Path) -> bool:
    """Tell whether a folder has a manifest that this program wrote, damaged or not."""
    return bool(_manifest(folder))


def listed_files(folder: Path) -> frozenset[str]:
    """Return the names that a folder's manifest vouches for, its own included; none without one."""
    body = _manifest(folder)
    return frozenset((*body["sha256"], MANIFEST)) if body else frozenset()


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        data = _read(folder / MANIFEST, MOST_MANIFEST_BYTES)
        body = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(body, dict) and isinstance(body.get("format"), int)
    return body if known and isinstance(body.get("sha256"), dict) and "check" in body else {}


def _has_proof(folder: Path) -> bool:
    """Tell whether anything in a folder shows that a run filled it."""
    states = [path for name in ("progress", "best") for path in _steps(folder / name)]
    notes = (folder / METRICS, folder / CONFIG)
    return any(has_manifest(path) for path in (folder, *states)) or any(
        _is_file(path) and _FILES[path.name](path) for path in notes
    )


def _steps(folder: Path) -> list[Path]:
    if _is_link(folder) or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _STEP.fullmatch(path.name)]


def _is_of_run(path: Path, listed: frozenset[str]) -> bool:
    """Tell whether an entry of a run's folder is one that a run writes."""
    if is_partial(path.name):
        return True
    if path.name in _FOLDERS:
        return path.is_dir() and _find(path, _FOLDERS[path.name]) is None
    if not _is_file(path) or path.name not in _FILES:
        return False
    is_binary = path.suffix not in (".md", ".toml", ".jsonl")
    return (is_binary and path.name in listed) or _FILES[path.name](path)


def is_step(path: Path) -> bool:
    """Tell whether a folder is a saved state or checkpoint of a run, whole or damaged."""
    if _is_link(path) or not path.is_dir() or not _STEP.fullmatch(path.name):
        return False
    known = frozenset(("arrays.safetensors", "values.json", "weights.safetensors",
                       CARD, MANIFEST))  # fmt: skip
    return _find(path, lambda file: is_partial(file.name) or (
        _is_file(file) and file.name in known)) is None  # fmt: skip


def _find(folder: Path, is_known: Callable[[Path], bool]) -> Path | None:
    """Return the first entry of a folder that is not known; links never are."""
    entries = sorted(folder.iterdir())
    return next((path for path in entries if _is_link(path) or not is_known(path)), None)


def _is_link(path: Path) -> bool:
    return path.is_symlink() or (os.name == "nt" and path.is_junction())  # type: ignore[attr-defined,unused-ignore]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _read(path: Path, limit: int) -> bytes:
    if not _is_file(path):
        return b""
    with path.open("rb") as file:
        return file.read(limit)


def _starts(*heads: bytes) -> Callable[[Path], bool]:
    """Return a test: the file is empty, or starts with one of some bytes."""
    return lambda path: not (data := _read(path, _HEAD_BYTES)) or data.startswith(heads)


def _is_metrics(path: Path) -> bool:
    """Tell whether a file is empty, or one of its first lines is what a run notes of an update."""
    lines = _read(path, _HEAD_BYTES).splitlines()
    return not lines or any(_is_update(line) for line in lines)


def _is_update(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and {"step", "tokens"} <= row.keys()


def _is_weights(path: Path) -> bool:
    head = _read(path, 9)
    return not head or (len(head) == 9 and head[8:] == b"{" and head[5:8] == bytes(3))


def _is_card(path: Path) -> bool:
    """Tell whether a model card is as it was written; without a manifest, whether it is one."""
    body = _manifest(path.parent)
    if not body:
        return _starts(b"# ")(path)
    return bool(hash_regular(path).hex() == body["sha256"].get(path.name))


_FILES: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: lambda path: not _read(path, 1) or has_manifest(path.parent),
    "weights.safetensors": _is_weights,
    "receipt.bin": _starts(b"MGNOTES"),
    CARD: _is_card,
    METRICS: _is_metrics,
    CONFIG: _starts(CONFIG_HEAD.encode()),
    "loss.png": _starts(b"\x89PNG"),
}
_FOLDERS: Final[Mapping[str, Callable[[Path], bool]]] = {
    "progress": lambda path: is_partial(path.name) or is_step(path),
    "best": lambda path: is_partial(path.name) or is_step(path),
    "heard": lambda path: is_partial(path.name) or bool(_HEARD.fullmatch(path.name)),
    "tensorboard": lambda path: bool(_EVENTS.fullmatch(path.name)),
}
