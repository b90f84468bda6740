"""Many files to a data set: read, encoded, grouped, split, written in shards.

Encoded tunes go to disk as they arrive; a few numbers per tune stay in memory. The order follows
from the content of the tunes, so equal corpora give equal bytes, whichever process read them first.

The vocabulary of a text codec is learnt from the training part only: texts are stored as bytes
until the split is decided, then `taught` learns from the training part and `rewritten` encodes each
text again.
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
from numpy.typing import NDArray

from musicgen.corpus.dispatch import (
    PackedFiles,
    ReadTask,
    iter_read_cache,
    read_by_executor,
    read_here,
    read_in_children,
    write_read_cache,
)
from musicgen.corpus.report import Report, make_duplicate_refusal
from musicgen.corpus.sandbox import ReadLimits
from musicgen.corpus.sources import TuneFile, find_files
from musicgen.corpus.spill import SpoolSet
from musicgen.corpus.split import (
    EXACT,
    PAIR_DTYPE,
    RELATIONS,
    SPLITS,
    TRANSPOSED,
    Grams,
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
    hash_file,
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


def learn_vocabulary(codec: AnyCodec, rows: Iterable[Mapping[str, Any]]) -> AnyCodec:
    """Return the codec that the training part's rows teach; one that needs no teaching, as it is.

    Rows are as `encode_file` wrote them.
    """
    if not isinstance(codec, ByteCodec):
        return codec
    return codec.fit(_decode_text(codec, tune_from_row(row, group="")) for row in rows)


def reencode(tune: EncodedTune, source_codec: AnyCodec, codec: AnyCodec) -> EncodedTune:
    """Write a tune's ids with the codec of its data set, where that is not what read it."""
    if codec is source_codec:
        return tune
    encoded = codec.encode(_decode_text(source_codec, tune))
    lost = (f"lost: {encoded.lost} tokens are not in the training part",) if encoded.lost else ()
    ids = np.array(encoded.ids, dtype=np.int16)
    return replace(tune, ids=ids, remarks=(*tune.remarks, *lost))


def _decode_text(codec: AnyCodec, tune: EncodedTune) -> str:
    return str(codec.decode(tune.ids.tolist(), PLAIN_SETTING).piece)


REFUSALS_PER_WRITE: Final = 4096
_SCRATCH_PREFIX: Final = "musicgen-"
_SCRATCH_MARK: Final = ".scratch"
_SCRATCH_TEXT: Final = b"A temporary folder of musicgen: it goes when its process has ended.\n"


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build has come."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int
    tunes: int  # about so many more than those of the files that are done


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
    """Make a data set of all tunes of the sources. Raises MusicgenError for fewer than the least.

    It is written to a new folder, or to one that goes when the data set is no longer in use. With
    force an existing one is replaced, and what was read of files that did not change is taken over.
    Files are read by as many child processes as jobs, by an executor, or with jobs 0 right here;
    that changes nothing else.
    """
    names = tuple(str(source) for source in sources)
    codec = codec or CODECS[DEFAULT_CODEC]
    found, passed_over = _find_all_files(names, codec)
    task = ReadTask(found, codec, limits or ReadLimits())
    keep = None if out else _ScratchFolder()
    out = out or keep.folder / "data"  # type: ignore[union-attr]
    with (
        create_folder_atomically(
            out, may_replace=has_only_dataset_files if force else None
        ) as staging,
        translate_os_errors(out),
    ):
        work = staging / "work"
        work.mkdir()
        spools = SpoolSet(work, max(1, jobs))
        try:
            taken_over = _read_files(
                task, spools, out, _ProgressTracker(found, progress), executor, jobs
            )
            spools.finish_writing()
            with _release_arrow_memory():
                report = _DatasetWriter(staging, task, spools, names).write(taken_over, min_tunes)
            report = replace(report, skipped_files=passed_over)
        finally:
            spools.close_files()
        shutil.rmtree(work)
    dataset = load(out, keep)
    return dataset, report.with_refusals(open_refusals(out, keep))


def _find_all_files(names: Sequence[str], codec: AnyCodec) -> tuple[PackedFiles, int]:
    """Return the files of all sources, each once, and how many others were passed over."""
    sought = [find_files(source, suffixes=codec.suffixes) for source in names]
    each = dict.fromkeys(file for source in sought for file in source.files)
    return PackedFiles(each), sum(source.skipped_files for source in sought)


@contextlib.contextmanager
def _release_arrow_memory() -> Iterator[None]:
    """Have Arrow take memory from the system's own allocator: its others keep what was freed."""
    import pyarrow as pa

    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


class _ScratchFolder:
    """A temporary folder that goes when nobody holds it, or at the next start after a kill."""

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
    """Tell whether a folder is a temporary one of a build of this user, by what lies in it."""
    try:
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            return False
        text = read_regular_file(folder / _SCRATCH_MARK, limit=len(_SCRATCH_TEXT), follow=False)
    except (OSError, MusicgenError):
        return False
    return text == _SCRATCH_TEXT


class _ProgressTracker:
    """Turns files that are done into progress."""

    def __init__(self, files: Sequence[TuneFile], progress: BuildCallback | None) -> None:
        self.sizes = np.array([_get_file_size(file.path) for file in files], dtype=np.int64)
        self._callback = progress
        self._files = self._bytes = self._tunes = 0

    def __call__(self, number: int | None) -> None:
        """Take note of a file, or of some tunes."""
        if number is None:
            self._tunes += 1
        else:
            self._files += 1
            self._bytes += int(self.sizes[number])
        if self._callback:
            of = int(self.sizes.sum())
            self._callback(
                BuildProgress(self._files, len(self.sizes), self._bytes, of, self._tunes)
            )

    def sort_by_size(self, numbers: Iterable[int]) -> list[int]:
        """Return files in the order in which they are best shared out."""
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
    """Read all files, those that did not change from the old data set; return how many."""
    taken = _reuse_cached_files(task, spools, out, tracker)
    todo = tracker.sort_by_size(set(range(len(task.files))) - taken)
    if executor is not None:
        read_by_executor(task, todo, spools.spools[0], tracker, executor)
    elif jobs == 0 or type(CODECS.get(task.codec.name)) is not type(task.codec):
        read_here(task, todo, spools.spools[0], tracker)
    else:
        read_in_children(task, todo, spools.spools[: max(1, len(todo))], tracker)
    return len(taken)


def _reuse_cached_files(
    task: ReadTask, spools: SpoolSet, out: Path, tracker: _ProgressTracker
) -> set[int]:
    """Take from the data set that is replaced what it says of files that did not change."""
    taken: set[int] = set()
    if not _has_intact_read_cache(out):
        return taken
    wanted = {task.compute_key(number): number for number in range(len(task.files))}
    for number, key, lines in iter_read_cache(out / READ_CACHE, wanted):
        if key:
            spools.spools[0].add_file(number, key, lines)
            taken.add(number)
            tracker(number)
    return taken


def _has_intact_read_cache(out: Path) -> bool:
    """Tell whether a data set has answers that nobody changed."""
    if not (is_dataset(out) and (out / READ_CACHE).is_file()):
        return False
    try:
        return read_manifest_table(out).sha256.get(READ_CACHE) == hash_file(out / READ_CACHE)
    except (Mismatch, InvalidValue):
        return False


class _DatasetWriter:
    """Turns what was read into the files of a data set."""

    def __init__(
        self, staging: Path, task: ReadTask, spools: SpoolSet, sources: Sequence[str]
    ) -> None:
        self.staging, self.task, self.spools, self.sources = staging, task, spools, sources
        self.tunes = spools.tunes
        self.kept, self.owner, self.duplicate_tunes = _find_unique_tunes(spools)
        self.codec = task.codec  # of the data set; `taught` may put another one here
        self.codes: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def write(self, reused_files: int, min_tunes: int) -> Report:
        """Write all of it, the manifest last."""
        self.split_assignment = self._assign_splits()
        self._write_refusals()
        if len(self.kept) < min_tunes:
            raise MusicgenError(self._nothing_kept_message())
        fingerprint, counts = self._write_shards()
        write_read_cache(self.staging / READ_CACHE, self._iter_cache_entries())
        report = Report(
            kept=len(self.kept),
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
        """Return each kept tune's root, the number of its group, its part; teach the codec."""
        roots = find_group_roots(len(self.kept), self._iter_links())
        least = np.full(len(self.kept), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(least, self.owner, self.tunes["least"])
        numbers = number_groups(roots, least)
        parts = assign_split_codes(numbers)
        training = self.kept[parts == SPLITS.index("train")]
        self.codec = learn_vocabulary(self.task.codec, map(self.spools.read_row, training.tolist()))
        return roots, numbers, parts

    def _write_shards(self) -> tuple[str, dict[str, int]]:
        roots, numbers, parts = self.split_assignment
        kinds, like = find_relations(roots, self.tunes[self.kept])
        self.relation_counts = {
            name: int(np.count_nonzero(kinds == kind))
            for kind, name in enumerate(RELATIONS)
            if name
        }
        fingerprint = FingerprintHasher(self.codec.name, len(self.codec.vocabulary))
        with ShardWriter(self.staging) as shards:
            for place in self._order_by_content():
                relation = RELATIONS[kinds[place]]
                found = self._make_tune(
                    int(self.kept[place]),
                    group=format_group_name(numbers[place]),
                    relation=relation,
                    like=self._content_hash(self.kept[like[place]]) if relation else "",
                )
                shards.add(SPLITS[parts[place]], found)
                fingerprint.add(found.content, SPLITS[parts[place]], found.title)
                self.remarks.update({remark.split(":")[0] for remark in found.remarks})
        return fingerprint.hexdigest(), shards.counts

    def _iter_cache_entries(self) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        """Yield what was read of each file that would read the same again, by key."""
        lasting = (file for file in self.spools.files if file["lasting"])
        for file in sorted(lasting, key=lambda file: bytes(file["key"])):
            yield bytes(file["key"]), self.spools.iter_lines(file)

    def _iter_links(self) -> Iterator[NDArray[Any]]:
        """Yield what makes tunes relatives: shared grams, and equal shapes."""
        yield from self.spools.iter_buckets(self.owner)
        shapes = np.empty(len(self.kept), PAIR_DTYPE)
        shapes["gram"] = self.tunes["shape"][self.kept]
        shapes["tune"] = np.arange(len(self.kept))
        yield shapes

    def _make_tune(self, tune: int, **more: str) -> EncodedTune:
        return reencode(
            tune_from_row(self.spools.read_row(tune), **more), self.task.codec, self.codec
        )

    def _order_by_content(self) -> Sequence[int]:
        """Return the places of the kept tunes in the order of what is written."""
        places = range(len(self.kept))
        if self.codec is self.task.codec:
            return places
        return sorted(places, key=lambda place: self._content_hash(int(self.kept[place])))

    def _content_hash(self, tune: int) -> str:
        if self.codec is not self.task.codec:
            return str(self._make_tune(tune, group="").content)
        return "".join(f"{number:016x}" for number in self.tunes["content"][tune].tolist())

    def _write_refusals(self) -> None:
        """Write all refusals: of reading by the file's name, then duplicates by content."""
        import pyarrow.parquet as pq

        schema = build_refusal_table([]).schema
        every = itertools.chain(self._iter_read_refusals(), self._iter_duplicates())
        with pq.ParquetWriter(self.staging / REFUSALS, schema, compression="zstd") as writer:
            while some := list(itertools.islice(every, REFUSALS_PER_WRITE)):
                self.codes.update(refusal.code for refusal, _, _ in some)
                writer.write_table(build_refusal_table(some))

    def _iter_read_refusals(self) -> Iterator[tuple[Refusal, str, str]]:
        for file in self.spools.sort_files(lambda number: self.task.files[number].name):
            if file["refused"]:
                told = (json.loads(line) for line in self.spools.iter_lines(file))
                yield from ((Refusal(**t["refusal"]), "", "") for t in told if "refusal" in t)

    def _iter_duplicates(self) -> Iterator[tuple[Refusal, str, str]]:
        for tune in self.duplicate_tunes.tolist():
            first = int(self.kept[self.owner[tune]])
            higher = int(self.tunes["pitch"][tune]) - int(self.tunes["pitch"][first])
            refusal = make_duplicate_refusal(
                self.spools.read_row(tune), self.spools.read_row(first), higher
            )
            yield refusal, RELATIONS[TRANSPOSED if higher else EXACT], self._content_hash(first)

    def _nothing_kept_message(self) -> str:
        refusals = open_refusals(self.staging)
        first = f"; the first: {refusals[0]}" if refusals else ""
        names = ", ".join(self.sources)
        return f"{names}: none of {len(refusals)} tunes could be kept{first}"


Int64Array = NDArray[np.int64]


def _find_unique_tunes(spools: SpoolSet) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the tunes to keep by content, each tune's place among them, and the others.

    Of tunes with equal ids the first by title and file is kept.
    """
    contents = spools.tunes["content"]
    order = np.lexsort(contents.T[::-1])
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = np.any(contents[order][1:] != contents[order][:-1], axis=1)
    owner = np.empty(len(order), dtype=np.int64)
    owner[order] = np.cumsum(fresh) - 1
    edges = np.append(np.flatnonzero(fresh), len(order))
    for run in np.flatnonzero(np.diff(edges) > 1).tolist():
        equal = slice(edges[run], edges[run + 1])
        order[equal] = sorted(order[equal], key=lambda n: _sort_key(spools.read_row(n)))
    return order[fresh], owner, order[~fresh]


def _sort_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["title"], row["source"], row["number"], row["setting"]


def _sort_by_count(counts: Counter[str]) -> Mapping[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
