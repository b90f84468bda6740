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
    OWN,
    Timed,
    bar_lines,
    changes,
    key_named,
    lines_of,
    without_pickup_meter,
)
from musicgen.formats.midi.parser import DRUM_CHANNEL, MAX_QUARTERS, Played, Survey, survey
from musicgen.formats.midi.quantise import Clock, Grid, Quantiser
from musicgen.music.arrays import each_once
from musicgen.music.durations import to_steps
from musicgen.music.notes import Columns, Notes
from musicgen.music.performance import PERFORMED_QPM
from musicgen.music.score import STEPS_PER_QUARTER, Mark, MarkKind, Part, Score
from musicgen.music.theory import find_key

MAX_MILLISECONDS: Final = 6 * 3_600_000  # of a performance

Read = tuple[tuple[Score, ...], tuple[Refusal, ...]]


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


def parse(data: bytes, source: str = "") -> Read:
    """Read the tunes of a MIDI file; what cannot be read is refused, never raised."""
    found = inspect(data, source)
    return found.scores, found.refusals


def perform(data: bytes, source: str = "") -> Read:
    """Read what a MIDI file plays, at 1,250 quarters a minute: one step is one millisecond.

    Each velocity is kept, and the sustain pedal lengthens the notes that it holds.
    """
    found = _each_tune(data, source, _performance)
    return found.scores, found.refusals


def parse_or_perform(data: bytes, source: str = "") -> Read:
    """Read the tunes of a MIDI file, and as a performance each that has no bars to be read."""
    found = _each_tune(data, source, _score_or_performance)
    return found.scores, found.refusals


def inspect(data: bytes, source: str = "") -> Inspection:
    """Read the tunes of a MIDI file, and tell what was done to them."""
    return _each_tune(data, source, _score)


def text_events(data: bytes) -> tuple[str, ...]:
    """Return the texts of a MIDI file in order. Raises Refusal."""
    return tuple(text for track in survey(data).tracks for _, text in track.texts)


Reading = Callable[[Survey, Counter[str]], tuple[Score, Grid]]


def _each_tune(data: bytes, source: str, reading: Reading) -> Inspection:
    """Read each tune of a file; a tune that is refused costs the others nothing."""
    try:
        file = survey(data)
    except Refusal as refusal:
        return Inspection(refusals=(refusal.at(source),))
    tunes = list(file.tunes())
    repairs = Counter(file.repairs)
    kept: list[tuple[Score, Grid]] = []
    refusals: list[Refusal] = []
    for number, tune in enumerate(tunes, 1):
        place = f"tune {number}" if len(tunes) > 1 else ""
        try:
            kept.append(reading(tune, repairs))
        except Refusal as fault:
            refusals.append(Refusal(fault.message, source=source, place=place, code=fault.code))
        except InvalidValue as fault:
            message = f"{fault}; it was left out"
            refusals.append(Refusal(message, source=source, place=place, code="damaged"))
    if not tunes:
        refusals.append(_no_notes().at(source))
    return Inspection(tuple(score for score, _ in kept), tuple(refusals), +repairs,
                      tuple(grid for _, grid in kept))  # fmt: skip


def _no_notes() -> Refusal:
    return Refusal("it has no notes; it was left out", code="empty")


@dataclass(frozen=True)
class _Line:
    """One instrument of a track: its part and its notes, in ticks of quarters or milliseconds."""

    part: Part
    channel: int
    notes: Played | None  # None: it is named and has none


def _lines(file: Survey) -> Iterator[_Line]:
    """Yield each instrument of each track, in the order of their first notes."""
    for index, track in enumerate(file.tracks):
        notes = track.notes
        found, first = np.unique(notes.instruments, return_index=True)
        for instrument in found[np.argsort(first)].tolist():
            channel, program = divmod(instrument, 128)
            part = Part(track.name, program, channel == DRUM_CHANNEL)
            yield _Line(part, channel, _chosen(notes, instrument, alone=len(found) == 1))
        if not len(found) and (index or len(file.tracks) == 1) and track.program is not None:
            channel, program = track.program
            yield _Line(Part(track.name, program, channel == DRUM_CHANNEL), channel, None)


def _chosen(notes: Played, instrument: int, *, alone: bool) -> Played:
    if alone:
        return notes
    mask = notes.instruments == instrument
    return Played(*(getattr(notes, name)[mask] for name in Played.__dataclass_fields__))


def _sounding(lines: Sequence[_Line]) -> Iterator[tuple[int, _Line, Played]]:
    for index, line in enumerate(lines):
        if line.notes is not None:
            yield index, line, line.notes


# The written tune


def _score(file: Survey, repairs: Counter[str]) -> tuple[Score, Grid]:
    """Build the score of one tune."""
    clock = Clock(file)
    lines = list(_lines(file))
    times = [
        (index, notes, clock.on_quarters(notes.onsets), clock.on_quarters(notes.ends))
        for index, _, notes in _sounding(lines)
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
        _quantised(quantiser, index, notes, starts, stops, repairs)
        for index, notes, starts, stops in times
    ]
    title = file.tracks[0].name
    score = Score(_joined(columns), parts=tuple(line.part for line in lines), title=title)
    return _Marks(file, clock, score).written(), quantiser.grid


def _quantised(
    quantiser: Quantiser, part: int, notes: Played, starts: Any, stops: Any, repairs: Counter[str]
) -> Columns:
    onsets, durations, moved = quantiser.moved(starts, stops)
    repairs["moved-end"] += moved
    if quantiser.grid.name != "exact":
        together = each_once(onsets * 128 + notes.pitches)
        repairs["doubled"] += len(onsets) - len(together)
    return _columns(part, onsets, durations, notes)


def _columns(part: int, onsets: Any, durations: Any, notes: Played) -> Columns:
    parts = np.full(len(onsets), part)
    return np.stack([onsets, notes.pitches, durations, notes.velocities, parts])


def _joined(columns: Sequence[Columns]) -> Notes:
    return Notes(np.concatenate(columns, axis=1))


class _Marks:
    """What stands between the notes of a tune."""

    def __init__(self, file: Survey, clock: Clock, score: Score) -> None:
        self.file = file
        self.clock = clock
        self.score = score
        said = [
            (at, *text.removeprefix(OWN).partition(" "))
            for at, text in self.in_steps(self.file.tracks[0].texts)
            if text.startswith(OWN)
        ]
        self.words = [(at, kind, value) for at, kind, _, value in said]

    def in_steps(self, events: Sequence[Timed]) -> list[Timed]:
        """Move events to the nearest steps."""
        ticks = self.clock.on_quarters([tick for tick, _ in events]).tolist() if events else []
        quarter = self.file.ticks_per_quarter
        return [
            (to_steps(tick, quarter, STEPS_PER_QUARTER), value)
            for tick, (_, value) in zip(ticks, events, strict=True)
        ]

    def all_of(self, name: str) -> list[Timed]:
        """Return one kind of event of all tracks; of two at a step the last holds."""
        return list(dict(self.in_steps(self.file.all_of(name))).items())

    def written(self) -> Score:
        """Return the tune with its marks and its kind."""
        meters = self.all_of("meters")
        notes_end = self.score.end  # which has no marks yet
        lines = next((lines_of(v) for _, kind, v in self.words if kind == "bars"), None)
        if lines is None:
            _few_bars(notes_end, meters)
            lines = bar_lines(notes_end, meters)
            meters = without_pickup_meter(meters)
        tempos = [(at, qpm(tempo)) for at, tempo in self.all_of("tempos")]
        timed: dict[MarkKind, list[Timed]] = {
            "meter": changes(meters),
            "key": changes(self.keys()),
            "tempo": changes(tempos),
            "chord": list({at: v for at, kind, v in self.words if kind == "chord"}.items()),
        }
        end = max([notes_end, *lines[-1:]])
        marks = [
            Mark(at, kind, v) for kind, events in timed.items() for at, v in events if at < end
        ]
        marks += [Mark(line, "bar") for line in lines]
        rhythm = next((value for _, kind, value in self.words if kind == "rhythm"), "")
        return replace(self.score, marks=tuple(marks), rhythm=rhythm)

    def keys(self) -> list[Timed]:
        """Return the keys; words count beside the signature that they agree with.

        Where there is no signature the key is found, unless words say that there is none.
        """
        keys = dict(self.all_of("keys"))
        words = [(at, value) for at, kind, value in self.words if kind == "key"]
        for at, value in words:
            named = key_named(value)
            if at in keys and named is not None and (named.fifths - keys[at].fifths) % 12 == 0:
                keys[at] = named
        if not keys and all(value != NO_KEY for _, value in words):
            key = find_key(self.score.pitch_weights())
            return [] if key is None else [(0, key)]
        return sorted(keys.items(), key=lambda item: item[0])


def _few_bars(end: int, meters: Sequence[Timed]) -> None:
    """Refuse a tune that its meters cut into more bars than any tune has."""
    shortest = min([meter.steps for _, meter in meters] or [end])
    if end // shortest + len(meters) > MAX_BARS and len(bar_lines(end, meters)) > MAX_BARS:
        raise Refusal(f"it has over {MAX_BARS:,} bars; it was left out", code="too-large")


def qpm(microseconds: int) -> float:
    """Return the shortest number of quarters a minute that writes these microseconds a quarter."""
    exact = 60_000_000 / microseconds
    rounded = (round(exact, digits) for digits in range(7))
    return next((q for q in rounded if q and bpm2tempo(q) == microseconds), exact)


# The tune as it was played


def _score_or_performance(file: Survey, repairs: Counter[str]) -> tuple[Score, Grid]:
    """Build the score of one tune, as a performance where it keeps to no bars or has too many."""
    try:
        return _score(file, repairs)
    except Refusal as refusal:
        if refusal.code not in ("no-bars", "too-large"):
            raise
    return _performance(file, repairs)


def _performance(file: Survey, _: Counter[str]) -> tuple[Score, Grid]:
    clock = Clock(file)
    lines = list(_lines(file))
    pedals = _Pedals(file)
    found: list[Columns] = []
    for index, line, notes in _sounding(lines):
        onsets = clock.milliseconds(notes.onsets)
        ends = clock.milliseconds(pedals.held(line.channel, notes))
        if ends.max() > MAX_MILLISECONDS:
            raise Refusal("it lasts over six hours; it was left out", code="too-large")
        found.append(_columns(index, onsets, np.maximum(ends - onsets, 1), notes))
    if not found:
        raise _no_notes()
    marks = (Mark(0, "tempo", PERFORMED_QPM),)
    title = file.tracks[0].name
    parts = tuple(line.part for line in lines)
    return Score(_joined(found), marks, parts, title), Grid("milliseconds")


class _Pedals:
    """When the sustain pedal of each channel is down."""

    def __init__(self, file: Survey) -> None:
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

    def held(self, channel: int, notes: Played) -> Any:
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


def _next_of_pitch(notes: Played) -> Any:
    """Return for each note the next onset of its pitch; far away where there is none."""
    order = np.lexsort((notes.onsets, notes.pitches))
    onsets, pitches = notes.onsets[order], notes.pitches[order]
    following = np.full(len(order), 2**40, dtype=np.int64)
    same = pitches[1:] == pitches[:-1]
    following[:-1][same] = onsets[1:][same]
    found = np.empty_like(following)
    found[order] = following
    return found
