"""What a tune is: notes on a step grid, and marks between them.

A `Score` is the *written* form: repeats and endings are marks. `Score.unfolded()` plays them out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.notes import DEFAULT_VELOCITY as DEFAULT_VELOCITY  # where all look for it
from musicgen.music.notes import (
    LATEST_STEP,
    WHOLE,
    Columns,
    Notes,
    by_onset,
    cut,
    sliced,
    with_one_velocity,
    without_overlaps,
)
from musicgen.music.notes import Note as Note  # and for this
from musicgen.music.theory import Key, Meter, plain_chord, transpose_chord

STEPS_PER_QUARTER: Final = 48
STEPS_PER_WHOLE: Final = 4 * STEPS_PER_QUARTER
DEFAULT_QPM: Final = 120.0
SLOWEST_QPM: Final = 60_000_000 / (2**24 - 1)  # what MIDI can say: microseconds in three bytes
FASTEST_QPM: Final = 60_000_000.0
MAX_PLAYS: Final = 4  # a repeat is played at most so often

MarkKind = Literal["bar", "chord", "ending", "key", "meter", "repeat_end", "repeat_start", "tempo"]

# Marks at one step stand in this order: what closes, what opens, what holds from here.
MARK_ORDER: Final[dict[MarkKind, int]] = {
    "repeat_end": 0,
    "bar": 1,
    "repeat_start": 2,
    "ending": 3,
    "key": 4,
    "meter": 5,
    "tempo": 6,
    "chord": 7,
}


@dataclass(frozen=True, slots=True)
class Part:
    """Who plays: a name, a General MIDI program (0..127), or the drum kit."""

    name: str = ""
    program: int = 0
    is_drums: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.program, WHOLE) or not 0 <= self.program <= 127:
            raise InvalidValue(f"program {self.program!r}: write a whole number from 0 to 127")


@dataclass(frozen=True, slots=True)
class Ending:
    """A variant ending: the passes it is played in, and the step where it stops."""

    passes: tuple[int, ...]
    end: int

    def __post_init__(self) -> None:
        _check_step(self.end, "an ending")
        if not all(isinstance(number, WHOLE) for number in self.passes):
            raise InvalidValue(f"ending {self.passes!r}: passes are whole numbers")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something written at a step that is not a note.

    ============  =========================================================
    kind          value
    ============  =========================================================
    bar           None; a bar line, which ends the bar before it
    repeat_start  None
    repeat_end    how often the section is played, 2..4
    ending        `Ending`
    key, meter    `Key`, `Meter`
    tempo         quarters a minute, float; SLOWEST_QPM..FASTEST_QPM
    chord         chord symbol, str: "Am7", "D/F#"
    ============  =========================================================
    """

    onset: int
    kind: MarkKind
    value: Any = None

    def __post_init__(self) -> None:
        _check_step(self.onset, f"a mark of {self.kind}")
        if self.kind == "tempo":
            _check_tempo(self.value)
        elif not isinstance(self.value, _MARK_TYPES.get(self.kind, ())):
            raise InvalidValue(
                f"{self.kind} {str(self.value)[:40]!r} is not a value of such a mark"
            )

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Order of marks: by step, then by MARK_ORDER."""
        return self.onset, MARK_ORDER[self.kind], str(self.value)


_MARK_TYPES: Final[dict[MarkKind, tuple[type, ...]]] = {
    "bar": (type(None),),
    "repeat_start": (type(None),),
    "repeat_end": WHOLE,
    "ending": (Ending,),
    "key": (Key,),
    "meter": (Meter,),
    "chord": (str,),
}


def _check_step(step: int, what: str) -> None:
    if not isinstance(step, WHOLE) or not 0 <= step <= LATEST_STEP:
        raise InvalidValue(f"{what} stands at step {step}: write one from 0 to {LATEST_STEP:,}")


def _check_tempo(qpm: Any) -> None:
    """Refuse what MIDI cannot say; far beyond it, what draws a score aborts."""
    if not isinstance(qpm, int | float) or not SLOWEST_QPM <= qpm <= FASTEST_QPM:
        shown = f"{qpm:g}" if isinstance(qpm, float) else str(qpm)[:40]
        raise InvalidValue(
            f"tempo {shown} is outside of {SLOWEST_QPM:.1f} to {FASTEST_QPM:,.0f} quarters a minute"
        )


@dataclass(frozen=True)
class Score:
    """A tune in written form: parts, notes in order, marks in order.

    Notes and marks are sorted when made. The tune ends at its last bar line, note end or mark.
    """

    notes: Sequence[Note] = ()
    marks: tuple[Mark, ...] = ()
    parts: tuple[Part, ...] = field(default=(Part(),))
    title: str = ""
    rhythm: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", tuple(sorted(self.marks, key=lambda m: m.sort_key)))
        if not isinstance(self.notes, Notes):
            object.__setattr__(self, "notes", Notes.of(self.notes))
        parts = self.columns[4]
        if parts.size and not 0 <= parts.min() <= parts.max() < len(self.parts):
            stray = next(note for note in self.notes if not 0 <= note.part < len(self.parts))
            raise InvalidValue(f"{stray}: the score has {len(self.parts)} parts")

    @property
    def columns(self) -> Columns:
        """The notes as columns, in the order of Note's fields."""
        assert isinstance(self.notes, Notes)
        return self.notes.columns

    def of(self, kind: MarkKind) -> Iterator[Mark]:
        """Iterate over the marks of one kind, in order."""
        return (mark for mark in self.marks if mark.kind == kind)

    def first(self, kind: MarkKind, default: Any) -> Any:
        """Return the value of the first mark of a kind, or the default."""
        return next((mark.value for mark in self.of(kind)), default)

    @property
    def key(self) -> Key:
        """The key at the start; C major where none is written."""
        return self.first("key", Key("C", "major"))  # type: ignore[no-any-return]

    @property
    def meter(self) -> Meter:
        """The meter at the start; 4/4 where none is written."""
        return self.first("meter", Meter(4, 4))  # type: ignore[no-any-return]

    @property
    def qpm(self) -> float:
        """Quarters a minute at the start; 120 where none is written."""
        return float(self.first("tempo", DEFAULT_QPM))

    @cached_property
    def end(self) -> int:
        """The step at which the written tune ends."""
        ends: list[int] = [int((self.columns[0] + self.columns[2]).max(initial=0))]
        ends += [mark.onset for mark in self.marks]
        ends += [mark.value.end for mark in self.of("ending")]
        return max(ends)

    def pitch_weights(self) -> list[int]:
        """Return for how many steps each pitch class sounds, from C up; drums have none."""
        durations = self.columns[2] * self._is_pitched
        return list(map(int, np.bincount(self.columns[1] % 12, durations, minlength=12)))

    @property
    def _is_pitched(self) -> Any:
        """Tell of each note whether no drum plays it."""
        return np.array([not part.is_drums for part in self.parts], dtype=bool)[self.columns[4]]

    def transposed(self, semitones: int) -> Score:
        """Move every pitch and key by semitones; drums stay. Raises InvalidValue outside 0..127."""
        columns = self.columns.copy()
        columns[1] += semitones * self._is_pitched
        marks = tuple(_transposed_mark(mark, semitones) for mark in self.marks)
        return replace(self, notes=Notes(columns), marks=marks)

    def canonical(self) -> Score:
        """Return the one form that all equal tunes share.

        One velocity a part (its most frequent), meter and key written at the start, repeat starts
        explicit, a bar line wherever the playing may jump and at the end, ties cut at the jumps,
        no overlapping equal pitches in a part, later keys and chords in their plainest spelling,
        no mark that says nothing new, or that stands where the tune is over.
        """
        return self._canonical

    @cached_property
    def _canonical(self) -> Score:
        score = _with_explicit_repeats(self)
        columns = with_one_velocity(without_overlaps(cut(score.columns, jumps(score))))
        notes = score.notes if columns is score.columns else Notes(columns)
        marks = _with_bar_lines(score, _plainly_spelt(_with_start(score)))
        found = replace(score, notes=notes, marks=_without_echoes(marks))
        found.__dict__["_canonical"] = found  # known, so never asked again
        return found

    def unfolded(self) -> Score:
        """Play the repeats and endings out: the same tune without repeat marks."""
        return self.assembled(passages(self))

    def assembled(self, stretches: Iterable[tuple[int, int]]) -> Score:
        """Put stretches (start, stop) of the tune one after another, without repeat marks."""
        notes = [np.empty((5, 0), dtype=np.int64)]
        marks: list[Mark] = []
        played = 0
        written, mark_slices = by_onset(cut(self.columns, jumps(self))), MarkSlices(self.marks)
        for start, stop in stretches:
            shift = played - start
            notes.append(sliced(written, start, stop, shift))
            marks += mark_slices.between(start, stop, shift)
            played += stop - start
        found = Notes(np.concatenate(notes, axis=1))
        return replace(self, notes=found, marks=_without_echoes(marks))

    def heard_from(self, step: int) -> Score:
        """Return what is still to be heard when a written step is reached for the first time."""
        left: list[tuple[int, int]] = []
        for start, stop in passages(self):
            if left or step < stop:
                left.append((start if left else max(start, step), stop))
        return self.assembled(left)


def jumps(score: Score) -> tuple[int, ...]:
    """Return the steps between which the playing may jump, in order: no tie goes across."""
    steps: set[int] = set()
    for section in sections(score):
        steps |= {section.start, section.stop}
        for mark in section.endings:
            steps |= {mark.onset, mark.value.end}
    return tuple(sorted(steps))


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch that is repeated: plays is how often, endings are its variant endings in order."""

    start: int
    stop: int
    plays: int
    endings: tuple[Mark, ...] = ()


def sections(score: Score) -> tuple[Section, ...]:
    """Find the repeated sections.

    A repeat end without a start returns to the last repeat end, else to the beginning. A section
    with endings has as many passes as the highest that they name, at least 2, whatever bar line
    closes the last of them; each ending lasts to the next. A repeat start that nothing closes
    repeats nothing.
    """
    finder = _SectionFinder({mark.onset: mark.value for mark in score.of("ending")})
    for mark in score.marks:
        if mark.kind == "repeat_start":
            finder.start(mark.onset)
        elif mark.kind == "ending":
            finder.ending(mark.onset, mark.value)
        elif mark.kind == "repeat_end" and not finder.goes_on(mark.onset):
            finder.end(mark.onset, int(mark.value))
    finder.close(score.end, 2)
    return tuple(finder.found)


class _SectionFinder:
    """The sections so far, and the one under way."""

    def __init__(self, ahead: dict[int, Ending]) -> None:
        self.ahead = ahead  # the endings of the score, by their start
        self.found: list[Section] = []
        self.opened = 0  # where the section under way starts
        self.endings: list[tuple[int, Ending]] = []

    def start(self, step: int) -> None:
        self.close(step, 2)
        self.opened = max(self.opened, step)

    def ending(self, step: int, ending: Ending) -> None:
        passes = tuple(sorted({n for n in ending.passes if 1 <= n <= MAX_PLAYS}))
        if step < self.opened or not passes:
            return
        if self.endings and not self.follows(passes):
            self.close(step, 2)
        self.stretch(step)
        self.endings.append((step, Ending(passes, ending.end)))

    def end(self, step: int, plays: int) -> None:
        if self.endings and self.endings[-1][1].end < step and self.endings[-1][1].passes[-1] > 1:
            self.close(self.endings[-1][1].end, 2)
        elif self.endings:
            self.stretch(step)
        self.close(step, plays, is_end=True)

    def follows(self, passes: tuple[int, ...]) -> bool:
        return passes[0] > self.endings[-1][1].passes[-1]

    def goes_on(self, step: int) -> bool:
        """Tell whether the section under way has a further ending, which starts at a step."""
        following = self.ahead.get(step)
        if following is None or not self.endings:
            return False
        return self.follows(tuple(sorted(following.passes)))

    def stretch(self, step: int) -> None:
        """Let the last ending stop at a step."""
        if self.endings:
            onset, ending = self.endings.pop()
            if onset < step:
                self.endings.append((onset, Ending(ending.passes, step)))

    def close(self, step: int, plays: int, *, is_end: bool = False) -> None:
        if self.endings and self.endings[-1][1].end > step:
            self.stretch(step)
        if self.endings:
            stop = self.endings[-1][1].end
            plays = max(2, *(number for _, ending in self.endings for number in ending.passes))
        elif is_end:
            stop = step
        else:
            return
        if self.opened < stop:
            marks = tuple(Mark(onset, "ending", ending) for onset, ending in self.endings)
            self.found.append(Section(self.opened, stop, min(max(plays, 2), MAX_PLAYS), marks))
        self.opened = max(self.opened, stop)
        self.endings = []


def passages(score: Score) -> Iterator[tuple[int, int]]:
    """Yield the stretches (start, stop) of a score in the order in which they sound."""
    cursor = 0
    for section in sections(score):
        if cursor < section.start:
            yield cursor, section.start
        for number in range(1, section.plays + 1):
            yield from _one_pass(section, number)
        cursor = section.stop
    if cursor < score.end:
        yield cursor, score.end


def _one_pass(section: Section, number: int) -> Iterator[tuple[int, int]]:
    cursor = section.start
    for mark in section.endings:
        if number in mark.value.passes:
            continue
        if cursor < mark.onset:
            yield cursor, mark.onset
        cursor = max(cursor, mark.value.end)
    if cursor < section.stop:
        yield cursor, section.stop


_HOLDING: Final[tuple[MarkKind, ...]] = ("key", "meter", "tempo")  # until the next of the kind
_REPEATING: Final = ("repeat_start", "repeat_end", "ending")


class MarkSlices:
    """The marks of a tune, to be taken stretch by stretch."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        """Take marks in order; repeats are left out."""
        self.marks = [mark for mark in marks if mark.kind not in _REPEATING]
        self.onsets = [mark.onset for mark in self.marks]
        held = {kind: [mark for mark in self.marks if mark.kind == kind] for kind in _HOLDING}
        self.held = {kind: (same, [mark.onset for mark in same]) for kind, same in held.items()}

    def between(self, start: int, stop: int, shift: int) -> Iterator[Mark]:
        """Yield the marks of a stretch that is played, moved; its own end bar line stays."""
        first, last = bisect_left(self.onsets, start), bisect_right(self.onsets, stop)
        for mark in self.marks[first:last]:
            is_bar = mark.kind == "bar"
            if mark.onset == start and (is_bar or mark.kind in _HOLDING):
                continue
            if mark.onset < stop or is_bar:
                yield replace(mark, onset=mark.onset + shift)
        for marks, onsets in self.held.values():
            if count := bisect_right(onsets, start):
                yield replace(marks[count - 1], onset=start + shift)


def _transposed_mark(mark: Mark, semitones: int) -> Mark:
    if mark.kind == "key":
        return replace(mark, value=mark.value.transposed(semitones))
    if mark.kind == "chord":
        return replace(mark, value=transpose_chord(mark.value, semitones))
    return mark


def _with_explicit_repeats(score: Score) -> Score:
    """Rewrite the repeat marks from the sections that they mean."""
    marks = [m for m in score.marks if m.kind not in ("repeat_start", "repeat_end", "ending")]
    if len(marks) == len(score.marks):
        return score  # nothing is repeated, and the score knows its end already
    for section in sections(score):
        marks.append(Mark(section.start, "repeat_start"))
        marks += section.endings
        if section.endings:
            ends = [mark.value.end for mark in section.endings]
            marks += [Mark(end, "repeat_end", 2) for end in ends[:-1] or ends]
        else:
            marks.append(Mark(section.stop, "repeat_end", section.plays))
    return replace(score, marks=tuple(marks))


def _with_start(score: Score) -> list[Mark]:
    """Write the key and the meter that hold at the start, where no mark does."""
    starts: list[Mark] = []
    for kind, value in (("key", score.key), ("meter", score.meter)):
        if not any(mark.onset == 0 for mark in score.of(kind)):  # type: ignore[arg-type]
            starts.append(Mark(0, kind, value))  # type: ignore[arg-type]
    return starts + list(score.marks)


def _plainly_spelt(marks: Iterable[Mark]) -> Iterator[Mark]:
    """Spell chord symbols and later keys as `theory` would; only the first key keeps its name."""
    first = True
    for mark in marks:
        if mark.kind == "chord":
            yield replace(mark, value=plain_chord(mark.value))
        elif mark.kind == "key" and not first:
            yield replace(mark, value=Key.of(mark.value.pitch_class, mark.value.mode))
        else:
            first = first and mark.kind != "key"
            yield mark


def _matters(mark: Mark, end: int) -> bool:
    """Tell whether a mark says something: no bar line before the tune, no change after it."""
    if mark.kind == "bar":
        return mark.onset > 0
    starts = mark.onset == 0 and mark.kind != "chord"
    return starts or mark.onset < end or mark.kind in ("repeat_start", "repeat_end", "ending")


def _with_bar_lines(score: Score, marks: Iterable[Mark]) -> Iterator[Mark]:
    yield from (mark for mark in marks if _matters(mark, score.end))
    yield from (Mark(step, "bar") for step in (*jumps(score), score.end) if step > 0)


def _without_echoes(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Drop doubled marks, then those that repeat the key, meter or tempo that already holds."""
    single = {(m.onset, m.kind): m for m in sorted(marks, key=lambda m: m.sort_key)}
    holds: dict[MarkKind, Any] = {}
    return tuple(mark for mark in single.values() if not _echoes(mark, holds))


def _echoes(mark: Mark, holds: dict[MarkKind, Any]) -> bool:
    """Tell whether a mark says what holds, and keep what it says."""
    if mark.kind not in ("key", "meter", "tempo"):
        return False
    known = mark.kind in holds and holds[mark.kind] == mark.value
    holds[mark.kind] = mark.value
    return known
