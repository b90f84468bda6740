"""Many files to a data set: read, made canonical, encoded, grouped, split."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from musicgen.corpus.doctor import Report, without_duplicates
from musicgen.corpus.encode import Encoder, encode_file
from musicgen.corpus.sources import TuneFile, files
from musicgen.corpus.split import SPLITS, Grams, groups, splits
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import MusicgenError, Refusal
from musicgen.formats import Reading
from musicgen.tokens.measures import MeasuresCodec

Progress = Callable[[int, int], None]  # files done, files in all
Reader = Callable[[TuneFile], Reading]


def build(
    sources: Iterable[str | Path],
    *,
    codec: Encoder | None = None,
    read: Reader = TuneFile.read,
    jobs: int = 1,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, Report]:
    """Make a data set of all tunes of the sources. Raises MusicgenError where none can be kept.

    An executor, or as many processes as jobs, shares the files out; it changes nothing else.
    """
    codec = codec or MeasuresCodec()
    names = tuple(str(source) for source in sources)
    found = list(dict.fromkeys(file for source in names for file in files(source)))
    work = partial(_whole_answer, codec=codec, read=read)
    answers = _answers(found, work, jobs, executor, progress)
    lines = [json.loads(line) for answer in answers for line in answer.splitlines()]
    tunes = [_tune(line["tune"]) for line in lines if "tune" in line]
    refusals = [Refusal(**line["refusal"]) for line in lines if "refusal" in line]
    kept, duplicates = without_duplicates(_grouped(tunes))
    report = Report(len(kept), (*refusals, *duplicates))
    if not kept:
        raise MusicgenError(_nothing_kept(names, report))
    return _dataset(kept, codec, report, names), report


def _whole_answer(file: TuneFile, *, codec: Encoder, read: Reader) -> bytes:
    """Answer a file in one piece, a line for each tune or refusal."""
    return b"\n".join(encode_file(file, codec, read=read))


def _answers(
    found: Sequence[TuneFile],
    work: Callable[[TuneFile], bytes],
    jobs: int,
    executor: Executor | None,
    progress: Progress | None,
) -> Iterator[bytes]:
    """Yield each file's answer, in the order of files."""
    if executor is None and min(jobs, len(found)) > 1:
        with ProcessPoolExecutor(min(jobs, len(found))) as pool:
            yield from _answers(found, work, jobs, pool, progress)
        return
    tell = progress or _silent
    if executor is None:
        for done, file in enumerate(found, 1):
            yield work(file)
            tell(done, len(found))
        return
    waiting = [executor.submit(work, file) for file in found]
    for done, _ in enumerate(as_completed(waiting), 1):
        tell(done, len(found))
    try:
        yield from (answer.result() for answer in waiting)
    except BrokenExecutor as fault:
        raise MusicgenError(
            "a worker died while it read a file; read with --jobs 1 to see which, and leave it out"
        ) from fault


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def _tune(row: dict[str, Any]) -> tuple[EncodedTune, Grams]:
    ids = np.frombuffer(base64.b64decode(row["ids"]), dtype="<i2").astype(np.int16)
    shared = np.frombuffer(base64.b64decode(row["group"]), dtype="<u8").astype(np.uint64)
    return EncodedTune(**{**row, "ids": ids, "group": ""}), shared


def _grouped(tunes: Sequence[tuple[EncodedTune, Grams]]) -> Iterator[EncodedTune]:
    names = groups([shared for _, shared in tunes])
    return (replace(tune, group=name) for (tune, _), name in zip(tunes, names, strict=True))


def _dataset(
    kept: Sequence[EncodedTune], codec: Encoder, report: Report, sources: tuple[str, ...]
) -> Dataset:
    chosen = splits(tune.group for tune in kept)
    parts = {name: tuple(t for t in kept if chosen[t.group] == name) for name in SPLITS}
    return Dataset(
        **parts,
        codec=codec.name,
        vocabulary_size=len(codec.vocabulary),
        refusals=report.codes,
        sources=sources,
    )


def _nothing_kept(sources: Sequence[str], report: Report) -> str:
    first = f"; the first: {report.refusals[0]}" if report.refusals else ""
    return f"{', '.join(sources)}: none of {report.found} tunes could be kept{first}"
