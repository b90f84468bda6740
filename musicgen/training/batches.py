"""Whole tunes, laid end to end in lanes and cut into windows.

No id of a training window is padding: a lane whose tune has ended goes on with the next tune of
the queue. What is fed is the begin event and all ids but the last; what is predicted is every id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from musicgen.config import BEGIN_ID

IGNORE_INDEX = -100  # a target that is no target: padding behind a held-out tune
MIN_TRANSPOSITION, MAX_TRANSPOSITION = (
    -5,
    6,
)  # semitones by which a tune may be moved: each of the twelve keys once


@dataclass(frozen=True, slots=True)
class Window:
    """The ids of one truncated step."""

    inputs: np.ndarray  # (lane, window) int64
    targets: np.ndarray  # (lane, window) int64

    @property
    def token_count(self) -> int:
        """Count the targets that are not padding."""
        return int(np.count_nonzero(self.targets != IGNORE_INDEX))


def shift_right(ids: np.ndarray) -> np.ndarray:
    """Return what is fed to predict a tune: the begin event, then all ids but the last."""
    return np.concatenate([[BEGIN_ID], ids[:-1]])


class LanePosition(NamedTuple):
    """Where a lane stands."""

    tune: int  # -1 before the first
    semitones: int  # that it is moved by
    ids_read: int  # ids of it


class WindowStream:
    """An endless stream of windows over shuffled tunes; its position is explicit and small.

    Where `pitches` says which ids are pitches, from low to high (several ranges: of notes on, notes
    off), each tune is moved by some semitones, drawn anew each time that it comes.
    """

    def __init__(
        self,
        tunes: Sequence[np.ndarray],
        lanes: int,
        generator: np.random.Generator,
        pitch_ranges: Sequence[range] = (),
    ) -> None:
        self.tunes = tunes
        self.generator = generator
        self.pitch_ranges = pitch_ranges
        self.queue: list[int] = []  # tunes still to come in this epoch, the next one last
        self.positions = [LanePosition(-1, 0, 0)] * lanes

    def next_window(self, length: int) -> Window:
        """Cut the next window, of so many ids, and move on."""
        inputs = np.empty((len(self.positions), length), np.int64)
        targets = np.empty_like(inputs)
        for lane in range(len(self.positions)):
            self._fill_lane(lane, inputs[lane], targets[lane])
        return Window(inputs, targets)

    def _fill_lane(self, lane: int, inputs: np.ndarray, targets: np.ndarray) -> None:
        done = 0
        while done < len(inputs):
            tune, semitones, read = self.positions[lane]
            if tune < 0 or read == len(self.tunes[tune]):
                tune, read = self._draw_tune(), 0
                semitones = self._draw_transposition(self.tunes[tune])
            ids = self.tunes[tune]
            count = min(len(inputs) - done, len(ids) - read)
            piece = transpose_ids(ids[read : read + count], self.pitch_ranges, semitones)
            targets[done : done + count] = piece
            before = transpose_ids(ids[read - 1 : read], self.pitch_ranges, semitones)
            inputs[done] = before[0] if read else BEGIN_ID
            inputs[done + 1 : done + count] = piece[:-1]
            self.positions[lane] = LanePosition(tune, semitones, read + count)
            done += count

    def _draw_transposition(self, ids: np.ndarray) -> int:
        if not self.pitch_ranges:
            return 0
        room = find_transposition_range(ids, self.pitch_ranges)
        return int(self.generator.integers(room.start, room.stop))

    def _draw_tune(self) -> int:
        if not self.queue:
            self.queue = self.generator.permutation(len(self.tunes)).tolist()
        return self.queue.pop()

    def get_position(self) -> dict[str, Any]:
        """Return where the stream stands, as plain values: what `seek` takes."""
        state = self.generator.bit_generator.state
        return {
            "queue": list(self.queue),
            "at": [list(at) for at in self.positions],
            "generator": state,
        }

    def seek(self, position: dict[str, Any]) -> None:
        """Go back to a position. Raises ValueError for one that is not among the tunes."""
        queue, at = list(position["queue"]), [LanePosition(*place) for place in position["at"]]
        lengths = range(len(self.tunes))
        if len(at) != len(self.positions) or not all(tune in lengths for tune in queue):
            raise ValueError("the lanes are at tunes that there are none of")
        for tune, semitones, read in at:
            most = len(self.tunes[tune]) if tune in lengths else 0
            if tune not in range(-1, len(self.tunes)) or not 0 <= read <= most:
                raise ValueError("a lane is at a place that its tune does not have")
            if abs(semitones) > MAX_TRANSPOSITION:
                raise ValueError("a lane is moved by more than there are pitches")
        self.queue, self.positions = queue, at
        self.generator.bit_generator.state = position["generator"]


def find_transposition_range(ids: np.ndarray, pitch_ranges: Sequence[range]) -> range:
    """Return the semitones by which a tune can be moved so that all its pitches stay pitches."""
    low, high = MIN_TRANSPOSITION, MAX_TRANSPOSITION
    for place in pitch_ranges:
        own = ids[(ids >= place.start) & (ids < place.stop)]
        if own.size:
            low = max(low, place.start - int(own.min()))
            high = min(high, place.stop - 1 - int(own.max()))
    return range(low, high + 1)


def transpose_ids(ids: np.ndarray, pitch_ranges: Sequence[range], semitones: int) -> np.ndarray:
    """Return a tune's ids with each pitch moved by so many semitones."""
    if not semitones:
        return ids
    found = ids.copy()
    for place in pitch_ranges:
        found[(ids >= place.start) & (ids < place.stop)] += semitones
    return found


def batch_whole_tunes(
    tunes: Sequence[np.ndarray], lanes: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yield (indices, inputs, targets) of tunes of similar length, padded behind their ends."""
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
