"""Scores: notes on a step grid, and marks such as bar lines, keys and repeats.

A `Score` is the written form, in which repeats and endings are marks. `Score.unfolded()` plays them
out; `Score.canonical()` is the form that round trips keep.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import attrgetter, lt
from typing import Any, Final, Literal, TypeVar

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.arrays import BoolArray
from musicgen.music.dynamics import has_dynamics, with_levels, with_one_velocity
from musicgen.music.notes import DEFAULT_VELOCITY as DEFAULT_VELOCITY
from musicgen.music.notes import (
    INTEGER_TYPES,
    LATEST_STEP,
    NoteColumns,
    Notes,
    slice_by_onset,
    sort_by_onset,
    split_notes_at,
    without_overlaps,
)
from musicgen.music.notes import Note as Note
from musicgen.music.swing import Swing
from musicgen.music.theory import Key, Meter, normalize_chord, transpose_chord

STEPS_PER_QUARTER: Final = 48
STEPS_PER_WHOLE: Final = 4 * STEPS_PER_QUARTER
DEFAULT_QPM: Final = 120.0
SLOWEST_QPM: Final = 60_000_000 / (2**24 - 1)  # MIDI stores microseconds per quarter in 3 bytes
FASTEST_QPM: Final = 60_000_000.0
MAX_PLAYS: Final = 4  # most times that a repeated section is played

MarkKind = Literal[
    "bar", "chord", "ending", "fermata", "key", "meter", "repeat_end", "repeat_start", "tempo"
]  # fmt: skip

_Value = TypeVar("_Value")
_ONSET: Final = attrgetter("onset")
_SORT_KEY: Final = attrgetter("sort_key")

# Order of the marks at one step: closing marks, opening marks, then changes that take effect.
MARK_ORDER: Final[dict[MarkKind, int]] = {
    "repeat_end": 0,
    "bar": 1,
    "repeat_start": 2,
    "ending": 3,
    "key": 4,
    "meter": 5,
    "tempo": 6,
    "chord": 7,
    "fermata": 8,
}


BAND_ROLES: Final = ("", "melody", "bass", "chords", "pad", "drums")
UPPER_VOICE_ROLES: Final = ("soprano", "alto", "tenor")  # of a choir, whose lowest voice is a bass
CHOIR_ROLES: Final = (*UPPER_VOICE_ROLES, "bass")
SYMBOLS_ROLE: Final = "symbols"  # of a part without notes, in whose place chord symbols are written
PART_ROLES: Final = (*BAND_ROLES, *UPPER_VOICE_ROLES, SYMBOLS_ROLE)


@dataclass(frozen=True, slots=True)
class Part:
    """An instrument or voice of a score."""

    name: str = ""
    program: int = 0  # General MIDI, 0..127
    is_drums: bool = False
    role: str = ""  # one of PART_ROLES; "": not known

    def __post_init__(self) -> None:
        if self.role not in PART_ROLES:
            raise InvalidValue(
                f"role {str(self.role)[:40]!r} is unknown: choose one of"
                f" {', '.join(PART_ROLES[1:])}, or leave it empty"
            )
        if not isinstance(self.program, INTEGER_TYPES) or not 0 <= self.program <= 127:
            raise InvalidValue(f"program {self.program!r}: write a whole number from 0 to 127")


@dataclass(frozen=True, slots=True)
class Ending:
    """A variant ending of a repeated section."""

    passes: tuple[int, ...]  # in which it is played, from 1
    end: int  # step at which it stops

    def __post_init__(self) -> None:
        _check_step(self.end, "an ending")
        if not all(isinstance(number, INTEGER_TYPES) for number in self.passes):
            raise InvalidValue(f"ending {self.passes!r}: passes must be whole numbers")


@dataclass(frozen=True, slots=True)
class Mark:
    """A sign at a step that is not a note.

    ============  =========================================================
    kind          value
    ============  =========================================================
    bar           None; a bar line at the end of a bar
    repeat_start  None
    repeat_end    number of times that the section is played, 2..4
    ending        `Ending`
    key, meter    `Key`, `Meter`
    tempo         quarter notes per minute, float; SLOWEST_QPM..FASTEST_QPM
    chord         chord symbol, str, such as "Am7" or "D/F#"
    fermata       None; what sounds is held, as at the end of a phrase
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
                f"{self.kind} {str(self.value)[:40]!r} is not a valid value for this kind of mark"
            )

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Key that sorts marks by step, then by MARK_ORDER."""
        return self.onset, MARK_ORDER[self.kind], str(self.value)


def _sort_marks(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Sort marks by step, then by MARK_ORDER; most are in order, which is quick to find out."""
    marks = tuple(marks)
    keys = [mark.onset << 4 | MARK_ORDER[mark.kind] for mark in marks]  # up to 16 kinds
    if all(map(lt, keys, keys[1:])):
        return marks
    return tuple(sorted(marks, key=_SORT_KEY))


_MARK_TYPES: Final[dict[MarkKind, tuple[type, ...]]] = {
    "bar": (type(None),),
    "repeat_start": (type(None),),
    "repeat_end": INTEGER_TYPES,
    "ending": (Ending,),
    "key": (Key,),
    "meter": (Meter,),
    "chord": (str,),
    "fermata": (type(None),),
}


def _check_step(step: int, name: str) -> None:
    if not isinstance(step, INTEGER_TYPES) or not 0 <= step <= LATEST_STEP:
        raise InvalidValue(f"{name} is at step {step}: write a step from 0 to {LATEST_STEP:,}")


def _check_tempo(qpm: object) -> None:
    """Refuse tempos that MIDI cannot store; the engraver aborts on extreme ones."""
    if not isinstance(qpm, int | float) or not SLOWEST_QPM <= qpm <= FASTEST_QPM:
        shown = f"{qpm:g}" if isinstance(qpm, float) else str(qpm)[:40]
        raise InvalidValue(
            f"tempo {shown} is outside of {SLOWEST_QPM:.1f} to {FASTEST_QPM:,.0f} quarter notes"
            " per minute"
        )


@dataclass(frozen=True)
class Score:
    """A tune in written form: notes and marks, which are sorted on construction, and parts.

    The tune ends at its last note end, mark or ending.
    """

    notes: Sequence[Note] = ()
    marks: tuple[Mark, ...] = ()
    parts: tuple[Part, ...] = field(default=(Part(),))
    title: str = ""
    rhythm: str = ""
    swing: Swing | None = None  # how it is played; the notes are written straight

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", _sort_marks(self.marks))
        if not isinstance(self.notes, Notes):
            object.__setattr__(self, "notes", Notes.of(self.notes))
        parts = self.columns[4]
        if parts.size and not 0 <= parts.min() <= parts.max() < len(self.parts):
            stray = next(note for note in self.notes if not 0 <= note.part < len(self.parts))
            raise InvalidValue(f"{stray}: the score has {len(self.parts)} parts")

    @property
    def columns(self) -> NoteColumns:
        """(5, note) int64 columns of the notes, one row per field of `Note`."""
        assert isinstance(self.notes, Notes)
        return self.notes.columns

    def of(self, kind: MarkKind) -> Iterator[Mark]:
        """Iterate over the marks of one kind, in order."""
        return (mark for mark in self.marks if mark.kind == kind)

    def first(self, kind: MarkKind, default: _Value) -> _Value:
        """Return the value of the first mark of a kind, or the default."""
        return next((mark.value for mark in self.of(kind)), default)

    @property
    def key(self) -> Key:
        """The first key; C major where none is written."""
        return self.first("key", Key("C", "major"))

    @property
    def meter(self) -> Meter:
        """The first meter; 4/4 where none is written."""
        return self.first("meter", Meter(4, 4))

    @property
    def qpm(self) -> float:
        """The first tempo in quarter notes per minute; 120 where none is written."""
        return float(self.first("tempo", DEFAULT_QPM))

    @property
    def swing_phase(self) -> int:
        """A step at which a pair of swung notes starts: the first bar line, moved to the start."""
        if self.swing is None:
            return 0
        first_line = next((mark.onset for mark in self.of("bar")), 0)
        return first_line % (2 * self.swing.unit)

    @cached_property
    def end(self) -> int:
        """The step at which the written tune ends."""
        ends: list[int] = [int((self.columns[0] + self.columns[2]).max(initial=0))]
        ends += [mark.onset for mark in self.marks]
        ends += [mark.value.end for mark in self.of("ending")]
        return max(ends)

    def pitch_class_durations(self) -> list[int]:
        """Return the total steps for which each of 12 pitch classes sounds, from C; skip drums."""
        durations = self.columns[2] * self._pitched_mask
        return list(map(int, np.bincount(self.columns[1] % 12, durations, minlength=12)))

    @property
    def _pitched_mask(self) -> BoolArray:
        """(note,) whether a note belongs to a part without drums."""
        is_pitched = np.array([not part.is_drums for part in self.parts], dtype=np.bool_)
        mask: BoolArray = is_pitched[self.columns[4]]
        return mask

    def transpose(self, semitones: int) -> Score:
        """Transpose pitches, keys and chord symbols; leave drums.

        Raises:
            InvalidValue: a pitch would leave 0..127.
        """
        columns = self.columns.copy()
        columns[1] += semitones * self._pitched_mask
        marks = tuple(_transpose_mark(mark, semitones) for mark in self.marks)
        return replace(self, notes=Notes(columns), marks=marks)

    def select_parts(self, numbers: Sequence[int]) -> Score:
        """Return the score with some of its parts, or all of them, in a given order.

        Args:
            numbers: of the parts, each at most once, in their new order.

        Raises:
            InvalidValue: a number is not that of a part, or occurs twice.
        """
        part_count = len(self.parts)
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(part_count)):
            raise InvalidValue(
                f"parts {list(numbers)}: name each of 0 to {part_count - 1} at most once"
            )
        new_numbers = np.full(part_count, -1)
        new_numbers[list(numbers)] = np.arange(len(numbers))
        columns = self.columns.copy()
        columns[4] = new_numbers[self.columns[4]]
        return replace(
            self,
            notes=Notes(columns[:, columns[4] >= 0]),
            parts=tuple(self.parts[number] for number in numbers),
        )

    def canonical(self) -> Score:
        """Return the canonical form, which is the same for all ways to write the tune.

        Each part has one velocity, the most frequent of its most frequent level. Key and meter are
        written at the start. Repeat starts are explicit. Bar lines stand at every jump and at the
        end, and ties are cut at jumps. A part does not play a pitch that already sounds. Chord
        symbols and later keys have their plainest spelling. Redundant marks, and marks after the
        end, are dropped.
        """
        return self._canonical

    @cached_property
    def _canonical(self) -> Score:
        canonical = self._make_canonical(with_one_velocity)
        canonical.__dict__["_canonical"] = canonical  # fill its cache
        return canonical

    def _make_canonical(self, normalize_velocities: Callable[[NoteColumns], NoteColumns]) -> Score:
        score = _with_explicit_repeats(self)
        columns = normalize_velocities(_with_canonical_notes(score))
        notes = score.notes if columns is score.columns else Notes(columns)
        marks = _with_bar_lines(score, _normalize_spelling(_with_start(score)))
        return replace(score, notes=notes, marks=_without_redundant_marks(marks))

    def canonical_with_dynamics(self, velocities: Sequence[int] | None = None) -> Score:
        """Return the canonical form with the dynamics of each part, in eight levels.

        Notes at the default level of their part have the velocity of the part; all others have the
        velocity of their level.

        Args:
            velocities: MIDI velocity of each part at its default level; None: as in `canonical`,
                the most frequent one at the most frequent level.
        """
        if velocities is not None:
            return self._make_canonical(partial(with_levels, velocities=velocities))
        if not has_dynamics(self.columns):
            return self._canonical
        return self._make_canonical(with_levels)

    def unfolded(self) -> Score:
        """Return the tune with repeats and endings played out, without repeat marks."""
        return self.join_passages(iter_passages(self))

    def join_passages(self, passages: Iterable[tuple[int, int]]) -> Score:
        """Concatenate passages, (start, stop) in steps, without repeat marks."""
        notes = [np.empty((5, 0), dtype=np.int64)]
        marks: list[Mark] = []
        played = 0
        split_notes = sort_by_onset(split_notes_at(self.columns, find_jumps(self)))
        mark_slices = MarkSlices(self.marks)
        for start, stop in passages:
            shift = played - start
            notes.append(slice_by_onset(split_notes, start, stop, shift))
            marks += mark_slices.iter_between(start, stop, shift)
            played += stop - start
        joined = Notes(np.concatenate(notes, axis=1))
        return replace(self, notes=joined, marks=_without_redundant_marks(marks))

    def unfold_from(self, step: int) -> Score:
        """Return what is played after a written step is first reached, with repeats played out."""
        remaining: list[tuple[int, int]] = []
        for start, stop in iter_passages(self):
            if remaining or step < stop:
                remaining.append((start if remaining else max(start, step), stop))
        return self.join_passages(remaining)


def _with_canonical_notes(score: Score) -> NoteColumns:
    """Cut ties at jumps and end notes where their part plays the pitch again: (5, note) int64."""
    return without_overlaps(split_notes_at(score.columns, find_jumps(score)))


def find_jumps(score: Score) -> tuple[int, ...]:
    """Return the steps that playing may jump from or to, in order; no tie crosses them."""
    steps: set[int] = set()
    for section in find_sections(score):
        steps |= {section.start, section.stop}
        for mark in section.endings:
            steps |= {mark.onset, mark.value.end}
    return tuple(sorted(steps))


@dataclass(frozen=True, slots=True)
class Section:
    """A repeated section."""

    start: int  # steps
    stop: int  # steps
    plays: int  # number of times that it is played
    endings: tuple[Mark, ...] = ()  # marks of its variant endings, in order


def find_sections(score: Score) -> tuple[Section, ...]:
    """Find the repeated sections.

    A repeat end without a start returns to the previous repeat end, or to the beginning. A section
    with endings has as many passes as its endings name, at least 2, regardless of the bar line
    after the last one; each ending lasts until the next. A repeat start without an end has no
    effect.
    """
    finder = _SectionFinder(score.of("ending"))
    for mark in score.marks:
        if mark.kind == "repeat_start":
            finder.start_section(mark.onset)
        elif mark.kind == "ending":
            finder.add_ending(mark)
        elif mark.kind == "repeat_end" and not finder.has_further_ending_at(mark.onset):
            finder.end_section(mark.onset, int(mark.value))
    finder.close_section(score.end, 2)
    return tuple(finder.sections)


class _SectionFinder:
    """The sections found so far, and the current one."""

    def __init__(self, endings: Iterable[Mark]) -> None:
        self.endings_by_start: dict[int, Ending] = {mark.onset: mark.value for mark in endings}
        self.sections: list[Section] = []
        self.section_start = 0
        self.endings: list[Mark] = []  # of the current section

    def start_section(self, step: int) -> None:
        self.close_section(step, 2)
        self.section_start = max(self.section_start, step)

    @property
    def last_ending(self) -> Ending | None:
        """The last ending of the current section."""
        return self.endings[-1].value if self.endings else None

    def add_ending(self, mark: Mark) -> None:
        passes = tuple(sorted({n for n in mark.value.passes if 1 <= n <= MAX_PLAYS}))
        if mark.onset < self.section_start or not passes:
            return
        if self.endings and not self.comes_after_last_ending(passes):
            self.close_section(mark.onset, 2)
        self.stop_last_ending_at(mark.onset)
        self.endings.append(replace(mark, value=Ending(passes, mark.value.end)))

    def end_section(self, step: int, plays: int) -> None:
        last = self.last_ending
        if last and last.end < step and last.passes[-1] > 1:
            self.close_section(last.end, 2)
        else:
            self.stop_last_ending_at(step)
        self.close_section(step, plays, is_end=True)

    def comes_after_last_ending(self, passes: tuple[int, ...]) -> bool:
        return self.last_ending is not None and passes[0] > self.last_ending.passes[-1]

    def has_further_ending_at(self, step: int) -> bool:
        """Return whether another ending of the current section starts at a step."""
        following = self.endings_by_start.get(step)
        return following is not None and self.comes_after_last_ending(
            tuple(sorted(following.passes))
        )

    def stop_last_ending_at(self, step: int) -> None:
        """Set the end of the last ending; drop it if it starts there or later."""
        if self.endings:
            mark = self.endings.pop()
            if mark.onset < step:
                self.endings.append(replace(mark, value=Ending(mark.value.passes, step)))

    def close_section(self, step: int, plays: int, *, is_end: bool = False) -> None:
        if self.last_ending and self.last_ending.end > step:
            self.stop_last_ending_at(step)
        if self.last_ending:
            stop = self.last_ending.end
            plays = max(number for mark in self.endings for number in mark.value.passes)
        elif is_end:
            stop = step
        else:
            return
        if self.section_start < stop:
            plays = min(max(plays, 2), MAX_PLAYS)
            self.sections.append(Section(self.section_start, stop, plays, tuple(self.endings)))
        self.section_start = max(self.section_start, stop)
        self.endings = []


def iter_passages(score: Score) -> Iterator[tuple[int, int]]:
    """Yield the passages of a score, (start, stop) in steps, in playing order."""
    cursor = 0
    for section in find_sections(score):
        if cursor < section.start:
            yield cursor, section.start
        for number in range(1, section.plays + 1):
            yield from _iter_pass(section, number)
        cursor = section.stop
    if cursor < score.end:
        yield cursor, score.end


def _iter_pass(section: Section, number: int) -> Iterator[tuple[int, int]]:
    """Yield the passages of one pass through a section."""
    cursor = section.start
    for mark in section.endings:
        if number in mark.value.passes:
            continue
        if cursor < mark.onset:
            yield cursor, mark.onset
        cursor = max(cursor, mark.value.end)
    if cursor < section.stop:
        yield cursor, section.stop


# Kinds of marks that are in force until the next of their kind.
_PERSISTENT_KINDS: Final[tuple[MarkKind, ...]] = ("key", "meter", "tempo")
_REPEAT_KINDS: Final = ("repeat_start", "repeat_end", "ending")


class MarkSlices:
    """The marks of a tune, for lookup by passage."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        """Index marks, which are in order; leave out repeat marks."""
        self.marks = [mark for mark in marks if mark.kind not in _REPEAT_KINDS]
        self.persistent_marks = [
            [mark for mark in self.marks if mark.kind == kind] for kind in _PERSISTENT_KINDS
        ]

    def iter_between(self, start: int, stop: int, shift: int) -> Iterator[Mark]:
        """Yield the marks of a passage, moved by shift; include the bar line at its end."""
        first = bisect_left(self.marks, start, key=_ONSET)
        last = bisect_right(self.marks, stop, key=_ONSET)
        for mark in self.marks[first:last]:
            is_bar = mark.kind == "bar"
            if mark.onset == start and (is_bar or mark.kind in _PERSISTENT_KINDS):
                continue
            if mark.onset < stop or is_bar:
                yield replace(mark, onset=mark.onset + shift)
        for marks in self.persistent_marks:
            if count := bisect_right(marks, start, key=_ONSET):
                yield replace(marks[count - 1], onset=start + shift)


def _transpose_mark(mark: Mark, semitones: int) -> Mark:
    if mark.kind == "key":
        return replace(mark, value=mark.value.transpose(semitones))
    if mark.kind == "chord":
        return replace(mark, value=transpose_chord(mark.value, semitones))
    return mark


def _with_explicit_repeats(score: Score) -> Score:
    """Replace the repeat marks by those that the sections need."""
    marks = [mark for mark in score.marks if mark.kind not in _REPEAT_KINDS]
    if len(marks) == len(score.marks):
        return score
    for section in find_sections(score):
        marks.append(Mark(section.start, "repeat_start"))
        marks += section.endings
        if section.endings:
            ends = [mark.value.end for mark in section.endings]
            marks += [Mark(end, "repeat_end", 2) for end in ends[:-1] or ends]
        else:
            marks.append(Mark(section.stop, "repeat_end", section.plays))
    return replace(score, marks=tuple(marks))


def _with_start(score: Score) -> list[Mark]:
    """Return the marks, with the key and the meter at the start where those are missing."""
    starts: list[Mark] = []
    for kind, value in (("key", score.key), ("meter", score.meter)):
        if not any(mark.onset == 0 for mark in score.of(kind)):  # type: ignore[arg-type]
            starts.append(Mark(0, kind, value))  # type: ignore[arg-type]
    return starts + list(score.marks)


def _normalize_spelling(marks: Iterable[Mark]) -> Iterator[Mark]:
    """Yield marks with chord symbols and later keys respelled; the first key keeps its name."""
    is_first_key = True
    for mark in marks:
        if mark.kind == "chord":
            yield replace(mark, value=normalize_chord(mark.value))
        elif mark.kind == "key" and not is_first_key:
            yield replace(mark, value=Key.of(mark.value.pitch_class, mark.value.mode))
        else:
            is_first_key = is_first_key and mark.kind != "key"
            yield mark


def _is_meaningful(mark: Mark, end: int) -> bool:
    """Return whether a mark has an effect: no bar line at step 0, no change after the end."""
    if mark.kind == "bar":
        return mark.onset > 0
    is_initial = mark.onset == 0 and mark.kind not in ("chord", "fermata")
    return is_initial or mark.onset < end or mark.kind in _REPEAT_KINDS


def _with_bar_lines(score: Score, marks: Iterable[Mark]) -> Iterator[Mark]:
    yield from (mark for mark in marks if _is_meaningful(mark, score.end))
    yield from (Mark(step, "bar") for step in (*find_jumps(score), score.end) if step > 0)


def _without_redundant_marks(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Drop duplicate marks, then those that repeat the key, meter or tempo in force."""
    last_marks = {(m.onset, m.kind): m for m in _sort_marks(marks)}
    current: dict[MarkKind, Any] = {}
    return tuple(
        mark for mark in last_marks.values() if not _update_and_check_redundant(mark, current)
    )


def _update_and_check_redundant(mark: Mark, current: dict[MarkKind, Any]) -> bool:
    """Update the values in force; return whether the mark repeats the current value."""
    if mark.kind not in _PERSISTENT_KINDS:
        return False
    is_redundant = mark.kind in current and current[mark.kind] == mark.value
    current[mark.kind] = mark.value
    return is_redundant
