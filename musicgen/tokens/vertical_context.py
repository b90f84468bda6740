"""The vertical context: what the parts and voices written earlier in a bar do at a position.

In each bar one part after another writes its events, and in a part one voice after another. So what
sounds together stands far apart in the ids. The vertical context tells the model, before each id,
what the earlier voices of the bar do at the position of the id. It is a function of the ids so far:

=========  =========================================================================================
field      value
=========  =========================================================================================
sounding   bit n: a pitch n semitones above the tonic (modulo 12) sounds here
lowest     the lowest pitch that sounds here; 0 if none does
highest    the highest pitch that sounds here; 0 if none does
drums      bit n: a piece of the drum kit is struck here; see DRUM_GROUPS
onsets     bit 0: a pitch starts here; bit n: one starts up to n sixteenth notes later, and later
           than n - 1 of them
kicks      the same for the bass drum
until      steps until the next pitch starts in the bar; 0 if none does
root       of the chord symbol in force, semitones above the tonic + 1; NO_CHORD; 0 before the first
quality    of the chord symbol in force; 0 if there is none
bass       of the chord symbol in force, + 1; 0 if it names none
tones      like sounding, for the whole bar: the harmony that the earlier voices have
last_tones like sounding, for the whole bar before, all its voices
role       of the part under way, as the header describes it; 0 without a description
family     of its instruments, or the drum kit; 0 without a description
next_role  the role of the part after it; 0 after the last
own        the highest pitch of the last chord of the voice under way; 0 after a rest
fermata    sixteenth notes to the next fermata in the bar, itself included, + 1; 0 if there is none
prior_     like sounding, just before this step; at the start of a bar, of all voices of the bar
tones      before
next_tones like sounding, where the next pitch starts in the bar; 0 if none does
mode       of the key in the header, from 1; 0 before it
=========  =========================================================================================

A pitch that is held sounds on; what the current voice plays itself does not count, but for `own`.
Between bars and in the first voice of a bar, there are only the chord symbol, the last tones, `own`
and fermatas to be told.

`VerticalContext` is that of one tune, a frozen value; `VerticalLanes` computes the same for many
tunes side by side. They are parts of `ScoreContext` and `ContextLanes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from musicgen.config import CONTEXT_WIDTHS, VERTICAL_FIELDS
from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.score import BAND_ROLES, SYMBOLS_ROLE
from musicgen.music.theory import CHORD_QUALITIES
from musicgen.tokens.compiled_grammar import GrowingTable
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.vocabulary import MAX_PARTS, MAX_VOICES, MEASURES, Event

DRUM_GROUPS: Final = (  # General MIDI percussion keys by piece of the kit; the last has the others
    (35, 36), (37, 38, 39, 40), (42, 44), (46,), (41, 43, 45), (47, 48, 50), (49, 52, 55, 57),
    (51, 53, 59), tuple(range(60, 69)), (),
)  # fmt: skip
NO_CHORD: Final = 13  # value of the field "root"
SLOT_STEPS: Final = 12  # a sixteenth note: the slots of "onsets" and "kicks"
_LAST_SLOT: Final = CONTEXT_WIDTHS["onsets"] - 1
_MOST_STEPS: Final = 384  # longer distances are counted as this one
_DRUM_SHIFT: Final = 12  # in the bits of a sound, the groups of drums follow the pitch classes
_PITCH_BITS: Final = 2**_DRUM_SHIFT - 1
_KICK_BIT: Final = 1 << _DRUM_SHIFT
_FERMATA_SLOTS: Final = 32  # later fermatas of a bar count as the last of them
_FAR: Final = 2**24  # steps, more than a bar has
_NO_PITCH: Final = 999  # above every pitch
_COLUMNS: Final = {name: number for number, name in enumerate(VERTICAL_FIELDS)}
_FIRST_PITCH: Final = int(MEASURES.events[MEASURES.ranges["pitch"].start].value or 0)

# Roles that were added later share the rows of others, with which they are seldom in one line-up.
_SHARED_ROLES: Final = {
    "soprano": "melody", "alto": "chords", "tenor": "pad", SYMBOLS_ROLE: "chords",
}  # fmt: skip

VERTICAL_FIELD_SIZES: Final = {  # of the fields that are not bits
    "lowest": len(MEASURES.ranges["pitch"]) + 1,
    "highest": len(MEASURES.ranges["pitch"]) + 1,
    "until": _MOST_STEPS + 1,
    "root": NO_CHORD + 1,
    "quality": len(CHORD_QUALITIES) + 1,
    "bass": 13,
    "role": len(MEASURES.ranges["role"]) + 1,
    "family": len(MEASURES.ranges["family"]) + 1,
    "next_role": len(MEASURES.ranges["role"]) + 1,
    "own": len(MEASURES.ranges["pitch"]) + 1,
    "fermata": _FERMATA_SLOTS + 1,
    "mode": len(MEASURES.ranges["mode"]) + 1,
}


class Cursor(NamedTuple):
    """Where a tune stands in its bar, before an id."""

    step: int  # from the start of the bar
    voice: int  # part * MAX_VOICES + voice in the part
    in_bar: bool
    has_duration: bool  # whether a duration has been read, and a note, a rest or a hold follows


CURSOR_COLUMNS: Final[tuple[tuple[str, npt.DTypeLike, tuple[int, ...]], ...]] = (
    ("step", np.int32, ()),
    ("voice", np.int16, ()),
    ("in_bar", np.bool_, ()),
    ("has_duration", np.bool_, ()),
)


def find_cursor(grammar: MeasuresGrammar) -> Cursor:
    """Return where the tune of a grammar stands."""
    voice = grammar.voice[0] * MAX_VOICES + grammar.voice[1]
    return Cursor(grammar.cursor, voice, grammar.in_bar, grammar.duration is not None)


class Sound(NamedTuple):
    """What sounds together: pitch classes and groups of drums as bits, and the outer pitches."""

    bits: int = 0
    lowest: int = _NO_PITCH  # values of the fields
    highest: int = 0

    def add(self, other: Sound) -> Sound:
        """Return both together."""
        return Sound(
            self.bits | other.bits,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )


class Span(NamedTuple):
    """A chord, a rest or a tied continuation in a voice."""

    start: int  # step of the bar
    end: int  # step of the bar
    is_struck: bool  # whether it starts a note
    sound: Sound


class Symbol(NamedTuple):
    """A chord symbol, as values of the fields."""

    start: int = 0  # step of the bar
    root: int = 0
    quality: int = 0
    bass: int = 0


_SILENCE: Final = Sound()
_NO_SYMBOL: Final = Symbol()

# What an id does
_NOTHING, _NOTE, _HOLD, _REST, _VOICE, _BAR, _CHORD, _BASS, _FERMATA, _MODE, _ROLE, _FAMILY = range(
    12
)
# those after which the fields change
_CHANGING_ACTIONS: Final = (
    _NOTE, _VOICE, _BAR, _CHORD, _BASS, _FERMATA, _MODE, _ROLE, _FAMILY
)  # fmt: skip
_ACTIONS_BY_KIND: Final = {
    "pitch": _NOTE, "drum": _NOTE, "hold": _HOLD, "rest": _REST, "part": _VOICE, "voice": _VOICE,
    "bar": _BAR, "partial": _BAR, "chord": _CHORD, "no_chord": _CHORD, "bass": _BASS,
    "fermata": _FERMATA, "mode": _MODE, "role": _ROLE, "family": _FAMILY,
}  # fmt: skip


def _find_drum_group(key: int) -> int:
    last = len(DRUM_GROUPS) - 1
    return next((n for n, keys in enumerate(DRUM_GROUPS) if key in keys), last)


def _make_sound(event: Event) -> Sound:
    if event.kind == "drum":
        return Sound(_KICK_BIT << _find_drum_group(int(event.value or 0)))
    if event.kind == "pitch":
        pitch = int(event.value or 0)
        value = pitch - _FIRST_PITCH + 1
        return Sound(1 << pitch % 12, value, value)
    return _SILENCE


def _make_symbol(event: Event) -> Symbol:
    if event.kind == "chord":
        root, quality = str(event.value).split(" ")
        return Symbol(0, int(root) + 1, CHORD_QUALITIES.index(quality) + 1)
    return Symbol(0, NO_CHORD) if event.kind == "no_chord" else _NO_SYMBOL


def _find_role_value(event: Event) -> int:
    role = str(event.value)
    return BAND_ROLES.index(_SHARED_ROLES.get(role, role)) + 1 if event.kind == "role" else 0


_ACTIONS: Final = [_ACTIONS_BY_KIND.get(event.kind, _NOTHING) for event in MEASURES.events]
_SOUNDS: Final = [_make_sound(event) for event in MEASURES.events]  # by id
_SYMBOLS: Final = [_make_symbol(event) for event in MEASURES.events]  # by id
_ROLE_VALUES: Final = [_find_role_value(event) for event in MEASURES.events]  # by id
_BASSES: Final = [int(e.value or 0) + 1 if e.kind == "bass" else 0 for e in MEASURES.events]

Fields: TypeAlias = tuple[int, ...]  # in the order of VERTICAL_FIELDS
_NO_FIELDS: Final = (0,) * len(VERTICAL_FIELDS)
VoiceSounds: TypeAlias = dict[int, Sound]  # by voice: its last sound; never changed
_NO_SOUNDS: Final = VoiceSounds()
_FIRST_MODE_ID: Final = MEASURES.ranges["mode"].start
_FIRST_FAMILY_ID: Final = MEASURES.ranges["family"].start


class Description(NamedTuple):
    """What the header says of a part, as values of the fields."""

    role: int = 0
    family: int = 0


_NO_DESCRIPTION: Final = Description()


class VerticalContext(NamedTuple):
    """The vertical context of one tune, before its next id: a frozen value."""

    spans: tuple[Span, ...] = ()  # of the bar, in the order of the ids
    earlier: int = 0  # how many of them are of earlier voices
    sounds: VoiceSounds = _NO_SOUNDS
    symbols: tuple[Symbol, ...] = (_NO_SYMBOL,)  # the one in force before the bar, those in it
    last_tones: int = 0  # pitch classes of the bar before
    end_tones: int = 0  # pitch classes at the end of the bar before
    fermatas: int = 0  # bit n: there is one at sixteenth note n of the bar
    role: int = 0  # of the part that the header describes next
    parts: tuple[Description, ...] = ()
    mode: int = 0  # the value of the field
    fields: Fields = _NO_FIELDS

    def take(self, id_: int, before: Cursor, after: Cursor) -> VerticalContext:
        """Return the context after an id, which moves the tune from one position to another."""
        action, context = _ACTIONS[id_], self
        if action in (_NOTE, _HOLD, _REST):
            context = self._add_sound(id_, before, after.step)
        elif action in (_CHORD, _BASS):
            context = self._add_symbol(id_, before.step)
        elif action == _VOICE:
            context = self._replace(earlier=len(self.spans))
        elif action == _FERMATA:
            context = self._replace(fermatas=self.fermatas | 1 << _find_fermata_slot(before.step))
        elif action == _MODE:
            context = self._replace(mode=id_ - _FIRST_MODE_ID + 1)
        elif action in (_ROLE, _FAMILY):
            context = self._describe_part(id_)
        if action == _BAR or not after.in_bar:
            context = context._leave_bar()
        elif after.step == before.step and action not in _CHANGING_ACTIONS:
            return context
        voice = after.voice if after.in_bar else 0
        return context._replace(fields=context._compute_fields(after.step, voice))

    def _describe_part(self, id_: int) -> VerticalContext:
        """Add a role, or the family that completes the description of a part."""
        if _ACTIONS[id_] == _ROLE:
            return self._replace(role=_ROLE_VALUES[id_])
        description = Description(self.role, id_ - _FIRST_FAMILY_ID + 1)
        return self._replace(role=0, parts=(*self.parts, description)[:MAX_PARTS])

    def _get_part(self, number: int) -> Description:
        return self.parts[number] if number < len(self.parts) else _NO_DESCRIPTION

    def _add_sound(self, id_: int, before: Cursor, end: int) -> VerticalContext:
        """Add a chord, a further pitch of the last one, a hold or a rest."""
        is_note = _ACTIONS[id_] == _NOTE
        sound = _SOUNDS[id_]
        if _ACTIONS[id_] == _HOLD or (is_note and not before.has_duration):
            sound = self.sounds.get(before.voice, _SILENCE).add(sound)
        sounds = {**self.sounds, before.voice: sound}
        if before.has_duration:
            span = Span(before.step, end, is_note, sound)
            return self._replace(spans=(*self.spans, span), sounds=sounds)
        if len(self.spans) == self.earlier:
            return self._replace(sounds=sounds)
        last = self.spans[-1]._replace(sound=sound)
        return self._replace(spans=(*self.spans[:-1], last), sounds=sounds)

    def _leave_bar(self) -> VerticalContext:
        """Keep the chord symbol and the pitch classes of the bar, if the tune was in one."""
        symbol = self.symbols[-1]._replace(start=0)
        left = self._replace(spans=(), earlier=0, symbols=(symbol,), fermatas=0)
        if not self.spans:
            return left
        end = max(span.end for span in self.spans)
        last_tones = _join_tones(self.spans)
        end_tones = _join_tones(span for span in self.spans if span.end == end)
        return left._replace(last_tones=last_tones, end_tones=end_tones)

    def _add_symbol(self, id_: int, step: int) -> VerticalContext:
        """Add a chord symbol, or a bass to the last one."""
        if _ACTIONS[id_] == _BASS:
            last = self.symbols[-1]._replace(bass=_BASSES[id_])
            return self._replace(symbols=(*self.symbols[:-1], last))
        return self._replace(symbols=(*self.symbols, _SYMBOLS[id_]._replace(start=step)))

    def _find_tones(self, step: int) -> int:
        """Return the pitch classes of earlier voices at a step of the bar, as bits."""
        spans = self.spans[: self.earlier]
        return _join_tones(span for span in spans if span.start <= step < span.end)

    def _compute_fields(self, step: int, voice: int) -> Fields:
        """Return the values of the fields at a step of the bar, in a voice."""
        part = voice // MAX_VOICES
        bits = drums = onsets = kicks = highest = next_start = 0
        lowest = _NO_PITCH
        for start, end, is_struck, sound in self.spans[: self.earlier]:
            if start <= step < end:
                bits |= sound.bits
                lowest, highest = min(lowest, sound.lowest), max(highest, sound.highest)
            if is_struck and start >= step:
                slot = -((step - start) // SLOT_STEPS)
                slot_bit = 1 << slot if slot <= _LAST_SLOT else 0
                is_pitched = sound.bits & _PITCH_BITS
                onsets |= slot_bit if is_pitched else 0
                kicks |= slot_bit if sound.bits & _KICK_BIT else 0
                if start == step:
                    drums |= sound.bits
                elif is_pitched:
                    next_start = min(next_start or start, start)
        until = min(next_start - step, _MOST_STEPS) if next_start else 0
        symbol = next((symbol for symbol in self.symbols[::-1] if symbol.start <= step), _NO_SYMBOL)
        return (
            bits & _PITCH_BITS, lowest % _NO_PITCH, highest, drums >> _DRUM_SHIFT, onsets, kicks,
            until, *symbol[1:], _join_tones(self.spans[: self.earlier]), self.last_tones,
            *self._get_part(part), self._get_part(part + 1).role,
            self.sounds.get(voice, _SILENCE).highest,
            _find_lowest_bit(self.fermatas >> _find_fermata_slot(step)),
            self._find_tones(step - 1) if step else self.end_tones,
            self._find_tones(next_start) if next_start else 0,
            self.mode,
        )  # fmt: skip


def _find_fermata_slot(step: int) -> int:
    """Return the number of the sixteenth note of a step of the bar."""
    return min(step // SLOT_STEPS, _FERMATA_SLOTS - 1)


def _find_lowest_bit(bits: int) -> int:
    """Return the number of the lowest bit that is set, from 1; 0 if none is."""
    return (bits & -bits).bit_length()


def _join_tones(spans: Iterable[Span]) -> int:
    """Return the pitch classes of all spans, as bits."""
    return reduce(or_, (span.sound.bits for span in spans), 0) & _PITCH_BITS


_ACTION_ARRAY: Final = np.array(_ACTIONS, np.int8)
_ROLE_VALUE_ARRAY: Final = np.array(_ROLE_VALUES, np.int64)
_SOUND_ARRAY: Final = np.array(_SOUNDS, np.int32)  # (id, part of a sound)
_SYMBOL_ARRAY: Final = np.array(_SYMBOLS, np.int32)  # (id, part of a symbol)
_BASS_ARRAY: Final = np.array(_BASSES, np.int32)
_SLOT_BITS: Final = np.array([*(1 << n for n in range(_LAST_SLOT + 1)), 0], np.int32)
_START, _END, _IS_STRUCK, _BITS, _LOWEST, _HIGHEST = range(6)  # columns of a span
_IS_CHANGING: Final = np.isin(np.arange(12), _CHANGING_ACTIONS)  # by action
_ENDING_KINDS: Final = np.isin(np.arange(12), (_NOTE, _HOLD, _REST))


class VerticalLanes:
    """The vertical contexts of many tunes side by side, as arrays.

    Args:
        lanes: the number of tunes, each before its first id.
    """

    def __init__(self, lanes: int) -> None:
        self.fields: IntArray = np.zeros((lanes, len(VERTICAL_FIELDS)), np.int64)
        self.spans: npt.NDArray[np.int32] = np.zeros((lanes, 6, 32), np.int32)
        self.counts: IntArray = np.zeros(lanes, np.int64)  # spans of the bar
        self.earlier: IntArray = np.zeros(lanes, np.int64)  # those of earlier voices
        self.sounds: npt.NDArray[np.int32] = np.zeros((lanes, MAX_PARTS * MAX_VOICES, 3), np.int32)
        self.sounds[:] = _SILENCE
        self.symbols: npt.NDArray[np.int32] = np.zeros((lanes, 4, 4), np.int32)
        self.symbol_counts: IntArray = np.ones(lanes, np.int64)
        self.last_tones: IntArray = np.zeros(lanes, np.int64)
        self.end_tones: IntArray = np.zeros(lanes, np.int64)
        self.fermatas: IntArray = np.zeros(lanes, np.int64)  # bits
        self.role: IntArray = np.zeros(lanes, np.int64)
        self.mode: IntArray = np.zeros(lanes, np.int64)
        # by part, one more than there can be: role and family
        self.parts: IntArray = np.zeros((lanes, MAX_PARTS + 1, 2), np.int64)
        self.part_counts: IntArray = np.zeros(lanes, np.int64)

    def set_context(self, lane: int, context: VerticalContext) -> None:
        """Set a lane to the context of one tune."""
        self._make_room(len(context.spans), len(context.symbols))
        self.fields[lane] = context.fields
        self.counts[lane], self.earlier[lane] = len(context.spans), context.earlier
        for number, (start, end, is_struck, sound) in enumerate(context.spans):
            self.spans[lane, :, number] = start, end, is_struck, *sound
        self.sounds[lane] = _SILENCE
        for voice, sound in context.sounds.items():
            self.sounds[lane, voice] = sound
        self.symbol_counts[lane] = len(context.symbols)
        self.symbols[lane, : len(context.symbols)] = context.symbols
        self.last_tones[lane], self.end_tones[lane] = context.last_tones, context.end_tones
        self.fermatas[lane] = context.fermatas
        self.role[lane], self.part_counts[lane] = context.role, len(context.parts)
        self.mode[lane] = context.mode
        self.parts[lane] = 0
        self.parts[lane, : len(context.parts)] = np.reshape(context.parts, (-1, 2))

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        for name, array in vars(self).items():
            setattr(self, name, array[lanes])

    def take(self, ids: IntArray, rows: GrowingTable, before: IntArray, after: IntArray) -> None:
        """Advance each lane by its id.

        Args:
            ids: (lane,) int64.
            rows: the cursors by state; see CURSOR_COLUMNS.
            before: (lane,) int64, states before the ids.
            after: (lane,) int64, states after the ids.
        """
        actions, step, in_bar = _ACTION_ARRAY[ids], rows["step"][after], rows["in_bar"][after]
        was_step = rows["step"][before]
        self._make_room(int(self.counts.max()) + 1, int(self.symbol_counts.max()) + 1)
        if len(lanes := np.flatnonzero(_ENDING_KINDS[actions])):
            states = before[lanes]
            spans = np.stack([was_step[lanes], step[lanes], actions[lanes] == _NOTE], axis=1)
            self._add_sounds(
                lanes, ids[lanes], rows["voice"][states], rows["has_duration"][states], spans
            )
        if len(lanes := np.flatnonzero((actions == _CHORD) | (actions == _BASS))):
            self._add_symbols(lanes, ids[lanes], was_step[lanes])
        if len(lanes := np.flatnonzero(actions == _FERMATA)):
            slots = np.minimum(was_step[lanes] // SLOT_STEPS, _FERMATA_SLOTS - 1)
            self.fermatas[lanes] |= 1 << slots.astype(np.int64)
        if len(lanes := np.flatnonzero(actions == _MODE)):
            self.mode[lanes] = ids[lanes] - _FIRST_MODE_ID + 1
        if len(lanes := np.flatnonzero(actions >= _ROLE)):
            self._describe_parts(lanes, ids[lanes])
        self.earlier = np.where(actions == _VOICE, self.counts, self.earlier)
        is_left = (actions == _BAR) | ~in_bar
        if len(lanes := np.flatnonzero(is_left)):
            self._leave_bars(lanes)
        is_moved = _IS_CHANGING[actions] | is_left | (step != was_step)
        if len(lanes := np.flatnonzero(is_moved)):
            self._compute_fields(lanes, step[lanes])
            voices = np.where(in_bar[lanes], rows["voice"][after[lanes]], 0)
            parts = voices // MAX_VOICES
            self._set("role", lanes, self.parts[lanes, parts, 0])
            self._set("family", lanes, self.parts[lanes, parts, 1])
            self._set("next_role", lanes, self.parts[lanes, parts + 1, 0])
            self._set("own", lanes, self.sounds[lanes, voices, 2])

    def _set(self, name: str, lanes: IntArray, values: npt.NDArray[np.integer]) -> None:
        """Set a field of some lanes, by index, to (lane,) values."""
        self.fields[lanes, _COLUMNS[name]] = values

    def _leave_bars(self, lanes: IntArray) -> None:
        """Do what `VerticalContext._leave_bar` does in some lanes, by index: (lane,) int64."""
        filled = lanes[self.counts[lanes] > 0]
        self.last_tones[filled] = self._join_tones(filled, self.counts[filled])
        self.end_tones[filled] = self._join_end_tones(filled)
        self.counts[lanes] = self.earlier[lanes] = self.fermatas[lanes] = 0
        self.symbols[lanes, 0] = self.symbols[lanes, self.symbol_counts[lanes] - 1]
        self.symbols[lanes, 0, _START] = 0
        self.symbol_counts[lanes] = 1

    def _join_tones(self, lanes: IntArray, counts: IntArray) -> IntArray:
        """Return the pitch classes of the first spans of some lanes, as bits; (lane,) all."""
        bits = self.spans[lanes, _BITS, : counts.max(initial=0)]
        is_counted = np.arange(bits.shape[1]) < counts[:, None]
        tones: IntArray = np.bitwise_or.reduce(bits * is_counted, axis=1, initial=0) & _PITCH_BITS
        return tones

    def _join_end_tones(self, lanes: IntArray) -> IntArray:
        """Return the pitch classes at the end of the bar of some lanes, as bits; (lane,) all."""
        counts = self.counts[lanes]
        spans = self.spans[lanes, :, : counts.max(initial=0)]
        is_counted = np.arange(spans.shape[2]) < counts[:, None]
        ends = spans[:, _END] * is_counted
        is_last = is_counted & (ends == ends.max(1, initial=0)[:, None])
        tones: IntArray = np.bitwise_or.reduce(spans[:, _BITS] * is_last, axis=1, initial=0)
        return tones & _PITCH_BITS

    def _make_room(self, spans: int, symbols: int) -> None:
        while spans > self.spans.shape[2]:
            self.spans = np.concatenate([self.spans, np.zeros_like(self.spans)], axis=2)
        while symbols > self.symbols.shape[1]:
            self.symbols = np.concatenate([self.symbols, np.zeros_like(self.symbols)], axis=1)

    def _add_sounds(
        self,
        lanes: IntArray,
        ids: IntArray,
        voices: IntArray,
        has_duration: BoolArray,
        spans: IntArray,
    ) -> None:
        """Add a chord, a further pitch of the last one, a hold or a rest to each of some lanes.

        Args:
            lanes: (lane,) int64, by index.
            ids: (lane,) int64.
            voices: (lane,) int16.
            has_duration: (lane,) bool, whether the id starts a span.
            spans: (lane, 3) int32, start, end, and whether the id is a note.
        """
        is_note = spans[:, _IS_STRUCK] > 0
        sounds, last = _SOUND_ARRAY[ids], self.sounds[lanes, voices]
        continued = (_ACTION_ARRAY[ids] == _HOLD) | (is_note & ~has_duration)
        both = np.stack(
            [
                sounds[:, 0] | last[:, 0],
                np.minimum(sounds[:, 1], last[:, 1]),
                np.maximum(sounds[:, 2], last[:, 2]),
            ],
            axis=1,
        )
        sounds = np.where(continued[:, None], both, sounds)
        self.sounds[lanes, voices] = sounds
        new, new_slots = lanes[has_duration], self.counts[lanes[has_duration]]
        self.spans[new, :_BITS, new_slots] = spans[has_duration]
        self.counts[new] += 1
        has_span = self.counts[lanes] > self.earlier[lanes]
        lanes = lanes[has_span]
        self.spans[lanes, _BITS:, self.counts[lanes] - 1] = sounds[has_span]

    def _add_symbols(self, lanes: IntArray, ids: IntArray, steps: IntArray) -> None:
        """Add a chord symbol, or a bass to the last one, to each of some lanes, (lane,) each."""
        is_bass = _ACTION_ARRAY[ids] == _BASS
        basses = lanes[is_bass]
        self.symbols[basses, self.symbol_counts[basses] - 1, 3] = _BASS_ARRAY[ids[is_bass]]
        lanes, ids = lanes[~is_bass], ids[~is_bass]
        counts = self.symbol_counts[lanes]
        self.symbols[lanes, counts] = _SYMBOL_ARRAY[ids]
        self.symbols[lanes, counts, _START] = steps[~is_bass]
        self.symbol_counts[lanes] += 1

    def _describe_parts(self, lanes: IntArray, ids: IntArray) -> None:
        """Add a role, or the family that completes a description, to each of some lanes."""
        is_role = _ACTION_ARRAY[ids] == _ROLE
        self.role[lanes[is_role]] = _ROLE_VALUE_ARRAY[ids[is_role]]
        is_family = ~is_role & (self.part_counts[lanes] < MAX_PARTS)
        described, numbers = lanes[is_family], self.part_counts[lanes[is_family]]
        self.parts[described, numbers, 0] = self.role[described]
        self.parts[described, numbers, 1] = ids[is_family] - _FIRST_FAMILY_ID + 1
        self.part_counts[described] += 1
        self.role[lanes[~is_role]] = 0

    def _compute_fields(self, lanes: IntArray, steps: IntArray) -> None:
        """Compute the fields of some lanes at steps of their bars, (lane,) each."""
        self.fields[lanes] = 0
        for name, values in zip(
            ("root", "quality", "bass"), self._find_symbols(lanes, steps).T, strict=True
        ):
            self._set(name, lanes, values)
        self._set("last_tones", lanes, self.last_tones[lanes])
        fermatas = self.fermatas[lanes] >> np.minimum(steps // SLOT_STEPS, _FERMATA_SLOTS - 1)
        self._set("fermata", lanes, np.frexp(fermatas & -fermatas)[1])
        self._set("prior_tones", lanes, np.where(steps == 0, self.end_tones[lanes], 0))
        self._set("mode", lanes, self.mode[lanes])
        has_spans = self.earlier[lanes] > 0
        lanes, steps = lanes[has_spans], steps[has_spans]
        if not len(lanes):
            return
        earlier = self.earlier[lanes]
        spans = self.spans[lanes, :, : earlier.max()]
        starts, ends, is_struck, bits, lowest, highest = spans.swapaxes(0, 1)
        is_earlier = np.arange(spans.shape[2]) < earlier[:, None]
        offsets = starts - steps[:, None]
        is_sounding = is_earlier & (offsets <= 0) & (ends > steps[:, None])
        is_struck = is_earlier & (is_struck > 0) & (offsets >= 0)
        is_pitched = is_struck & ((bits & _PITCH_BITS) > 0)
        slots = _SLOT_BITS[np.clip(-(-offsets // SLOT_STEPS), 0, _LAST_SLOT + 1)]
        distances = np.where(is_pitched & (offsets > 0), offsets, _FAR).min(1)
        next_steps = (steps + distances)[:, None]
        was_sounding = is_earlier & (offsets < 0) & (ends >= steps[:, None])
        will_sound = is_earlier & (starts <= next_steps) & (ends > next_steps)
        prior_tones = _join_bits(bits, was_sounding) & _PITCH_BITS
        for name, values in {
            "sounding": _join_bits(bits, is_sounding) & _PITCH_BITS,
            "lowest": np.where(is_sounding, lowest, _NO_PITCH).min(1) % _NO_PITCH,
            "highest": (highest * is_sounding).max(1),
            "drums": _join_bits(bits, is_struck & (offsets == 0)) >> _DRUM_SHIFT,
            "onsets": _join_bits(slots, is_pitched),
            "kicks": _join_bits(slots, is_struck & ((bits & _KICK_BIT) > 0)),
            "until": np.minimum(distances % _FAR, _MOST_STEPS),
            "tones": self._join_tones(lanes, earlier),
            "prior_tones": np.where(steps > 0, prior_tones, self.end_tones[lanes]),
            "next_tones": _join_bits(bits, will_sound) & _PITCH_BITS,
        }.items():
            self._set(name, lanes, values)

    def _find_symbols(self, lanes: IntArray, steps: IntArray) -> npt.NDArray[np.int32]:
        """Return the fields of the chord symbols in force, (lane, 3) int32."""
        counts = self.symbol_counts[lanes]
        symbols = self.symbols[lanes, : counts.max()]
        numbers = np.arange(symbols.shape[1])
        is_past = (symbols[:, :, _START] <= steps[:, None]) & (numbers < counts[:, None])
        newest = np.where(is_past, numbers, 0).max(1)
        return symbols[np.arange(len(lanes)), newest, 1:]


def _join_bits(bits: IntArray, is_included: BoolArray) -> IntArray:
    """Return the bits that any included span has: (lane,) from (lane, span) each."""
    joined: IntArray = np.bitwise_or.reduce(bits * is_included, axis=1)
    return joined
