"""The context of frames: what a piano roll shows of a piece, computed from its ids so far.

The codec `frames` has no bars, so the fields count frames. Each is a function of the ids before
the next one, and of nothing else:

=============  =====================================================================================
field          value
=============  =====================================================================================
of n           number of the frame modulo n; `of128` in units of eight frames
count          pitches of the frame so far
above          the id + 1 of the last pitch of the frame so far; 0 if there is none
motion         semitones from the counterpart of that pitch to it; `first_motion`: of the first one
age            for how many frames the counterpart of the next pitch has sounded
key            semitones by which the piece is transposed from the key in which it is stored
... tones      pitch classes: of the frame so far, of the frame before, of the last 16 frames
under, over    pitches of the frame before, by semitones below and above the next counterpart
... chord      pitches of the frame so far, by semitones above the last one: 1 to 15, 16 to 30
ago n          the id + 1 that continues the frame n frames ago: its next lower pitch, or its end
apart n        semitones from the counterpart to that pitch
run n          for how many ids `ago n` has been right
=============  =====================================================================================

The counterpart of a pitch is the next lower pitch of the frame before, below the last pitch that
was written. The fields with `_echo` look back to the frame that followed the longest repetition of
the frames so far; the run is then that of whole frames, and 0 once the frame so far differs.

`FrameContexts` computes the fields of whole pieces with NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from musicgen.config import FRAME_FIELDS, FRAME_LAGS, FRAME_LOOK_BACKS
from musicgen.music.arrays import BoolArray, IntArray, TokenIds, find_repetitions
from musicgen.tokens.frames import FRAME, PITCH

Fields: TypeAlias = npt.NDArray[np.int16]  # (token, field) of one piece

PITCHES: Final = len(PITCH)
NO_PITCH: Final = -1  # where a frame has no lower pitch
TOP: Final = PITCHES  # stands for the last pitch of a frame that has none so far
MOST_SEMITONES: Final = 12  # intervals beyond are counted as this one
MOST_AGE: Final = 32  # frames
RECENT_FRAMES: Final = 16
MOST_ECHO: Final = 255  # frames of a repetition that are counted
WINDOW: Final = 15  # semitones in a set of pitches around another
MOST_TRANSPOSITION: Final = 6  # semitones
_NO_INTERVAL, _FROM_END, _TO_END = 0, 2 * MOST_SEMITONES + 2, 2 * MOST_SEMITONES + 3
_MOST_RUN: Final = 15

FRAME_FIELD_SIZES: Final = {
    "of12": 12, "of16": 16, "of128": 16, "count": 16, "motion": _TO_END + 1,
    "first_motion": _TO_END + 1, "age": MOST_AGE + 1, "key": 2 * MOST_TRANSPOSITION + 1,
    **{f"apart{name}": _TO_END + 1 for name in FRAME_LOOK_BACKS},
    **{f"run{name}": _MOST_RUN + 1 for name in FRAME_LOOK_BACKS},
}  # fmt: skip
_COLUMNS: Final = {name: column for column, name in enumerate(FRAME_FIELDS)}
_PITCH_COLUMNS: Final = [
    column for name, column in _COLUMNS.items() if name == "above" or name.startswith("ago")
]
_TONE_COLUMNS: Final = [column for name, column in _COLUMNS.items() if name.endswith("_tones")]


class FrameContexts:
    """Computes the context of pieces of the codec `frames`."""

    def compute(self, tunes: Sequence[TokenIds]) -> list[Fields]:
        """Compute the fields before each id of some pieces.

        Args:
            tunes: (token,) int16 or int64 each; pitches descend within a frame.

        Returns:
            (token, field) int16 each, in the order of FRAME_FIELDS.
        """
        return [_compute_fields(PieceFrames.parse(ids)) for ids in tunes]

    def transpose(self, fields: Fields, semitones: int) -> Fields:
        """Return the fields of a piece that is transposed.

        Args:
            fields: (..., field) int16, of the piece as it is stored.
            semitones: up to MOST_TRANSPOSITION up or down, to pitches that exist.
        """
        transposed = fields.copy()
        pitches = fields[..., _PITCH_COLUMNS]
        transposed[..., _PITCH_COLUMNS] = pitches + semitones * (pitches > PITCH.start)
        tones, shift = fields[..., _TONE_COLUMNS].astype(np.int64), semitones % 12
        transposed[..., _TONE_COLUMNS] = (tones << shift | tones >> (12 - shift)) & 0xFFF
        transposed[..., _COLUMNS["key"]] += semitones
        return transposed


@dataclass(frozen=True, slots=False)
class PieceFrames:
    """A piece as a piano roll, and the place of each of its ids."""

    ids: IntArray  # (token,)
    frame: IntArray  # (token,) number of the frame that the id belongs to
    count: IntArray  # (token,) pitches of the frame before the id
    last: IntArray  # (token,) the last of them, TOP if there is none
    roll: BoolArray  # (frame, pitch), with an empty frame at the end

    @classmethod
    def parse(cls, ids: TokenIds) -> PieceFrames:
        """Parse the ids of a piece, (token,) int16 or int64."""
        values: IntArray = ids.astype(np.int64)
        is_end = values < PITCH.start
        frame: IntArray = np.cumsum(is_end) - is_end
        roll = np.zeros((int(frame.max(initial=-1)) + 2, PITCHES), np.bool_)
        roll[frame[~is_end], values[~is_end] - PITCH.start] = True
        count = np.arange(len(values)) - np.searchsorted(frame, frame)
        before = np.concatenate([[0], values[:-1]])
        last = np.where(count > 0, before - PITCH.start, TOP)
        return cls(values, frame, count, last, roll)

    @cached_property
    def lower(self) -> npt.NDArray[np.int16]:
        """The highest pitch below each of 0 to TOP, NO_PITCH if none: (frame, TOP + 1) int16."""
        numbers = np.where(self.roll, np.arange(PITCHES, dtype=np.int16), np.int16(NO_PITCH))
        highest = np.maximum.accumulate(numbers, axis=1)
        none = np.full((len(numbers), 1), NO_PITCH, np.int16)
        return np.concatenate([none, highest], axis=1)

    @cached_property
    def ages(self) -> npt.NDArray[np.int16]:
        """For how many frames each pitch has sounded, with this one: (frame, pitch) int16."""
        ages = np.zeros(self.roll.shape, np.int16)
        ages[0] = self.roll[0]
        for number in range(1, len(ages)):
            ages[number] = self.roll[number] * (ages[number - 1] + 1)
        return ages

    def look_up(self, frames: IntArray) -> IntArray:
        """Return the pitch that continues a frame for each id, (token,) int64, or NO_PITCH.

        Args:
            frames: (token,) int64 numbers of frames, 0 or more.
        """
        return self.lower[frames, self.last].astype(np.int64)


def _compute_fields(piece: PieceFrames) -> Fields:
    """Compute the fields of a piece, (token, field) int16."""
    fields = np.zeros((len(piece.ids), len(FRAME_FIELDS)), np.int16)
    before = piece.frame - 1
    counterpart = np.where(before < 0, NO_PITCH, piece.look_up(np.maximum(before, 0)))
    columns = {
        **_compute_position(piece),
        **_compute_motion(piece, counterpart),
        **_compute_sets(piece, counterpart),
    }
    for lag in FRAME_LAGS:
        seen, apart = _look_back(piece, piece.frame - lag, counterpart)
        columns |= {f"ago{lag}": seen, f"apart{lag}": apart}
        columns[f"run{lag}"] = _bucket(_count_runs(seen == piece.ids + 1))
    _, frame_codes = np.unique(piece.roll, axis=0, return_inverse=True)
    echo, lengths = find_repetitions(frame_codes, MOST_ECHO)
    seen, apart = _look_back(piece, echo[piece.frame], counterpart)
    is_same = _is_same_so_far(piece, seen)
    columns |= {"ago_echo": seen, "apart_echo": apart}
    columns["run_echo"] = _bucket(lengths[piece.frame] * is_same)
    for name, values in columns.items():
        fields[:, _COLUMNS[name]] = values
    return fields


def _compute_position(piece: PieceFrames) -> dict[str, IntArray]:
    """Return the fields of the place in the piece and in the frame, (token,) each."""
    return {
        "of12": piece.frame % 12,
        "of16": piece.frame % 16,
        "of128": piece.frame // 8 % 16,
        "count": np.minimum(piece.count, FRAME_FIELD_SIZES["count"] - 1),
        "above": np.where(piece.count > 0, piece.last + PITCH.start + 1, 0),
        "key": np.full(len(piece.ids), MOST_TRANSPOSITION),
    }


def _compute_motion(piece: PieceFrames, counterpart: IntArray) -> dict[str, IntArray]:
    """Return how the pitches move from frame to frame, (token,) each.

    Args:
        piece: of frames.
        counterpart: (token,) of each id, NO_PITCH if none.
    """
    pitch = np.where(piece.ids < PITCH.start, NO_PITCH, piece.ids - PITCH.start)
    motion = _measure_interval(counterpart, pitch)
    is_first = piece.count == 0
    starts = np.arange(len(pitch)) - piece.count
    age = piece.ages[np.maximum(piece.frame - 1, 0), counterpart]
    return {
        "motion": np.where(is_first, _NO_INTERVAL, np.concatenate([[0], motion[:-1]])),
        "first_motion": np.where(is_first, _NO_INTERVAL, motion[starts]),
        "age": np.where(counterpart < 0, 0, np.minimum(age, MOST_AGE)),
    }


def _measure_interval(low: IntArray, high: IntArray) -> IntArray:
    """Return the value of an interval between pitches, NO_PITCH where a frame ends: (token,)."""
    interval = np.clip(high - low, -MOST_SEMITONES, MOST_SEMITONES) + MOST_SEMITONES + 1
    interval = np.where((low < 0) & (high >= 0), _FROM_END, interval)
    return np.where((low >= 0) & (high < 0), _TO_END, interval)


def _compute_sets(piece: PieceFrames, counterpart: IntArray) -> dict[str, IntArray]:
    """Return the sets of pitches and of pitch classes, (token,) each.

    Args:
        piece: of frames.
        counterpart: (token,) of each id, NO_PITCH if none.
    """
    empty = np.zeros((1, PITCHES), np.bool_)
    before = np.concatenate([empty, piece.roll[:-1]])[piece.frame]
    written = piece.roll[piece.frame] & (np.arange(PITCHES) >= piece.last[:, None])
    last = np.where(piece.count > 0, piece.last, NO_PITCH)
    return {
        "frame_tones": _pack_tones(written),
        "before_tones": _pack_tones(before),
        "recent_tones": _find_recent_tones(piece.roll)[piece.frame],
        "under": _pack_window(before, counterpart, -1),
        "over": _pack_window(before, counterpart, 1),
        "near_chord": _pack_window(written, last, 1),
        "far_chord": _pack_window(written, last, 1, WINDOW),
    }


def _pack_tones(roll: BoolArray) -> IntArray:
    """Return the pitch classes of each row of a roll (row, pitch) as bits, (row,)."""
    padded = np.pad(roll, ((0, 0), (0, -roll.shape[1] % 12)))
    tones = padded.reshape(len(roll), -1, 12).any(1)
    return tones @ (1 << np.arange(12))


def _find_recent_tones(roll: BoolArray) -> IntArray:
    """Return the pitch classes of the frames before each frame of a roll, as bits, (frame,)."""
    tones = _pack_tones(roll)
    recent = np.zeros_like(tones)
    for lag in range(1, min(RECENT_FRAMES, len(tones) - 1) + 1):
        recent[lag:] |= tones[:-lag]
    return recent


def _pack_window(roll: BoolArray, centre: IntArray, direction: int, skipped: int = 0) -> IntArray:
    """Return the pitches near others as bits, the nearest first: (row,).

    Args:
        roll: (row, pitch).
        centre: (row,) pitch, NO_PITCH for no set.
        direction: 1 for the pitches above, -1 for those below.
        skipped: semitones between the pitch and the set.
    """
    margin = 2 * WINDOW
    padded = np.pad(roll, ((0, 0), (margin, margin)))
    places = centre[:, None] + margin + direction * (1 + skipped + np.arange(WINDOW))
    bits = np.take_along_axis(padded, np.maximum(places, 0), axis=1)
    packed: IntArray = bits @ (1 << np.arange(WINDOW)) * (centre >= 0)
    return packed


def _look_back(
    piece: PieceFrames, frames: IntArray, counterpart: IntArray
) -> tuple[IntArray, IntArray]:
    """Look up what continues earlier frames.

    Args:
        piece: of frames.
        frames: (token,) their numbers, negative for none.
        counterpart: (token,) of each id, NO_PITCH if none.

    Returns:
        The id + 1 of each, and its interval from the counterpart, (token,) each; 0 for none.
    """
    pitch = piece.look_up(np.maximum(frames, 0))
    seen = np.where(pitch < 0, FRAME + 1, pitch + PITCH.start + 1)
    interval = _measure_interval(counterpart, pitch)
    return np.where(frames < 0, 0, seen), np.where(frames < 0, _NO_INTERVAL, interval)


def _count_runs(is_right: BoolArray) -> IntArray:
    """Return how many ids before each have been right without a break, (token,)."""
    numbers = np.arange(1, len(is_right) + 1)
    breaks = np.maximum.accumulate(np.where(is_right, 0, numbers))
    return np.concatenate([[0], (numbers - breaks)[:-1]])


def _is_same_so_far(piece: PieceFrames, seen: IntArray) -> BoolArray:
    """Tell whether the frame so far agrees with what was looked up, (token,)."""
    return _count_runs(seen == piece.ids + 1) >= piece.count


def _bucket(counts: IntArray) -> IntArray:
    """Return counts up to 8 as they are, and ever wider ranges above: (token,)."""
    levels = np.floor(np.log2(np.maximum(counts, 8) / 8) * 1.5).astype(np.int64)
    return np.where(counts <= 8, counts, np.minimum(8 + levels, _MOST_RUN))
