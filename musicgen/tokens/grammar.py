"""Which events may come next, so that every tune drawn is whole: what the sampler stands on.

A `Walk` follows the ids of one tune. It knows where the bar, the tuplet, the repeat and the tune
stand, and offers only events after which the tune can still be finished as asked: durations that
leave a gap the allowed values can fill, pickups whose partner exists, repeats that the number of
bars has room for. So no dead end is reached, and nothing is ever drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Final

from musicgen.music.durations import Tuplet
from musicgen.music.theory import Meter
from musicgen.tokens import codec
from musicgen.tokens.constraints import Rules
from musicgen.tokens.form_state import RANKS, FormState, create_form_state
from musicgen.tokens.vocabulary import MAX_VOICES, MEASURES, Event

HEADER_KINDS: Final = ("meter", "mode", "rhythm", "parts")


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """What is known at a place before its event is drawn."""

    voice: int  # part * 16 + voice in the part
    bar: int  # written bars before this one
    position: int  # steps from the start of the bar
    bar_steps: int  # steps of the bar; 0 between bars, and where it is not known
    bar_in_phrase: int  # written bars since the section, the ending or the tune started
    bars_left: int | None  # as heard, where a number was asked for
    decision: str  # what is drawn: "meter", "between 3", "value", "tuplet", "head", "tone"


class MeasuresGrammar:
    """One tune under way: `legal()` offers ids, `take(id)` follows one of them."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.is_done = False
        self.header_events_read = 0  # header events read
        self.parts = 1
        self.form: FormState = create_form_state(rules, 0)
        self.in_bar = False
        self.bar_length: int | None = (
            None  # of the bar; None: irregular, and its first voice is open
        )
        self.cursor = 0  # steps from the start of the bar, in the voice under way
        self.voice = (0, 0)  # part and number
        self.change_rank = 0  # how far the changes of key, meter, chord and bass at this place are
        self.tuplet: tuple[Tuplet, int, int] | None = None  # group, its start, what is written
        self.duration: int | None = None  # read, and still without its head
        self.lowest_tone_id: int | None = (
            None  # the id that further pitches of a chord must stay under
        )
        self.has_sounded = False
        self.last_note_id: int | None = None  # the id of the last note of the first voice
        self.part_kinds: frozenset[tuple[int, str]] = (
            frozenset()
        )  # part to "pitch" or "drum", if drawn
        self.landing_ids: frozenset[int] | None = (
            None  # pitch ids that the bar under way must end in
        )
        self.sound_ends: dict[
            tuple[int, int], tuple[int, int]
        ] = {}  # voice to bar and step reached

    @property
    def context(self) -> DecisionContext:
        """What is known at this place."""
        rules, form = self.rules, self.form
        asked = rules.min_bars == rules.max_bars
        return DecisionContext(
            voice=self.voice[0] * MAX_VOICES + self.voice[1],
            bar=form.bars_written,
            position=self.cursor,
            bar_steps=(self.bar_length or 0) if self.in_bar else 0,
            bar_in_phrase=form.bars_in_phrase,
            bars_left=max(0, rules.max_bars - form.bars_heard) if asked else None,
            decision=self.decision,
        )

    @property
    def decision(self) -> str:
        """The name of what is drawn at this place."""
        if self.header_events_read < len(HEADER_KINDS):
            return HEADER_KINDS[self.header_events_read]
        if not self.in_bar:
            return f"between {self.form.rank}"
        if self.duration is not None:
            return "head"
        if self.is_full:
            return "done"
        return f"value {self.change_rank}" if self.tuplet is None else "tuplet"

    def copy(self) -> MeasuresGrammar:
        """Return a walk that goes on from here alone."""
        other = object.__new__(MeasuresGrammar)
        vars(other).update(vars(self))
        other.form, other.sound_ends = copy(self.form), dict(self.sound_ends)
        return other

    # What the compiled grammar asks

    @property
    def can_leave_bar(self) -> bool:
        """Whether the bar may be left here, or no bar is under way."""
        if self.is_done or self.header_events_read < len(HEADER_KINDS):
            return False
        return not self.in_bar or (self.duration is None and self.is_full)

    def state_key(self) -> tuple[object, ...]:
        """Return what tells this place in a bar from others; all but the form, in which it is.

        Every attribute counts, so that a new one is never forgotten; the exceptions stand here. The
        tones that a chord may still have go beside any place, and do not tell it from others.
        """
        closing = self.rules.final_pitch_ids
        told = vars(self) | {
            "form": self.form.is_last_bar if closing and self.in_bar else None,
            "lowest_tone_id": None,
            "last_note_id": (
                self.last_note_id in closing,
                self.last_note_id in (self.landing_ids or ()),
            ),
            "sound_ends": frozenset(
                (voice, self.form.bars_written - bar, step)
                for voice, (bar, step) in self.sound_ends.items()
            ),
        }
        return tuple(told.values())

    def copy_after_bar(self) -> MeasuresGrammar:
        """Return a walk that has left the bar under way, and so stands where any such bar ends."""
        other = self.copy()
        other._leave_bar()
        return other

    def copy_with_form(self, form: FormState) -> MeasuresGrammar:
        """Return a walk at the same place of a bar, in another form."""
        other, ahead = self.copy(), form.bars_written - self.form.bars_written
        other.form = copy(form)
        other.form.rules = self.rules
        other.sound_ends = {
            voice: (bar + ahead, at) for voice, (bar, at) in self.sound_ends.items()
        }
        return other

    # What may come next

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the tune is done."""
        if self.is_done:
            return ()
        if self.header_events_read < len(HEADER_KINDS):
            kind = HEADER_KINDS[self.header_events_read]
            return self.rules.meter_ids if kind == "meter" else self.rules.ids_of_kind(kind)
        if not self.in_bar:
            return self._ids_between_bars()
        if self.duration is not None:
            return self._heads()
        if self.is_full:
            return (
                *self.chord_tone_ids(),
                *self._voice_ids(),
                *self._ids_between_bars(),
                *self._irregular_bar_ids(),
            )
        fresh = self.cursor == 0 and self.tuplet is None and self.change_rank == 0
        lines = (
            self._voice_ids(parts=False) if fresh and self.voice[0] and not self.voice[1] else ()
        )
        return self.chord_tone_ids() + self._values() + lines

    def _ids_between_bars(self) -> tuple[int, ...]:
        """Return what may stand between two bars; where the tune may not end yet, what leads on."""
        found = tuple(self.form.legal_ids())
        if not self.rules.final_pitch_ids or self.last_note_id in self.rules.final_pitch_ids:
            return found
        return tuple(id_ for id_ in found if self.form.can_add_bar_after(id_))

    @property
    def is_full(self) -> bool:
        """Whether the voice under way fills its bar; of an irregular one, whether it may end."""
        if self.tuplet is not None or self.cursor == 0:
            return False
        return self.bar_length is None or self.cursor == self.bar_length

    def _irregular_bar_ids(self) -> tuple[int, ...]:
        """Return what may go on in an irregular bar, which ends where it likes."""
        if self.bar_length is not None:
            return ()
        keys_too = {*self.rules.ids_of_kind("key"), *self.rules.ids_of_kind("meter")}
        return tuple(id_ for id_ in self._values() if id_ not in keys_too)

    def _heads(self) -> tuple[int, ...]:
        rules = self.rules
        found = tuple(id_ for kind in self._kinds() for id_ in rules.ids_of_kind(kind))
        if self.has_sounded or not rules.strict:
            found += rules.ids_of_kind("rest")
        if self.sound_ends.get(self.voice) == (self.form.bars_written, self.cursor):
            found += rules.ids_of_kind("hold")
        return self._keep_landing_heads(found)

    def _kinds(self) -> tuple[str, ...]:
        """Return the kinds of note that the part under way may have."""
        rules, part = self.rules, self.voice[0]
        if rules.drum_parts is not None:
            return ("drum",) if part in rules.drum_parts else ("pitch",)
        drawn = tuple(kind for number, kind in self.part_kinds if number == part)
        if not drawn and part == 0 and rules.final_pitch_ids:
            return ("pitch",)  # drums have no note to end on
        return drawn or _NOTES

    def _keep_landing_heads(self, heads: tuple[int, ...]) -> tuple[int, ...]:
        """Leave of the heads what ends the bar, or the tune, where it is to end."""
        if not self.is_filling_bar or not self.must_land:
            return heads
        rules, wanted = self.rules, self.landing_ids or self.rules.final_pitch_ids
        silent = rules.ids_of_kind("hold") + (() if self.landing_ids else rules.ids_of_kind("rest"))
        kept = wanted | set(silent if self.last_note_id in wanted else ())
        return tuple(id_ for id_ in heads if id_ in kept)

    @property
    def must_land(self) -> bool:
        """Whether the bar under way must end on certain notes: given ones, or the tune's last."""
        if not self.in_bar or self.voice != (0, 0):
            return False
        return bool(self.landing_ids) or (
            bool(self.rules.final_pitch_ids) and self.form.is_last_bar
        )

    @property
    def is_filling_bar(self) -> bool:
        """Whether the duration that was read fills the bar, in its first voice."""
        return self.voice == (0, 0) and self._duration_end() == self.bar_length

    @property
    def duration_steps(self) -> int:
        """Steps for which the duration that was read sounds."""
        return self._duration_end() - self.cursor

    def _duration_end(self) -> int:
        """Return the step of the bar at which the duration that was read ends."""
        nominal = self.duration or 0
        if self.tuplet is None:
            return self.cursor + nominal
        group, start, written = self.tuplet
        return start + group.to_sounding(written + nominal)

    def chord_tone_ids(self) -> tuple[int, ...]:
        """Return the further pitches that a chord may have, from the highest down."""
        if self.lowest_tone_id is None:
            return ()
        kind = MEASURES.events[self.lowest_tone_id].kind
        return tuple(
            id_ for id_ in self.rules.ids_of_kind(kind) if id_ < (self.lowest_tone_id or 0)
        )

    def _values(self) -> tuple[int, ...]:
        if self.tuplet is not None:
            group, _, written = self.tuplet
            return self._changes() + self.rules.tuplet_duration_ids(group.nominal - written)
        room = None if self.bar_length is None else self.bar_length - self.cursor
        return self._changes() + self.rules.fitting_value_ids(room)

    def _changes(self) -> tuple[int, ...]:
        """Return the key, meter and chord events inside a bar, in the first voice."""
        rules = self.rules
        if self.voice != (0, 0):
            return ()
        found: tuple[int, ...] = ()
        if not rules.strict and self.cursor:
            found += rules.ids_of_kind("key") if self.change_rank < 1 else ()
            found += rules.ids_of_kind("meter") if self.change_rank < 2 else ()
        found += (
            rules.ids_of_kind("chord") + rules.ids_of_kind("no_chord")
            if self.change_rank < 3
            else ()
        )
        return found + (rules.ids_of_kind("bass") if self.change_rank == 3 else ())

    def _voice_ids(self, *, parts: bool = True) -> tuple[int, ...]:
        """Return the events that open a further voice of the bar."""
        part, number = self.voice
        others = MEASURES.ranges["part"][part + 1 : self.parts if parts else 0]
        voices = MEASURES.ranges["voice"][number:]
        return tuple(id_ for id_ in (*others, *voices) if id_ in self.rules.allowed_ids)

    # Following an id

    def take(self, id_: int) -> None:
        """Follow a legal id."""
        event = MEASURES.events[id_]
        kind, value = event.kind, event.value
        if self.header_events_read < len(HEADER_KINDS):
            self._take_header(kind, value)
        elif not self.changes_form(id_):
            getattr(self, "_take_" + kind)(value)
            self.lowest_tone_id = id_ if kind in ("pitch", "drum") else None
        else:
            self._take_between(kind, value)

    def changes_form(self, id_: int) -> bool:
        """Tell whether a legal id changes the form: the header's meter, and all between bars."""
        kind = MEASURES.events[id_].kind
        if self.header_events_read < len(HEADER_KINDS):
            return kind == "meter"
        return not (kind in _IN_BAR or (kind in ("key", "meter") and self._is_inside_bar()))

    def _is_inside_bar(self) -> bool:
        return self.in_bar and not (self.bar_length is not None and self.is_full)

    def narrow(self, rules: Rules) -> None:
        """Go on under rules that allow less, once the header is read."""
        self.rules = self.form.rules = rules

    def _take_header(self, kind: str, value: int | str | None) -> None:
        self.header_events_read += 1
        if kind == "meter":
            self.form = create_form_state(self.rules, Meter.parse(str(value)).steps)
        elif kind == "parts" and isinstance(value, int):
            self.parts = value

    def _take_between(self, kind: str, value: int | str | None) -> None:
        self._leave_bar()
        if kind == "end":
            self.is_done = True
        if kind in ("repeat_start", "repeat_end", "ending", "ending_end"):
            self.sound_ends.clear()
        irregular = self.form.rank == RANKS["irregular"]
        self.form.take(kind, value)
        if kind == "meter":
            self.form.meter_steps = Meter.parse(str(value)).steps
        if kind in ("bar", "partial"):
            self.in_bar = True
            full = value if isinstance(value, int) else self.form.meter_steps
            self.bar_length = None if irregular else full
            held = () if self.form.is_first_of_section else self.sound_ends
            self.sound_ends = dict.fromkeys(held, (self.form.bars_written, 0))

    def _leave_bar(self) -> None:
        """End the bar under way; what sounds at its end can be held."""
        if not self.in_bar:
            return
        end = (self.form.bars_written, self.cursor if self.bar_length is None else self.bar_length)
        self.sound_ends = {voice: at for voice, at in self.sound_ends.items() if at == end}
        self.in_bar, self.bar_length = False, None
        self._open_voice((0, 0))

    def _open_voice(self, voice: tuple[int, int]) -> None:
        self.cursor, self.voice, self.change_rank, self.lowest_tone_id = 0, voice, 0, None

    def _take_part(self, value: int) -> None:
        self.bar_length = self.cursor if self.bar_length is None else self.bar_length
        self._open_voice((value, 0))

    def _take_voice(self, value: int) -> None:
        self.bar_length = self.cursor if self.bar_length is None else self.bar_length
        self._open_voice((self.voice[0], value))

    def _take_key(self, _: str) -> None:
        self.change_rank = 1

    def _take_meter(self, value: str) -> None:
        self.change_rank = 2
        self.form.meter_steps = Meter.parse(value).steps

    def _take_chord(self, _: str) -> None:
        self.change_rank = 3

    def _take_no_chord(self, _: None) -> None:
        self.change_rank = 4

    def _take_bass(self, _: int) -> None:
        self.change_rank = 4

    def _take_tuplet(self, value: str) -> None:
        self.tuplet = Tuplet(*map(int, value.split())), self.cursor, 0

    def _take_duration(self, value: int) -> None:
        self.duration = value

    def _take_rest(self, _: None) -> None:
        self._advance()
        self.sound_ends.pop(self.voice, None)

    def _take_hold(self, _: None) -> None:
        self._advance()
        self.sound_ends[self.voice] = (self.form.bars_written, self.cursor)

    def _take_pitch(self, value: int) -> None:
        self._sound("pitch", value)

    def _take_drum(self, value: int) -> None:
        self._sound("drum", value)

    def _sound(self, kind: str, value: int) -> None:
        if self.duration is not None:
            self._advance()
            if self.voice == (0, 0):
                self.last_note_id = MEASURES.ids.get(Event(kind, value))
        if self.rules.chooses_drums:
            self.part_kinds |= {(self.voice[0], kind)}
        self.has_sounded = True
        self.sound_ends[self.voice] = (self.form.bars_written, self.cursor)

    def _advance(self) -> None:
        """Spend the duration that was read."""
        self.cursor = self._duration_end()
        nominal, self.duration, self.change_rank = self.duration or 0, None, 0
        if self.tuplet is not None:
            group, start, written = self.tuplet
            written += nominal
            self.tuplet = None if written >= group.nominal else (group, start, written)


_NOTES: Final = ("pitch", "drum")
_IN_BAR: Final = frozenset(
    (
        "part",
        "voice",
        "chord",
        "no_chord",
        "bass",
        "tuplet",
        "duration",
        "rest",
        "hold",
        "pitch",
        "drum",
    )
)


def find_first_illegal(ids: Iterable[int], rules: Rules) -> int | None:
    """Return the place of the first id that the rules do not allow, None if they allow all."""
    return codec.find_first_illegal(ids, MeasuresGrammar(rules))
