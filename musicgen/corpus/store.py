"""A data set on disk: Parquet shards of encoded tunes, and a manifest with their hashes.

    DATA/
    ├── train-00000.parquet ...   one row per tune: ids, title, source, key, group, ...
    ├── valid-00000.parquet ...
    ├── test-00000.parquet ...
    ├── refusals.parquet          one row per refused tune or file, with the reason
    ├── report.json               the counts of the build
    ├── answers.jsonl.zst         read cache, so that a later build reads only what changed
    └── manifest.json             codec, vocabulary, counts, SHA-256 of every file; written last

The order of rows follows from their content alone, so that equal corpora give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import msgspec
import numpy as np
from msgspec import Meta

from musicgen.config import MOST_EVENTS
from musicgen.corpus.disk_storage import Int16Array, ParquetRows
from musicgen.corpus.split import SPLITS, SplitName
from musicgen.errors import Mismatch, NotFound, OutputExists, Refusal
from musicgen.files import (
    create_folder_atomically,
    hash_file,
    is_file,
    is_folder,
    read_regular_file,
    refuse_existing,
    sha256_hex,
    translate_os_errors,
    write_atomically,
)
from musicgen.folder_contents import MANIFEST, MOST_MANIFEST_BYTES, find_unlisted
from musicgen.typed_data import Count, FileName, Sha256, check_schema

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT: Final = 2
REFUSALS: Final = "refusals.parquet"
REPORT: Final = "report.json"
READ_CACHE: Final = "answers.jsonl.zst"
_ZSTD_HEAD: Final = b"\x28\xb5\x2f\xfd"
ROW_GROUP_TUNES, ROW_GROUP_IDS = 256, 2**17  # limits of a row group
SHARD_TUNES, SHARD_IDS = 65_536, 2**25  # limits of a shard
_V1_TUNES: Final = "tunes.parquet"  # of data sets in format 1
_V1_FILES: Final = frozenset((_V1_TUNES, MANIFEST, REFUSALS, REPORT))


@dataclass(frozen=True, eq=False)
class EncodedTune:
    """One tune as token ids, with its metadata."""

    ids: Int16Array  # (tokens,)
    notes: int  # number of notes
    title: str
    source: str  # name of its file
    group: str  # of near-duplicates
    key: str
    meter: str
    rhythm: str
    setting: str  # JSON of the codec's Setting
    number: int = 0  # of the tune in its file
    remarks: tuple[str, ...] = ()  # oddities
    relation: str = ""  # to an earlier tune of its group: one of split.RELATIONS
    like: str = ""  # content hash of that tune
    order: int = 0  # of its parts, see corpus.part_orders; 0: as written

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedTune) and _comparison_key(self) == _comparison_key(other)

    def __hash__(self) -> int:
        return hash(_comparison_key(self))

    @cached_property
    def content(self) -> str:
        """The SHA-256 of the ids."""
        return sha256_hex(self.ids.astype("<i2").tobytes())


@dataclass(frozen=True)
class Dataset:
    """Encoded tunes in three splits, and the codec that encoded them."""

    train: Sequence[EncodedTune]
    valid: Sequence[EncodedTune]
    test: Sequence[EncodedTune]
    codec: str
    vocabulary: tuple[str, ...]  # every event, by id
    refusals: Mapping[str, int]  # number of refused tunes by reason code
    sources: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[SplitName, EncodedTune]]:
        """Iterate over all tunes, each with its split."""
        for name in SPLITS:
            for tune in getattr(self, name):
                yield name, tune

    def __len__(self) -> int:
        return len(self.train) + len(self.valid) + len(self.test)

    @property
    def vocabulary_size(self) -> int:
        """The number of events."""
        return len(self.vocabulary)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the codec and of the ids, split and title of all tunes, in any order."""
        hasher = FingerprintHasher(self.codec, self.vocabulary_size)
        for entry in sorted((tune.content, split, tune.title) for split, tune in self):
            hasher.add(*entry)
        return hasher.hexdigest()


FIRST_TABLE_SIZES: Final[Mapping[str, int]] = {"measures": 844}  # events, by codec


class FingerprintHasher:
    """Computes the fingerprint of a data set from its tunes, sorted by content hash."""

    def __init__(self, codec: str, vocabulary_size: int) -> None:
        """Start with the codec.

        Args:
            codec: name of the codec.
            vocabulary_size: number of events; of a table to which events were appended, the first
                size counts, so that equal tunes have equal fingerprints in all versions.
        """
        first_size = FIRST_TABLE_SIZES.get(codec, vocabulary_size)
        self._hash = hashlib.sha256(f"{codec} {min(vocabulary_size, first_size)}".encode())

    def add(self, content: str, split: str, title: str) -> None:
        """Add a tune by its content hash, split and title."""
        self._hash.update(f"\n{content} {split} {title!r}".encode("utf-8", "backslashreplace"))

    def hexdigest(self) -> str:
        """Return the fingerprint in hex."""
        return self._hash.hexdigest()


def get_id_arrays(tunes: Sequence[EncodedTune]) -> Sequence[Int16Array]:
    """Return the ids of each tune, (tokens,) int16; those of stored tunes stay on disk."""
    return tunes.ids if isinstance(tunes, ParquetRows) else [tune.ids for tune in tunes]


def select_as_written(tunes: Iterable[EncodedTune]) -> Iterator[EncodedTune]:
    """Yield each tune once, in the first order of its parts."""
    return (tune for tune in tunes if tune.order == 0)


def count_tokens(tunes: Sequence[EncodedTune]) -> int:
    """Count the ids of all tunes."""
    return sum(map(len, get_id_arrays(tunes)))


class ShardWriter:
    """Writes tunes to the shards of their splits; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._writers = {name: _SplitWriter(folder, name) for name in SPLITS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in self._writers.values():
            writer.close(is_complete=exception[0] is None)

    def add(self, split: SplitName, tune: EncodedTune) -> None:
        """Write a tune."""
        self._writers[split].add(tune)

    @property
    def counts(self) -> dict[str, int]:
        """The number of tunes per split; one in several orders of its parts counts once."""
        return {name: writer.tune_count for name, writer in self._writers.items()}


class _SplitWriter:
    """Writes the shards of one split; the tunes alone decide where row groups and shards end."""

    def __init__(self, folder: Path, name: SplitName) -> None:
        self.row_count = self.tune_count = 0
        self._folder, self._name = folder, name
        self._shard = 0
        self._rows: list[EncodedTune] = []
        self._group_ids = self._shard_tunes = self._shard_ids = 0
        self._writer: Any = None

    def add(self, tune: EncodedTune) -> None:
        self._rows.append(tune)
        self.row_count += 1
        self.tune_count += tune.order == 0
        self._group_ids += len(tune.ids)
        if len(self._rows) >= ROW_GROUP_TUNES or self._group_ids >= ROW_GROUP_IDS:
            self._flush()
        if self._shard_tunes >= SHARD_TUNES or self._shard_ids >= SHARD_IDS:
            self._close_shard()

    def close(self, *, is_complete: bool) -> None:
        """Write pending rows; a split without tunes gets one empty shard."""
        if is_complete and (self._rows or not self.row_count):
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


def _build_table(split: SplitName, tunes: Sequence[EncodedTune]) -> Any:
    """Return a pyarrow table with one row per tune."""
    import pyarrow as pa

    columns: dict[str, Any] = {"split": pa.array([split] * len(tunes), pa.string())}
    for name in _TUNE_FIELDS:
        values = [getattr(tune, name) for tune in tunes]
        if name == "ids":
            columns[name] = _build_list_array(values)
        elif name in ("notes", "number", "order"):
            columns[name] = pa.array(values, pa.int32())
        elif name == "remarks":
            remarks = [[escape_surrogates(text) for text in texts] for texts in values]
            columns[name] = pa.array(remarks, pa.list_(pa.string()))
        else:
            columns[name] = pa.array(map(escape_surrogates, values), pa.string())
    columns["fingerprint"] = pa.array([tune.content for tune in tunes], pa.string())
    return pa.table(columns)


def _build_list_array(arrays: Sequence[Int16Array]) -> Any:
    import pyarrow as pa

    edges = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    flat = np.concatenate([np.zeros(0, np.int16), *arrays]).astype(np.int16)
    return pa.ListArray.from_arrays(pa.array(edges), pa.array(flat))


def escape_surrogates(text: str) -> str:
    """Escape the undecodable bytes of a file name, so that it can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def build_refusal_table(refusals: Sequence[tuple[Refusal, str, str]]) -> pa.Table:
    """Make a table of refusals.

    Args:
        refusals: each with the relation of the tune to a kept one and the content hash of that
            tune, or "" and "".
    """
    import pyarrow as pa

    columns: dict[str, list[str]] = {name: [] for name in _REFUSAL_COLUMNS}
    for refusal, relation, like in refusals:
        row = (refusal.source, refusal.place, refusal.code, refusal.message, relation, like)
        for name, value in zip(_REFUSAL_COLUMNS, row, strict=True):
            columns[name].append(escape_surrogates(value))
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def open_refusals(folder: Path, keep_alive: object = None) -> ParquetRows[Refusal]:
    """Return the refusals of a data set, read lazily."""
    return ParquetRows([folder / REFUSALS], _batch_to_refusals, keep_alive)


def _batch_to_refusals(batch: Any) -> list[Refusal]:
    rows = batch.select(["message", "source", "place", "code"]).to_pylist()
    return [Refusal(row.pop("message"), **row) for row in rows]


def save(dataset: Dataset, folder: Path, *, force: bool = False) -> None:
    """Write a data set to a new folder, or with force in place of an old data set."""
    with (
        create_folder_atomically(
            folder, may_replace=has_only_dataset_files if force else None
        ) as staging,
        translate_os_errors(folder),
    ):
        with ShardWriter(staging) as shards:
            for split, tune in dataset:
                shards.add(split, tune)
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
    """Write the manifest of a data set, with the hash of each file; the last file to be written."""
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


def _hash_manifest(content: Mapping[str, Any]) -> str:
    unhashed = {key: value for key, value in content.items() if key != "check"}
    return sha256_hex(json.dumps(unhashed, sort_keys=True).encode())


def check_output_folder(folder: Path, *, force: bool = False) -> None:
    """Check the output folder of a data set before any work.

    Raises:
        OutputExists: it exists and `force` is false, or it holds anything but a data set.
        NotFound: its parent folder does not exist.
    """
    if is_folder(folder) and (foreign := _find_foreign(folder)) is not None:
        if foreign == folder:
            fault = f"{folder} is a folder and not a data set; choose another name"
        else:
            fault = (f"{foreign} is not what musicgen wrote; {folder} is not replaced:"
                     " move the file away, or choose another name")  # fmt: skip
        raise OutputExists(fault)
    if not (force and is_folder(folder)):
        refuse_existing([folder])


def has_only_dataset_files(folder: Path) -> bool:
    """Tell whether a folder holds a data set, complete or not, and nothing else."""
    return _find_foreign(folder) is None


def _find_foreign(folder: Path) -> Path | None:
    """Return the folder itself if it is not a data set, the first foreign file in it, or None."""
    if not is_dataset(folder) or folder.is_symlink():
        return folder
    paths = sorted(folder.iterdir())
    if (folder / _V1_TUNES).exists() and {path.name for path in paths} <= _V1_FILES:
        return next((path for path in paths if not _is_v1_file(path)), None)
    return find_unlisted(folder, {READ_CACHE: _ZSTD_HEAD})  # a damaged cache is replaced


def _is_v1_file(path: Path) -> bool:
    """Tell whether a file starts like one of a data set in format 1."""
    head = {".parquet": b"PAR1", ".json": b"{"}[path.suffix]
    return is_file(path) and not path.is_symlink() and path.read_bytes().startswith(head)


class DatasetTable(msgspec.Struct):
    """The manifest of a data set; its file names are not paths."""

    codec: str
    vocabulary: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_EVENTS)]
    fingerprint: str
    sources: tuple[str, ...]
    tunes: dict[str, Count]
    refusals: dict[str, Count]
    sha256: dict[FileName, Sha256]


def load(folder: Path, keep_alive: object = None) -> Dataset:
    """Open a data set; its tunes are read lazily.

    Args:
        folder: the data set.
        keep_alive: an object that must live as long as the tunes are read.

    Raises:
        NotFound: there is no complete data set in the folder.
        Mismatch: its bytes changed, or its format is not supported.
        InvalidValue: its manifest is malformed.
    """
    table = read_manifest_table(folder)
    try:
        shards = {split: _verify_shards(folder, split, table.sha256) for split in SPLITS}
        tunes = {
            split: ParquetRows(paths, _batch_to_tunes, keep_alive)
            for split, paths in shards.items()
        }
    except (KeyError, TypeError, ValueError, OSError) as fault:
        raise _changed_error(folder) from fault
    for split, rows in tunes.items():
        _check_rows(rows, f"{folder}, {split}", len(table.vocabulary))
    return Dataset(
        **tunes,
        codec=table.codec,
        vocabulary=table.vocabulary,
        refusals=table.refusals,
        sources=table.sources,
    )


def _check_rows(rows: ParquetRows[EncodedTune], place: str, events: int) -> None:
    """Raise Mismatch for missing columns or types, or for ids outside the vocabulary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = _build_table(SPLITS[0], ()).schema
    for path in rows.paths:
        schema = pq.read_schema(path)
        if not all(
            schema.field(field.name).type.equals(field.type)
            if field.name in schema.names
            else field.name == _NEWEST_COLUMN
            for field in expected
        ):
            raise Mismatch(f"{place}: its columns are not those of a data set; build it again")
    try:
        for ids in rows.iter_column("ids"):
            flat = ids.flatten().to_numpy()
            if flat.size and not 0 <= flat.min() <= flat.max() < events:
                invalid_id = int(flat.min() if flat.min() < 0 else flat.max())
                raise Mismatch(
                    f"{place}: a tune holds the id {invalid_id}, and the vocabulary has"
                    f" {events:,} events; build it again"
                )
    except (pa.ArrowException, OSError) as fault:
        raise Mismatch(f"{place}: its shards cannot be read ({fault}); build it again") from fault


def _verify_shards(folder: Path, split: SplitName, hashes: Mapping[str, str]) -> list[Path]:
    """Return the shards of a split. Raises ValueError if one changed."""
    paths = [folder / name for name in sorted(hashes) if name.startswith(f"{split}-")]
    for path in paths:
        if not is_file(path) or hash_file(path) != hashes[path.name]:
            raise ValueError(f"{path} changed")
    return paths


def read_manifest_table(folder: Path) -> DatasetTable:
    """Read the manifest of a data set and check its schema; raises as `load`."""
    return check_schema(read_manifest(folder), DatasetTable, f"{folder / MANIFEST}")


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is a complete data set."""
    tune_files = (f"train-{0:05d}.parquet", _V1_TUNES)
    return is_file(folder / MANIFEST) and any(is_file(folder / name) for name in tune_files)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a data set and check its hash.

    Raises:
        NotFound: there is no complete data set in the folder.
        Mismatch: its bytes changed, or its format is not supported.
    """
    if not is_dataset(folder):
        raise NotFound(f"{folder} is not a data set; make one with musicgen corpus build")
    try:
        manifest = dict(json.loads(read_regular_file(folder / MANIFEST, limit=MOST_MANIFEST_BYTES)))
        format_number = manifest["format"]
        is_intact = format_number != FORMAT or manifest["check"] == _hash_manifest(manifest)
    except Refusal as fault:
        raise Mismatch(f"{folder / MANIFEST}: {fault.message}; build it again") from fault
    except (KeyError, TypeError, ValueError, RecursionError) as fault:
        raise _changed_error(folder) from fault
    if type(format_number) is not int or format_number != FORMAT:
        raise Mismatch(
            f"{folder}: its format is {format_number!r}, this musicgen reads format {FORMAT};"
            " build it again"
        )
    if not is_intact:
        raise _changed_error(folder)
    return manifest


def _changed_error(folder: Path) -> Mismatch:
    return Mismatch(f"{folder}: its bytes changed since it was built; build it again")


def tune_from_row(row: Mapping[str, Any], **other_fields: str) -> EncodedTune:
    """Make a tune from a row that `encode_file` wrote and further fields."""
    fields = {name: row[name] for name in _TUNE_FIELDS if name in row}
    ids = np.frombuffer(base64.b64decode(row["ids"]), dtype="<i2").astype(np.int16)
    return EncodedTune(**{**fields, "ids": ids, "remarks": tuple(row["remarks"]), **other_fields})


def _batch_to_tunes(batch: Any) -> list[EncodedTune]:
    ids = batch.column("ids")
    flat = ids.flatten().to_numpy()
    edges = np.concatenate([[0], np.cumsum(ids.value_lengths().to_numpy())]).astype(int)
    rows = batch.drop_columns(["ids", "split", "fingerprint"]).to_pylist()
    return [
        EncodedTune(**{**row, "ids": flat[start:stop], "remarks": tuple(row["remarks"])})
        for row, start, stop in zip(rows, edges[:-1], edges[1:], strict=True)
    ]


_NEWEST_COLUMN: Final = "order"  # older data sets have it not: each tune as written
_TUNE_FIELDS: Final = tuple(field.name for field in fields(EncodedTune))
_REFUSAL_COLUMNS: Final = ("source", "place", "code", "message", "relation", "like")


def _comparison_key(tune: EncodedTune) -> tuple[Any, ...]:
    return tuple(getattr(tune, name) for name in _TUNE_FIELDS if name != "ids"), tune.ids.tobytes()
