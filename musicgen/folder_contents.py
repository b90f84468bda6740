"""Recognise the folders that musicgen wrote, by their contents: only those are ever replaced.

A data set or checkpoint lists its files in a manifest. A run folder holds checkpoints, saved states
and logs; each kind of file has its place and a content check in one of the tables below.

The `find_*` functions return the first foreign path, or None if there is none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from musicgen.errors import OutputExists
from musicgen.files import hash_regular_file, is_partial

MANIFEST: Final = "manifest.json"
MODEL_CARD: Final = "MODEL_CARD.md"
METRICS: Final = "metrics.jsonl"
CONFIG: Final = "config.toml"
CONFIG_HEAD: Final = "# musicgen train --config THIS_FILE trains in the same way"
MOST_MANIFEST_BYTES: Final = 8 * 2**20
_HEAD_BYTES: Final = 4096
STEP_NAME: Final = re.compile(r"[0-9]{8,12}")  # of the folder of a saved state or checkpoint
_HEARD_FILE_NAME: Final = re.compile(r"[0-9]{6,12}\.(mid|abc|txt)")
_TENSORBOARD_NAME: Final = re.compile(r"events\.out\.tfevents\..*")
_TENSORBOARD_HEAD: Final = b"brain.Event:"
_HEARD_TITLE: Final = b", no. 1-1"  # seed 1, first tune
_TITLE_BYTES: Final = 200
_CURVE_MARK: Final = b"pHYs" + 2 * b"\0\0\x18\x9b" + b"\1"  # 160 dots per inch
_MODEL_CARD_HEAD: Final = b"\n\nA recurrent language model of tunes: "
_TEXT_CODEC_SETTING: Final = re.compile(rb'codec"?[ :=]+"text')


def has_only_listed_files(folder: Path) -> bool:
    """Tell whether a folder has a manifest and no file that the manifest does not list."""
    return has_manifest(folder) and find_unlisted(folder) is None


def find_unlisted(folder: Path, heads: Mapping[str, bytes] | None = None) -> Path | None:
    """Return the first path in a folder that its manifest does not list with that SHA-256.

    Missing and empty files are not foreign.

    Args:
        folder: the folder of a checkpoint or a data set.
        heads: by name, the first bytes of files, such as caches, that may be damaged otherwise.

    Returns:
        The folder itself if it is a link or has no manifest, a path in it, or None.
    """
    hashes = _read_hashes(folder)
    if not hashes or _is_link(folder):
        return folder

    def is_ours(path: Path) -> bool:
        if path.name == MANIFEST:
            return True
        if path.name not in hashes or not _is_file(path):
            return False
        return _is_intact(path, hashes) or (
            heads is not None and path.name in heads and _starts_with(heads[path.name])(path)
        )

    return _find_first(folder, is_ours)


def is_run_folder(folder: Path) -> bool:
    """Tell whether a folder holds a training run and nothing else, or is empty."""
    return find_foreign(folder) is None


def refuse_foreign_run(folder: Path) -> None:
    """Check a folder before it is replaced.

    Raises:
        OutputExists: it is not a training run, or holds foreign files.
    """
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
    """Return the folder itself if no training run wrote it, or the first foreign path in it."""
    if _is_link(folder) or not folder.is_dir():
        return folder
    if not any(folder.iterdir()):
        return None
    if not _has_run_files(folder):
        return folder
    hashes = _read_hashes(folder)
    return _find_first_foreign(folder, lambda path: _find_foreign_in_run(path, hashes))


def has_manifest(folder: Path) -> bool:
    """Tell whether a folder has a manifest of musicgen, damaged or not."""
    return bool(_read_manifest(folder))


def _read_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that the manifest of a folder lists; {} without one."""
    return dict(_read_manifest(folder).get("sha256", {}))


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        data = _read(folder / MANIFEST, MOST_MANIFEST_BYTES)
        body = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return {}
    is_manifest = isinstance(body, dict) and isinstance(body.get("format"), int)
    return body if is_manifest and isinstance(body.get("sha256"), dict) and "check" in body else {}


def _has_run_files(folder: Path) -> bool:
    """Tell whether a folder has a manifest, saved state, log or settings of a run."""
    steps = [path for name in ("progress", "best") for path in _list_step_folders(folder / name)]
    logs = (folder / METRICS, folder / CONFIG)
    return any(has_manifest(path) for path in (folder, *steps)) or any(
        _is_file(path) and _RUN_FILE_CHECKS[path.name](path) for path in logs
    )


def _list_step_folders(folder: Path) -> list[Path]:
    if _is_link(folder) or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if STEP_NAME.fullmatch(path.name)]


def _find_foreign_in_run(path: Path, hashes: Mapping[str, str]) -> Path | None:
    """Return an entry of a run folder if no run wrote it, or the first foreign path in it."""
    if path.name in _RUN_SUBFOLDER_FINDERS:
        if not path.is_dir():
            return path
        return _find_first_foreign(path, _RUN_SUBFOLDER_FINDERS[path.name])
    if not _is_file(path) or path.name not in _RUN_FILE_CHECKS:
        return path
    if path.name in hashes and path.name != METRICS:  # a resumed run appends to the metrics
        return None if _is_intact(path, hashes) else path
    return None if _RUN_FILE_CHECKS[path.name](path) else path


def is_step_folder(path: Path) -> bool:
    """Tell whether a folder is a saved state or checkpoint of a run, intact or damaged."""
    return _find_foreign_in_step(path) is None


def _find_foreign_in_step(path: Path) -> Path | None:
    """Return the first foreign path of a saved state; damaged files are not foreign."""
    if _is_link(path) or not path.is_dir() or not STEP_NAME.fullmatch(path.name):
        return path
    hashes = _read_hashes(path)

    def is_ours(file: Path) -> bool:
        if not _is_file(file) or file.name not in _STEP_FILE_CHECKS:
            return False
        return _STEP_FILE_CHECKS[file.name](file) or _is_intact(file, hashes)

    return _find_first(path, is_ours)


def _is_heard_tune(path: Path) -> bool:
    if not _is_file(path) or not _HEARD_FILE_NAME.fullmatch(path.name):
        return False
    return _HEARD_FILE_CHECKS[path.suffix](path)


def _find_first(folder: Path, is_ours: Callable[[Path], bool]) -> Path | None:
    """Return the first path in a folder that is not ours, as `_find_first_foreign` does."""
    return _find_first_foreign(folder, lambda path: None if is_ours(path) else path)


def _find_first_foreign(folder: Path, find: Callable[[Path], Path | None]) -> Path | None:
    """Return the first foreign path in a folder; links always are foreign, partial files never."""
    for path in sorted(folder.iterdir()):
        if _is_link(path):
            return path
        if not is_partial(path.name) and (foreign := find(path)) is not None:
            return foreign
    return None


def _is_intact(path: Path, hashes: Mapping[str, str]) -> bool:
    """Tell whether a file is empty or has the hash that the manifest of its folder lists."""
    if not _read(path, 1):
        return True
    return hash_regular_file(path, follow=False).hex() == hashes.get(path.name)


def _is_link(path: Path) -> bool:
    return path.is_symlink() or (os.name == "nt" and path.is_junction())  # type: ignore[attr-defined,unused-ignore]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _read(path: Path, limit: int) -> bytes:
    if not _is_file(path):
        return b""
    with path.open("rb") as file:
        return file.read(limit)


def _starts_with(*heads: bytes) -> Callable[[Path], bool]:
    """Return a check: a file is empty or starts with one of the heads."""
    return lambda path: not (data := _read(path, _HEAD_BYTES)) or data.startswith(heads)


def _is_metrics(path: Path) -> bool:
    """Tell whether each line of a file is a metrics row of a run; the last may be cut off."""
    *lines, last = _read(path, MOST_MANIFEST_BYTES).split(b"\n")
    return all(map(_is_metrics_row, lines)) and b'{"step": '.startswith(last[:9])


def _is_metrics_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and {"step", "tokens"} <= row.keys()


def _is_safetensors(path: Path) -> bool:
    """Tell whether a file is empty or starts like safetensors: a length, then JSON."""
    head = _read(path, 10)
    return not head or (len(head) == 10 and head[5:] == b'\0\0\0{"')


def _is_model_card(path: Path) -> bool:
    """Tell whether a file is empty or starts like a model card."""
    data = _read(path, _HEAD_BYTES)
    return not data or (data.startswith(b"# ") and _MODEL_CARD_HEAD in data)


def _is_curve(path: Path) -> bool:
    """Tell whether a file is empty or a PNG with the resolution of the loss curve."""
    data = _read(path, _HEAD_BYTES)
    return not data or (data.startswith(b"\x89PNG\r\n\x1a\n") and _CURVE_MARK in data)


def _is_tensorboard_log(path: Path) -> bool:
    """Tell whether a file has the name of a TensorBoard log, and is empty or has its header."""
    if not _is_file(path) or not _TENSORBOARD_NAME.fullmatch(path.name):
        return False
    data = _read(path, _HEAD_BYTES)
    return not data or _TENSORBOARD_HEAD in data[:64]


def _has_heard_title(path: Path) -> bool:
    """Tell whether a file is empty or has the title of a listening example."""
    data = _read(path, _HEAD_BYTES)
    return not data or _HEARD_TITLE in data[:_TITLE_BYTES]


def _is_heard_text(path: Path) -> bool:
    """Tell whether a text file lies in the folder of a run that trains a text codec."""
    run = path.parent.parent
    settings_files = [run / CONFIG, run / MANIFEST]
    for subfolder, name in (("best", MANIFEST), ("progress", "values.json")):
        settings_files += [step / name for step in _list_step_folders(run / subfolder)]
    return any(
        _TEXT_CODEC_SETTING.search(_read(file, MOST_MANIFEST_BYTES)) for file in settings_files
    )


_RUN_FILE_CHECKS: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: lambda path: not _read(path, 1) or has_manifest(path.parent),
    "weights.safetensors": _is_safetensors,
    "receipt.bin": _starts_with(b"MGNOTES"),
    MODEL_CARD: _is_model_card,
    METRICS: _is_metrics,
    CONFIG: _starts_with(CONFIG_HEAD.encode()),
    "loss.png": _is_curve,
}
_STEP_FILE_CHECKS: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: _starts_with(b'{\n "check": "'),
    "arrays.safetensors": _is_safetensors,
    "weights.safetensors": _is_safetensors,
    "values.json": _starts_with(b'{"run": '),
    MODEL_CARD: _is_model_card,
}
_HEARD_FILE_CHECKS: Final[Mapping[str, Callable[[Path], bool]]] = {
    ".mid": lambda path: _starts_with(b"MThd")(path) and _has_heard_title(path),
    ".abc": lambda path: _starts_with(b"X:1\nT:")(path) and _has_heard_title(path),
    ".txt": _is_heard_text,
}
_RUN_SUBFOLDER_FINDERS: Final[Mapping[str, Callable[[Path], Path | None]]] = {
    "progress": _find_foreign_in_step,
    "best": _find_foreign_in_step,
    "heard": lambda path: None if _is_heard_tune(path) else path,
    "tensorboard": lambda path: None if _is_tensorboard_log(path) else path,
}
