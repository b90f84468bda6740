"""Batches of token ids: an endless stream of training windows, and padded held-out tunes.

In training, each lane reads one tune after another, window by window. A tune starts at the start of
a window, and the window in which it ends is padded, so no recurrent layer needs a reset inside a
window. With windows much shorter than tunes, little is padding. The input of a tune is the begin
event followed by all its ids but the last; the targets are all its ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.music.arrays import BoolArray, IntArray, TokenIds
from musicgen.tokens.context_source import ContextFields, WholeContexts

IGNORE_INDEX: Final = -100  # the target of padding
CONTEXT_CHUNK: Final = 256  # tunes whose score contexts are computed together
MAX_CACHED_CONTEXTS: Final = 2**24  # tokens, 24 to 122 bytes each
MIN_TRANSPOSITION: Final = -5  # semitones; with the maximum, each of the twelve keys once
MAX_TRANSPOSITION: Final = 6  # semitones


@dataclass(frozen=True, slots=True)
class Window:
    """The token ids of one truncated step."""

    inputs: IntArray  # (lane, window) int64
    targets: IntArray  # (lane, window) int64, IGNORE_INDEX at padding
    starts: BoolArray  # (lane,) whether a tune starts
    context: IntArray | None = None  # (lane, window, field) int64, the score context at each target

    @property
    def token_count(self) -> int:
        """The number of targets that are not padding."""
        return int(np.count_nonzero(self.targets != IGNORE_INDEX))


def shift_right(ids: TokenIds) -> IntArray:
    """Return the inputs that predict a tune: the begin event, then all ids but the last.

    Args:
        ids: (token,) int16 or int64.

    Returns:
        (token,) int64.
    """
    return np.concatenate([[BEGIN_ID], ids[:-1]])


class LanePosition(NamedTuple):
    """The position of one lane in its tune."""

    tune: int  # index; -1 before the first tune
    semitones: int  # transposition of the tune
    ids_read: int  # ids of the tune that have been read


class _LaneIds(NamedTuple):
    """The ids of one lane of a window."""

    inputs: TokenIds
    targets: TokenIds
    is_start: bool
    context: ContextFields | None


class ContextCache:
    """The score contexts of training tunes, computed for many tunes at once and then kept.

    Args:
        tunes: the ids of each tune.
        source: of the fields that the model reads.
    """

    def __init__(self, tunes: Sequence[TokenIds], source: WholeContexts) -> None:
        self.tunes, self.source = tunes, source
        self.contexts: dict[int, ContextFields] = {}
        self.token_count = 0  # in `contexts`

    def get(self, tune: int, upcoming: Sequence[int]) -> ContextFields:
        """Return the contexts of a tune, (token, field) int16.

        Args:
            tune: index.
            upcoming: indices of the tunes that will be needed next, the next one last.
        """
        if tune not in self.contexts:
            if self.token_count > MAX_CACHED_CONTEXTS:
                self.contexts, self.token_count = {}, 0
            later = reversed(upcoming[-CONTEXT_CHUNK:])
            chosen = [tune, *(index for index in later if index not in self.contexts)]
            computed = self.source.compute([self.tunes[index] for index in chosen])
            self.contexts.update(zip(chosen, computed, strict=True))
            self.token_count += sum(map(len, computed))
        return self.contexts[tune]


class WindowStream:
    """An endless stream of windows over shuffled tunes, whose position can be saved and restored.

    Args:
        tunes: the ids of each training tune.
        lanes: rows of each window.
        generator: shuffles the tunes and draws the transpositions.
        pitch_ranges: the ranges of ids that are pitches, from low to high (such as those of note-on
            and note-off events). If given, a tune is transposed by a new random number of semitones
            each time it is read.
        contexts: of the same tunes, for a model that reads the score context.
    """

    def __init__(
        self,
        tunes: Sequence[TokenIds],
        lanes: int,
        generator: np.random.Generator,
        pitch_ranges: Sequence[range] = (),
        contexts: ContextCache | None = None,
    ) -> None:
        self.tunes = tunes
        self.contexts = contexts
        self.generator = generator
        self.pitch_ranges = pitch_ranges
        self.queue: list[int] = []  # indices of this epoch's remaining tunes, the next one last
        self.positions = [LanePosition(-1, 0, 0)] * lanes

    def next_window(self, length: int) -> Window:
        """Cut the next window, of at most `length` ids per lane."""
        lanes = [self._read_lane(lane, length) for lane in range(len(self.positions))]
        width = max(len(lane.targets) for lane in lanes)
        inputs = np.full((len(lanes), width), BEGIN_ID, np.int64)
        targets = np.full_like(inputs, IGNORE_INDEX)
        for row, lane in enumerate(lanes):
            inputs[row, : len(lane.inputs)] = lane.inputs
            targets[row, : len(lane.targets)] = lane.targets
        starts = np.array([lane.is_start for lane in lanes])
        return Window(
            inputs, targets, starts, pad_contexts([lane.context for lane in lanes], width)
        )

    def _read_lane(self, lane: int, length: int) -> _LaneIds:
        """Read the next ids of a lane's tune, or the first of the next tune."""
        tune, semitones, read = self.positions[lane]
        if tune < 0 or read == len(self.tunes[tune]):
            tune, read = self._draw_tune(), 0
            semitones = self._draw_transposition(self.tunes[tune])
        stop = min(read + length, len(self.tunes[tune]))
        self.positions[lane] = LanePosition(tune, semitones, stop)
        piece = self.tunes[tune][max(0, read - 1) : stop]
        ids = transpose_ids(piece, self.pitch_ranges, semitones)
        context = None
        if self.contexts is not None:
            written = self.contexts.get(tune, self.queue)[read:stop]
            context = self.contexts.source.transpose(written, semitones)
        if read:
            return _LaneIds(ids[:-1], ids[1:], False, context)
        return _LaneIds(shift_right(ids), ids, True, context)

    def _draw_transposition(self, ids: TokenIds) -> int:
        if not self.pitch_ranges:
            return 0
        semitones = find_transposition_range(ids, self.pitch_ranges)
        return int(self.generator.integers(semitones.start, semitones.stop))

    def _draw_tune(self) -> int:
        if not self.queue:
            self.queue = self.generator.permutation(len(self.tunes)).tolist()
        return self.queue.pop()

    def get_position(self) -> dict[str, Any]:
        """Return the position in the stream as JSON values, for `seek`."""
        return {
            "queue": list(self.queue),
            "at": [list(position) for position in self.positions],
            "generator": self.generator.bit_generator.state,
        }

    def seek(self, position: dict[str, Any]) -> None:
        """Go back to a position that `get_position` returned.

        Raises:
            ValueError: the position does not fit the tunes or the number of lanes.
        """
        queue = list(position["queue"])
        positions = [LanePosition(*lane) for lane in position["at"]]
        tune_indices = range(len(self.tunes))
        if len(positions) != len(self.positions) or not all(tune in tune_indices for tune in queue):
            raise ValueError("the lanes or the queue do not fit the tunes")
        for tune, semitones, read in positions:
            length = len(self.tunes[tune]) if tune in tune_indices else 0
            if tune not in range(-1, len(self.tunes)) or not 0 <= read <= length:
                raise ValueError("the position of a lane is outside its tune")
            if abs(semitones) > MAX_TRANSPOSITION:
                raise ValueError("the transposition of a lane is out of range")
        self.queue, self.positions = queue, positions
        self.generator.bit_generator.state = position["generator"]


def find_transposition_range(ids: TokenIds, pitch_ranges: Sequence[range]) -> range:
    """Return the transpositions, in semitones, that keep every pitch of a tune in its range.

    Args:
        ids: (token,) int16 or int64.
        pitch_ranges: the ranges of ids that are pitches.
    """
    low, high = MIN_TRANSPOSITION, MAX_TRANSPOSITION
    for pitches in pitch_ranges:
        used = ids[(ids >= pitches.start) & (ids < pitches.stop)]
        if used.size:
            low = max(low, pitches.start - int(used.min()))
            high = min(high, pitches.stop - 1 - int(used.max()))
    return range(low, high + 1)


def transpose_ids(ids: TokenIds, pitch_ranges: Sequence[range], semitones: int) -> TokenIds:
    """Transpose the pitches among token ids.

    Args:
        ids: (token,) int16 or int64.
        pitch_ranges: the ranges of ids that are pitches.
        semitones: added to each pitch.

    Returns:
        (token,) in the dtype of `ids`; `ids` itself if `semitones` is 0.
    """
    if not semitones:
        return ids
    transposed = ids.copy()
    for pitches in pitch_ranges:
        transposed[(ids >= pitches.start) & (ids < pitches.stop)] += semitones
    return transposed


def pad_contexts(contexts: Sequence[ContextFields | None], width: int) -> IntArray | None:
    """Pad the contexts of lanes at their ends.

    Args:
        contexts: (token, field) int16 each, or None for all.
        width: of the window, in tokens.

    Returns:
        (lane, width, field) int64.
    """
    if not contexts or contexts[0] is None:
        return None
    padded = np.zeros((len(contexts), width, contexts[0].shape[1]), np.int64)
    for row, context in zip(padded, contexts, strict=True):
        assert context is not None
        row[: len(context)] = context
    return padded


def batch_whole_tunes(
    tunes: Sequence[TokenIds], lanes: int
) -> Iterator[tuple[list[int], IntArray, IntArray]]:
    """Batch whole tunes of similar length, padded at their ends.

    Args:
        tunes: (token,) int16 or int64 each.
        lanes: the most tunes per batch.

    Yields:
        The indices of the tunes, and their inputs and targets, (tune, length) int64.
    """
    order = sorted(range(len(tunes)), key=lambda index: (len(tunes[index]), index))
    for start in range(0, len(order), lanes):
        chosen = order[start : start + lanes]
        length = max(len(tunes[index]) for index in chosen)
        inputs = np.full((len(chosen), length), BEGIN_ID, np.int64)
        targets = np.full((len(chosen), length), IGNORE_INDEX, np.int64)
        for row, index in enumerate(chosen):
            ids = tunes[index]
            inputs[row, : len(ids)] = shift_right(ids)
            targets[row, : len(ids)] = ids
        yield chosen, inputs, targets
