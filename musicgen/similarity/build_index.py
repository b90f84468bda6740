"""Build the similarity index of a data set, which receipts and `--max-copy` use."""

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
from musicgen.corpus.store import Dataset, EncodedTune, select_as_written
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

SERIAL_LIMIT: Final = 512  # tunes that are decoded faster than a second process starts
CHUNK: Final = 64  # tunes per task of a worker
MOST_REAL: Final = 2000  # reference tunes; more do not change the statistics
_MAX_DURATIONS: Final = 2**16  # distinct ones, as codes have at most two bytes


def build_overlap_index(
    dataset: Dataset, *, previous_index: OverlapIndex | None = None, jobs: int = 0
) -> OverlapIndex | None:
    """Index the training tunes of a data set.

    Args:
        dataset: the training tunes; its validation tunes serve as reference tunes.
        previous_index: of the base model of a fine-tuned one, which learned from those tunes too.
        jobs: decoding processes; 0: one per core.

    Returns:
        The index; None for text, and where there are no notes or too many.
    """
    if find_codec(dataset.codec).unit == "character":
        return None
    training = _select_as_written(dataset.train)
    if sum(tune.notes for tune in training) > MAX_NOTES:
        return None
    codec = restore_codec(dataset.codec, dataset.vocabulary, "the data set")
    notes = _decode_notes(training, codec, jobs or os.cpu_count() or 1)
    group_numbers: dict[str, int] = {}
    labels = list(_make_labels(training, group_numbers))
    previous_tunes = _iterate_previous_tunes(previous_index, len(group_numbers))
    note_index = NoteIndex.of([*zip(notes, labels, strict=True), *previous_tunes])
    if (
        not len(note_index)
        or len(note_index.table) > _MAX_DURATIONS
        or 8 * len(note_index) > MAX_BYTES
    ):
        return None
    receipts = list(
        _compare_reference_tunes(OverlapIndex(note_index), dataset, codec, group_numbers)
    )
    longest = [receipt.longest.notes if receipt.longest else 0 for receipt in receipts]
    shares = [receipt.share for receipt in receipts]
    return OverlapIndex(note_index.with_reference_stats(longest, shares))


def _select_as_written(tunes: Sequence[EncodedTune]) -> Sequence[EncodedTune]:
    """Return each tune once; a tune in several orders of its parts has the same runs in each."""
    has_orders = any(tune.order for tune in tunes)
    return list(select_as_written(tunes)) if has_orders else tunes


def add_index(folder: Path, dataset: Dataset) -> int:
    """Add an index to a checkpoint that has none.

    Args:
        folder: of the checkpoint.
        dataset: the one that the model was trained on.

    Returns:
        The size of the index in bytes.

    Raises:
        Mismatch: the model was trained on another data set.
        InvalidValue: the tunes have no notes, or too many.
    """
    checkpoint = load_one(folder)
    fingerprint = checkpoint.manifest.corpus.get("fingerprint", "")
    if fingerprint != dataset.fingerprint:
        raise Mismatch(
            f"{folder}: the model was trained on a data set with fingerprint {fingerprint[:16]},"
            f" this one has {dataset.fingerprint[:16]}; build the data set that it was trained on"
        )
    index = build_overlap_index(dataset)
    if index is None:
        raise InvalidValue(f"{folder}: its tunes have no notes, or too many for an index")
    names = read_manifest(folder, FORMAT)["sha256"].keys() - {WEIGHTS}
    files = {name: checkpoint.read_extra_file(name) for name in names}
    files[INDEX_FILE] = index.note_index.to_bytes()
    publish(folder, checkpoint.weights, checkpoint.manifest, files)
    return len(files[INDEX_FILE])


def _iterate_previous_tunes(
    previous_index: OverlapIndex | None, group_count: int
) -> Iterator[tuple[TuneNotes, Label]]:
    """Yield the tunes of an earlier index, in groups numbered from `group_count`."""
    if previous_index is None:
        return
    for notes, label in previous_index.note_index.to_tunes():
        yield notes, Label(label.title, label.source, label.number, label.group + group_count)


def _make_labels(tunes: Iterable[EncodedTune], group_numbers: dict[str, int]) -> Iterator[Label]:
    """Yield the labels of tunes; number their groups in order of appearance."""
    books = {card.name for card in list_cards()}
    for tune in tunes:
        group = group_numbers.setdefault(tune.group, len(group_numbers))
        yield Label(tune.title, _shorten_source(tune.source, books), tune.number, group)


def _shorten_source(source: str, books: set[str]) -> str:
    """Return a file's name without its folders, but with that of a corpus that has a card."""
    folder, _, rest = source.partition("/")
    name = PurePosixPath(source).name
    return f"{folder}/{name}" if rest and folder in books else name


def _compare_reference_tunes(
    index: OverlapIndex, dataset: Dataset, codec: AnyCodec, group_numbers: dict[str, int]
) -> Iterator[Receipt]:
    """Yield receipts of held-out tunes; without any, those of training tunes and other groups."""
    tunes = dataset.valid or (dataset.train if len(group_numbers) > 1 else ())
    for tune in tunes[:MOST_REAL]:
        piece = _decode_score(tune.ids.tolist(), tune.setting, codec)
        yield index.make_receipt(piece, excluded_group=group_numbers.get(tune.group))


def _decode_score(ids: Sequence[int], setting: str, codec: AnyCodec) -> Score:
    piece = codec.decode(ids, Setting.from_json(setting)).piece
    assert isinstance(piece, Score)
    return piece


def _decode_notes(tunes: Sequence[EncodedTune], codec: AnyCodec, jobs: int) -> Iterator[TuneNotes]:
    """Yield the notes of encoded tunes; decode many tunes in worker processes."""
    chunks = (_pack_tunes(tunes[start : start + CHUNK], codec.name)
              for start in range(0, len(tunes), CHUNK))  # fmt: skip
    if jobs == 1 or len(tunes) <= SERIAL_LIMIT:
        for chunk in chunks:
            yield from _unpack_notes(_decode_chunk(chunk))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for data in pool.map(_decode_chunk, chunks):
            yield from _unpack_notes(data)


def _pack_tunes(tunes: Iterable[EncodedTune], codec: str) -> bytes:
    """Serialize tunes as JSON for a worker: nothing is pickled."""
    return json.dumps([codec, [[tune.ids.tolist(), tune.setting] for tune in tunes]]).encode()


def _decode_chunk(chunk: bytes) -> bytes:
    """Decode tunes; return for each the number of its notes, then the notes, as int32."""
    name, tunes = json.loads(chunk)
    notes = [extract_notes(_decode_score(ids, setting, find_codec(name))) for ids, setting in tunes]
    return b"".join(np.int32(rows.shape[1]).tobytes() + rows.tobytes() for rows in notes)


def _unpack_notes(data: bytes) -> Iterator[TuneNotes]:
    numbers = np.frombuffer(data, np.int32)
    start = 0
    while start < len(numbers):
        stop = start + 1 + 4 * int(numbers[start])
        yield numbers[start + 1 : stop].reshape(4, -1)
        start = stop
