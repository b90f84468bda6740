"""What is given of a tune of several parts: some bars of some parts, which stay as they are.

The parts are put in the order in which the model can use them best: those of which the most is
given come first, since the parts of a bar are drawn one after the other. `GivenTune` holds the bars
in this order; afterwards the parts go back to their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from msgspec import Meta

from musicgen.errors import InvalidValue
from musicgen.music.bars import Bar, count_heard_bars, find_bars
from musicgen.music.roles import find_roles
from musicgen.music.score import SYMBOLS_ROLE, Mark, Score
from musicgen.music.symbols_part import has_symbols_part
from musicgen.sampling.kept_bars import KeepRequest, KeptPart
from musicgen.tokens.bar_split import BarSplit
from musicgen.tokens.codec import Encoded, Setting
from musicgen.tokens.lineup import read_lineup
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MAX_PARTS, MEASURES
from musicgen.typed_data import decode_json

DEFAULT_CANDIDATES: Final = 1
MOST_CANDIDATES: Final = 512
MOST_IDS: Final = 10**6
_HEADS: Final = frozenset(
    id_ for kind in ("pitch", "drum", "rest", "hold") for id_ in MEASURES.ranges[kind]
)
_HOLD: Final = MEASURES.id("hold")
_CHORDS: Final = frozenset((*MEASURES.ranges["chord"], MEASURES.id("no_chord")))
_BASSES: Final = frozenset(MEASURES.ranges["bass"])


@dataclass(frozen=True, slots=True)
class GivenParts:
    """A tune, and which bars of which of its parts stay; all else is drawn."""

    ids: Annotated[tuple[int, ...], Meta(max_length=MOST_IDS)]
    setting: Setting
    kept: Annotated[tuple[KeptPart, ...], Meta(max_length=MAX_PARTS)]
    candidates: int = DEFAULT_CANDIDATES

    def __post_init__(self) -> None:
        if any(not 0 <= id_ < len(MEASURES) for id_ in self.ids):
            raise InvalidValue("the given parts hold an unknown event; the recipe was damaged")
        if any(kept.part >= len(self.setting.parts) for kept in self.kept):
            raise InvalidValue("a given part does not exist; the recipe was changed or damaged")
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            raise InvalidValue(f"candidates {self.candidates}: weigh 1 to {MOST_CANDIDATES}")

    @classmethod
    def of_score(cls, score: Score, keep: KeepRequest | None, source: str) -> GivenParts:
        """Take parts of a user's score: all of them, or those that are named, and no others.

        Args:
            score: of the file.
            keep: the parts that are given, and their bars; None for all.
            source: the file, for messages.

        Raises:
            InvalidValue: there is no such part, or nothing is given.
            Refusal: the score cannot be encoded.
        """
        kept_parts = keep.find_parts(score.parts, source) if keep else _keep_all(score)
        score = _select_parts(_describe_parts(score), [each.part for each in kept_parts])
        kept_parts = tuple(KeptPart(number, each.bars) for number, each in enumerate(kept_parts))
        return cls.of_tune(_encode(score, source), kept_parts)

    @classmethod
    def of_whole_score(cls, score: Score, keep: KeepRequest, source: str) -> GivenParts:
        """Take a user's score as a tune of which some bars of some parts stay.

        Raises:
            InvalidValue: there is no such part, or nothing is given.
            Refusal: the score cannot be encoded.
        """
        kept_parts = keep.find_parts(score.parts, source)
        return cls.of_tune(_encode(_describe_parts(score), source), kept_parts)

    @classmethod
    def of_tune(
        cls,
        encoded: Encoded,
        kept: tuple[KeptPart, ...],
        candidates: int = DEFAULT_CANDIDATES,
    ) -> GivenParts:
        """Take an encoded tune, and what stays of it."""
        return cls(encoded.ids, encoded.setting, kept, candidates)

    @property
    def score(self) -> Score:
        """The tune with all of its notes."""
        return MeasuresCodec().decode(self.ids, self.setting).score

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "ids": list(self.ids),
            "setting": self.setting.to_json(),
            "kept": [{"part": each.part, "bars": each.bars} for each in self.kept],
            "candidates": self.candidates,
        }


@dataclass(frozen=True, slots=True)
class GivenPartsTable:
    """Given parts as JSON; the setting is text."""

    ids: Annotated[tuple[int, ...], Meta(max_length=MOST_IDS)]
    setting: Annotated[str, Meta(max_length=MOST_IDS)]
    kept: Annotated[tuple[KeptPart, ...], Meta(max_length=MAX_PARTS)]
    candidates: int = DEFAULT_CANDIDATES

    def parse(self) -> GivenParts:
        """Return the parts. Raises InvalidValue."""
        setting = decode_json(self.setting, Setting, "setting")
        return GivenParts(self.ids, setting, self.kept, self.candidates)


def _describe_parts(score: Score) -> Score:
    """Return a score with the likeliest role of each part that has none."""
    parts = zip(score.parts, find_roles(score), strict=True)
    return replace(
        score,
        parts=tuple(replace(part, role=part.role or role.name) for part, role in parts),
    )


def _select_parts(score: Score, numbers: Sequence[int]) -> Score:
    """Return a score with some of its parts; with its chord symbols, if their part is one of them.

    It ends where the whole score does.
    """
    selected = score.select_parts(numbers)
    marks = {*selected.marks, Mark(score.end, "bar")} if score.end else set(selected.marks)
    if has_symbols_part(score) and not has_symbols_part(selected):
        marks = {mark for mark in marks if mark.kind != "chord"}
    return replace(selected, marks=tuple(marks))


def _keep_all(score: Score) -> tuple[KeptPart, ...]:
    return tuple(KeptPart(number) for number in range(len(score.parts)))


def _encode(score: Score, source: str) -> Encoded:
    """Encode what is given of a score. Raises InvalidValue where it is silent."""
    if not score.notes and not has_symbols_part(score):
        raise InvalidValue(f"{source}: nothing is given, since these parts have no notes")
    return MeasuresCodec().encode(score)


Cell = tuple[int, ...]  # the ids of a part in a bar, with the event that opens the part


@dataclass(frozen=True, slots=True)
class GivenBar:
    """A bar: what stands before it, and what is given of its parts."""

    opening: tuple[int, ...]  # ids from the end of the bar before
    number: int  # as written, from 1
    steps: int
    cells: tuple[Cell | None, ...]  # by part in the order of drawing; () silence, None: drawn


@dataclass(frozen=True, slots=True)
class GivenTune:
    """Given parts in the order in which they are drawn."""

    order: tuple[int, ...]  # by place in the order of drawing: the part of the given tune
    score: Score  # in the order of drawing
    encoded: Encoded  # of that score
    header: tuple[int, ...]
    bars: tuple[GivenBar, ...]
    closing: tuple[int, ...]  # ids after the last bar
    extended: tuple[tuple[int, int], ...]  # part and bar number that stay for the sake of a tie

    @classmethod
    def of(cls, given: GivenParts, drawn_count: int) -> GivenTune:
        """Arrange given parts, followed by parts that are drawn.

        Args:
            given: the parts.
            drawn_count: number of the parts that are added.

        Raises:
            InvalidValue: the tune changes its key or meter inside a bar, or it has no such bar.
        """
        score = given.score
        kept_by_part = {each.part: each for each in given.kept}
        written = _split_bars(given.ids)
        _check_bars(given.kept, written)
        shares = {
            part: sum(
                part in kept_by_part and kept_by_part[part].includes(bar.number)
                for bar in written.bars
            )
            for part in range(len(score.parts))
        }
        order = tuple(sorted(shares, key=lambda part: (-shares[part], part)))
        arranged = score.select_parts(order)
        velocities = [given.setting.velocities[part] for part in order]
        encoded = MeasuresCodec().encode(arranged, velocities)
        split = _split_bars(encoded.ids)
        grid, extended = _choose_given(split, [kept_by_part.get(part) for part in order])
        lengths = [bar.steps for bar in find_bars(arranged.canonical_with_dynamics(velocities))]
        added = (None,) * drawn_count
        bars = tuple(
            GivenBar(bar.opening, bar.number, steps, (*cells, *added))
            for bar, steps, cells in zip(split.bars, lengths, grid, strict=True)
        )
        ties = tuple((order[place], split.bars[bar].number) for place, bar in extended)
        return cls(order, arranged, encoded, split.header, bars, split.closing, ties)

    @property
    def heard_bars(self) -> int:
        """The number of bars as heard."""
        return count_heard_bars(self.score)

    @property
    def pickup_steps(self) -> int:
        """The length of the first bar in steps, if it is a pickup; otherwise 0."""
        first = self.measured_bars[0]
        return first.steps if first.kind == "partial" else 0

    @property
    def measured_bars(self) -> tuple[Bar, ...]:
        """The bars of the score."""
        return find_bars(self.score)


def _split_bars(ids: Sequence[int]) -> BarSplit:
    """Split a tune at its bars. Raises InvalidValue where key or meter change inside one."""
    walk = MeasuresCodec().create_grammar(strict=False)
    for id_ in ids:
        if id_ not in walk.legal_ids():
            raise InvalidValue(
                f"given parts: {MEASURES.events[id_]} is not possible in bar"
                f" {walk.form.bars_written}; the recipe was changed or damaged"
            )
        if walk.in_bar and MEASURES.events[id_].kind in ("key", "meter") and not walk.is_full:
            raise InvalidValue(
                f"given parts: the {MEASURES.events[id_].kind} changes inside bar"
                f" {walk.form.bars_written}; give bars before or after it, of another file"
            )
        walk.take(id_)
    if not walk.is_done:
        raise InvalidValue("given parts: the tune has no end; the recipe was changed or damaged")
    return BarSplit.of(ids)


def _check_bars(kept: Sequence[KeptPart], split: BarSplit) -> None:
    last = max((last for each in kept for _, last in each.bars), default=0)
    if last > split.bar_count:
        raise InvalidValue(
            f"keep {last}: the tune has {split.bar_count} bars as they are written; keep some of"
            " them"
        )


def _split_by_part(content: Sequence[int], count: int) -> list[Cell]:
    """Return the ids of each part in a bar."""
    cells: list[list[int]] = [[] for _ in range(count)]
    part = 0
    for id_ in content:
        event = MEASURES.events[id_]
        part = int(event.value or 0) if event.kind == "part" else part
        cells[part].append(id_)
    return [tuple(cell) for cell in cells]


def _choose_given(
    split: BarSplit, kept: Sequence[KeptPart | None]
) -> tuple[list[tuple[Cell | None, ...]], list[tuple[int, int]]]:
    """Return what is given of each bar, and which cells are given for the sake of a tie.

    A bar that goes on with a note of the bar before needs that bar. Where only some bars of a part
    are given, each states its dynamics, and the first of some bars the chord symbol in force.
    """
    plain_rows = [_split_by_part(bar.content, len(kept)) for bar in split.bars]
    lineup = read_lineup(split.header)
    stated = split.with_stated_levels(always=True) if lineup else split
    stated_rows = [_split_by_part(bar.content, len(kept)) for bar in stated.bars]
    extended: list[tuple[int, int]] = []
    columns: list[list[Cell | None]] = []
    for part, each in enumerate(kept):
        rows = stated_rows if each is not None and each.bars else plain_rows
        is_given = [each is not None and each.includes(bar.number) for bar in split.bars]
        for bar in range(len(rows) - 1, 0, -1):
            if is_given[bar] and not is_given[bar - 1] and _starts_with_hold(rows[bar][part]):
                is_given[bar - 1] = True
                extended.append((part, bar - 1))
        cells = [row[part] for row in rows]
        if lineup and lineup[part].role == SYMBOLS_ROLE:
            cells = _state_chords(cells, is_given)
        columns.append([c if stays else None for c, stays in zip(cells, is_given, strict=True)])
    return list(zip(*columns, strict=True)), extended


def _state_chords(cells: Sequence[Cell], is_given: Sequence[bool]) -> list[Cell]:
    """Return the bars of a part of chord symbols; after drawn ones, the symbol in force is stated.

    Args:
        cells: of the part, bar by bar.
        is_given: whether each bar is given.
    """
    stated: list[Cell] = []
    in_force: Cell = ()
    for number, cell in enumerate(cells):
        opening = 1 if cell and MEASURES.events[cell[0]].kind == "part" else 0
        follows_drawn = number > 0 and is_given[number] and not is_given[number - 1]
        is_continued = len(cell) > opening and cell[opening] not in _CHORDS
        if follows_drawn and is_continued and in_force:
            cell = (*cell[:opening], *in_force, *cell[opening:])
        stated.append(cell)
        for index, id_ in enumerate(cell):
            if id_ in _CHORDS:
                has_bass = cell[index + 1 : index + 2] and cell[index + 1] in _BASSES
                in_force = cell[index : index + 1 + bool(has_bass)]
    return stated


def _starts_with_hold(cell: Cell) -> bool:
    """Return whether a voice of a part goes on with a note of the bar before."""
    is_start = True
    for id_ in cell:
        if MEASURES.events[id_].kind in ("part", "voice"):
            is_start = True
        elif id_ in _HEADS:
            if is_start and id_ == _HOLD:
                return True
            is_start = False
    return False
