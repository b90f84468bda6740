"""A data set on disk: Parquet shards of encoded tunes, and a manifest that vouches for them.

    DATA/
    ├── train-00000.parquet ...   a row a tune: ids, title, source, key, group, ...
    ├── valid-00000.parquet ...
    ├── test-00000.parquet ...
    ├── refusals.parquet          a row for each tune or file that was left out, and why
    ├── report.json               the account of the build
    ├── answers.jsonl.zst         what was read of each file: a later build reads only what changed
    └── manifest.json             codec, vocabulary, counts, SHA-256 of every file; written last

The order of rows follows from their content alone, so equal corpora are equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from musicgen.config import MOST_EVENTS
from musicgen.corpus.parquet_rows import ParquetRows
from musicgen.corpus.split import SPLITS, SplitName
from musicgen.errors import Mismatch, NotFound, OutputExists, Refusal
from musicgen.files import (
    create_folder_atomically,
    is_file,
    is_folder,
    read_regular_file,
    refuse_existing,
    translate_os_errors,
    write_atomically,
)
from musicgen.folder_contents import MANIFEST, MOST_MANIFEST_BYTES, find_unlisted
from musicgen.typed_data import Count, FileName, Sha256, check_schema

FORMAT: Final = 2
REFUSALS: Final = "refusals.parquet"
REPORT: Final = "report.json"
READ_CACHE: Final = "answers.jsonl.zst"
_ZSTD_HEAD: Final = b"\x28\xb5\x2f\xfd"
ROW_GROUP_TUNES, ROW_GROUP_IDS = 256, 2**17  # a row group has at most as many
SHARD_TUNES, SHARD_IDS = 65_536, 2**25  # a shard
_V1_TUNES: Final = "tunes.parquet"  # of format 1
_V1_FILES: Final = frozenset((_V1_TUNES, MANIFEST, REFUSALS, REPORT))


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
    number: int = 0  # which of the file's tunes
    remarks: tuple[str, ...] = ()  # what is odd in it
    relation: str = ""  # to an earlier tune of its group: one of split.RELATIONS
    like: str = ""  # the fingerprint of that tune

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedTune) and _comparison_key(self) == _comparison_key(other)

    def __hash__(self) -> int:
        return hash(_comparison_key(self))

    @cached_property
    def content(self) -> str:
        """The hash of its ids."""
        return hashlib.sha256(self.ids.astype("<i2").tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Encoded tunes in three parts, and what they were made with."""

    train: Sequence[EncodedTune]
    valid: Sequence[EncodedTune]
    test: Sequence[EncodedTune]
    codec: str
    vocabulary: tuple[str, ...]  # every event, by id
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
    def vocabulary_size(self) -> int:
        """How many events there are."""
        return len(self.vocabulary)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the codec and of every tune's ids, part and title, in no matter what order."""
        lines = sorted((tune.content, name, tune.title) for name, tune in self)
        found = FingerprintHasher(self.codec, self.vocabulary_size)
        for line in lines:
            found.add(*line)
        return found.hexdigest()


class FingerprintHasher:
    """The hash of a data set, from its tunes in the order of their content."""

    def __init__(self, codec: str, vocabulary_size: int) -> None:
        self._hash = hashlib.sha256(f"{codec} {vocabulary_size}".encode())

    def add(self, content: str, part: str, title: str) -> None:
        """Take a tune in."""
        self._hash.update(f"\n{content} {part} {title!r}".encode("utf-8", "backslashreplace"))

    def hexdigest(self) -> str:
        """Return the hash of what was added."""
        return self._hash.hexdigest()


def get_id_arrays(tunes: Sequence[EncodedTune]) -> Sequence[NDArray[np.int16]]:
    """Return the ids of tunes; those of stored tunes stay on disk."""
    return tunes.ids if isinstance(tunes, ParquetRows) else [tune.ids for tune in tunes]


def count_tokens(tunes: Sequence[EncodedTune]) -> int:
    """Count the ids of all tunes."""
    return sum(map(len, get_id_arrays(tunes)))


class ShardWriter:
    """Writes tunes, each to its part's current shard; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._parts = {name: _SplitWriter(folder, name) for name in SPLITS}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for part in self._parts.values():
            part.close(is_complete=error is None)

    def add(self, part: SplitName, tune: EncodedTune) -> None:
        """Write a tune."""
        self._parts[part].add(tune)

    @property
    def counts(self) -> dict[str, int]:
        """How many tunes each part has."""
        return {name: part.tunes for name, part in self._parts.items()}


class _SplitWriter:
    """The shards of one part; row groups and shards end where the tunes alone decide it."""

    def __init__(self, folder: Path, name: SplitName) -> None:
        self.tunes = 0
        self._folder, self._name = folder, name
        self._shard = 0
        self._rows: list[EncodedTune] = []
        self._group_ids = self._shard_tunes = self._shard_ids = 0
        self._writer: Any = None

    def add(self, tune: EncodedTune) -> None:
        self._rows.append(tune)
        self.tunes += 1
        self._group_ids += len(tune.ids)
        if len(self._rows) >= ROW_GROUP_TUNES or self._group_ids >= ROW_GROUP_IDS:
            self._flush()
        if self._shard_tunes >= SHARD_TUNES or self._shard_ids >= SHARD_IDS:
            self._close_shard()

    def close(self, *, is_complete: bool) -> None:
        """Write what waits; a part without tunes has one empty shard, so that all parts exist."""
        if is_complete and (self._rows or not self.tunes):
            self._flush()
        self._close_shard()

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        table = _build_table(self._name, self._rows)
        if self._writer is None:
            path = self._folder / f"{self._name}-{self._shard:05d}.parquet"
            self._writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=max(1, len(self._rows)))
        self._shard_tunes += len(self._rows)
        self._shard_ids += self._group_ids
        self._rows, self._group_ids = [], 0

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._shard += 1
        self._shard_tunes = self._shard_ids = 0


def _build_table(part: SplitName, tunes: Sequence[EncodedTune]) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {"split": pa.array([part] * len(tunes), pa.string())}
    for name in _TUNE_FIELDS:
        values = [getattr(tune, name) for tune in tunes]
        if name == "ids":
            columns[name] = _build_list_array(values)
        elif name in ("notes", "number"):
            columns[name] = pa.array(values, pa.int32())
        elif name == "remarks":
            texts = [[escape_surrogates(text) for text in texts] for texts in values]
            columns[name] = pa.array(texts, pa.list_(pa.string()))
        else:
            columns[name] = pa.array(map(escape_surrogates, values), pa.string())
    columns["fingerprint"] = pa.array([tune.content for tune in tunes], pa.string())
    return pa.table(columns)


def _build_list_array(arrays: Sequence[NDArray[np.int16]]) -> Any:
    import pyarrow as pa

    edges = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    flat = np.concatenate([np.zeros(0, np.int16), *arrays]).astype(np.int16)
    return pa.ListArray.from_arrays(pa.array(edges), pa.array(flat))


def escape_surrogates(text: str) -> str:
    """Return a text that can be written as UTF-8: a file's name need not be."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def build_refusal_table(refusals: Sequence[tuple[Refusal, str, str]]) -> Any:
    """Make a table of refusals, each with its relation to a kept tune and that tune, or ""."""
    import pyarrow as pa

    rows: dict[str, list[str]] = {name: [] for name in _REFUSAL_COLUMNS}
    for refusal, relation, like in refusals:
        told = (refusal.source, refusal.place, refusal.code, refusal.message, relation, like)
        for name, value in zip(_REFUSAL_COLUMNS, told, strict=True):
            rows[name].append(escape_surrogates(value))
    return pa.table({name: pa.array(values, pa.string()) for name, values in rows.items()})


def open_refusals(folder: Path, keep_alive: object = None) -> ParquetRows[Refusal]:
    """Return the refusals of a data set, read when they are asked for."""
    return ParquetRows([folder / REFUSALS], _batch_to_refusals, keep_alive)


def _batch_to_refusals(batch: Any) -> list[Refusal]:
    rows = batch.select(["message", "source", "place", "code"]).to_pylist()
    return [Refusal(row.pop("message"), **row) for row in rows]


def save(dataset: Dataset, folder: Path, *, force: bool = False) -> None:
    """Write a data set as a new folder, which appears whole or not at all."""
    with (
        create_folder_atomically(
            folder, may_replace=has_only_dataset_files if force else None
        ) as staging,
        translate_os_errors(folder),
    ):
        with ShardWriter(staging) as shards:
            for part, tune in dataset:
                shards.add(part, tune)
        write_manifest(
            staging,
            codec=dataset.codec,
            vocabulary=dataset.vocabulary,
            fingerprint=dataset.fingerprint,
            sources=dataset.sources,
            tunes=shards.counts,
            refusals=dataset.refusals,
        )


def write_manifest(
    folder: Path,
    *,
    codec: str,
    vocabulary: Iterable[str],
    fingerprint: str,
    sources: Iterable[str],
    tunes: Mapping[str, int],
    refusals: Mapping[str, int],
) -> None:
    """Say what the files of a folder are, and vouch for each; nothing is written after it."""
    content = {
        "format": FORMAT,
        "codec": codec,
        "vocabulary": list(vocabulary),
        "fingerprint": fingerprint,
        "sources": [escape_surrogates(source) for source in sources],
        "tunes": dict(tunes),
        "refusals": dict(sorted(refusals.items())),
        "sha256": {p.name: hash_file(p) for p in sorted(folder.iterdir()) if p.is_file()},
    }
    content["check"] = _hash_manifest(content)
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1).encode())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_manifest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_output_folder(folder: Path, *, force: bool = False) -> None:
    """Raise OutputExists, before any work, for a folder that may not become this data set."""
    if is_folder(folder) and (foreign := _find_foreign(folder)) is not None:
        if foreign == folder:
            fault = f"{folder} is a folder, and no data set; choose another name"
        else:
            fault = (f"{foreign} is not what musicgen wrote; {folder} is not replaced:"
                     " move the file away, or choose another name")  # fmt: skip
        raise OutputExists(fault)
    if not (force and is_folder(folder)):
        refuse_existing([folder])


def has_only_dataset_files(folder: Path) -> bool:
    """Tell whether a folder is a data set, with files missing or not, and holds nothing else."""
    return _find_foreign(folder) is None


def _find_foreign(folder: Path) -> Path | None:
    """Return what no build wrote: a folder itself, or a file in it; else None."""
    if not is_dataset(folder) or folder.is_symlink():
        return folder
    paths = sorted(folder.iterdir())
    if (folder / _V1_TUNES).exists() and {path.name for path in paths} <= _V1_FILES:
        return next((path for path in paths if not _is_v1_file(path)), None)
    return find_unlisted(folder, {READ_CACHE: _ZSTD_HEAD})  # a damaged cache is written anew


def _is_v1_file(path: Path) -> bool:
    """Tell whether a file starts as one of a data set of format 1 does."""
    head = {".parquet": b"PAR1", ".json": b"{"}[path.suffix]
    return is_file(path) and not path.is_symlink() and path.read_bytes().startswith(head)


class DatasetTable(msgspec.Struct):
    """What a data set's manifest says of it; no name in it is a path."""

    codec: str
    vocabulary: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_EVENTS)]
    fingerprint: str
    sources: tuple[str, ...]
    tunes: dict[str, Count]
    refusals: dict[str, Count]
    sha256: dict[FileName, Sha256]


def load(folder: Path, keep_alive: object = None) -> Dataset:
    """Open a data set; tunes are read when they are asked for, and until then `keep` is held.

    Raises NotFound for none or half of one, Mismatch where its bytes changed or its format is old.
    """
    table = read_manifest_table(folder)
    try:
        shards = {part: _verify_shards(folder, part, table.sha256) for part in SPLITS}
        rows = {
            part: ParquetRows(paths, _batch_to_tunes, keep_alive) for part, paths in shards.items()
        }
    except (KeyError, TypeError, ValueError, OSError) as fault:
        raise _changed_error(folder) from fault
    for part, found in rows.items():
        _check_rows(found, f"{folder}, {part}", len(table.vocabulary))
    return Dataset(
        **rows,
        codec=table.codec,
        vocabulary=table.vocabulary,
        refusals=table.refusals,
        sources=table.sources,
    )


def _check_rows(rows: ParquetRows[EncodedTune], place: str, events: int) -> None:
    """Raise Mismatch for columns of another kind, or ids that the vocabulary has none of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = _build_table(SPLITS[0], ()).schema
    for path in rows.paths:
        found = pq.read_schema(path)
        if not all(found.field(f.name).type.equals(f.type) if f.name in found.names else False
                   for f in wanted):  # fmt: skip
            raise Mismatch(f"{place}: its columns are not those of a data set; build it again")
    try:
        for ids in rows.iter_column("ids"):
            flat = ids.flatten().to_numpy()
            if flat.size and not 0 <= flat.min() <= flat.max() < events:
                odd = int(flat.min() if flat.min() < 0 else flat.max())
                raise Mismatch(
                    f"{place}: a tune holds the id {odd}, and the vocabulary has {events:,} events;"
                    " build it again"
                )
    except (pa.ArrowException, OSError) as fault:
        raise Mismatch(f"{place}: its shards cannot be read ({fault}); build it again") from fault


def _verify_shards(folder: Path, part: SplitName, hashes: Mapping[str, str]) -> list[Path]:
    """Return the shards of a part. Raises ValueError where one changed."""
    paths = [folder / name for name in sorted(hashes) if name.startswith(f"{part}-")]
    for path in paths:
        if not is_file(path) or hash_file(path) != hashes[path.name]:
            raise ValueError(f"{path} changed")
    return paths


def read_manifest_table(folder: Path) -> DatasetTable:
    """Read a data set's manifest and check it. Raises as `load` does, and InvalidValue."""
    return check_schema(read_manifest(folder), DatasetTable, f"{folder / MANIFEST}")


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is a data set that was finished."""
    known = (f"train-{0:05d}.parquet", _V1_TUNES)
    return is_file(folder / MANIFEST) and any(is_file(folder / name) for name in known)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a data set says of itself. Raises NotFound or Mismatch, as `load` does."""
    if not is_dataset(folder):
        raise NotFound(f"{folder} is no data set; make one with musicgen corpus build")
    try:
        manifest = dict(json.loads(read_regular_file(folder / MANIFEST, limit=MOST_MANIFEST_BYTES)))
        theirs = manifest["format"]
        intact = theirs != FORMAT or manifest["check"] == _hash_manifest(manifest)
    except Refusal as fault:
        raise Mismatch(f"{folder / MANIFEST}: {fault.message}; build it again") from fault
    except (KeyError, TypeError, ValueError, RecursionError) as fault:
        raise _changed_error(folder) from fault
    if type(theirs) is not int or theirs != FORMAT:
        raise Mismatch(
            f"{folder}: its format is {theirs!r}, this program reads {FORMAT}; build it again"
        )
    if not intact:
        raise _changed_error(folder)
    return manifest


def _changed_error(folder: Path) -> Mismatch:
    return Mismatch(f"{folder}: its bytes changed since it was built; build it again")


def tune_from_row(row: Mapping[str, Any], **more: str) -> EncodedTune:
    """Make a tune of a row that `encode_file` wrote."""
    fields = {name: row[name] for name in _TUNE_FIELDS if name in row}
    ids = np.frombuffer(base64.b64decode(row["ids"]), dtype="<i2").astype(np.int16)
    return EncodedTune(**{**fields, "ids": ids, "remarks": tuple(row["remarks"]), **more})


def _batch_to_tunes(batch: Any) -> list[EncodedTune]:
    ids = batch.column("ids")
    flat = ids.flatten().to_numpy()
    edges = np.concatenate([[0], np.cumsum(ids.value_lengths().to_numpy())]).astype(int)
    rest = batch.drop_columns(["ids", "split", "fingerprint"]).to_pylist()
    return [
        EncodedTune(**{**row, "ids": flat[start:stop], "remarks": tuple(row["remarks"])})
        for row, start, stop in zip(rest, edges[:-1], edges[1:], strict=True)
    ]


_TUNE_FIELDS: Final = tuple(field.name for field in fields(EncodedTune))
_REFUSAL_COLUMNS: Final = ("source", "place", "code", "message", "relation", "like")


def _comparison_key(tune: EncodedTune) -> tuple[Any, ...]:
    return tuple(getattr(tune, name) for name in _TUNE_FIELDS if name != "ids"), tune.ids.tobytes()
