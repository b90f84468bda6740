"""Piano rolls from the files of the published benchmarks, as ids of the codec `frames`.

Two kinds of files are read: the MATLAB files of Boulanger-Lewandowski and others (2012), an array
(frame, 88) per piece, and the JSON file of chorales at 16th notes, four voices per frame. Both hold
up to three parts; those that are not in a file are left out of the result.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import scipy.io

from musicgen.errors import Refusal
from musicgen.files import read_regular_file
from musicgen.music.arrays import TokenIds
from musicgen.tokens.frames import FRAME, PITCH, encode_frames
from musicgen.typed_data import check_schema

LOWEST: Final = 21  # MIDI note number of the first of the 88 keys
KEYS: Final = 88
PART_NAMES: Final = ("train", "valid", "test")
SILENT: Final = -1  # of a voice in the JSON file
MOST_BYTES: Final = 2**26
PITCHES: Final = range(PITCH[LOWEST], PITCH[LOWEST + KEYS])  # ids of the 88 keys

Parts = dict[str, list[TokenIds]]  # by name: the ids of each piece, without an end event
_Voice = Annotated[int, msgspec.Meta(ge=SILENT, lt=LOWEST + KEYS)]


class ChoraleFile(msgspec.Struct):
    """The JSON file: by part and piece, the voices of each frame."""

    train: list[list[list[_Voice]]]
    valid: list[list[list[_Voice]]] = []
    test: list[list[list[_Voice]]] = []


def read_parts(path: Path) -> Parts:
    """Read the parts of a file.

    Raises:
        NotFound: there is no such file.
        Refusal: it is not a piano-roll file, has no training part, or a piece in it is damaged.
    """
    if path.suffix not in (".mat", ".json"):
        raise Refusal(f"{path}: not a file of piano rolls: name a .mat or a .json file")
    data = read_regular_file(path, limit=MOST_BYTES)
    read = _read_chorales if path.suffix == ".json" else _read_matrices
    pieces = read(data, path)
    parts = {
        name: [
            _encode(piece, f"{path}, {name}, piece {number}")
            for number, piece in enumerate(pieces[name], 1)
        ]
        for name in PART_NAMES
        if pieces.get(name)
    }
    if "train" not in parts:
        raise Refusal(f"{path}: it has no training part: name the whole file of the benchmark")
    return parts


def count_frames(ids: TokenIds) -> int:
    """Return the number of frames of a piece, (token,) int16 or int64."""
    return int(np.count_nonzero(ids == FRAME))


def _encode(frames: Iterable[Iterable[int]], place: str) -> TokenIds:
    """Encode a piece without its end event, which the benchmarks do not predict."""
    ids = np.array(encode_frames(frames)[:-1], np.int16)
    if not len(ids):
        raise Refusal(f"{place}: it has no frame: download the file again")
    return ids


def _read_chorales(data: bytes, path: Path) -> dict[str, list[list[set[int]]]]:
    try:
        parts = check_schema(json.loads(data), ChoraleFile, str(path))
    except (ValueError, RecursionError) as fault:
        raise Refusal(f"{path}: not a file of chorales ({fault}); download it again") from fault
    return {
        name: [[set(voices) - {SILENT} for voices in piece] for piece in getattr(parts, name)]
        for name in PART_NAMES
    }


def _read_matrices(data: bytes, path: Path) -> dict[str, list[list[Any]]]:
    """Read a MATLAB file. Raises Refusal if it is damaged or holds no piano rolls."""
    try:
        variables = scipy.io.loadmat(io.BytesIO(data))
    except Exception as fault:
        raise Refusal(f"{path}: not a MATLAB file ({fault}); download it again") from fault
    return {
        name: [
            _read_roll(roll, f"{path}, {name}, piece {number}")
            for number, roll in enumerate(np.ravel(variables[f"{name}data"]), 1)
        ]
        for name in PART_NAMES
        if f"{name}data" in variables
    }


def _read_roll(roll: Any, place: str) -> list[Any]:
    """Return the MIDI note numbers of each frame of a roll, (frame, 88) of 0 or 1."""
    roll = np.asarray(roll)
    if roll.ndim != 2 or roll.shape[1] != KEYS or not np.isin(roll, (0, 1)).all():
        raise Refusal(f"{place}: not an array (frame, {KEYS}) of 0 and 1: download the file again")
    return [np.flatnonzero(frame) + LOWEST for frame in roll]
