"""Forces the given bars of some parts of a tune, and leads what is drawn from one to the next.

A cell is a part in a bar. A given cell is forced id by id; so is what stands between two bars.
Where a drawn cell may end, the model chooses between going on in it and what comes next: a later
drawn part, or the first later part that is given, or the next bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Final

import numpy as np

from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.given_parts import GivenTune
from musicgen.similarity.copy_filter import MelodyNote
from musicgen.tokens.bar_split import BETWEEN_BAR_IDS
from musicgen.tokens.grammar import LEVEL_RANK
from musicgen.tokens.vocabulary import MEASURES

_PARTS: Final = MEASURES.ranges["part"]
_BORDERS: Final = sorted(BETWEEN_BAR_IDS)
_OPENERS: Final = frozenset((MEASURES.id("bar"), *MEASURES.ranges["partial"]))
_SOUNDS: Final = frozenset(
    id_ for kind in ("pitch", "drum", "hold") for id_ in MEASURES.ranges[kind]
)
MAX_DRAWN_VOICES: Final = 8  # of a part in a bar: with notes that are held, 16 are enough
_SPARE_VOICES: Final = frozenset(MEASURES.ranges["voice"][MAX_DRAWN_VOICES - 1 :])
_NOT_INSIDE: Final = BETWEEN_BAR_IDS | frozenset(_PARTS) | _SPARE_VOICES


@dataclass(slots=True)
class GivenCells:
    """The source of what is given, and the filter of what is drawn around it."""

    tune: GivenTune
    header: tuple[int, ...]  # of the given parts, and of drawn ones as far as they are known
    must_sound: frozenset[tuple[int, int]] = frozenset()  # drawn bars and parts that are not silent
    most_silent: Mapping[int, int] = field(default_factory=dict)  # bars in a row, of whole parts
    silent: frozenset[tuple[int, int]] = frozenset()  # drawn bars and parts that no value fills
    is_weighed: bool = False  # whether the likelihood of what is given counts
    is_checked: ClassVar[bool] = True  # the given ids need not be possible under the options

    @property
    def drawn_parts(self) -> tuple[int, ...]:
        """The places of the parts that are drawn, at least in some bars."""
        bars = self.tune.bars
        return tuple(
            part
            for part in range(len(bars[0].cells))
            if any(bar.cells[part] is None for bar in bars)
        )

    def is_given_after(self, generation: GenerationState) -> bool:
        """Return whether something is given in the rest of the bar under way or in the next."""
        bar, part = generation.walk.form.bars_written - 1, generation.walk.voice[0]
        if not 0 <= bar < len(self.tune.bars):
            return False
        later = self.tune.bars[bar].cells[part + 1 :]
        following = self.tune.bars[bar + 1].cells if bar + 1 < len(self.tune.bars) else ()
        return any((*later, *following))

    def is_due(self, generation: GenerationState, bar: int, part: int) -> bool:
        """Return whether a drawn part must sound in a bar.

        A part that a model leaves out for some bars seldom comes in again, since it goes on as the
        bars before; so a part that was asked for is not silent for long.
        """
        if (bar, part) in self.must_sound:
            return True
        most = self.most_silent.get(part)
        if most is None or (bar, part) in self.silent or bar <= most:
            return False
        return part not in _find_heard_parts(tuple(_get_last_bars(generation, most)))

    def copy(self) -> GivenCells:
        """Return itself: it looks at the generation alone."""
        return self

    def lookahead_notes(self, generation: GenerationState) -> Sequence[MelodyNote]:
        """Return nothing: runs of several parts are not limited."""
        del generation
        return ()

    def is_over(self, generation: GenerationState) -> bool:
        """Return False: what stands between two bars is always given."""
        del generation
        return False

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the next id of what is given; None where the model draws."""
        walk = generation.walk
        if walk.in_header:
            position = walk.header_events_read
            return self.header[position] if position < len(self.header) else None
        if not walk.in_bar:
            return self._opening_of(walk.form.bars_written)[self._count_between(generation)]
        bar, part = walk.form.bars_written - 1, walk.voice[0]
        cell = self.tune.bars[bar].cells[part]
        written = len(generation.ids) - find_cell_start(generation)
        if written == 0:
            self._start_bar(generation, bar)
        if cell is None:
            if written == (part > 0):
                walk.is_silent = self.is_due(generation, bar, part)
            return None
        if written < len(cell):
            return cell[written]
        exits = self._list_exits(generation, bar, part)
        return exits[0] if len(exits) == 1 else None

    def restrict(self, generation: GenerationState, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids that may be drawn: inside a cell, or what comes after it."""
        walk = generation.walk
        if walk.in_header:
            return legal
        bar, part = walk.form.bars_written - 1, walk.voice[0]
        if self.tune.bars[bar].cells[part] is not None:
            return self._list_exits(generation, bar, part)
        exits = self._list_exits(generation, bar, part) if _may_leave_cell(generation) else ()
        inside = tuple(id_ for id_ in legal if id_ not in _NOT_INSIDE)
        return inside + exits

    def weigh(
        self, generation: GenerationState, logits: np.ndarray, offered: tuple[int, ...]
    ) -> np.ndarray:
        """Return the logits with the probability of leaving a cell kept.

        What comes after a cell is given, and a model may never have met it there, such as a repeat
        sign in music without repeats: it would go on in the cell, with one voice after another. So
        what stands between bars counts as all that may stand there, and what is offered shares the
        probability of all that leave a cell.

        Args:
            generation: before the draw.
            logits: (vocabulary,) float32 or float64.
            offered: the ids that may be drawn.

        Returns:
            (vocabulary,) float64, or the logits that were given.
        """
        if not generation.walk.in_bar:
            return logits
        weighed = logits.astype(np.float64)
        later_parts = list(_PARTS[generation.walk.voice[0] + 1 :])
        leaving = np.logaddexp.reduce(weighed[later_parts + _BORDERS])
        exits = [id_ for id_ in offered if id_ in later_parts or id_ in BETWEEN_BAR_IDS]
        if not exits:
            return logits
        if exits[-1] in BETWEEN_BAR_IDS:
            weighed[exits[-1]] = np.logaddexp.reduce(weighed[_BORDERS])
        weighed[exits] += leaving - np.logaddexp.reduce(weighed[exits])
        return weighed

    def _start_bar(self, generation: GenerationState, bar: int) -> None:
        """Prepare the grammar for a bar: its length, and what may be held into it."""
        walk, given = generation.walk, self.tune.bars[bar]
        before = self.tune.bars[bar - 1].cells if bar else ()
        cut = {
            part for part, cell in enumerate(before)
            if cell is not None and given.cells[part] is None
        }  # fmt: skip
        walk.sound_ends = {
            voice: end for voice, end in walk.sound_ends.items() if voice[0] not in cut
        }
        if walk.bar_length is None and given.cells[0] is None:
            walk.bar_length = given.steps
        walk.is_given_last_bar = bar == len(self.tune.bars) - 1

    def _list_exits(self, generation: GenerationState, bar: int, part: int) -> tuple[int, ...]:
        """Return what may follow a part in a bar: later parts, or what stands after the bar."""
        walk, cells = generation.walk, self.tune.bars[bar].cells
        exits: list[int] = []
        for later in range(part + 1, len(cells)):
            cell = cells[later]
            if cell == () or (bar, later) in self.silent:
                continue
            exits.append(_PARTS[later])
            is_landing = (later, 0) == walk.landing_voice and walk.must_open_landing_voice
            if cell or is_landing or self.is_due(generation, bar, later):
                return tuple(exits)
        return (*exits, self._opening_of(bar + 1)[0])

    def _opening_of(self, bar: int) -> tuple[int, ...]:
        bars = self.tune.bars
        return bars[bar].opening if bar < len(bars) else self.tune.closing

    def _count_between(self, generation: GenerationState) -> int:
        """Return how many ids of what stands between two bars are written."""
        count = 0
        ids = generation.ids
        while ids[-1 - count] in BETWEEN_BAR_IDS and len(ids) - count > generation.bar_start:
            count += 1
        return count


def _get_last_bars(generation: GenerationState, count: int) -> Sequence[int]:
    """Return the ids of the last bars before the one under way."""
    ids, end = generation.ids, generation.bar_start - 1
    start = end
    while start > 0 and count:
        start -= 1
        count -= ids[start] in _OPENERS
    return ids[start:end]


@lru_cache(maxsize=64)
def _find_heard_parts(ids: tuple[int, ...]) -> frozenset[int]:
    """Return the parts that sound in some bars; ids from the opening of the first on."""
    heard: set[int] = set()
    part = 0
    for id_ in ids:
        if id_ in _OPENERS:
            part = 0
        elif id_ in _PARTS:
            part = id_ - _PARTS[0]
        elif id_ in _SOUNDS:
            heard.add(part)
    return frozenset(heard)


def find_cell_start(generation: GenerationState) -> int:
    """Return the index of the first id of the cell under way: the event that opens its part."""
    ids = generation.ids
    for index in range(len(ids) - 1, generation.bar_start - 1, -1):
        if ids[index] in _PARTS:
            return index
    return generation.bar_start


def _may_leave_cell(generation: GenerationState) -> bool:
    """Return whether the part under way may end here, in this bar."""
    walk = generation.walk
    if not walk.in_bar or not walk.is_full or walk.duration is not None:
        return False
    return walk.change_rank != LEVEL_RANK and (
        walk.voice != walk.landing_voice or not walk.must_land or walk.may_end_after_bar
    )
