"""What is given of a tune rather than drawn: its header, a primer, a letter that returns, bars.

Each script looks at the draft alone to know what comes next, so that several may share a tune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from musicgen.sampling.generation_state import BAR_OPENERS, GenerationState
from musicgen.sampling.primer import PrimerBars
from musicgen.similarity.copy_filter import MelodyLine, MelodyNote
from musicgen.tokens.bar_split import BETWEEN_BAR_IDS, BarSplit, split_by_voice
from musicgen.tokens.form_state import FixedFormState
from musicgen.tokens.level_writer import restate_levels
from musicgen.tokens.vocabulary import MEASURES

_HOLD: Final = MEASURES.id("hold")


class _UncheckedSource:
    """A source whose ids must be possible under the options, and whose likelihood counts."""

    __slots__ = ()
    is_checked: ClassVar[bool] = False
    is_weighed: ClassVar[bool] = True


@dataclass(slots=True)
class ForcedHeader(_UncheckedSource):
    """Holds on to header events that were drawn before."""

    ids: tuple[int | None, ...]  # None: sampled

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the header event at this position."""
        position = generation.walk.header_events_read
        return self.ids[position] if position < len(self.ids) else None

    def lookahead_notes(self, generation: GenerationState) -> Sequence[MelodyNote]:
        """Return nothing: a header has no notes."""
        del generation
        return ()

    def is_over(self, generation: GenerationState) -> bool:
        """Return whether the header is complete."""
        return not generation.walk.in_header

    def copy(self) -> ForcedHeader:
        """Return itself: it changes nothing."""
        return self


@dataclass(slots=True)
class ForcedRepeats:
    """Writes again the bars of a letter that returns."""

    is_weighed: ClassVar[bool] = True
    is_checked: bool = False  # where parts are given, the options need not allow what they hold
    pickup_starts: dict[int, int] = field(
        default_factory=dict
    )  # stretch to where its pickup's ids start
    bar_starts: dict[int, int] = field(
        default_factory=dict
    )  # to where those of its first whole bar do
    last_stops: dict[int, int] = field(default_factory=dict)  # to where those of its last bar stop
    copied: tuple[int, ...] = ()  # the ids that are written again, or were last
    copy_start: int = -1  # ids of the tune before them

    def copy(self) -> ForcedRepeats:
        """Return one that goes on from here alone."""
        return replace(
            self,
            pickup_starts=dict(self.pickup_starts),
            bar_starts=dict(self.bar_starts),
            last_stops=dict(self.last_stops),
        )

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the next id of the bars that are written again; asking twice changes nothing."""
        here, form = len(generation.ids), generation.walk.form
        is_over = here > self.copy_start + len(self.copied)
        if is_over and isinstance(form, FixedFormState) and generation.walk.in_bar:
            self._record_positions(generation, form)
            if MEASURES.events[generation.ids[-1]].kind in BAR_OPENERS:
                is_over = not self._start_copy(generation, form)
        if is_over:
            return None
        written = here - self.copy_start
        return self.copied[written] if written < len(self.copied) else self._end_copy(generation)

    def _start_copy(self, generation: GenerationState, form: FixedFormState) -> bool:
        """Start to write a letter again; return False if the section is no copy."""
        first, stop = self._find_source_range(form.section_index, form.is_after_pickup, form)
        copied = restate_levels(generation.ids, first, stop)
        if copied:
            self.copied, self.copy_start = copied, len(generation.ids)
        return bool(copied)

    def _end_copy(self, generation: GenerationState) -> int | None:
        """Return the bar line after a copy of several parts, to which nothing is added."""
        walk = generation.walk
        walk.lowest_tone_id = None  # no further note joins the last chord
        if walk.lineup is None or not walk.in_bar or not generation.is_at_bar_boundary:
            return None
        border_ids = walk.form.legal_ids()
        return border_ids[0] if len(border_ids) == 1 else None

    def lookahead_notes(self, generation: GenerationState) -> Sequence[MelodyNote]:
        """Return the notes that are written again right after the bar under way."""
        line = generation.copy_filter.line if generation.copy_filter else MelodyLine()
        return line.get_notes_between(
            *(position - 1 for position in self._find_next_range(generation))
        )

    def is_over(self, generation: GenerationState) -> bool:
        """Return whether no section repeats an earlier one."""
        layout = generation.walk.rules.layout
        return layout is None or all(section.source is None for section in layout.sections)

    def _find_next_range(self, generation: GenerationState) -> tuple[int, int]:
        """Return which ids are written again right after the bar under way; (0, 0): none."""
        form = generation.walk.form
        if not isinstance(form, FixedFormState) or not form.has_opened:
            return 0, 0
        if form.bars_filled == 0:  # a pickup, which may be new
            return self._find_source_range(form.section_index, False, form)
        if form.bars_filled < form.form_section.bars or form.section_index + 1 == len(
            form.layout.sections
        ):
            return 0, 0
        with_pickup = (
            form.first_pickup_steps > 0 and form.layout.sections[form.section_index + 1].has_pickup
        )
        return self._find_source_range(form.section_index + 1, with_pickup, form)

    def _record_positions(self, generation: GenerationState, form: FixedFormState) -> None:
        """Keep where the ids of the stretch under way start and stop."""
        here = len(generation.ids)
        if MEASURES.events[generation.ids[-1]].kind in BAR_OPENERS and form.bars_filled <= 1:
            starts = self.pickup_starts if form.is_after_pickup else self.bar_starts
            starts[form.section_index] = here
        if form.bars_filled == form.form_section.bars:
            self.last_stops[form.section_index] = here

    def _find_source_range(
        self, stretch_index: int, with_pickup: bool, form: FixedFormState
    ) -> tuple[int, int]:
        """Return which ids a stretch has again, with its pickup or from its first whole bar on."""
        source = form.layout.sections[stretch_index].source
        starts = self.pickup_starts if with_pickup else self.bar_starts
        if source is None or source not in starts or source not in self.last_stops:
            return 0, 0
        return starts[source], self.last_stops[source]


@dataclass(slots=True)
class ForcedPrimer(_UncheckedSource):
    """Gives the bars of a primer, as far as the grammar allows them."""

    bars: PrimerBars
    rejected_id: int | None = None  # the id that was not allowed
    end_position: int = 0  # ids of the tune when the primer was over

    def copy(self) -> ForcedPrimer:
        """Return one that goes on from here alone."""
        return replace(self)

    def lookahead_notes(self, generation: GenerationState) -> Sequence[MelodyNote]:
        """Return nothing: what is drawn comes after a primer."""
        del generation
        return ()

    def is_over(self, generation: GenerationState) -> bool:
        """Return whether the primer has ended."""
        del generation
        return self.end_position > 0

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the next id of the primer, or what must stand before its next bar."""
        if self.end_position or generation.walk.in_header:
            return None
        forced_id = self._find_next_id(generation)
        if forced_id is None:
            self.end_position = len(generation.ids)
            generation.walk.lowest_tone_id = None  # no further note joins the primer's last
            return None
        legal = generation.walk.legal_ids()
        if forced_id in legal:
            return forced_id
        between = [id_ for id_ in legal if id_ in BETWEEN_BAR_IDS]
        if generation.is_at_bar_boundary and len(between) == 1 and _is_opener_or_repeat(between[0]):
            return between[0]  # a repeat sign, or the short bar before one
        self.rejected_id, self.end_position = forced_id, len(generation.ids)
        return None

    def _find_next_id(self, generation: GenerationState) -> int | None:
        """Return the id that the primer has here; None where it is over."""
        number = generation.walk.form.bars_written
        if generation.walk.in_bar:
            content, at = self.bars[number - 1][1], len(generation.ids) - generation.bar_start
            if at < len(content):
                return content[at]
            if not generation.is_at_bar_boundary:
                return None
        return self.bars[number][0] if number < len(self.bars) else None


def _is_opener_or_repeat(id_: int) -> bool:
    return MEASURES.events[id_].kind in (*BAR_OPENERS, "repeat_start", "repeat_end")


@dataclass(slots=True)
class ForcedBars(_UncheckedSource):
    """Forces the kept bars of a tune, and all events between its bars."""

    source_tune: BarSplit
    kept_bars: frozenset[int]  # places of the bars that are, from 0
    notes: tuple[tuple[MelodyNote, ...], ...]  # of each bar

    def copy(self) -> ForcedBars:
        """Return itself: it changes nothing."""
        return self

    def lookahead_notes(self, generation: GenerationState) -> Sequence[MelodyNote]:
        """Return the notes of the kept bars that follow the one under way."""
        position = generation.walk.form.bars_written
        notes: list[MelodyNote] = []
        while position in self.kept_bars:
            notes += self.notes[position]
            position += 1
        return notes

    def is_over(self, generation: GenerationState) -> bool:
        """Return False: it forces events between all bars."""
        del generation
        return False

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the next id of what is kept."""
        walk = generation.walk
        if walk.in_header:
            return self.source_tune.header[walk.header_events_read]
        if self.is_complete(generation):
            return self._next_id_between_bars(generation, walk.form.bars_written)
        position, at = walk.form.bars_written - 1, len(generation.ids) - generation.bar_start
        if position in self.kept_bars:
            return self.source_tune.bars[position].content[at]
        if at == 0:
            self._start_drawn_bar(generation, position)
        return None

    def is_complete(self, generation: GenerationState) -> bool:
        """Return whether the current bar is complete."""
        position, at = (
            generation.walk.form.bars_written - 1,
            len(generation.ids) - generation.bar_start,
        )
        whole = position not in self.kept_bars or at >= len(self.source_tune.bars[position].content)
        return generation.is_at_bar_boundary and (whole or not generation.walk.in_bar)

    def _next_id_between_bars(self, generation: GenerationState, bar_index: int) -> int:
        """Return the next id before a bar, or after the last one."""
        bars = self.source_tune.bars
        forced_id = bars[bar_index].opening if bar_index < len(bars) else self.source_tune.closing
        taken = 0
        while (
            generation.ids[-1 - taken] in BETWEEN_BAR_IDS
            and len(generation.ids) - taken > generation.bar_start
        ):
            taken += 1
        return forced_id[taken]

    def _start_drawn_bar(self, generation: GenerationState, bar_index: int) -> None:
        """Constrain a regenerated bar: no ties into it, and an end that leads to the next bar."""
        walk = generation.walk
        if bar_index - 1 in self.kept_bars:
            walk.sound_ends.clear()
        following = (
            self.source_tune.bars[bar_index + 1].content if bar_index + 1 in self.kept_bars else ()
        )
        heads = (
            id_ for id_ in split_by_voice(following)[0, 0] if MEASURES.events[id_].kind in _HEADS
        )
        held_pitches = next(heads, None)
        walk.landing_ids = self._find_last_pitch(bar_index) if held_pitches == _HOLD else None
        is_last = bar_index == len(self.source_tune.bars) - 1
        walk.is_given_last_bar = is_last and walk.rules.requires_cadence

    def _find_last_pitch(self, bar_index: int) -> frozenset[int]:
        """Return the pitch that sounds last in a bar as it was, or before it."""
        for number in range(bar_index, -1, -1):
            melody = split_by_voice(self.source_tune.bars[number].content)[0, 0]
            pitches = [id_ for id_ in melody if id_ in _PITCHES]
            if pitches:
                return frozenset(pitches[-1:])
        return frozenset()


_HEADS: Final = ("pitch", "drum", "rest", "hold")
_PITCHES: Final = frozenset((*MEASURES.ranges["pitch"], *MEASURES.ranges["drum"]))
