"""The grammar of the measures codec: which events may come next, so that every tune is complete.

`MeasuresGrammar` follows the ids of one tune. It tracks the state of the bar, the tuplet, the
repeat and the tune, and allows only events after which all constraints can still be met: durations
that leave a gap which the allowed values can fill, pickups whose partner exists, repeats that fit
into the number of bars. So sampling never reaches a dead end and never has to backtrack.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Final, TypeAlias

from musicgen.music.durations import SHORTEST_WRITABLE, Tuplet
from musicgen.music.theory import Meter
from musicgen.tokens.constraints import Rules
from musicgen.tokens.form_state import RANKS, FormState, create_form_state
from musicgen.tokens.lineup import HEADER_LENGTH, LineupState
from musicgen.tokens.vocabulary import MAX_VOICES, MEASURES, Event

HEADER_KINDS: Final = ("meter", "mode", "rhythm", "parts")  # before the line-up, if there is one
assert len(HEADER_KINDS) == HEADER_LENGTH
LEVEL_RANK: Final = 5  # of `level` among the changes at one position
_FERMATA_RANK: Final = 6  # only a level may follow


OpenTuplet: TypeAlias = tuple[Tuplet, int, int]  # group, start step, nominal steps written


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """What is known at a position before its event is drawn."""

    voice: int  # part * 16 + voice in the part
    bar: int  # bars written, including the current one
    position: int  # steps from the start of the bar
    bar_steps: int  # steps of the bar; 0 between bars and in irregular ones
    bar_in_phrase: int  # bars written since the section, the ending or the tune started
    bars_left: int | None  # bars heard that remain; None if their number is free
    decision: str  # what is drawn: "meter", "between 3", "value 0", "tuplet", "head", "done"


class MeasuresGrammar:
    """The state of one tune while it is written id by id: `legal_ids()`, then `take(id_)`."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.is_done = False
        self.header_events_read = 0
        self.parts = 1
        self.lineup: LineupState | None = None
        self.form: FormState = create_form_state(rules, 0)
        self.in_bar = False
        # steps of the bar; None in the first voice of an irregular bar
        self.bar_length: int | None = None
        self.beat_steps = 0  # steps per beat of the header's meter
        self.cursor = 0  # steps from the start of the bar, in the current voice
        self.voice = (0, 0)  # part, number in the part
        # at this position: 1 after a key, 2 meter, 3 chord, 4 bass or no chord, 5 level, 6 fermata
        self.change_rank = 0
        self.tuplet: OpenTuplet | None = None
        self.duration: int | None = None  # nominal steps; read, and its head follows
        self.lowest_tone_id: int | None = None  # further notes of the chord must have lower ids
        self.has_sounded = False
        self.last_note_id: int | None = None  # of the landing voice
        self.part_kinds: frozenset[tuple[int, str]] = frozenset()  # part, "pitch" or "drum"
        # whether the landing voice has had only final pitches since one started on a beat
        self.is_on_cadence = False
        self.landing_ids: frozenset[int] | None = None  # pitches on which the bar must end
        self.is_given_last_bar = False  # whether the bar is the last, although others could follow
        self.is_opening = False  # whether each part must have a note in the bar
        self.is_silent = False  # whether the current part still lacks it
        # voice to the bar and the step at which its sound ends
        self.sound_ends: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def context(self) -> DecisionContext:
        """What is known at this position."""
        rules, form = self.rules, self.form
        has_bar_count = rules.min_bars == rules.max_bars
        part = self.lineup.described if self.lineup and self.in_header else self.voice[0]
        return DecisionContext(
            voice=part * MAX_VOICES + self.voice[1],
            bar=form.bars_written,
            position=self.cursor,
            bar_steps=(self.bar_length or 0) if self.in_bar else 0,
            bar_in_phrase=form.bars_in_phrase,
            bars_left=max(0, rules.max_bars - form.bars_heard) if has_bar_count else None,
            decision=self.decision,
        )

    @property
    def decision(self) -> str:
        """The name of what is drawn at this position."""
        if self.header_events_read < len(HEADER_KINDS):
            return HEADER_KINDS[self.header_events_read]
        if self.lineup and self.in_header:
            return self.lineup.decision
        if not self.in_bar:
            return f"between {self.form.rank}"
        if self.duration is not None:
            return "head"
        after_level = " after level" if self.change_rank == LEVEL_RANK else ""
        if self.is_full:
            return f"done{after_level}"
        return f"value {self.change_rank}" if self.tuplet is None else f"tuplet{after_level}"

    @property
    def in_header(self) -> bool:
        """Whether the header is not complete."""
        if self.header_events_read < len(HEADER_KINDS):
            return True
        return self.lineup is not None and not self.lineup.is_complete

    @property
    def is_in_symbols(self) -> bool:
        """Whether the current part is that of the chord symbols, which has no notes."""
        return self.lineup is not None and self.lineup.symbols_part == self.voice[0]

    @property
    def landing_voice(self) -> tuple[int, int]:
        """The voice that ends on a final pitch: the first one that is not of drums, by default."""
        if self.rules.landing_part is not None:
            return (self.rules.landing_part, 0)
        return (self.lineup.first_pitched_part if self.lineup else 0, 0)

    def copy(self) -> MeasuresGrammar:
        """Return an independent copy."""
        other = object.__new__(MeasuresGrammar)
        vars(other).update(vars(self))
        other.form, other.sound_ends = copy(self.form), dict(self.sound_ends)
        return other

    # For the compiled grammar

    @property
    def can_leave_bar(self) -> bool:
        """Whether the bar may end here, or the position is between bars."""
        if self.is_done or self.in_header:
            return False
        return not self.in_bar or self.is_bar_complete

    def state_key(self) -> tuple[object, ...]:
        """Return a key that is equal for equivalent positions in a bar, for any form.

        Every attribute counts except those replaced here, so that a new one is never forgotten.
        The further tones of a chord are looked up separately and do not count.
        """
        final_ids = self.rules.final_pitch_ids
        state = vars(self) | {
            "header_events_read": self.header_events_read if self.in_header else None,
            "form": self.form.is_last_bar if self.in_bar and self._depends_on_last_bar else None,
            "beat_steps": self.beat_steps if self.rules.requires_cadence else None,
            "lowest_tone_id": None,
            "last_note_id": (
                self.last_note_id in final_ids
                and (not self.rules.requires_cadence or self.last_note_id),
                self.last_note_id in (self.landing_ids or ()),
            ),
            "sound_ends": frozenset(
                (voice, self.form.bars_written - bar, step)
                for voice, (bar, step) in self.sound_ends.items()
            ),
        }
        return tuple(state.values())

    @property
    def _depends_on_last_bar(self) -> bool:
        """Whether what may stand in a bar depends on whether it is the last."""
        is_silent_band = not self.has_sounded and self.lineup is not None
        return bool(self.rules.final_pitch_ids) or is_silent_band

    def copy_after_bar(self) -> MeasuresGrammar:
        """Return a copy that has left the current bar."""
        other = self.copy()
        other._leave_bar()
        return other

    def copy_with_form(self, form: FormState) -> MeasuresGrammar:
        """Return a copy at the same position of a bar, in another form."""
        other, bars_ahead = self.copy(), form.bars_written - self.form.bars_written
        other.form = copy(form)
        other.form.rules = self.rules
        other.sound_ends = {
            voice: (bar + bars_ahead, step) for voice, (bar, step) in self.sound_ends.items()
        }
        return other

    # Legal ids

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the tune is done."""
        if self.is_done:
            return ()
        if self.in_header:
            return self._header_ids()
        if not self.in_bar:
            return self._ids_between_bars()
        if self.duration is not None:
            return self._head_ids()
        if self.is_full:
            return self._ids_in_full_bar()
        is_voice_empty = self.cursor == 0 and self.tuplet is None and self.change_rank == 0
        is_optional = self.voice[0] > 0 and self.voice[1] == 0 and not self.must_land
        may_skip_voice = is_voice_empty and is_optional
        voice_ids = self._voice_ids(parts=False) if may_skip_voice else ()
        return self.chord_tone_ids() + self._value_ids() + voice_ids

    def _header_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next in the header."""
        if self.lineup is not None:
            return self.lineup.legal_ids(self.rules)
        kind = HEADER_KINDS[self.header_events_read]
        if kind == "meter":
            return self.rules.meter_ids
        return self.rules.part_count_ids if kind == "parts" else self.rules.ids_of_kind(kind)

    def _ids_in_full_bar(self) -> tuple[int, ...]:
        """Return the ids that may follow where the current voice fills its bar."""
        tones, irregular_ids = self.chord_tone_ids(), self._irregular_bar_ids()
        if self.change_rank == LEVEL_RANK:
            return tones + irregular_ids
        levels = self._level_ids() if tones and not irregular_ids else ()
        between_ids = () if self._must_open_next_part else self._ids_between_bars()
        return (*tones, *levels, *self._voice_ids(), *between_ids, *irregular_ids)

    def _ids_between_bars(self) -> tuple[int, ...]:
        """Return the ids that may stand between two bars; not the end before a final pitch."""
        legal_ids = tuple(self.form.legal_ids())
        if self.may_end_after_bar:
            return legal_ids
        return tuple(id_ for id_ in legal_ids if self.form.can_add_bar_after(id_))

    @property
    def may_end_after_bar(self) -> bool:
        """Whether the notes of the bar are such that the tune may end with it."""
        if self.rules.strict and not self.has_sounded:
            return False
        if self.rules.requires_cadence:
            return self.is_on_cadence
        return not self.rules.final_pitch_ids or self.last_note_id in self.rules.final_pitch_ids

    @property
    def is_bar_complete(self) -> bool:
        """Whether the bar may end after the last id."""
        is_open = self.duration is not None or self.change_rank == LEVEL_RANK
        return self.is_full and not (is_open or self._must_open_next_part)

    @property
    def is_full(self) -> bool:
        """Whether the current voice fills its bar, or may end in an irregular bar."""
        if self.tuplet is not None or self.cursor == 0:
            return False
        return self.bar_length is None or self.cursor == self.bar_length

    def _irregular_bar_ids(self) -> tuple[int, ...]:
        """Return the ids that may continue an irregular bar, whose length is free."""
        if self.bar_length is not None:
            return ()
        excluded = {*self.rules.ids_of_kind("key"), *self.rules.ids_of_kind("meter")}
        return tuple(id_ for id_ in self._value_ids() if id_ not in excluded)

    def _head_ids(self) -> tuple[int, ...]:
        """Return the notes, the rest and the hold that may follow a duration."""
        rules = self.rules
        heads = tuple(id_ for kind in self._note_kinds() for id_ in self._note_ids(kind))
        if self.is_in_symbols:
            return rules.ids_of_kind("rest")
        may_rest = self.has_sounded or not rules.strict or self._may_rest_before_first_note
        if may_rest and not (self.is_silent and self._duration_end() == self.bar_length):
            heads += rules.ids_of_kind("rest")
        if self.sound_ends.get(self.voice) == (self.form.bars_written, self.cursor):
            heads += rules.ids_of_kind("hold")
        return self._keep_landing_heads(heads)

    @property
    def _may_rest_before_first_note(self) -> bool:
        """Whether a rest may open the tune: in a band whose other parts start, not in its end."""
        if self.lineup is None or self.lineup.part_count == 1:
            return False
        return not (self.is_given_last_bar or self.form.is_last_bar)

    def _note_kinds(self) -> tuple[str, ...]:
        """Return the kinds of note that the current part may have."""
        rules, part = self.rules, self.voice[0]
        if self.lineup is not None:
            return ("drum",) if part in self.lineup.drum_parts else ("pitch",)
        if rules.drum_parts is not None:
            return ("drum",) if part in rules.drum_parts else ("pitch",)
        kinds = tuple(kind for number, kind in self.part_kinds if number == part)
        if not kinds and part == 0 and rules.final_pitch_ids:
            return ("pitch",)  # drums have no pitch to end on
        return kinds or ("pitch", "drum")

    def _note_ids(self, kind: str) -> tuple[int, ...]:
        """Return the notes of a kind that the current part may have, ascending."""
        ids, part, by_part = self.rules.ids_of_kind(kind), self.voice[0], self.rules.part_pitch_ids
        if self.barred_pitch_id is not None:
            ids = tuple(id_ for id_ in ids if id_ != self.barred_pitch_id)
        if kind != "pitch" or part >= len(by_part) or not by_part[part]:
            return ids
        wanted = by_part[part] | self._given_landing_ids
        return tuple(id_ for id_ in ids if id_ in wanted)

    def _keep_landing_heads(self, heads: tuple[int, ...]) -> tuple[int, ...]:
        """Keep the heads with which a bar, or the tune, ends on a required note."""
        if self.must_reach_cadence:
            return self._keep_cadence_heads(heads)
        if not self.is_filling_bar or not self.must_land:
            return heads
        rules, given_ids = self.rules, self._given_landing_ids
        landing_ids = given_ids or rules.final_pitch_ids
        allowed = set(landing_ids)
        if self.last_note_id in landing_ids:
            allowed.update(rules.ids_of_kind("hold"))
            allowed.update(() if given_ids else rules.ids_of_kind("rest"))
        return tuple(id_ for id_ in heads if id_ in allowed)

    def _keep_cadence_heads(self, heads: tuple[int, ...]) -> tuple[int, ...]:
        """Keep the heads after which a final pitch lasts from a beat to the end of the bar."""
        if self._can_reach_cadence(*self._position_after(self.duration or 0)):
            return heads
        allowed = set(self.rules.final_pitch_ids)
        allowed.update(self.rules.ids_of_kind("hold") if self.is_on_cadence else ())
        return tuple(id_ for id_ in heads if id_ in allowed)

    def _keep_cadence_values(self, value_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Keep the durations and tuplets after which the bar can still end with a cadence."""
        may_hold_cadence = not self.must_reach_cadence or (
            self.is_on_cadence or self.cursor % self.beat_steps == 0
        )
        if may_hold_cadence:
            return value_ids
        return tuple(
            id_ for id_ in value_ids if self._can_reach_cadence(*self._position_after_value(id_))
        )

    def _can_reach_cadence(self, tuplet: OpenTuplet | None, position: int) -> bool:
        """Tell whether a note can start on a beat from a position on, and last to the bar's end."""
        rules, bar_steps = self.rules, self.bar_length or 0
        if tuplet is None:
            return rules.can_split_at_beat(position, bar_steps, self.beat_steps)
        group, start, written = tuplet
        return rules.can_split_at_beat(start + group.steps, bar_steps, self.beat_steps) or any(
            (start + group.to_sounding(offset)) % self.beat_steps == 0
            and rules.plain_fillable[offset - written]
            and rules.plain_fillable[group.nominal - offset]
            for offset in range(written, group.nominal, SHORTEST_WRITABLE)
        )

    @property
    def must_reach_cadence(self) -> bool:
        """Whether the current bar must end with a final pitch that starts on a beat."""
        return self.rules.requires_cadence and not self._given_landing_ids and self.must_land

    @property
    def barred_pitch_id(self) -> int | None:
        """The last note of a cadence, which the same pitch in a later voice would cut short."""
        part, voice = self.landing_voice
        is_later_voice = self.voice[0] == part and self.voice[1] > voice
        if self.rules.requires_cadence and is_later_voice and self._is_final_bar:
            return self.last_note_id
        return None

    @property
    def _given_landing_ids(self) -> frozenset[int]:
        """The notes on which the bar must end in the current voice, to lead into given bars."""
        if self.voice != (0, 0) or self.is_in_symbols:
            return frozenset()
        return self.landing_ids or frozenset()

    @property
    def must_land(self) -> bool:
        """Whether the current bar must end on certain notes: `landing_ids`, or a final pitch."""
        if not self.in_bar:
            return False
        if self._given_landing_ids:
            return True
        return self.voice == self.landing_voice and self._is_final_bar

    @property
    def _is_final_bar(self) -> bool:
        """Whether the tune ends with the current bar, on a final pitch."""
        return bool(self.rules.final_pitch_ids) and (
            self.is_given_last_bar or self.form.is_last_bar
        )

    @property
    def is_filling_bar(self) -> bool:
        """Whether the pending duration fills the bar, in its first or in its landing voice."""
        is_landing = self.voice in ((0, 0), self.landing_voice)
        return is_landing and self._duration_end() == self.bar_length

    @property
    def duration_steps(self) -> int:
        """Sounding steps of the pending duration."""
        return self._duration_end() - self.cursor

    def _duration_end(self) -> int:
        """Return the step of the bar at which the pending duration ends."""
        return self._position_after(self.duration or 0)[1]

    def _position_after(self, nominal: int) -> tuple[OpenTuplet | None, int]:
        """Return the open tuplet and the step of the bar after some nominal steps."""
        if self.tuplet is None:
            return None, self.cursor + nominal
        group, start, written = self.tuplet
        written += nominal
        is_open = written < group.nominal
        return (group, start, written) if is_open else None, start + group.to_sounding(written)

    def _position_after_value(self, id_: int) -> tuple[OpenTuplet | None, int]:
        """Return the open tuplet and the step of the bar after a duration or a tuplet's start."""
        event = MEASURES.events[id_]
        if event.kind == "tuplet":
            return _open_tuplet(str(event.value), self.cursor), self.cursor
        return self._position_after(int(event.value or 0))

    def chord_tone_ids(self) -> tuple[int, ...]:
        """Return the ids of the further notes that a chord may have: lower ones, ascending."""
        lowest = self.lowest_tone_id
        if lowest is None:
            return ()
        kind = MEASURES.events[lowest].kind
        return tuple(id_ for id_ in self._note_ids(kind) if id_ < lowest)

    def _value_ids(self) -> tuple[int, ...]:
        """Return the changes, durations and tuplets that may come next in a voice."""
        if self.tuplet is not None:
            group, _, written = self.tuplet
            value_ids = self.rules.tuplet_duration_ids(group.nominal - written)
        else:
            gap_steps = None if self.bar_length is None else self.bar_length - self.cursor
            value_ids = self.rules.fitting_value_ids(gap_steps)
        if self.is_in_symbols and self.is_silent:  # a chord symbol comes first
            value_ids = ()
        return self._change_ids() + self._level_ids() + self._keep_cadence_values(value_ids)

    def _level_ids(self) -> tuple[int, ...]:
        """Return the levels of dynamics that the next notes may have; () without a line-up."""
        if self.lineup is None or self.change_rank == LEVEL_RANK or self.is_in_symbols:
            return ()
        return self.rules.ids_of_kind("level")

    def _change_ids(self) -> tuple[int, ...]:
        """Return the key, meter and chord events inside a bar.

        They stand in the first voice, but chord symbols in their part where there is one.
        """
        rules, is_first = self.rules, self.voice == (0, 0)
        has_symbols_part = self.lineup is not None and self.lineup.symbols_part is not None
        kinds: list[str] = []
        if is_first and not rules.strict and self.cursor:
            kinds += ["key"] if self.change_rank < 1 else []
            kinds += ["meter"] if self.change_rank < 2 else []
        if self.is_in_symbols if has_symbols_part else is_first:
            kinds += ["chord", "no_chord"] if self.change_rank < 3 else []
            kinds += ["bass"] if self.change_rank == 3 else []
        if is_first:
            kinds += ["fermata"] if self.change_rank < LEVEL_RANK else []
        return tuple(id_ for kind in kinds for id_ in rules.ids_of_kind(kind))

    def _voice_ids(self, *, parts: bool = True) -> tuple[int, ...]:
        """Return the ids that open a further voice of the bar."""
        part, number = self.voice
        stop = self.landing_voice[0] + 1 if self.must_open_landing_voice else self.parts
        stop = min(stop, part + 2) if self.is_opening else stop
        part_ids = MEASURES.ranges["part"][part + 1 : stop if parts else 0]
        voice_ids = () if self.is_in_symbols else MEASURES.ranges["voice"][number:]
        return tuple(id_ for id_ in (*part_ids, *voice_ids) if id_ in self.rules.allowed_ids)

    @property
    def must_open_landing_voice(self) -> bool:
        """Whether the last bar still lacks the voice that ends on a final pitch."""
        if self.voice >= self.landing_voice or not self._is_final_bar:
            return False
        return not self.may_end_after_bar

    @property
    def _must_open_next_part(self) -> bool:
        """Whether the first bar still lacks a part."""
        return self.is_opening and self.voice[0] < self.parts - 1

    # Taking an id

    def take(self, id_: int) -> None:
        """Advance by a legal id."""
        event = MEASURES.events[id_]
        kind, value = event.kind, event.value
        if self.in_header:
            self._take_header(kind, value)
        elif not self.changes_form(id_):
            getattr(self, "_take_" + kind)(value)
            if kind != "level":  # a further note of the chord may have another level
                self.lowest_tone_id = id_ if kind in ("pitch", "drum") else None
        else:
            self._take_between(kind, value)

    def changes_form(self, id_: int) -> bool:
        """Tell whether a legal id changes the form: the header's meter, or an id between bars."""
        kind = MEASURES.events[id_].kind
        if self.in_header:
            return kind == "meter"
        return not (kind in _IN_BAR_KINDS or (kind in ("key", "meter") and self._is_inside_bar()))

    def _is_inside_bar(self) -> bool:
        return self.in_bar and not (self.bar_length is not None and self.is_full)

    def narrow(self, rules: Rules) -> None:
        """Replace the rules by narrower ones, once the header is read."""
        self.rules = self.form.rules = rules

    def _take_header(self, kind: str, value: int | str | None) -> None:
        self.header_events_read += 1
        if self.lineup is not None:
            self.lineup = self.lineup.take(kind, value)
        elif kind == "meter":
            meter = Meter.parse(str(value))
            self.form = create_form_state(self.rules, meter.steps)
            self.beat_steps = meter.beat_steps
        elif kind in ("parts", "lineup") and isinstance(value, int):
            self.parts = value
            self.lineup = LineupState(value) if kind == "lineup" else None

    def _take_between(self, kind: str, value: int | str | None) -> None:
        self._leave_bar()
        if kind == "end":
            self.is_done = True
        if kind in ("repeat_start", "repeat_end", "ending", "ending_end"):
            self.sound_ends.clear()
        is_irregular = self.form.rank == RANKS["irregular"]
        self.form.take(kind, value)
        if kind == "meter":
            self.form.meter_steps = Meter.parse(str(value)).steps
        if kind in ("bar", "partial"):
            self.in_bar, self.is_on_cadence = True, False
            steps = value if isinstance(value, int) else self.form.meter_steps
            self.bar_length = None if is_irregular else steps
            voices = () if self.form.is_first_of_section else self.sound_ends
            self.sound_ends = dict.fromkeys(voices, (self.form.bars_written, 0))
            self.is_opening = self.is_silent = self._opens_tune and kind == "bar"

    def _leave_bar(self) -> None:
        """End the current bar; notes that sound at its end can be held."""
        if not self.in_bar:
            return
        bar_end = self.cursor if self.bar_length is None else self.bar_length
        end = self.form.bars_written, bar_end
        self.sound_ends = {voice: sound for voice, sound in self.sound_ends.items() if sound == end}
        self.in_bar, self.bar_length = False, None
        self.is_opening = self.is_silent = False
        self._open_voice((0, 0))

    @property
    def _opens_tune(self) -> bool:
        """Whether the bar under way is the first full one of a line-up that must be heard in it."""
        pickups = int(self.form.first_pickup_steps > 0)
        is_first = self.form.bars_written == 1 + pickups and self.lineup is not None
        return is_first and self.rules.opens_with_all_parts

    def _open_voice(self, voice: tuple[int, int]) -> None:
        self.cursor, self.voice, self.change_rank, self.lowest_tone_id = 0, voice, 0, None

    def _open_later_voice(self, voice: tuple[int, int]) -> None:
        """Open a voice after the first, which has decided the length of an irregular bar."""
        self.bar_length = self.cursor if self.bar_length is None else self.bar_length
        self._open_voice(voice)

    def _take_part(self, value: int) -> None:
        self._open_later_voice((value, 0))
        self.is_silent = self.is_opening

    def _take_voice(self, value: int) -> None:
        self._open_later_voice((self.voice[0], value))

    def _take_key(self, _: str) -> None:
        self.change_rank = 1

    def _take_meter(self, value: str) -> None:
        self.change_rank = 2
        self.form.meter_steps = Meter.parse(value).steps

    def _take_chord(self, _: str) -> None:
        self.change_rank = 3
        self.is_silent = self.is_silent and not self.is_in_symbols

    def _take_no_chord(self, _: None) -> None:
        self.change_rank = 4
        self.is_silent = self.is_silent and not self.is_in_symbols

    def _take_bass(self, _: int) -> None:
        self.change_rank = 4

    def _take_fermata(self, _: None) -> None:
        self.change_rank = _FERMATA_RANK

    def _take_level(self, _: int) -> None:
        self.change_rank = LEVEL_RANK

    def _take_tuplet(self, value: str) -> None:
        self.tuplet = _open_tuplet(value, self.cursor)

    def _take_duration(self, value: int) -> None:
        self.duration = value

    def _take_rest(self, _: None) -> None:
        self._follow_cadence(None)
        self._advance()
        self.sound_ends.pop(self.voice, None)

    def _take_hold(self, _: None) -> None:
        self._advance()
        self.sound_ends[self.voice] = (self.form.bars_written, self.cursor)

    def _take_pitch(self, value: int) -> None:
        self._add_note("pitch", value)

    def _take_drum(self, value: int) -> None:
        self._add_note("drum", value)

    def _add_note(self, kind: str, value: int) -> None:
        self.is_silent = False
        if self.duration is not None:
            if self.voice == self.landing_voice:
                self.last_note_id = MEASURES.ids.get(Event(kind, value))
            self._follow_cadence(self.last_note_id)
            self._advance()
        self.change_rank = 0
        if self.rules.chooses_drums and self.lineup is None:
            self.part_kinds |= {(self.voice[0], kind)}
        self.has_sounded = True
        self.sound_ends[self.voice] = (self.form.bars_written, self.cursor)

    def _follow_cadence(self, note_id: int | None) -> None:
        """Note whether a cadence lasts, or starts, with a note or a rest at the cursor."""
        if self.rules.requires_cadence and self.voice == self.landing_voice:
            is_on_beat = self.cursor % self.beat_steps == 0
            self.is_on_cadence = note_id in self.rules.final_pitch_ids and (
                self.is_on_cadence or is_on_beat
            )

    def _advance(self) -> None:
        """Move the cursor to the end of the pending duration."""
        self.tuplet, self.cursor = self._position_after(self.duration or 0)
        self.duration, self.change_rank = None, 0


def _open_tuplet(value: str, position: int) -> OpenTuplet:
    return Tuplet(*map(int, value.split())), position, 0


_IN_BAR_KINDS: Final = frozenset(
    "part voice chord no_chord bass fermata level tuplet duration rest hold pitch drum".split()
)
