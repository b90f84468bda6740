"""Reader of Standard MIDI Files: parse the bytes, quantise the notes, then find bars and keys."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

import numpy as np
from mido import bpm2tempo

from musicgen.errors import InvalidValue, Refusal
from musicgen.formats.midi.bar_key_inference import (
    MAX_BARS,
    NO_KEY,
    TEXT_PREFIX,
    StepEvent,
    drop_unchanged,
    infer_bar_lines,
    parse_bar_lengths,
    parse_key_or_none,
    without_pickup_meter,
)
from musicgen.formats.midi.parser import (
    DRUM_CHANNEL,
    MAX_QUARTERS,
    ParsedMidi,
    TickNotes,
    parse_midi,
)
from musicgen.formats.midi.quantise import Grid, Quantiser, TempoMap
from musicgen.music.arrays import IntArray, unique_sorted
from musicgen.music.durations import to_steps
from musicgen.music.milliseconds import PERFORMANCE_QPM
from musicgen.music.notes import NoteColumns, Notes
from musicgen.music.score import STEPS_PER_QUARTER, Mark, MarkKind, Part, Score
from musicgen.music.theory import find_key

MAX_MILLISECONDS: Final = 6 * 3_600_000  # limit on a performance

ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]


@dataclass(frozen=True)
class Inspection:
    """The tunes of a file, and how they were read."""

    scores: tuple[Score, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    repairs: Mapping[str, int] | None = None  # count by kind, see `parser.REPAIRS`
    grids: tuple[Grid, ...] = ()  # of each score


def parse(data: bytes, source: str = "") -> ParseResult:
    """Read the tunes of a MIDI file; return refusals for those that cannot be read."""
    inspection = inspect(data, source)
    return inspection.scores, inspection.refusals


def parse_performance(data: bytes, source: str = "") -> ParseResult:
    """Read the tunes of a MIDI file as performances, in which one step is one millisecond.

    Keep each note's velocity, and lengthen notes held by the sustain pedal.
    """
    inspection = _read_tunes(data, source, _build_performance)
    return inspection.scores, inspection.refusals


def parse_score_or_performance(data: bytes, source: str = "") -> ParseResult:
    """Read the tunes of a MIDI file; read those without bars as performances."""
    inspection = _read_tunes(data, source, _build_score_or_performance)
    return inspection.scores, inspection.refusals


def inspect(data: bytes, source: str = "") -> Inspection:
    """Read the tunes of a MIDI file; report repairs and grids as well."""
    return _read_tunes(data, source, _build_score)


def read_text_events(data: bytes) -> tuple[str, ...]:
    """Return the text events of a MIDI file, in order; `parse_midi` raises what it refuses."""
    return tuple(text for track in parse_midi(data).tracks for _, text in track.texts)


TuneReader = Callable[[ParsedMidi, Counter[str]], tuple[Score, Grid]]


def _read_tunes(data: bytes, source: str, read_tune: TuneReader) -> Inspection:
    """Read each tune of a file; a refused tune does not affect the others."""
    try:
        file = parse_midi(data)
    except Refusal as refusal:
        return Inspection(refusals=(refusal.with_source(source),))
    tunes = list(file.split_tunes())
    repairs = Counter(file.repairs)
    tunes_read: list[tuple[Score, Grid]] = []
    refusals: list[Refusal] = []
    for number, tune in enumerate(tunes, 1):
        place = f"tune {number}" if len(tunes) > 1 else ""
        try:
            tunes_read.append(read_tune(tune, repairs))
        except Refusal as fault:
            refusals.append(Refusal(fault.message, source=source, place=place, code=fault.code))
        except InvalidValue as fault:
            message = f"{fault}; it was left out"
            refusals.append(Refusal(message, source=source, place=place, code="damaged"))
    if not tunes:
        refusals.append(_no_notes().with_source(source))
    return Inspection(tuple(score for score, _ in tunes_read), tuple(refusals), +repairs,
                      tuple(grid for _, grid in tunes_read))  # fmt: skip


def _no_notes() -> Refusal:
    return Refusal("it has no notes; it was left out", code="empty")


@dataclass(frozen=True)
class _Instrument:
    """One instrument of a track."""

    part: Part
    channel: int
    notes: TickNotes | None  # None for a program change without notes


def _iter_instruments(file: ParsedMidi) -> Iterator[_Instrument]:
    """Yield the instruments of each track in order of their first notes."""
    for index, track in enumerate(file.tracks):
        notes = track.notes
        instruments, first_notes = np.unique(notes.instruments, return_index=True)
        for instrument in instruments[np.argsort(first_notes)].tolist():
            channel, program = divmod(instrument, 128)
            part = Part(track.name, program, channel == DRUM_CHANNEL)
            yield _Instrument(
                part, channel, _select_instrument(notes, instrument, is_only=len(instruments) == 1)
            )
        if not len(instruments) and (index or len(file.tracks) == 1) and track.program is not None:
            channel, program = track.program
            yield _Instrument(Part(track.name, program, channel == DRUM_CHANNEL), channel, None)


def _select_instrument(notes: TickNotes, instrument: int, *, is_only: bool) -> TickNotes:
    if is_only:
        return notes
    mask = notes.instruments == instrument
    return TickNotes(*(getattr(notes, name)[mask] for name in TickNotes.__dataclass_fields__))


def _iter_with_notes(
    instruments: Sequence[_Instrument],
) -> Iterator[tuple[int, _Instrument, TickNotes]]:
    for index, instrument in enumerate(instruments):
        if instrument.notes is not None:
            yield index, instrument, instrument.notes


# Scores


def _build_score(file: ParsedMidi, repairs: Counter[str]) -> tuple[Score, Grid]:
    """Build the score of one tune."""
    tempo_map = TempoMap(file)
    instruments = list(_iter_instruments(file))
    times = [
        (
            index,
            notes,
            tempo_map.to_quarter_ticks(notes.onsets),
            tempo_map.to_quarter_ticks(notes.ends),
        )
        for index, _, notes in _iter_with_notes(instruments)
    ]
    if not times:
        raise _no_notes()
    onsets = np.concatenate([note_starts for _, _, note_starts, _ in times])
    ends = np.concatenate([note_ends for _, _, _, note_ends in times])
    if ends.max() > MAX_QUARTERS * file.ticks_per_quarter:
        fault = f"it lasts over {MAX_QUARTERS:,} quarter notes; it was left out"
        raise Refusal(fault, code="too-large")
    quantiser = Quantiser.of(onsets, ends, file.ticks_per_quarter)
    columns = [
        _quantise_part(quantiser, index, notes, note_starts, note_ends, repairs)
        for index, notes, note_starts, note_ends in times
    ]
    title = file.tracks[0].name
    score = Score(
        _join_columns(columns),
        parts=tuple(instrument.part for instrument in instruments),
        title=title,
    )
    return _MarkReader(file, tempo_map, score).add_marks(), quantiser.grid


def _quantise_part(
    quantiser: Quantiser,
    part: int,
    notes: TickNotes,
    note_starts: IntArray,
    note_ends: IntArray,
    repairs: Counter[str],
) -> NoteColumns:
    onsets, durations, moved = quantiser.quantise_notes(note_starts, note_ends)
    repairs["moved-end"] += moved
    if quantiser.grid.name != "exact":
        together = unique_sorted(onsets * 128 + notes.pitches)
        repairs["doubled"] += len(onsets) - len(together)
    return _columns(part, onsets, durations, notes)


def _columns(part: int, onsets: IntArray, durations: IntArray, notes: TickNotes) -> NoteColumns:
    parts = np.full(len(onsets), part)
    return np.stack([onsets, notes.pitches, durations, notes.velocities, parts])


def _join_columns(columns: Sequence[NoteColumns]) -> Notes:
    return Notes(np.concatenate(columns, axis=1))


class _MarkReader:
    """Reads the marks of a tune."""

    def __init__(self, file: ParsedMidi, tempo_map: TempoMap, score: Score) -> None:
        self.file = file
        self.tempo_map = tempo_map
        self.score = score
        text_events = [
            (at, *text.removeprefix(TEXT_PREFIX).partition(" "))
            for at, text in self.convert_to_steps(self.file.tracks[0].texts)
            if text.startswith(TEXT_PREFIX)
        ]
        self.own_texts = [(at, kind, value) for at, kind, _, value in text_events]

    def convert_to_steps(self, events: Sequence[StepEvent]) -> list[StepEvent]:
        """Move events to the nearest steps."""
        ticks = (
            self.tempo_map.to_quarter_ticks([tick for tick, _ in events]).tolist() if events else []
        )
        quarter = self.file.ticks_per_quarter
        return [
            (to_steps(tick, quarter, STEPS_PER_QUARTER), value)
            for tick, (_, value) in zip(ticks, events, strict=True)
        ]

    def merge_events(self, name: str) -> list[StepEvent]:
        """Return one kind of event of all tracks; keep the last of those at one step."""
        return list(dict(self.convert_to_steps(self.file.merge_events(name))).items())

    def add_marks(self) -> Score:
        """Return the score with its marks and its rhythm."""
        meters = self.merge_events("meters")
        notes_end = self.score.end  # as it has no marks yet
        lines = next(
            (parse_bar_lengths(value) for _, kind, value in self.own_texts if kind == "bars"), None
        )
        if lines is None:
            _check_bar_count(notes_end, meters)
            lines = infer_bar_lines(notes_end, meters)
            meters = without_pickup_meter(meters)
        tempos = [(at, tempo_to_qpm(tempo)) for at, tempo in self.merge_events("tempos")]
        timed: dict[MarkKind, list[StepEvent]] = {
            "meter": drop_unchanged(meters),
            "key": drop_unchanged(self.read_keys()),
            "tempo": drop_unchanged(tempos),
            "chord": list(
                {at: value for at, kind, value in self.own_texts if kind == "chord"}.items()
            ),
        }
        end = max([notes_end, *lines[-1:]])
        marks = [
            Mark(at, kind, value)
            for kind, events in timed.items()
            for at, value in events
            if at < end
        ]
        marks += [Mark(line, "bar") for line in lines]
        rhythm = next((value for _, kind, value in self.own_texts if kind == "rhythm"), "")
        return replace(self.score, marks=tuple(marks), rhythm=rhythm)

    def read_keys(self) -> list[StepEvent]:
        """Return the keys: those of text events where their signature agrees, else signatures.

        Where there is no signature, estimate the key, unless a text event says that there is none.
        """
        keys = dict(self.merge_events("keys"))
        words = [(at, value) for at, kind, value in self.own_texts if kind == "key"]
        for at, value in words:
            named = parse_key_or_none(value)
            if at in keys and named is not None and (named.fifths - keys[at].fifths) % 12 == 0:
                keys[at] = named
        if not keys and all(value != NO_KEY for _, value in words):
            key = find_key(self.score.pitch_class_durations())
            return [] if key is None else [(0, key)]
        return sorted(keys.items(), key=lambda item: item[0])


def _check_bar_count(end: int, meters: Sequence[StepEvent]) -> None:
    """Raise Refusal if the meters imply more than MAX_BARS bars."""
    shortest = min([meter.steps for _, meter in meters] or [end])
    if end // shortest + len(meters) > MAX_BARS and len(infer_bar_lines(end, meters)) > MAX_BARS:
        raise Refusal(f"it has over {MAX_BARS:,} bars; it was left out", code="too-large")


def tempo_to_qpm(microseconds: int) -> float:
    """Convert microseconds per quarter to the shortest decimal of quarter notes per minute."""
    exact = 60_000_000 / microseconds
    rounded = (round(exact, digits) for digits in range(7))
    return next((q for q in rounded if q and bpm2tempo(q) == microseconds), exact)


# Performances


def _build_score_or_performance(file: ParsedMidi, repairs: Counter[str]) -> tuple[Score, Grid]:
    """Build the score of one tune, or a performance if it has no bars or too many."""
    try:
        return _build_score(file, repairs)
    except Refusal as refusal:
        if refusal.code not in ("no-bars", "too-large"):
            raise
    return _build_performance(file, repairs)


def _build_performance(file: ParsedMidi, _: Counter[str]) -> tuple[Score, Grid]:
    tempo_map = TempoMap(file)
    instruments = list(_iter_instruments(file))
    pedals = _SustainPedals(file)
    columns: list[NoteColumns] = []
    for index, instrument, notes in _iter_with_notes(instruments):
        onsets = tempo_map.to_milliseconds(notes.onsets)
        ends = tempo_map.to_milliseconds(pedals.extend_ends(instrument.channel, notes))
        if ends.max() > MAX_MILLISECONDS:
            raise Refusal("it lasts over six hours; it was left out", code="too-large")
        columns.append(_columns(index, onsets, np.maximum(ends - onsets, 1), notes))
    if not columns:
        raise _no_notes()
    marks = (Mark(0, "tempo", PERFORMANCE_QPM),)
    title = file.tracks[0].name
    parts = tuple(instrument.part for instrument in instruments)
    return Score(_join_columns(columns), marks, parts, title), Grid("milliseconds")


class _SustainPedals:
    """The spans of ticks in which the sustain pedal of each channel is down."""

    def __init__(self, file: ParsedMidi) -> None:
        events = (pedal for track in file.tracks for pedal in track.pedals)
        self.spans: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # (down, up)
        down_ticks: dict[int, int] = {}  # of the channels whose pedal is down
        for tick, channel, is_down in sorted(events, key=itemgetter(0)):
            if is_down:
                down_ticks.setdefault(channel, tick)
            elif channel in down_ticks:
                self.spans[channel].append((down_ticks.pop(channel), tick))
        file_end = max((track.end for track in file.tracks), default=0)
        for channel, tick in down_ticks.items():
            self.spans[channel].append((tick, file_end))

    def extend_ends(self, channel: int, notes: TickNotes) -> IntArray:
        """Return the ends of notes, held by the pedal until its release or the pitch's next onset.

        Args:
            channel: MIDI channel of the notes, from 0.
            notes: the notes of one instrument.

        Returns:
            (note,) int64 ticks.
        """
        if channel not in self.spans:
            return notes.ends
        downs, ups = np.array(self.spans[channel]).T
        index = np.searchsorted(downs, notes.ends, side="right") - 1
        is_held = (index >= 0) & (notes.ends < ups[index])
        release = np.minimum(ups[index], _next_of_pitch(notes))
        return np.where(is_held, np.maximum(notes.ends, release), notes.ends)


def _next_of_pitch(notes: TickNotes) -> IntArray:
    """Return for each note the next onset of its pitch, in ticks; 2**40 where there is none."""
    order = np.lexsort((notes.onsets, notes.pitches))
    onsets, pitches = notes.onsets[order], notes.pitches[order]
    sorted_next = np.full(len(order), 2**40, dtype=np.int64)
    is_same_pitch = pitches[1:] == pitches[:-1]
    sorted_next[:-1][is_same_pitch] = onsets[1:][is_same_pitch]
    next_onsets = np.empty_like(sorted_next)
    next_onsets[order] = sorted_next
    return next_onsets
