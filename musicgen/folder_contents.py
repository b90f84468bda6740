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
_EVENTS_HEAD: Final = b"brain.Event:"
_HEARD_TITLE: Final = b", no. 1-1"  # seed 1, the first tune
_TITLE_BYTES: Final = 200
_CURVE_MARK: Final = b"pHYs" + 2 * b"\0\0\x18\x9b" + b"\1"  # 160 dots an inch
_CARD_HEAD: Final = b"\n\nA recurrent language model of tunes: "
_CODEC_TEXT: Final = re.compile(rb'codec"?[ :=]+"text')


def is_listed(folder: Path) -> bool:
    """Tell whether a folder holds a manifest of ours, and nothing that it does not vouch for."""
    return has_manifest(folder) and find_unlisted(folder) is None


def find_unlisted(folder: Path, heads: Mapping[str, bytes] | None = None) -> Path | None:
    """Return what a folder's manifest does not vouch for, by its SHA-256: itself or a file in it.

    A file that is missing, or has no bytes, is nobody else's.

    Args:
        folder: the folder of a checkpoint or a data set.
        heads: the first bytes of files, by name, that may be damaged, such as caches.
    """
    known = heads or {}
    hashes = _hashes(folder)
    if not hashes or _is_link(folder):
        return folder
    return _find(folder, lambda path: _unless(path, path.name == MANIFEST or (
        path.name in hashes and _is_file(path) and (
            _is_intact(path, hashes)
            or (path.name in known and _starts(known[path.name])(path))))))  # fmt: skip


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
        f"{foreign} is not what a training run wrote; {folder} is not replaced: move the file away,"
        " or choose another --name"
    )


def find_foreign(folder: Path) -> Path | None:
    """Return what no training run wrote: the folder itself, or something in it; else None."""
    if _is_link(folder) or not folder.is_dir():
        return folder
    if not any(folder.iterdir()):
        return None
    if not _has_proof(folder):
        return folder
    hashes = _hashes(folder)
    return _find(folder, lambda path: _foreign_in_run(path, hashes))


def has_manifest(folder: Path) -> bool:
    """Tell whether a folder has a manifest that this program wrote, damaged or not."""
    return bool(_manifest(folder))


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that a folder's manifest lists; none without one."""
    return dict(_manifest(folder).get("sha256", {}))


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


def _foreign_in_run(path: Path, hashes: Mapping[str, str]) -> Path | None:
    """Return what no run wrote of an entry of a run's folder: itself, or something in it."""
    if path.name in _FOLDERS:
        return _find(path, _FOLDERS[path.name]) if path.is_dir() else path
    if not _is_file(path) or path.name not in _FILES:
        return path
    if path.name in hashes and path.name != METRICS:  # which a run that goes on adds to
        return _unless(path, _is_intact(path, hashes))
    return _unless(path, _FILES[path.name](path))


def is_step(path: Path) -> bool:
    """Tell whether a folder is a saved state or checkpoint of a run, whole or damaged."""
    return _foreign_in_step(path) is None


def _foreign_in_step(path: Path) -> Path | None:
    """Return what no run wrote of a saved state or checkpoint; a damaged file is its own."""
    if _is_link(path) or not path.is_dir() or not _STEP.fullmatch(path.name):
        return path
    hashes = _hashes(path)
    return _find(path, lambda file: _unless(file, _is_file(file) and file.name in _STEP_FILES and (
        _STEP_FILES[file.name](file) or _is_intact(file, hashes))))  # fmt: skip


def _foreign_in_heard(path: Path) -> Path | None:
    is_known = _is_file(path) and _HEARD.fullmatch(path.name) is not None
    return _unless(path, is_known and _HEARD_AS[path.suffix](path))


def _find(folder: Path, find: Callable[[Path], Path | None]) -> Path | None:
    """Return the first thing in a folder that is not known; links never are, half files are."""
    for path in sorted(folder.iterdir()):
        if _is_link(path):
            return path
        if not is_partial(path.name) and (found := find(path)) is not None:
            return found
    return None


def _unless(path: Path, is_known: bool) -> Path | None:
    return None if is_known else path


def _is_intact(path: Path, hashes: Mapping[str, str]) -> bool:
    """Tell whether a file is as its folder's manifest lists it, or empty."""
    return not _read(path, 1) or hash_regular(path, follow=False).hex() == hashes.get(path.name)


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
    """Tell whether each line of a file is what a run notes of an update; the last may be cut."""
    *whole, last = _read(path, MOST_MANIFEST_BYTES).split(b"\n")
    return all(map(_is_update, whole)) and b'{"step": '.startswith(last[:9])


def _is_update(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and {"step", "tokens"} <= row.keys()


def _is_weights(path: Path) -> bool:
    """Tell whether a file is empty, or starts as arrays do: a length, then JSON."""
    head = _read(path, 10)
    return not head or (len(head) == 10 and head[5:] == b'\0\0\0{"')


def _is_card(path: Path) -> bool:
    """Tell whether a file is empty, or starts as a model card does."""
    data = _read(path, _HEAD_BYTES)
    return not data or (data.startswith(b"# ") and _CARD_HEAD in data)


def _is_curve(path: Path) -> bool:
    """Tell whether a file is empty, or a PNG of the resolution that the loss curve has."""
    data = _read(path, _HEAD_BYTES)
    return not data or (data.startswith(b"\x89PNG\r\n\x1a\n") and _CURVE_MARK in data)


def _is_events(path: Path) -> bool:
    """Tell whether a file is empty, or starts with the record that heads TensorBoard's logs."""
    data = _read(path, _HEAD_BYTES)
    return not data or _EVENTS_HEAD in data[:64]


def _is_titled(path: Path) -> bool:
    """Tell whether a tune is empty, or has the title of one that a run lets hear."""
    data = _read(path, _HEAD_BYTES)
    return not data or _HEARD_TITLE in data[:_TITLE_BYTES]


def _is_text_heard(path: Path) -> bool:
    """Tell whether a text can be of the run in whose folder it lies: one that learns text."""
    run = path.parent.parent
    saved = (run / name for name in (CONFIG, MANIFEST))
    states = (step / name for shelf, name in (("best", MANIFEST), ("progress", "values.json"))
              for step in _steps(run / shelf))  # fmt: skip
    return any(_CODEC_TEXT.search(_read(place, MOST_MANIFEST_BYTES)) for place in (*saved, *states))


_FILES: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: lambda path: not _read(path, 1) or has_manifest(path.parent),
    "weights.safetensors": _is_weights,
    "receipt.bin": _starts(b"MGNOTES"),
    CARD: _is_card,
    METRICS: _is_metrics,
    CONFIG: _starts(CONFIG_HEAD.encode()),
    "loss.png": _is_curve,
}
_STEP_FILES: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: _starts(b'{\n "check": "'),
    "arrays.safetensors": _is_weights,
    "weights.safetensors": _is_weights,
    "values.json": _starts(b'{"run": '),
    CARD: _is_card,
}
_HEARD_AS: Final[Mapping[str, Callable[[Path], bool]]] = {
    ".mid": lambda path: _starts(b"MThd")(path) and _is_titled(path),
    ".abc": lambda path: _starts(b"X:1\nT:")(path) and _is_titled(path),
    ".txt": _is_text_heard,
}
_FOLDERS: Final[Mapping[str, Callable[[Path], Path | None]]] = {
    "progress": _foreign_in_step,
    "best": _foreign_in_step,
    "heard": _foreign_in_heard,
    "tensorboard": lambda path: _unless(
        path, _is_file(path) and bool(_EVENTS.fullmatch(path.name)) and _is_events(path)
    ),
}
