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
    Files,
    Task,
    read_by_executor,
    read_here,
    read_in_children,
    take_answers,
    write_answers,
)
from musicgen.corpus.report import Report, duplicate
from musicgen.corpus.sandbox import Limits
from musicgen.corpus.sources import TuneFile, find
from musicgen.corpus.spill import Spools
from musicgen.corpus.split import (
    EXACT,
    PAIR,
    RELATIONS,
    SPLITS,
    TRANSPOSED,
    Grams,
    group_name,
    joined,
    named,
    parts_of,
    relations,
)
from musicgen.corpus.store import (
    ANSWERS,
    REFUSALS,
    REPORT,
    Dataset,
    EncodedTune,
    Fingerprint,
    Shards,
    digest,
    is_dataset,
    is_own,
    load,
    read_table,
    refusal_table,
    refusals_in,
    tune_of,
    write_manifest,
)
from musicgen.errors import InvalidValue, Mismatch, MusicgenError, Refusal
from musicgen.files import (
    explaining,
    locked_folder,
    new_folder,
    open_regular,
    sweep_unlocked,
    write_new,
    write_whole,
)
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec
from musicgen.tokens.registry import CODECS, DEFAULT
from musicgen.tokens.text import ByteCodec


def taught(codec: AnyCodec, rows: Iterable[Mapping[str, Any]]) -> AnyCodec:
    """Return the codec that the training part's rows teach; one that needs no teaching, as it is.

    Rows are as `encode_file` wrote them.
    """
    if not isinstance(codec, ByteCodec):
        return codec
    return codec.fit(_text(codec, tune_of(row, group="")) for row in rows)


def rewritten(tune: EncodedTune, read_with: AnyCodec, codec: AnyCodec) -> EncodedTune:
    """Write a tune's ids with the codec of its data set, where that is not what read it."""
    if codec is read_with:
        return tune
    encoded = codec.encode(_text(read_with, tune))
    lost = (f"lost: {encoded.lost} tokens are not in the training part",) if encoded.lost else ()
    ids = np.array(encoded.ids, dtype=np.int16)
    return replace(tune, ids=ids, remarks=(*tune.remarks, *lost))


def _text(codec: AnyCodec, tune: EncodedTune) -> str:
    return str(codec.decode(tune.ids.tolist(), PLAIN_SETTING).piece)


REFUSALS_HELD: Final = 4096
_SCRATCH: Final = "musicgen-"
_SCRATCH_MARK: Final = ".scratch"
_SCRATCH_TEXT: Final = b"A temporary folder of musicgen: it goes when its process has ended.\n"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build has come."""

    files: int
    of_files: int
    bytes: int
    of_bytes: int
    tunes: int  # about so many more than those of the files that are done


Tell = Callable[[Progress], None]


def build(
    sources: Iterable[str | Path],
    out: Path | None = None,
    *,
    codec: AnyCodec | None = None,
    jobs: int = 1,
    limits: Limits | None = None,
    executor: Executor | None = None,
    progress: Tell | None = None,
    force: bool = False,
    least: int = 1,
) -> tuple[Dataset, Report]:
    """Make a data set of all tunes of the sources. Raises MusicgenError for fewer than the least.

    It is written to a new folder, or to one that goes when the data set is no longer in use. With
    force an existing one is replaced, and what was read of files that did not change is taken over.
    Files are read by as many child processes as jobs, by an executor, or with jobs 0 right here;
    that changes nothing else.
    """
    names = tuple(str(source) for source in sources)
    codec = codec or CODECS[DEFAULT]
    found, passed_over = _found(names, codec)
    task = Task(found, codec, limits or Limits())
    keep = None if out else _Scratch()
    out = out or keep.folder / "data"  # type: ignore[union-attr]
    with new_folder(out, replaces=is_own if force else None) as staging, explaining(out):
        work = staging / "work"
        work.mkdir()
        spools = Spools(work, max(1, jobs))
        try:
            taken_over = _read(task, spools, out, _Teller(found, progress), executor, jobs)
            spools.close()
            with _arrow_that_gives_back():
                report = _Writer(staging, task, spools, names).write(taken_over, least)
            report = replace(report, passed_over=passed_over)
        finally:
            spools.end()
        shutil.rmtree(work)
    dataset = load(out, keep)
    return dataset, report.over(refusals_in(out, keep))


def _found(names: Sequence[str], codec: AnyCodec) -> tuple[Files, int]:
    """Return the files of all sources, each once, and how many others were passed over."""
    sought = [find(source, suffixes=codec.suffixes) for source in names]
    each = dict.fromkeys(file for source in sought for file in source.files)
    return Files(each), sum(source.passed_over for source in sought)


@contextlib.contextmanager
def _arrow_that_gives_back() -> Iterator[None]:
    """Have Arrow take memory from the system's own allocator: its others keep what was freed."""
    import pyarrow as pa

    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


class _Scratch:
    """A temporary folder that goes when nobody holds it, or at the next start after a kill."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        lock = contextlib.ExitStack()
        lock.enter_context(locked_folder(self.folder))
        weakref.finalize(self, _remove, self.folder, lock)
        write_new(self.folder / _SCRATCH_MARK, _SCRATCH_TEXT)
        for stray in self.folder.parent.glob(f"{_SCRATCH}*"):
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
        text = open_regular(folder / _SCRATCH_MARK, limit=len(_SCRATCH_TEXT), follow=False)
    except (OSError, MusicgenError):
        return False
    return text == _SCRATCH_TEXT


class _Teller:
    """Turns files that are done into progress."""

    def __init__(self, found: Sequence[TuneFile], progress: Tell | None) -> None:
        self.sizes = np.array([_size(file.path) for file in found], dtype=np.int64)
        self._tell = progress
        self._files = self._bytes = self._tunes = 0

    def __call__(self, number: int | None) -> None:
        """Take note of a file, or of some tunes."""
        if number is None:
            self._tunes += 1
        else:
            self._files += 1
            self._bytes += int(self.sizes[number])
        if self._tell:
            of = int(self.sizes.sum())
            self._tell(Progress(self._files, len(self.sizes), self._bytes, of, self._tunes))

    def biggest_first(self, numbers: Iterable[int]) -> list[int]:
        """Return files in the order in which they are best shared out."""
        return sorted(numbers, key=lambda number: (-self.sizes[number], number))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _read(
    task: Task, spools: Spools, out: Path, tell: _Teller, executor: Executor | None, jobs: int
) -> int:
    """Read all files, those that did not change from the old data set; return how many."""
    taken = _take_over(task, spools, out, tell)
    todo = tell.biggest_first(set(range(len(task.files))) - taken)
    if executor is not None:
        read_by_executor(task, todo, spools.each[0], tell, executor)
    elif jobs == 0 or type(CODECS.get(task.codec.name)) is not type(task.codec):
        read_here(task, todo, spools.each[0], tell)
    else:
        read_in_children(task, todo, spools.each[: max(1, len(todo))], tell)
    return len(taken)


def _take_over(task: Task, spools: Spools, out: Path, tell: _Teller) -> set[int]:
    """Take from the data set that is replaced what it says of files that did not change."""
    taken: set[int] = set()
    if not _has_answers(out):
        return taken
    wanted = {task.key(number): number for number in range(len(task.files))}
    for number, key, lines in take_answers(out / ANSWERS, wanted):
        if key:
            spools.each[0].take(number, key, lines)
            taken.add(number)
            tell(number)
    return taken


def _has_answers(out: Path) -> bool:
    """Tell whether a data set has answers that nobody changed."""
    if not (is_dataset(out) and (out / ANSWERS).is_file()):
        return False
    try:
        return read_table(out).sha256.get(ANSWERS) == digest(out / ANSWERS)
    except (Mismatch, InvalidValue):
        return False


class _Writer:
    """Turns what was read into the files of a data set."""

    def __init__(self, staging: Path, task: Task, spools: Spools, sources: Sequence[str]) -> None:
        self.staging, self.task, self.spools, self.sources = staging, task, spools, sources
        self.tunes = spools.tunes
        self.kept, self.owner, self.left_out = _unique(spools)
        self.codec = task.codec  # of the data set; `taught` may put another one here
        self.codes: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def write(self, taken_over: int, least: int) -> Report:
        """Write all of it, the manifest last."""
        self.decided = self._decide()
        self._refusals()
        if len(self.kept) < least:
            raise MusicgenError(self._nothing_kept())
        fingerprint, counts = self._shards()
        write_answers(self.staging / ANSWERS, self._answers())
        report = Report(
            kept=len(self.kept),
            codes=_by_count(self.codes),
            remarks=_by_count(self.remarks),
            relations=self.related,
            files=len(self.task.files),
            taken_over=taken_over,
        )
        write_whole(self.staging / REPORT, report.to_json().encode())
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

    def _decide(self) -> tuple[Numbers, Grams, Numbers]:
        """Return each kept tune's root, the number of its group, its part; teach the codec."""
        roots = joined(len(self.kept), self._links())
        least = np.full(len(self.kept), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(least, self.owner, self.tunes["least"])
        numbers = named(roots, least)
        parts = parts_of(numbers)
        training = self.kept[parts == SPLITS.index("train")]
        self.codec = taught(self.task.codec, map(self.spools.row, training.tolist()))
        return roots, numbers, parts

    def _shards(self) -> tuple[str, dict[str, int]]:
        roots, numbers, parts = self.decided
        kinds, like = relations(roots, self.tunes[self.kept])
        self.related = {
            name: int(np.count_nonzero(kinds == kind))
            for kind, name in enumerate(RELATIONS)
            if name
        }
        fingerprint = Fingerprint(self.codec.name, len(self.codec.vocabulary))
        with Shards(self.staging) as shards:
            for place in self._by_content():
                relation = RELATIONS[kinds[place]]
                found = self._tune(
                    int(self.kept[place]),
                    group=group_name(numbers[place]),
                    relation=relation,
                    like=self._content(self.kept[like[place]]) if relation else "",
                )
                shards.add(SPLITS[parts[place]], found)
                fingerprint.add(found.content, SPLITS[parts[place]], found.title)
                self.remarks.update({remark.split(":")[0] for remark in found.remarks})
        return fingerprint.hexdigest(), shards.counts

    def _answers(self) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        """Yield what was read of each file that would read the same again, by key."""
        lasting = (file for file in self.spools.files if file["lasting"])
        for file in sorted(lasting, key=lambda file: bytes(file["key"])):
            yield bytes(file["key"]), self.spools.lines(file)

    def _links(self) -> Iterator[NDArray[Any]]:
        """Yield what makes tunes relatives: shared grams, and equal shapes."""
        yield from self.spools.buckets(self.owner)
        shapes = np.empty(len(self.kept), PAIR)
        shapes["gram"] = self.tunes["shape"][self.kept]
        shapes["tune"] = np.arange(len(self.kept))
        yield shapes

    def _tune(self, tune: int, **more: str) -> EncodedTune:
        return rewritten(tune_of(self.spools.row(tune), **more), self.task.codec, self.codec)

    def _by_content(self) -> Sequence[int]:
        """Return the places of the kept tunes in the order of what is written."""
        places = range(len(self.kept))
        if self.codec is self.task.codec:
            return places
        return sorted(places, key=lambda place: self._content(int(self.kept[place])))

    def _content(self, tune: int) -> str:
        if self.codec is not self.task.codec:
            return str(self._tune(tune, group="").content)
        return "".join(f"{number:016x}" for number in self.tunes["content"][tune].tolist())

    def _refusals(self) -> None:
        """Write all refusals: of reading by the file's name, then duplicates by content."""
        import pyarrow.parquet as pq

        schema = refusal_table([]).schema
        every = itertools.chain(self._of_reading(), self._duplicates())
        with pq.ParquetWriter(self.staging / REFUSALS, schema, compression="zstd") as writer:
            while some := list(itertools.islice(every, REFUSALS_HELD)):
                self.codes.update(refusal.code for refusal, _, _ in some)
                writer.write_table(refusal_table(some))

    def _of_reading(self) -> Iterator[tuple[Refusal, str, str]]:
        for file in self.spools.sorted_files(lambda number: self.task.files[number].name):
            if file["refused"]:
                told = (json.loads(line) for line in self.spools.lines(file))
                yield from ((Refusal(**t["refusal"]), "", "") for t in told if "refusal" in t)

    def _duplicates(self) -> Iterator[tuple[Refusal, str, str]]:
        for tune in self.left_out.tolist():
            first = int(self.kept[self.owner[tune]])
            higher = int(self.tunes["pitch"][tune]) - int(self.tunes["pitch"][first])
            refusal = duplicate(self.spools.row(tune), self.spools.row(first), higher)
            yield refusal, RELATIONS[TRANSPOSED if higher else EXACT], self._content(first)

    def _nothing_kept(self) -> str:
        refusals = refusals_in(self.staging)
        first = f"; the first: {refusals[0]}" if refusals else ""
        names = ", ".join(self.sources)
        return f"{names}: none of {len(refusals)} tunes could be kept{first}"


Numbers = NDArray[np.int64]


def _unique(spools: Spools) -> tuple[Numbers, Numbers, Numbers]:
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
        order[equal] = sorted(order[equal], key=lambda n: _rank(spools.row(n)))
    return order[fresh], owner, order[~fresh]


def _rank(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["title"], row["source"], row["number"], row["setting"]


def _by_count(counts: Counter[str]) -> Mapping[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
