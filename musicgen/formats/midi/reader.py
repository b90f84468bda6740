"""Standard MIDI files to scores: a survey of all bytes, then the notes on the grid, then bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

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
from musicgen.music.arrays import unique_sorted
from musicgen.music.durations import to_steps
from musicgen.music.notes import NoteColumns, Notes
from musicgen.music.performance import PERFORMANCE_QPM
from musicgen.music.score import STEPS_PER_QUARTER, Mark, MarkKind, Part, Score
from musicgen.music.theory import find_key

MAX_MILLISECONDS: Final = 6 * 3_600_000  # of a performance

ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]


@dataclass(frozen=True)
class Inspection:
    """What became of a file: its tunes, its refusals, what was repaired, the grid of each tune.

    repairs: kinds of `survey.REPAIRS` to how often. grids: one for each tune that was kept, with
    how far its onsets lay from it, in steps.
    """

    scores: tuple[Score, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    repairs: Mapping[str, int] | None = None
    grids: tuple[Grid, ...] = ()


def parse(data: bytes, source: str = "") -> ParseResult:
    """Read the tunes of a MIDI file; what cannot be read is refused, never raised."""
    found = inspect(data, source)
    return found.scores, found.refusals


def parse_performance(data: bytes, source: str = "") -> ParseResult:
    """Read what a MIDI file plays, at 1,250 quarters a minute: one step is one millisecond.

    Each velocity is kept, and the sustain pedal lengthens the notes that it holds.
    """
    found = _read_tunes(data, source, _build_performance)
    return found.scores, found.refusals


def parse_score_or_performance(data: bytes, source: str = "") -> ParseResult:
    """Read the tunes of a MIDI file, and as a performance each that has no bars to be read."""
    found = _read_tunes(data, source, _build_score_or_performance)
    return found.scores, found.refusals


def inspect(data: bytes, source: str = "") -> Inspection:
    """Read the tunes of a MIDI file, and tell what was done to them."""
    return _read_tunes(data, source, _build_score)


def read_text_events(data: bytes) -> tuple[str, ...]:
    """Return the texts of a MIDI file in order. Raises Refusal."""
    return tuple(text for track in parse_midi(data).tracks for _, text in track.texts)


TuneReader = Callable[[ParsedMidi, Counter[str]], tuple[Score, Grid]]


def _read_tunes(data: bytes, source: str, read_tune: TuneReader) -> Inspection:
    """Read each tune of a file; a tune that is refused costs the others nothing."""
    try:
        file = parse_midi(data)
    except Refusal as refusal:
        return Inspection(refusals=(refusal.with_source(source),))
    tunes = list(file.split_tunes())
    repairs = Counter(file.repairs)
    kept: list[tuple[Score, Grid]] = []
    refusals: list[Refusal] = []
    for number, tune in enumerate(tunes, 1):
        place = f"tune {number}" if len(tunes) > 1 else ""
        try:
            kept.append(read_tune(tune, repairs))
        except Refusal as fault:
            refusals.append(Refusal(fault.message, source=source, place=place, code=fault.code))
        except InvalidValue as fault:
            message = f"{fault}; it was left out"
            refusals.append(Refusal(message, source=source, place=place, code="damaged"))
    if not tunes:
        refusals.append(_no_notes().with_source(source))
    return Inspection(tuple(score for score, _ in kept), tuple(refusals), +repairs,
                      tuple(grid for _, grid in kept))  # fmt: skip


def _no_notes() -> Refusal:
    return Refusal("it has no notes; it was left out", code="empty")


@dataclass(frozen=True)
class _Instrument:
    """One instrument of a track: its part and its notes, in ticks of quarters or milliseconds."""

    part: Part
    channel: int
    notes: TickNotes | None  # None: it is named and has none


def _lines(file: ParsedMidi) -> Iterator[_Instrument]:
    """Yield each instrument of each track, in the order of their first notes."""
    for index, track in enumerate(file.tracks):
        notes = track.notes
        found, first = np.unique(notes.instruments, return_index=True)
        for instrument in found[np.argsort(first)].tolist():
            channel, program = divmod(instrument, 128)
            part = Part(track.name, program, channel == DRUM_CHANNEL)
            yield _Instrument(
                part, channel, _select_instrument(notes, instrument, alone=len(found) == 1)
            )
        if not len(found) and (index or len(file.tracks) == 1) and track.program is not None:
            channel, program = track.program
            yield _Instrument(Part(track.name, program, channel == DRUM_CHANNEL), channel, None)


def _select_instrument(notes: TickNotes, instrument: int, *, alone: bool) -> TickNotes:
    if alone:
        return notes
    mask = notes.instruments == instrument
    return TickNotes(*(getattr(notes, name)[mask] for name in TickNotes.__dataclass_fields__))


def _iter_with_notes(lines: Sequence[_Instrument]) -> Iterator[tuple[int, _Instrument, TickNotes]]:
    for index, line in enumerate(lines):
        if line.notes is not None:
            yield index, line, line.notes


# The written tune


def _build_score(file: ParsedMidi, repairs: Counter[str]) -> tuple[Score, Grid]:
    """Build the score of one tune."""
    clock = TempoMap(file)
    lines = list(_lines(file))
    times = [
        (index, notes, clock.to_quarter_ticks(notes.onsets), clock.to_quarter_ticks(notes.ends))
        for index, _, notes in _iter_with_notes(lines)
    ]
    if not times:
        raise _no_notes()
    onsets = np.concatenate([starts for _, _, starts, _ in times])
    ends = np.concatenate([stops for _, _, _, stops in times])
    if ends.max() > MAX_QUARTERS * file.ticks_per_quarter:
        fault = f"it lasts over {MAX_QUARTERS:,} quarters; it was left out"
        raise Refusal(fault, code="too-large")
    quantiser = Quantiser.of(onsets, ends, file.ticks_per_quarter)
    columns = [
        _quantise_part(quantiser, index, notes, starts, stops, repairs)
        for index, notes, starts, stops in times
    ]
    title = file.tracks[0].name
    score = Score(_join_columns(columns), parts=tuple(line.part for line in lines), title=title)
    return _MarkReader(file, clock, score).add_marks(), quantiser.grid


def _quantise_part(
    quantiser: Quantiser,
    part: int,
    notes: TickNotes,
    starts: Any,
    stops: Any,
    repairs: Counter[str],
) -> NoteColumns:
    onsets, durations, moved = quantiser.quantise_notes(starts, stops)
    repairs["moved-end"] += moved
    if quantiser.grid.name != "exact":
        together = unique_sorted(onsets * 128 + notes.pitches)
        repairs["doubled"] += len(onsets) - len(together)
    return _columns(part, onsets, durations, notes)


def _columns(part: int, onsets: Any, durations: Any, notes: TickNotes) -> NoteColumns:
    parts = np.full(len(onsets), part)
    return np.stack([onsets, notes.pitches, durations, notes.velocities, parts])


def _join_columns(columns: Sequence[NoteColumns]) -> Notes:
    return Notes(np.concatenate(columns, axis=1))


class _MarkReader:
    """What stands between the notes of a tune."""

    def __init__(self, file: ParsedMidi, clock: TempoMap, score: Score) -> None:
        self.file = file
        self.clock = clock
        self.score = score
        said = [
            (at, *text.removeprefix(TEXT_PREFIX).partition(" "))
            for at, text in self.convert_to_steps(self.file.tracks[0].texts)
            if text.startswith(TEXT_PREFIX)
        ]
        self.own_texts = [(at, kind, value) for at, kind, _, value in said]

    def convert_to_steps(self, events: Sequence[StepEvent]) -> list[StepEvent]:
        """Move events to the nearest steps."""
        ticks = self.clock.to_quarter_ticks([tick for tick, _ in events]).tolist() if events else []
        quarter = self.file.ticks_per_quarter
        return [
            (to_steps(tick, quarter, STEPS_PER_QUARTER), value)
            for tick, (_, value) in zip(ticks, events, strict=True)
        ]

    def merge_events(self, name: str) -> list[StepEvent]:
        """Return one kind of event of all tracks; of two at a step the last holds."""
        return list(dict(self.convert_to_steps(self.file.merge_events(name))).items())

    def add_marks(self) -> Score:
        """Return the tune with its marks and its kind."""
        meters = self.merge_events("meters")
        notes_end = self.score.end  # which has no marks yet
        lines = next(
            (parse_bar_lengths(v) for _, kind, v in self.own_texts if kind == "bars"), None
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
            "chord": list({at: v for at, kind, v in self.own_texts if kind == "chord"}.items()),
        }
        end = max([notes_end, *lines[-1:]])
        marks = [
            Mark(at, kind, v) for kind, events in timed.items() for at, v in events if at < end
        ]
        marks += [Mark(line, "bar") for line in lines]
        rhythm = next((value for _, kind, value in self.own_texts if kind == "rhythm"), "")
        return replace(self.score, marks=tuple(marks), rhythm=rhythm)

    def read_keys(self) -> list[StepEvent]:
        """Return the keys; words count beside the signature that they agree with.

        Where there is no signature the key is found, unless words say that there is none.
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
    """Refuse a tune that its meters cut into more bars than any tune has."""
    shortest = min([meter.steps for _, meter in meters] or [end])
    if end // shortest + len(meters) > MAX_BARS and len(infer_bar_lines(end, meters)) > MAX_BARS:
        raise Refusal(f"it has over {MAX_BARS:,} bars; it was left out", code="too-large")


def tempo_to_qpm(microseconds: int) -> float:
    """Return the shortest number of quarters a minute that writes these microseconds a quarter."""
    exact = 60_000_000 / microseconds
    rounded = (round(exact, digits) for digits in range(7))
    return next((q for q in rounded if q and bpm2tempo(q) == microseconds), exact)


# The tune as it was played


def _build_score_or_performance(file: ParsedMidi, repairs: Counter[str]) -> tuple[Score, Grid]:
    """Build the score of one tune, as a performance where it keeps to no bars or has too many."""
    try:
        return _build_score(file, repairs)
    except Refusal as refusal:
        if refusal.code not in ("no-bars", "too-large"):
            raise
    return _build_performance(file, repairs)


def _build_performance(file: ParsedMidi, _: Counter[str]) -> tuple[Score, Grid]:
    clock = TempoMap(file)
    lines = list(_lines(file))
    pedals = _SustainPedals(file)
    found: list[NoteColumns] = []
    for index, line, notes in _iter_with_notes(lines):
        onsets = clock.to_milliseconds(notes.onsets)
        ends = clock.to_milliseconds(pedals.extend_ends(line.channel, notes))
        if ends.max() > MAX_MILLISECONDS:
            raise Refusal("it lasts over six hours; it was left out", code="too-large")
        found.append(_columns(index, onsets, np.maximum(ends - onsets, 1), notes))
    if not found:
        raise _no_notes()
    marks = (Mark(0, "tempo", PERFORMANCE_QPM),)
    title = file.tracks[0].name
    parts = tuple(line.part for line in lines)
    return Score(_join_columns(found), marks, parts, title), Grid("milliseconds")


class _SustainPedals:
    """When the sustain pedal of each channel is down."""

    def __init__(self, file: ParsedMidi) -> None:
        last = max((track.end for track in file.tracks), default=0)
        events = sorted((pedal for track in file.tracks for pedal in track.pedals), key=_by_tick)
        self.downs: dict[int, list[int]] = {}
        self.ups: dict[int, list[int]] = {}
        for tick, channel, is_down in events:
            downs, ups = self.downs.setdefault(channel, []), self.ups.setdefault(channel, [])
            if is_down and len(downs) == len(ups):
                downs.append(tick)
            elif not is_down and len(downs) > len(ups):
                ups.append(tick)
        for channel, ups in self.ups.items():
            if len(self.downs[channel]) > len(ups):
                ups.append(last)

    def extend_ends(self, channel: int, notes: TickNotes) -> Any:
        """Return the ends of notes: held by the pedal until it is up or the pitch comes again."""
        if not self.downs.get(channel):
            return notes.ends
        downs, ups = np.array(self.downs[channel]), np.array(self.ups[channel])
        index = np.searchsorted(downs, notes.ends, side="right") - 1
        held = (index >= 0) & (notes.ends < ups[index])
        until = np.minimum(ups[index], _next_of_pitch(notes))
        return np.where(held, np.maximum(notes.ends, until), notes.ends)


def _by_tick(pedal: tuple[int, int, bool]) -> int:
    return pedal[0]


def _next_of_pitch(notes: TickNotes) -> Any:
    """Return for each note the next onset of its pitch; far away where there is none."""
    order = np.lexsort((notes.onsets, notes.pitches))
    onsets, pitches = notes.onsets[order], notes.pitches[order]
    following = np.full(len(order), 2**40, dtype=np.int64)
    same = pitches[1:] == pitches[:-1]
    following[:-1][same] = onsets[1:][same]
    found = np.empty_like(following)
    found[order] = following
    return found
