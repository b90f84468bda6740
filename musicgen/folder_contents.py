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
from musicgen.files import hash_regular_file, is_partial

MANIFEST: Final = "manifest.json"
MODEL_CARD: Final = "MODEL_CARD.md"
METRICS: Final = "metrics.jsonl"
CONFIG: Final = "config.toml"
CONFIG_HEAD: Final = "# musicgen train --config THIS_FILE trains in the same way"
MOST_MANIFEST_BYTES: Final = 8 * 2**20
_HEAD_BYTES: Final = 4096
_STEP: Final = re.compile(r"[0-9]{8,12}")
_HEARD_FILE_NAME: Final = re.compile(r"[0-9]{6,12}\.(mid|abc|txt)")
_TENSORBOARD_NAME: Final = re.compile(r"events\.out\.tfevents\..*")
_TENSORBOARD_HEAD: Final = b"brain.Event:"
_HEARD_TITLE: Final = b", no. 1-1"  # seed 1, the first tune
_TITLE_BYTES: Final = 200
_CURVE_MARK: Final = b"pHYs" + 2 * b"\0\0\x18\x9b" + b"\1"  # 160 dots an inch
_MODEL_CARD_HEAD: Final = b"\n\nA recurrent language model of tunes: "
_TEXT_CODEC_SETTING: Final = re.compile(rb'codec"?[ :=]+"text')


def has_only_listed_files(folder: Path) -> bool:
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
    hashes = _read_hashes(folder)
    if not hashes or _is_link(folder):
        return folder
    return _find_first(folder, lambda path: _none_if_known(path, path.name == MANIFEST or (
        path.name in hashes and _is_file(path) and (
            _is_intact(path, hashes)
            or (path.name in known and _make_prefix_check(known[path.name])(path))))))  # fmt: skip


def is_run_folder(folder: Path) -> bool:
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
    if not _has_run_files(folder):
        return folder
    hashes = _read_hashes(folder)
    return _find_first(folder, lambda path: _find_foreign_in_run(path, hashes))


def has_manifest(folder: Path) -> bool:
    """Tell whether a folder has a manifest that this program wrote, damaged or not."""
    return bool(_read_manifest(folder))


def _read_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that a folder's manifest lists; none without one."""
    return dict(_read_manifest(folder).get("sha256", {}))


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        data = _read(folder / MANIFEST, MOST_MANIFEST_BYTES)
        body = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(body, dict) and isinstance(body.get("format"), int)
    return body if known and isinstance(body.get("sha256"), dict) and "check" in body else {}


def _has_run_files(folder: Path) -> bool:
    """Tell whether anything in a folder shows that a run filled it."""
    states = [path for name in ("progress", "best") for path in _list_step_folders(folder / name)]
    notes = (folder / METRICS, folder / CONFIG)
    return any(has_manifest(path) for path in (folder, *states)) or any(
        _is_file(path) and _RUN_FILE_CHECKS[path.name](path) for path in notes
    )


def _list_step_folders(folder: Path) -> list[Path]:
    if _is_link(folder) or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _STEP.fullmatch(path.name)]


def _find_foreign_in_run(path: Path, hashes: Mapping[str, str]) -> Path | None:
    """Return what no run wrote of an entry of a run's folder: itself, or something in it."""
    if path.name in _RUN_FOLDER_FINDERS:
        return _find_first(path, _RUN_FOLDER_FINDERS[path.name]) if path.is_dir() else path
    if not _is_file(path) or path.name not in _RUN_FILE_CHECKS:
        return path
    if path.name in hashes and path.name != METRICS:  # which a run that goes on adds to
        return _none_if_known(path, _is_intact(path, hashes))
    return _none_if_known(path, _RUN_FILE_CHECKS[path.name](path))


def is_step_folder(path: Path) -> bool:
    """Tell whether a folder is a saved state or checkpoint of a run, whole or damaged."""
    return _find_foreign_in_step(path) is None


def _find_foreign_in_step(path: Path) -> Path | None:
    """Return what no run wrote of a saved state or checkpoint; a damaged file is its own."""
    if _is_link(path) or not path.is_dir() or not _STEP.fullmatch(path.name):
        return path
    hashes = _read_hashes(path)
    return _find_first(
        path,
        lambda file: _none_if_known(
            file,
            _is_file(file)
            and file.name in _STEP_FILE_CHECKS
            and (_STEP_FILE_CHECKS[file.name](file) or _is_intact(file, hashes)),
        ),
    )


def _find_foreign_in_heard(path: Path) -> Path | None:
    is_known = _is_file(path) and _HEARD_FILE_NAME.fullmatch(path.name) is not None
    return _none_if_known(path, is_known and _HEARD_FILE_CHECKS[path.suffix](path))


def _find_first(folder: Path, find: Callable[[Path], Path | None]) -> Path | None:
    """Return the first thing in a folder that is not known; links never are, half files are."""
    for path in sorted(folder.iterdir()):
        if _is_link(path):
            return path
        if not is_partial(path.name) and (found := find(path)) is not None:
            return found
    return None


def _none_if_known(path: Path, is_known: bool) -> Path | None:
    return None if is_known else path


def _is_intact(path: Path, hashes: Mapping[str, str]) -> bool:
    """Tell whether a file is as its folder's manifest lists it, or empty."""
    return not _read(path, 1) or hash_regular_file(path, follow=False).hex() == hashes.get(
        path.name
    )


def _is_link(path: Path) -> bool:
    return path.is_symlink() or (os.name == "nt" and path.is_junction())  # type: ignore[attr-defined,unused-ignore]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _read(path: Path, limit: int) -> bytes:
    if not _is_file(path):
        return b""
    with path.open("rb") as file:
        return file.read(limit)


def _make_prefix_check(*heads: bytes) -> Callable[[Path], bool]:
    """Return a test: the file is empty, or starts with one of some bytes."""
    return lambda path: not (data := _read(path, _HEAD_BYTES)) or data.startswith(heads)


def _is_metrics(path: Path) -> bool:
    """Tell whether each line of a file is what a run notes of an update; the last may be cut."""
    *whole, last = _read(path, MOST_MANIFEST_BYTES).split(b"\n")
    return all(map(_is_metrics_row, whole)) and b'{"step": '.startswith(last[:9])


def _is_metrics_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and {"step", "tokens"} <= row.keys()


def _is_safetensors(path: Path) -> bool:
    """Tell whether a file is empty, or starts as arrays do: a length, then JSON."""
    head = _read(path, 10)
    return not head or (len(head) == 10 and head[5:] == b'\0\0\0{"')


def _is_model_card(path: Path) -> bool:
    """Tell whether a file is empty, or starts as a model card does."""
    data = _read(path, _HEAD_BYTES)
    return not data or (data.startswith(b"# ") and _MODEL_CARD_HEAD in data)


def _is_curve(path: Path) -> bool:
    """Tell whether a file is empty, or a PNG of the resolution that the loss curve has."""
    data = _read(path, _HEAD_BYTES)
    return not data or (data.startswith(b"\x89PNG\r\n\x1a\n") and _CURVE_MARK in data)


def _is_tensorboard_log(path: Path) -> bool:
    """Tell whether a file is empty, or starts with the record that heads TensorBoard's logs."""
    data = _read(path, _HEAD_BYTES)
    return not data or _TENSORBOARD_HEAD in data[:64]


def _has_heard_title(path: Path) -> bool:
    """Tell whether a tune is empty, or has the title of one that a run lets hear."""
    data = _read(path, _HEAD_BYTES)
    return not data or _HEARD_TITLE in data[:_TITLE_BYTES]


def _is_heard_text(path: Path) -> bool:
    """Tell whether a text can be of the run in whose folder it lies: one that learns text."""
    run = path.parent.parent
    saved = (run / name for name in (CONFIG, MANIFEST))
    states = (step / name for shelf, name in (("best", MANIFEST), ("progress", "values.json"))
              for step in _list_step_folders(run / shelf))  # fmt: skip
    return any(
        _TEXT_CODEC_SETTING.search(_read(place, MOST_MANIFEST_BYTES)) for place in (*saved, *states)
    )


_RUN_FILE_CHECKS: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: lambda path: not _read(path, 1) or has_manifest(path.parent),
    "weights.safetensors": _is_safetensors,
    "receipt.bin": _make_prefix_check(b"MGNOTES"),
    MODEL_CARD: _is_model_card,
    METRICS: _is_metrics,
    CONFIG: _make_prefix_check(CONFIG_HEAD.encode()),
    "loss.png": _is_curve,
}
_STEP_FILE_CHECKS: Final[Mapping[str, Callable[[Path], bool]]] = {
    MANIFEST: _make_prefix_check(b'{\n "check": "'),
    "arrays.safetensors": _is_safetensors,
    "weights.safetensors": _is_safetensors,
    "values.json": _make_prefix_check(b'{"run": '),
    MODEL_CARD: _is_model_card,
}
_HEARD_FILE_CHECKS: Final[Mapping[str, Callable[[Path], bool]]] = {
    ".mid": lambda path: _make_prefix_check(b"MThd")(path) and _has_heard_title(path),
    ".abc": lambda path: _make_prefix_check(b"X:1\nT:")(path) and _has_heard_title(path),
    ".txt": _is_heard_text,
}
_RUN_FOLDER_FINDERS: Final[Mapping[str, Callable[[Path], Path | None]]] = {
    "progress": _find_foreign_in_step,
    "best": _find_foreign_in_step,
    "heard": _find_foreign_in_heard,
    "tensorboard": lambda path: _none_if_known(
        path,
        _is_file(path)
        and bool(_TENSORBOARD_NAME.fullmatch(path.name))
        and _is_tensorboard_log(path),
    ),
}
