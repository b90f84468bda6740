"""Make the receipt's index of a data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from musicgen.checkpoint import FORMAT, WEIGHTS, load_one, publish, read_manifest
from musicgen.corpus.sources import list_cards
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import InvalidValue, Mismatch
from musicgen.music.score import Score
from musicgen.similarity.note_index import (
    INDEX_FILE,
    MAX_BYTES,
    MAX_NOTES,
    Label,
    NoteIndex,
    TuneNotes,
    extract_notes,
)
from musicgen.similarity.overlap_report import OverlapIndex, Receipt
from musicgen.tokens.codec import AnyCodec, Setting
from musicgen.tokens.registry import find_codec, restore_codec

SERIAL_LIMIT: Final = 512  # tunes that are decoded sooner than a second process starts
CHUNK: Final = 64
MOST_REAL: Final = 2000  # tunes that say what real tunes share: more say the same


def build_overlap_index(
    dataset: Dataset, *, previous_index: OverlapIndex | None = None, jobs: int = 0
) -> OverlapIndex | None:
    """Index the training part of a data set; None where there are no notes, or too many.

    Args:
        dataset: its held-out tunes say what real tunes share.
        previous_index: of the model that this one went on from; it has learnt from those tunes too.
        jobs: processes that decode; 0 is one a core.
    """
    if (
        find_codec(dataset.codec).unit == "character"
        or sum(t.notes for t in dataset.train) > MAX_NOTES
    ):
        return None
    codec = restore_codec(dataset.codec, dataset.vocabulary, "the data set")
    notes = _decode_notes(dataset.train, codec, jobs or os.cpu_count() or 1)
    numbers: dict[str, int] = {}
    labels = list(_make_labels(dataset.train, numbers))
    known = NoteIndex.of(
        [*zip(notes, labels, strict=True), *_iterate_previous_tunes(previous_index, len(numbers))]
    )
    if not len(known) or len(known.table) > 2**16 or 8 * len(known) > MAX_BYTES:
        return None
    index = OverlapIndex(known)
    receipts = list(_compare_real_tunes(index, dataset, codec, numbers))
    longest = [receipt.longest.notes if receipt.longest else 0 for receipt in receipts]
    return OverlapIndex(
        known.with_reference_stats(longest, [receipt.share for receipt in receipts])
    )


def add_index(folder: Path, dataset: Dataset) -> int:
    """Put an index beside the weights of a checkpoint that has none; return its bytes.

    Raises Mismatch for a data set that is not, part for part, what it learnt from.
    """
    known = load_one(folder)
    theirs = known.manifest.corpus.get("fingerprint", "")
    if theirs != dataset.fingerprint:
        raise Mismatch(
            f"{folder}: it learnt from a corpus of fingerprint {theirs[:16]}, this one has"
            f" {dataset.fingerprint[:16]}; build the data set that it was trained on"
        )
    index = build_overlap_index(dataset)
    if index is None:
        raise InvalidValue(f"{folder}: its tunes have no notes, or too many, for an index")
    names = read_manifest(folder, FORMAT)["sha256"].keys() - {WEIGHTS}
    files = {name: known.read_extra_file(name) for name in names}
    files[INDEX_FILE] = index.note_index.to_bytes()
    publish(folder, known.weights, known.manifest, files)
    return len(files[INDEX_FILE])


def _iterate_previous_tunes(
    previous_index: OverlapIndex | None, groups: int
) -> Iterator[tuple[TuneNotes, Label]]:
    """Yield the tunes of an earlier index, in groups of their own."""
    if previous_index is None:
        return
    for notes, label in previous_index.note_index.to_tunes():
        yield notes, Label(label.title, label.source, label.number, label.group + groups)


def _make_labels(tunes: Iterable[EncodedTune], numbers: dict[str, int]) -> Iterator[Label]:
    books = {card.name for card in list_cards()}
    for tune in tunes:
        group = numbers.setdefault(tune.group, len(numbers))
        yield Label(tune.title, _shorten_source(tune.source, books), tune.number, group)


def _shorten_source(source: str, books: set[str]) -> str:
    """Return a file's name without its folders; of a book that has a card, with the card's."""
    first, _, rest = source.partition("/")
    name = PurePosixPath(source).name
    return f"{first}/{name}" if rest and first in books else name


def _compare_real_tunes(
    index: OverlapIndex, dataset: Dataset, codec: AnyCodec, numbers: dict[str, int]
) -> Iterator[Receipt]:
    """Yield what held-out tunes share; where there are none, what tunes share with other groups."""
    tunes = dataset.valid or (dataset.train if len(numbers) > 1 else ())
    for tune in tunes[:MOST_REAL]:
        piece = _decode_score(tune.ids.tolist(), tune.setting, codec)
        yield index.make_receipt(piece, excluded_group=numbers.get(tune.group))


def _decode_score(ids: Sequence[int], setting: str, codec: AnyCodec) -> Score:
    piece = codec.decode(ids, Setting.from_json(setting)).piece
    assert isinstance(piece, Score)
    return piece


def _decode_notes(tunes: Sequence[EncodedTune], codec: AnyCodec, jobs: int) -> Iterator[TuneNotes]:
    """Yield the notes of encoded tunes, decoded in processes where there are many."""
    packed = (_pack_tunes(tunes[start : start + CHUNK], codec.name)
              for start in range(0, len(tunes), CHUNK))  # fmt: skip
    if jobs == 1 or len(tunes) <= SERIAL_LIMIT:
        for chunk in packed:
            yield from _unpack_notes(_decode_chunk(chunk))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for answer in pool.map(_decode_chunk, packed):
            yield from _unpack_notes(answer)


def _pack_tunes(tunes: Iterable[EncodedTune], codec: str) -> bytes:
    """Write tunes as text for a worker: no objects go between processes."""
    return json.dumps([codec, [[tune.ids.tolist(), tune.setting] for tune in tunes]]).encode()


def _decode_chunk(chunk: bytes) -> bytes:
    """Return the notes of tunes, each behind how many there are."""
    name, tunes = json.loads(chunk)
    notes = [extract_notes(_decode_score(ids, setting, find_codec(name))) for ids, setting in tunes]
    return b"".join(np.int32(own.shape[1]).tobytes() + own.tobytes() for own in notes)


def _unpack_notes(answer: bytes) -> Iterator[TuneNotes]:
    numbers = np.frombuffer(answer, np.int32)
    start = 0
    while start < len(numbers):
        stop = start + 1 + 4 * int(numbers[start])
        yield numbers[start + 1 : stop].reshape(4, -1)
        start = stop
