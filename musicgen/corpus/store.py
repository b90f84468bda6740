"""A data set on disk: one Parquet file of encoded tunes, and a manifest that vouches for it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musicgen.corpus.split import SPLITS, SplitName
from musicgen.errors import Mismatch, NotFound, OutputExists
from musicgen.files import new_folder, open_regular, refuse_existing, write_whole

FORMAT: Final = 1
_TUNES, _MANIFEST = "tunes.parquet", "manifest.json"
_MAX_BYTES: Final = 8 * 2**30


@dataclass(frozen=True, eq=False)
class EncodedTune:
    """One tune as ids, with what names it."""

    ids: NDArray[np.int16]
    notes: int
    title: str
    source: str  # the file that it stands in
    group: str
    key: str
    meter: str
    rhythm: str
    setting: str  # JSON: what the ids leave out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedTune) and _comparable(self) == _comparable(other)

    def __hash__(self) -> int:
        return hash(_comparable(self))

    @property
    def content(self) -> str:
        """The hash of its ids."""
        return hashlib.sha256(self.ids.astype("<i2").tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Encoded tunes in three parts, and what they were made with."""

    train: tuple[EncodedTune, ...]
    valid: tuple[EncodedTune, ...]
    test: tuple[EncodedTune, ...]
    codec: str
    vocabulary_size: int
    refusals: Mapping[str, int]  # how many tunes were left out, by reason code
    sources: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[SplitName, EncodedTune]]:
        """Iterate over all tunes, each with the part that it is in."""
        for name in SPLITS:
            for tune in getattr(self, name):
                yield name, tune

    def __len__(self) -> int:
        return len(self.train) + len(self.valid) + len(self.test)

    @property
    def fingerprint(self) -> str:
        """A hash of the codec and of every tune's ids, part and title, in no matter what order."""
        lines = sorted(f"{tune.content} {name} {tune.title!r}" for name, tune in self)
        text = "\n".join([f"{self.codec} {self.vocabulary_size}", *lines])
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def save(dataset: Dataset, folder: Path, *, force: bool = False) -> None:
    """Write a data set as a new folder, which appears whole or not at all."""
    data = _parquet(dataset)
    manifest = {
        "format": FORMAT,
        "codec": dataset.codec,
        "vocabulary_size": dataset.vocabulary_size,
        "fingerprint": dataset.fingerprint,
        "sources": list(dataset.sources),
        "tunes": {name: len(getattr(dataset, name)) for name in SPLITS},
        "refusals": dict(sorted(dataset.refusals.items())),
        "sha256": {_TUNES: hashlib.sha256(data).hexdigest()},
    }
    with new_folder(folder, force=force) as staging:
        write_whole(staging / _TUNES, data)
        write_whole(staging / _MANIFEST, json.dumps(manifest, indent=2).encode())


def check_out(folder: Path, *, force: bool = False) -> None:
    """Raise OutputExists, before any work, for a folder that may not become this data set."""
    if folder.is_dir() and not is_dataset(folder):
        raise OutputExists(f"{folder} is a folder, and no data set; choose another name")
    if not (force and folder.is_dir()):
        refuse_existing([folder])


def load(folder: Path) -> Dataset:
    """Read a data set. Raises NotFound for none or half of one, Mismatch where bytes changed."""
    manifest = _manifest(folder)
    data = open_regular(folder / _TUNES, limit=_MAX_BYTES)
    try:
        intact = hashlib.sha256(data).hexdigest() == manifest["sha256"][_TUNES]
        dataset = _dataset(manifest, data if intact else b"")
    except (KeyError, TypeError, ValueError) as fault:
        raise _changed(folder) from fault
    if dataset.fingerprint != manifest["fingerprint"]:
        raise _changed(folder)
    return dataset


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is a data set that `save` finished."""
    return (folder / _MANIFEST).is_file() and (folder / _TUNES).is_file()


def _manifest(folder: Path) -> dict[str, Any]:
    if not is_dataset(folder):
        raise NotFound(f"{folder} is no data set; make one with musicgen corpus build")
    try:
        manifest = json.loads(open_regular(folder / _MANIFEST, limit=2**20))
        theirs = manifest["format"]
    except (KeyError, TypeError, ValueError) as fault:
        raise _changed(folder) from fault
    if theirs != FORMAT:
        raise Mismatch(
            f"{folder}: its format is {theirs!r}, this program reads {FORMAT}; build it again"
        )
    return dict(manifest)


def _changed(folder: Path) -> Mismatch:
    return Mismatch(f"{folder}: its bytes changed since it was built; build it again")


def _dataset(manifest: Mapping[str, Any], data: bytes) -> Dataset:
    return Dataset(
        **_parts(data),
        codec=manifest["codec"],
        vocabulary_size=manifest["vocabulary_size"],
        refusals=manifest["refusals"],
        sources=tuple(manifest["sources"]),
    )


def _parquet(dataset: Dataset) -> bytes:
    import pyarrow as pa  # 0.3 s
    import pyarrow.parquet as pq

    rows = list(dataset)
    columns: dict[str, Any] = {"split": [name for name, _ in rows]}
    for field in fields(EncodedTune):
        columns[field.name] = [getattr(tune, field.name) for _, tune in rows]
    columns["ids"] = pa.array(columns["ids"], type=pa.list_(pa.int16()))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def _parts(data: bytes) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    ids = table.column("ids").combine_chunks()
    flat = ids.flatten().to_numpy()
    edges = np.concatenate([[0], np.cumsum(ids.value_lengths().to_numpy())]).astype(int)
    found: dict[str, list[EncodedTune]] = {name: [] for name in SPLITS}
    rest = table.drop_columns(["ids"]).to_pylist()
    for row, start, stop in zip(rest, edges[:-1], edges[1:], strict=True):
        found[row.pop("split")].append(EncodedTune(ids=flat[start:stop], **row))
    return {name: tuple(tunes) for name, tunes in found.items()}


def _comparable(tune: EncodedTune) -> tuple[Any, ...]:
    return tuple({**asdict(tune), "ids": tune.ids.tobytes()}.values())
