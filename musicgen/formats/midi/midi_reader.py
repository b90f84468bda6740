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
    parse_swing,
    without_pickup_meter,
)
from musicgen.formats.midi.doubled_parts import find_doubled_parts
from musicgen.formats.midi.parser import (
    DRUM_CHANNEL,
    MAX_QUARTERS,
    ParsedMidi,
    TickNotes,
    parse_midi,
)
from musicgen.formats.midi.quantise import Grid, QuantisedPart, Quantiser
from musicgen.formats.midi.reading_record import ReadingRecord
from musicgen.formats.midi.tempo_map import TempoMap, average_tempos
from musicgen.formats.midi.timing import MeterHint, PartTimes, Timing, remove_swing
from musicgen.music.arrays import IntArray, unique_sorted
from musicgen.music.durations import to_steps
from musicgen.music.milliseconds import PERFORMANCE_QPM
from musicgen.music.notes import NoteColumns, Notes
from musicgen.music.score import STEPS_PER_QUARTER, Mark, MarkKind, Part, Score
from musicgen.music.theory import Meter, find_key

MAX_MILLISECONDS: Final = 6 * 3_600_000  # limit on a performance

ONE_BEAT: Final = Meter(1, 4)  # the meter of files whose bars are only beats

ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]


@dataclass(frozen=True)
class Inspection:
    """The tunes of a file, and how they were read."""

    scores: tuple[Score, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    repairs: Mapping[str, int] | None = None  # count by kind, see `parser.REPAIRS`
    records: tuple[ReadingRecord, ...] = ()  # how each score was read

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grid of each score."""
        return tuple(record.grid for record in self.records)


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
    """Read the tunes of a MIDI file; report repairs and how it was read as well."""
    return _read_tunes(data, source, _build_score)


def read_text_events(data: bytes) -> tuple[str, ...]:
    """Return the text events of a MIDI file, in order; `parse_midi` raises what it refuses."""
    return tuple(text for track in parse_midi(data).tracks for _, text in track.texts)


ReadTune = tuple[Score, ReadingRecord]
TuneReader = Callable[[ParsedMidi, Counter[str]], ReadTune]


def _read_tunes(data: bytes, source: str, read_tune: TuneReader) -> Inspection:
    """Read each tune of a file; a refused tune does not affect the others."""
    try:
        file = parse_midi(data)
    except Refusal as refusal:
        return Inspection(refusals=(refusal.with_source(source),))
    tunes = list(file.split_tunes())
    repairs = Counter(file.repairs)
    tunes_read: list[ReadTune] = []
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
                      tuple(record for _, record in tunes_read))  # fmt: skip


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
        instruments = list(dict.fromkeys(notes.instruments.tolist()))  # in order
        for instrument in instruments:
            channel, program = divmod(instrument, 128)
            part = Part(track.name, program, channel == DRUM_CHANNEL)
            yield _Instrument(
                part, channel, _select_instrument(notes, instrument, is_only=len(instruments) == 1)
            )
        if not instruments and (index or len(file.tracks) == 1) and track.program is not None:
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


def _build_score(file: ParsedMidi, repairs: Counter[str]) -> ReadTune:
    """Build the score of one tune."""
    instruments = list(_iter_instruments(file))
    part_notes = {index: notes for index, _, notes in _iter_with_notes(instruments)}
    if not part_notes:
        raise _no_notes()
    marks = _MarkReader(file, TempoMap(file))
    parts = [
        PartTimes(
            index,
            instruments[index].part.is_drums,
            marks.to_straight_ticks(notes.onsets),
            marks.to_straight_ticks(notes.ends),
            notes.pitches,
        )
        for index, notes in part_notes.items()
    ]
    if max(times.ends.max() for times in parts) > MAX_QUARTERS * file.ticks_per_quarter:
        fault = f"it lasts over {MAX_QUARTERS:,} quarter notes; it was left out"
        raise Refusal(fault, code="too-large")
    quantiser = Quantiser.of(parts, file.ticks_per_quarter, marks.hint_meter())
    quantised = [quantiser.quantise_part(times) for times in parts]
    columns = {
        part.part: _columns(part.part, part.onsets, part.durations, part_notes[part.part])
        for part in quantised
    }
    score_parts = [instrument.part for instrument in instruments]
    record = _make_record(quantiser, quantised, columns, score_parts)
    for kind, count in (("moved-end", record.moved_ends), ("doubled", record.merged_notes)):
        repairs[kind] += count
    repairs["doubled-part"] += record.dropped_notes
    notes, kept_parts = _drop_parts(columns, score_parts, record)
    score = Score(
        notes,
        parts=kept_parts,
        title=file.tracks[0].name,
        swing=quantiser.timing.swing if marks.own_swing is None else marks.own_swing[0],
    )
    is_played = quantiser.beat_grids is not None
    return marks.add_marks(score, quantiser.timing, is_played=is_played), record


def _make_record(
    quantiser: Quantiser,
    quantised: Sequence[QuantisedPart],
    columns: Mapping[int, NoteColumns],
    parts: Sequence[Part],
) -> ReadingRecord:
    is_exact = quantiser.grid.name == "exact"
    same, other = find_doubled_parts(columns, parts)
    return ReadingRecord(
        quantiser.grid,
        quantiser.timing,
        notes=sum(notes.shape[1] for notes in columns.values()),
        far_onsets=sum(part.far_onsets for part in quantised),
        moved_ends=sum(part.moved_ends for part in quantised),
        hits=sum(part.hits for part in quantised),
        merged_notes=0 if is_exact else sum(map(_count_merged, columns.values())),
        dropped_parts=() if is_exact else tuple(same),
        dropped_notes=0 if is_exact else sum(columns[part].shape[1] for part in same),
        doubled_parts=other | same if is_exact else other,
    )


def _count_merged(columns: NoteColumns) -> int:
    """Count the notes on the step of another one with their pitch."""
    together = unique_sorted(columns[0] * 128 + columns[1])
    return int(columns.shape[1] - len(together))


def _drop_parts(
    columns: Mapping[int, NoteColumns], parts: Sequence[Part], record: ReadingRecord
) -> tuple[Notes, tuple[Part, ...]]:
    """Return the notes and the parts without those that the record drops."""
    kept = [index for index in range(len(parts)) if index not in record.dropped_parts]
    numbers = {index: number for number, index in enumerate(kept)}
    notes = [
        np.vstack([part_columns[:4], np.full(part_columns.shape[1], numbers[index])])
        for index, part_columns in columns.items()
        if index in numbers
    ]
    return Notes(np.concatenate(notes, axis=1)), tuple(parts[index] for index in kept)


def _columns(part: int, onsets: IntArray, durations: IntArray, notes: TickNotes) -> NoteColumns:
    parts = np.full(len(onsets), part)
    return np.stack([onsets, notes.pitches, durations, notes.velocities, parts])


class _MarkReader:
    """Reads the marks of a tune."""

    def __init__(self, file: ParsedMidi, tempo_map: TempoMap) -> None:
        self.file = file
        self.tempo_map = tempo_map
        text_events = [
            (at, *text.removeprefix(TEXT_PREFIX).partition(" "))
            for at, text in self.convert_to_steps(self.file.tracks[0].texts)
            if text.startswith(TEXT_PREFIX)
        ]
        self.own_texts = [(at, kind, value) for at, kind, _, value in text_events]
        self.meters = self.merge_events("meters")
        self.own_swing = parse_swing(self.find_own_text("swing") or "")

    def to_straight_ticks(self, ticks: IntArray) -> IntArray:
        """Convert (n,) int64 ticks to ticks of quarter notes, without a swing that texts state."""
        straight = self.tempo_map.to_quarter_ticks(ticks)
        if self.own_swing is None:
            return straight
        return remove_swing(straight, *self.own_swing, self.file.ticks_per_quarter)

    def find_own_text(self, kind: str) -> str | None:
        """Return the first text event of a kind that this program wrote."""
        return next((value for _, name, value in self.own_texts if name == kind), None)

    def hint_meter(self) -> MeterHint:
        """Return what the meters tell about the bars of a file that was played."""
        meters = [meter for _, meter in self.meters] or [Meter(4, 4)]
        has_quarter_beats = all(meter.steps % STEPS_PER_QUARTER == 0 for meter in meters)
        if self.find_own_text("bars") is not None or not has_quarter_beats:
            return MeterHint(has_quarter_beats)
        if all(meter == ONE_BEAT for meter in meters):
            return MeterHint(beats_per_bar=(4, 3), is_given=False)
        if len(meters) > 1:
            return MeterHint()
        is_compound = meters[0].beat_steps % STEPS_PER_QUARTER != 0
        beat = STEPS_PER_QUARTER // 2 if is_compound else STEPS_PER_QUARTER
        return MeterHint(beats_per_bar=(meters[0].steps // beat,), beat_steps=beat)

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

    def add_marks(self, score: Score, timing: Timing, *, is_played: bool) -> Score:
        """Return the score with its marks and its rhythm.

        Args:
            score: the notes.
            timing: what was taken out of them; tempos move with the notes.
            is_played: whether they were played, so that tempos are averaged.
        """
        meters = self.meters
        if timing.beats_per_bar is not None:
            meters = [(0, Meter(timing.beats_per_bar, 4))]
        notes_end = score.end  # as it has no marks yet
        bar_lengths = self.find_own_text("bars")
        lines = None if bar_lengths is None else parse_bar_lengths(bar_lengths)
        if lines is None:
            _check_bar_count(notes_end, meters)
            lines = infer_bar_lines(notes_end, meters)
            meters = without_pickup_meter(meters)
        tempos: list[StepEvent] = list(
            {
                timing.shift_step(at): tempo_to_qpm(tempo)
                for at, tempo in self.merge_events("tempos")
            }.items()
        )
        if is_played:
            tempos = average_tempos(tempos, lines)
        timed: dict[MarkKind, list[StepEvent]] = {
            "meter": drop_unchanged(meters),
            "key": drop_unchanged(self.read_keys(score)),
            "tempo": drop_unchanged(tempos),
            "chord": list(
                {at: value for at, kind, value in self.own_texts if kind == "chord"}.items()
            ),
            "fermata": [(at, None) for at, kind, _ in self.own_texts if kind == "fermata"],
        }
        end = max([notes_end, *lines[-1:]])
        marks = [
            Mark(at, kind, value)
            for kind, events in timed.items()
            for at, value in events
            if at < end
        ]
        marks += [Mark(line, "bar") for line in lines]
        return replace(score, marks=tuple(marks), rhythm=self.find_own_text("rhythm") or "")

    def read_keys(self, score: Score) -> list[StepEvent]:
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
            key = find_key(score.pitch_class_durations())
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


def _build_score_or_performance(file: ParsedMidi, repairs: Counter[str]) -> ReadTune:
    """Build the score of one tune, or a performance if it has no bars or too many."""
    try:
        return _build_score(file, repairs)
    except Refusal as refusal:
        if refusal.code not in ("no-bars", "too-large"):
            raise
    return _build_performance(file, repairs)


def _build_performance(file: ParsedMidi, _: Counter[str]) -> ReadTune:
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
    score = Score(Notes(np.concatenate(columns, axis=1)), marks, parts, title)
    return score, ReadingRecord(Grid("milliseconds"), notes=len(score.notes))


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
