"""Build a data set from many files: read, encode, group, split and write them in shards.

Encoded tunes go to disk as they arrive; a few numbers per tune stay in memory. The order of the
output follows from the content of the tunes, so that equal corpora give equal bytes in any process.

The vocabulary of a text codec is learnt from the training split only: texts are stored as bytes
until the split is decided, then `learn_vocabulary` reads the training split and `reencode` encodes
each text again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from musicgen.corpus.build_report import Report, make_duplicate_refusal
from musicgen.corpus.disk_storage import SpoolSet
from musicgen.corpus.dispatch import (
    PackedFiles,
    ReadTask,
    iter_read_cache,
    read_by_executor,
    read_here,
    read_in_children,
    write_read_cache,
)
from musicgen.corpus.sandbox import ReadLimits
from musicgen.corpus.sources import TuneFile, find_files
from musicgen.corpus.split import (
    EXACT,
    PAIR_DTYPE,
    RELATIONS,
    SPLITS,
    TRANSPOSED,
    Grams,
    Int64Array,
    RecordArray,
    assign_split_codes,
    find_group_roots,
    find_relations,
    format_group_name,
    number_groups,
)
from musicgen.corpus.store import (
    READ_CACHE,
    REFUSALS,
    REPORT,
    Dataset,
    EncodedTune,
    FingerprintHasher,
    ShardWriter,
    build_refusal_table,
    has_only_dataset_files,
    is_dataset,
    load,
    open_refusals,
    read_manifest_table,
    tune_from_row,
    write_manifest,
)
from musicgen.errors import InvalidValue, Mismatch, MusicgenError, Refusal
from musicgen.files import (
    create_folder_atomically,
    hash_file,
    locked_folder,
    read_regular_file,
    sweep_unlocked,
    translate_os_errors,
    write_atomically,
    write_new,
)
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec
from musicgen.tokens.registry import CODECS, DEFAULT_CODEC
from musicgen.tokens.text import ByteCodec

REFUSALS_PER_WRITE: Final = 4096
_SCRATCH_PREFIX: Final = "musicgen-"
_SCRATCH_MARK: Final = ".scratch"
_SCRATCH_TEXT: Final = b"A temporary folder of musicgen: it goes when its process has ended.\n"


def learn_vocabulary(codec: AnyCodec, rows: Iterable[Mapping[str, Any]]) -> AnyCodec:
    """Return the codec with a vocabulary learnt from the training split, if it is a text codec.

    Args:
        codec: the codec that encoded the rows.
        rows: of the training split, as `encode_file` wrote them.
    """
    if not isinstance(codec, ByteCodec):
        return codec
    return codec.fit(_decode_text(codec, tune_from_row(row, group="")) for row in rows)


def reencode(tune: EncodedTune, source_codec: AnyCodec, codec: AnyCodec) -> EncodedTune:
    """Encode a tune again if the codec of the data set is not the one that encoded it."""
    if codec is source_codec:
        return tune
    encoded = codec.encode(_decode_text(source_codec, tune))
    lost = (f"lost: {encoded.lost} tokens are not in the training split",) if encoded.lost else ()
    ids = np.array(encoded.ids, dtype=np.int16)
    return replace(tune, ids=ids, remarks=(*tune.remarks, *lost))


def _decode_text(codec: AnyCodec, tune: EncodedTune) -> str:
    return str(codec.decode(tune.ids.tolist(), PLAIN_SETTING).piece)


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """The progress of a build."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int
    tunes: int  # roughly, read from the files in progress


BuildCallback = Callable[[BuildProgress], None]


def build(
    sources: Iterable[str | Path],
    out: Path | None = None,
    *,
    codec: AnyCodec | None = None,
    jobs: int = 1,
    limits: ReadLimits | None = None,
    executor: Executor | None = None,
    progress: BuildCallback | None = None,
    force: bool = False,
    min_tunes: int = 1,
) -> tuple[Dataset, Report]:
    """Build a data set from all tunes of the sources.

    Args:
        sources: files, folders, archives, or names of corpus cards.
        out: a new folder; None: a temporary folder, removed with the data set.
        codec: encodes the tunes; by default `measures`.
        jobs: number of child processes that read; 0 reads in this process. It changes no output.
        limits: on reading one file in a child process.
        executor: reads the files instead of child processes.
        progress: called after each file, and after every few tunes.
        force: replace an existing data set, reusing what it cached of unchanged files.
        min_tunes: least number of tunes to keep.

    Raises:
        MusicgenError: fewer tunes than `min_tunes` could be kept.
        OutputExists: the output exists and may not be replaced.
        NotFound: a source does not exist or is empty.
    """
    names = tuple(str(source) for source in sources)
    codec = codec or CODECS[DEFAULT_CODEC]
    files, skipped_files = _find_all_files(names, codec)
    task = ReadTask(files, codec, limits or ReadLimits())
    scratch = None if out else _ScratchFolder()
    out = out or scratch.folder / "data"  # type: ignore[union-attr]
    may_replace = has_only_dataset_files if force else None
    with (
        create_folder_atomically(out, may_replace=may_replace) as staging,
        translate_os_errors(out),
    ):
        tracker = _ProgressTracker(files, progress)
        report = _fill_folder(staging, task, names, out, tracker, executor, jobs, min_tunes)
    report = replace(report, skipped_files=skipped_files)
    dataset = load(out, scratch)
    return dataset, report.with_refusals(open_refusals(out, scratch))


def _fill_folder(
    staging: Path,
    task: ReadTask,
    names: Sequence[str],
    previous: Path,
    tracker: _ProgressTracker,
    executor: Executor | None,
    jobs: int,
    min_tunes: int,
) -> Report:
    """Read all files and write the data set; unchanged files come from the `previous` one."""
    with _open_spools(staging / "work", max(1, jobs)) as spools:
        reused_files = _read_files(task, spools, previous, tracker, executor, jobs)
        spools.finish_writing()
        with _release_arrow_memory():
            return _DatasetWriter(staging, task, spools, names).write(reused_files, min_tunes)


@contextlib.contextmanager
def _open_spools(folder: Path, count: int) -> Iterator[SpoolSet]:
    """Yield spools in a new folder, which is removed if the block succeeds."""
    folder.mkdir()
    spools = SpoolSet(folder, count)
    try:
        yield spools
    finally:
        spools.close_files()
    shutil.rmtree(folder)


def _find_all_files(names: Sequence[str], codec: AnyCodec) -> tuple[PackedFiles, int]:
    """Return the files of all sources without repeats, and how many other files were skipped."""
    sources = [find_files(name, suffixes=codec.suffixes) for name in names]
    files = dict.fromkeys(file for source in sources for file in source.files)
    return PackedFiles(files), sum(source.skipped_files for source in sources)


@contextlib.contextmanager
def _release_arrow_memory() -> Iterator[None]:
    """Let Arrow use the system allocator in the block: its default one keeps freed memory."""
    import pyarrow as pa

    default_pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(default_pool)


class _ScratchFolder:
    """A temporary folder, removed with this object, or after a kill by the next build."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX))
        lock = contextlib.ExitStack()
        lock.enter_context(locked_folder(self.folder))
        weakref.finalize(self, _remove, self.folder, lock)
        write_new(self.folder / _SCRATCH_MARK, _SCRATCH_TEXT)
        for stray in self.folder.parent.glob(f"{_SCRATCH_PREFIX}*"):
            if stray != self.folder and _is_scratch(stray):
                sweep_unlocked(stray)


def _remove(folder: Path, lock: contextlib.ExitStack) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _is_scratch(folder: Path) -> bool:
    """Tell whether a folder is a scratch folder of this user, by the mark file in it."""
    try:
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            return False
        text = read_regular_file(folder / _SCRATCH_MARK, limit=len(_SCRATCH_TEXT), follow=False)
    except (OSError, MusicgenError):
        return False
    return text == _SCRATCH_TEXT


class _ProgressTracker:
    """Counts finished files and reports the progress."""

    def __init__(self, files: Sequence[TuneFile], progress: BuildCallback | None) -> None:
        self.sizes = np.array([_get_file_size(file.path) for file in files], dtype=np.int64)
        self._callback = progress
        self._files = self._bytes = self._tunes = 0

    def __call__(self, number: int | None) -> None:
        """Count a finished file by its number, or with None a few tunes."""
        if number is None:
            self._tunes += 1
        else:
            self._files += 1
            self._bytes += int(self.sizes[number])
        if self._callback:
            total_bytes = int(self.sizes.sum())
            self._callback(
                BuildProgress(self._files, len(self.sizes), self._bytes, total_bytes, self._tunes)
            )

    def sort_by_size(self, numbers: Iterable[int]) -> list[int]:
        """Return file numbers, largest file first, which balances the load of parallel readers."""
        return sorted(numbers, key=lambda number: (-self.sizes[number], number))


def _get_file_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _read_files(
    task: ReadTask,
    spools: SpoolSet,
    out: Path,
    tracker: _ProgressTracker,
    executor: Executor | None,
    jobs: int,
) -> int:
    """Read all files, unchanged ones from the old read cache; return the number of these."""
    reused = _reuse_cached_files(task, spools, out, tracker)
    todo = tracker.sort_by_size(set(range(len(task.files))) - reused)
    if executor is not None:
        read_by_executor(task, todo, spools.spools[0], tracker, executor)
    elif jobs == 0 or type(CODECS.get(task.codec.name)) is not type(task.codec):
        read_here(task, todo, spools.spools[0], tracker)
    else:
        read_in_children(task, todo, spools.spools[: max(1, len(todo))], tracker)
    return len(reused)


def _reuse_cached_files(
    task: ReadTask, spools: SpoolSet, out: Path, tracker: _ProgressTracker
) -> set[int]:
    """Copy the cached lines of unchanged files from the old data set; return their numbers."""
    reused: set[int] = set()
    if not _has_intact_read_cache(out):
        return reused
    wanted = {task.compute_key(number): number for number in range(len(task.files))}
    for number, key, lines in iter_read_cache(out / READ_CACHE, wanted):
        if key:
            spools.spools[0].add_file(number, key, lines)
            reused.add(number)
            tracker(number)
    return reused


def _has_intact_read_cache(out: Path) -> bool:
    """Tell whether a data set has an unchanged read cache."""
    if not (is_dataset(out) and (out / READ_CACHE).is_file()):
        return False
    try:
        return read_manifest_table(out).sha256.get(READ_CACHE) == hash_file(out / READ_CACHE)
    except (Mismatch, InvalidValue):
        return False


class _DatasetWriter:
    """Writes the files of a data set from the spools."""

    def __init__(
        self, staging: Path, task: ReadTask, spools: SpoolSet, sources: Sequence[str]
    ) -> None:
        self.staging, self.task, self.spools, self.sources = staging, task, spools, sources
        self.tunes = spools.tunes
        self.kept, self.owner, self.duplicate_tunes = _find_unique_tunes(spools)
        self.is_first_order = self.tunes["order"][self.kept] == 0
        self.codec = task.codec  # of the data set; _assign_splits replaces a text codec
        self.codes: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def write(self, reused_files: int, min_tunes: int) -> Report:
        """Write all files, the manifest last."""
        self.split_assignment = self._assign_splits()
        self._write_refusals()
        kept_count = int(np.count_nonzero(self.is_first_order))
        if kept_count < min_tunes:
            raise MusicgenError(self._nothing_kept_message())
        fingerprint, counts = self._write_shards()
        write_read_cache(self.staging / READ_CACHE, self._iter_cache_entries())
        report = Report(
            kept=kept_count,
            codes=_sort_by_count(self.codes),
            remarks=_sort_by_count(self.remarks),
            relations=self.relation_counts,
            files=len(self.task.files),
            reused_files=reused_files,
        )
        write_atomically(self.staging / REPORT, report.to_json().encode())
        write_manifest(
            self.staging,
            codec=self.task.codec.name,
            vocabulary=self.codec.vocabulary.names,
            fingerprint=fingerprint,
            sources=self.sources,
            tunes=counts,
            refusals=self.codes,
        )
        return report

    def _assign_splits(self) -> tuple[Int64Array, Grams, Int64Array]:
        """Return the root, group number and split of each kept tune; learn a text vocabulary."""
        roots = find_group_roots(len(self.kept), self._iter_pairs())
        smallest_grams = np.full(len(self.kept), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(smallest_grams, self.owner, self.tunes["smallest_gram"])
        groups = number_groups(roots, smallest_grams)
        splits = assign_split_codes(groups)
        training = self.kept[splits == SPLITS.index("train")]
        self.codec = learn_vocabulary(self.task.codec, map(self.spools.read_row, training.tolist()))
        return roots, groups, splits

    def _write_shards(self) -> tuple[str, dict[str, int]]:
        """Write all tunes; return the fingerprint, and the number of tunes per split."""
        roots, groups, splits = self.split_assignment
        kinds, like = self._find_relations(roots)
        self.relation_counts = {
            name: int(np.count_nonzero(kinds == kind))
            for kind, name in enumerate(RELATIONS)
            if name
        }
        fingerprint = FingerprintHasher(self.codec.name, len(self.codec.vocabulary))
        with ShardWriter(self.staging) as shards:
            for index in self._order_by_content():
                if not self.is_first_order[index] and splits[index] != SPLITS.index("train"):
                    continue  # several orders of the parts are for training only
                split, relation = SPLITS[splits[index]], RELATIONS[kinds[index]]
                tune = self._make_tune(
                    int(self.kept[index]),
                    group=format_group_name(groups[index]),
                    relation=relation,
                    like=self._content_hash(self.kept[like[index]]) if relation else "",
                )
                shards.add(split, tune)
                fingerprint.add(tune.content, split, tune.title)
                if tune.order == 0:
                    self.remarks.update({remark.split(":")[0] for remark in tune.remarks})
        return fingerprint.hexdigest(), shards.counts

    def _find_relations(self, roots: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Relate the tunes as written, see `find_relations`; other orders have no relation."""
        kinds, like = np.zeros(len(self.kept), np.int64), np.arange(len(self.kept))
        written = np.flatnonzero(self.is_first_order)
        kinds[written], related = find_relations(roots[written], self.tunes[self.kept[written]])
        like[written] = written[related]
        return kinds, like

    def _iter_cache_entries(self) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        """Yield the key and lines of each cacheable file, sorted by key."""
        cacheable = (file for file in self.spools.files if file["cacheable"])
        for file in sorted(cacheable, key=lambda file: bytes(file["key"])):
            yield bytes(file["key"]), self.spools.iter_lines(file)

    def _iter_pairs(self) -> Iterator[RecordArray]:
        """Yield what relates tunes, as pairs of PAIR_DTYPE: shared grams, and equal shapes."""
        yield from self.spools.iter_buckets(self.owner)
        shapes = np.empty(len(self.kept), PAIR_DTYPE)
        shapes["gram"] = self.tunes["shape"][self.kept]
        shapes["tune"] = np.arange(len(self.kept))
        yield shapes

    def _make_tune(self, number: int, **other_fields: str) -> EncodedTune:
        tune = tune_from_row(self.spools.read_row(number), **other_fields)
        return reencode(tune, self.task.codec, self.codec)

    def _order_by_content(self) -> Sequence[int]:
        """Return the indices of the kept tunes, sorted by the content that is written."""
        indices = range(len(self.kept))
        if self.codec is self.task.codec:
            return indices
        return sorted(indices, key=lambda index: self._content_hash(int(self.kept[index])))

    def _content_hash(self, tune: int) -> str:
        if self.codec is not self.task.codec:
            return str(self._make_tune(tune, group="").content)
        return "".join(f"{number:016x}" for number in self.tunes["content"][tune].tolist())

    def _write_refusals(self) -> None:
        """Write all refusals: those of reading by file name, then the duplicates by content."""
        import pyarrow.parquet as pq

        schema = build_refusal_table([]).schema
        refusals = itertools.chain(self._iter_read_refusals(), self._iter_duplicates())
        with pq.ParquetWriter(self.staging / REFUSALS, schema, compression="zstd") as writer:
            while batch := list(itertools.islice(refusals, REFUSALS_PER_WRITE)):
                self.codes.update(refusal.code for refusal, _, _ in batch)
                writer.write_table(build_refusal_table(batch))

    def _iter_read_refusals(self) -> Iterator[tuple[Refusal, str, str]]:
        for file in self.spools.sort_files(lambda number: self.task.files[number].name):
            if file["refused"]:
                for line in self.spools.iter_lines(file):
                    if (refusal := json.loads(line).get("refusal")) is not None:
                        yield Refusal(**refusal), "", ""

    def _iter_duplicates(self) -> Iterator[tuple[Refusal, str, str]]:
        for tune in self.duplicate_tunes.tolist():
            if self.tunes["order"][tune]:
                continue  # the tune as written is refused too
            first = int(self.kept[self.owner[tune]])
            semitones = int(self.tunes["pitch"][tune]) - int(self.tunes["pitch"][first])
            refusal = make_duplicate_refusal(
                self.spools.read_row(tune), self.spools.read_row(first), semitones
            )
            yield refusal, RELATIONS[TRANSPOSED if semitones else EXACT], self._content_hash(first)

    def _nothing_kept_message(self) -> str:
        refusals = open_refusals(self.staging)
        first = f"; the first: {refusals[0]}" if refusals else ""
        names = ", ".join(self.sources)
        return f"{names}: none of {len(refusals)} tunes could be kept{first}"


def _find_unique_tunes(spools: SpoolSet) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Find tunes with equal ids; of these, the first by title and file is kept.

    Some parts of a piece, or another order of them, are equal only to those of an equal piece: two
    songs over one drum loop are not duplicates.

    Returns:
        (kept,) int64 numbers of the kept tunes, sorted by content; (tunes,) int64 the index among
        them that each tune equals; (duplicates,) int64 numbers of the other tunes.
    """
    tunes = spools.tunes
    as_written = np.maximum.accumulate(np.where(tunes["order"] == 0, np.arange(len(tunes)), 0))
    contents = np.hstack([tunes["content"], tunes["content"][as_written]])
    order = np.lexsort(contents.T[::-1])
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.any(contents[order][1:] != contents[order][:-1], axis=1)
    owner = np.empty(len(order), dtype=np.int64)
    owner[order] = np.cumsum(is_first) - 1
    edges = np.append(np.flatnonzero(is_first), len(order))
    for run in np.flatnonzero(np.diff(edges) > 1).tolist():
        equal = slice(edges[run], edges[run + 1])
        order[equal] = sorted(order[equal], key=lambda tune: _sort_key(spools.read_row(tune)))
    return order[is_first], owner, order[~is_first]


def _sort_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("order", 0), row["title"], row["source"], row["number"], row["setting"]


def _sort_by_count(counts: Counter[str]) -> Mapping[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
