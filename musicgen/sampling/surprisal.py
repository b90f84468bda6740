"""Bits per note of any tune under a model, note by note.

The model predicts each id from all before it, without the grammar's mask, as in
`training.heldout_loss`; so all bits over all notes give the same bits per note. The bits of a note
are those of its own ids; header, bar lines, rests, time and the end are listed beside them. The own
ids of a note are: in `measures` its duration with the tuplet that opens before it, its pitch, and
the durations for which it is held; in `performance` its velocity where that changes, its on and its
off; in `frames` its pitch in each frame.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from musicgen.config import BEGIN_ID
from musicgen.music.melodic_runs import place_numbers
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import Score
from musicgen.music.theory import Key, spell
from musicgen.sampling.engine import Engine
from musicgen.sampling.noise import log_softmax
from musicgen.tokens.codec import AnyCodec, Setting
from musicgen.tokens.frames import FRAME, FRAMES, PITCH, FramesCodec
from musicgen.tokens.measures import MeasuresCodec, SoundingChord, trace_chords
from musicgen.tokens.performance import PERFORMANCE, UNIT_MILLISECONDS, PerformanceCodec


@dataclass(slots=True)
class NoteTokens:
    """A note, and the places of its own ids."""

    onset: int  # steps
    end: int
    pitch: int
    part: int = 0
    positions: list[int] = field(default_factory=list)


def locate_notes(codec: AnyCodec, ids: Iterable[int], setting: Setting) -> list[NoteTokens]:
    """Return the notes in the order in which they are written; a text has none."""
    if isinstance(codec, MeasuresCodec):
        return _locate_in_measures(ids, setting)
    if isinstance(codec, PerformanceCodec):
        return list(_locate_in_performance(ids))
    if isinstance(codec, FramesCodec):
        return list(_locate_in_frames(ids, codec.frame_steps))
    return []


def _locate_in_measures(ids: Iterable[int], setting: Setting) -> list[NoteTokens]:
    notes: list[tuple[SoundingChord, NoteTokens]] = []
    tops: dict[int, NoteTokens] = {}  # the first note of each chord: what holds it belongs to it
    waiting: list[int] = []  # tuplet and duration, until their head comes
    for position, (event, chord) in enumerate(trace_chords(ids, setting)):
        if event.kind in ("tuplet", "duration"):
            waiting.append(position)
            continue
        if chord is not None and event.kind == "hold":
            tops[id(chord)].positions += [*waiting, position]
        elif chord is not None:
            note = NoteTokens(chord.onset, 0, chord.pitches[-1], chord.part, [*waiting, position])
            tops.setdefault(id(chord), note)
            notes.append((chord, note))
        waiting = []
    for chord, note in notes:
        note.end = chord.end
    return [note for _, note in notes]


def _locate_in_performance(ids: Iterable[int]) -> Iterator[NoteTokens]:
    sounding: dict[int, NoteTokens] = {}
    now, waiting = 0, list[int]()
    for position, id_ in enumerate(ids):
        event = PERFORMANCE.event(id_)
        value = event.value if isinstance(event.value, int) else 0
        if event.kind == "velocity":
            waiting = [position]
        elif event.kind == "on" and value not in sounding:
            note = NoteTokens(now, now + UNIT_MILLISECONDS, value, positions=[*waiting, position])
            sounding[value], waiting = note, []
            yield note
        elif event.kind == "off" and value in sounding:
            note = sounding.pop(value)
            note.end = now
            note.positions.append(position)
        elif event.kind == "shift":
            now += UNIT_MILLISECONDS * value


def _locate_in_frames(ids: Iterable[int], steps: int) -> Iterator[NoteTokens]:
    before: dict[int, NoteTokens] = {}  # what sounds in the frame before
    here: dict[int, NoteTokens] = {}
    now = 0
    for position, id_ in enumerate(ids):
        if id_ == FRAME:
            before, here, now = here, {}, now + steps
        elif id_ in PITCH:
            pitch = int(FRAMES.event(id_).value or 0)
            is_held = pitch in before
            note = before[pitch] if is_held else NoteTokens(now, now, pitch)
            note.end = now + steps
            note.positions.append(position)
            here[pitch] = note
            if not is_held:
                yield note


MARKED_SHARE: Final = 0.1  # of the notes: the most surprising ones


@dataclass(frozen=True, slots=True)
class NoteSurprise:
    """A note and its bits."""

    onset: int  # steps
    pitch: int
    duration: int
    part: int
    bar: int  # of the written form; a pickup is bar 0; of a performance, the second
    bits: float


@dataclass(frozen=True, slots=True)
class Surprise:
    """The bits of a tune under a model: those of its notes, and those of all else by kind."""

    notes: tuple[NoteSurprise, ...]  # in time
    other_bits: Mapping[str, float]  # kind of event to bits
    count: int  # notes of the tune, or characters of a text
    key: Key
    unit: str = "bar"  # or second, where the notes are of a performance

    @property
    def bits(self) -> float:
        """All bits of the tune."""
        return sum(note.bits for note in self.notes) + sum(self.other_bits.values())

    @property
    def bits_per_note(self) -> float:
        """All bits over all notes; over all characters of a text."""
        return self.bits / max(1, self.count)

    @property
    def marked_notes(self) -> frozenset[NoteSurprise]:
        """The most surprising notes: one in ten."""
        ranked = sorted(self.notes, key=lambda note: -note.bits)
        return frozenset(ranked[: math.ceil(MARKED_SHARE * len(ranked))])

    def average_bits(self, first_bar: int, last_bar: int) -> float:
        """Return the mean bits of the notes of some bars; NaN if they have none."""
        bits = [note.bits for note in self.notes if first_bar <= note.bar <= last_bar]
        return sum(bits) / len(bits) if bits else math.nan

    def format_lines(self) -> Iterator[str]:
        """Yield lines with the bits of each note by bar, and of all other events."""
        marked = self.marked_notes
        for bar, notes in groupby(self.notes, key=lambda note: note.bar):
            lines = list(notes)
            each = (
                f"{'*' * (note in marked)}{self._format_note_name(note)} {note.bits:.1f}"
                for note in lines
            )
            bits = sum(note.bits for note in lines)
            yield f"{self.unit} {bar}: {bits:.1f} bits: {', '.join(each)}"
        unit = "note" if self.notes else "character"
        most = sorted(self.other_bits.items(), key=lambda item: -item[1])
        rest = ", ".join(f"{kind} {bits:.1f}" for kind, bits in most)
        yield (
            f"{self.bits:.1f} bits, {self.bits_per_note:.2f} a {unit}; of them"
            f" {sum(self.other_bits.values()):.1f} for other events ({rest})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        marked = self.marked_notes
        return {
            "bits": round(self.bits, 4),
            "bits_per_note": round(self.bits_per_note, 4),
            "notes": [
                {
                    self.unit: note.bar,
                    "onset": note.onset,
                    "duration": note.duration,
                    "part": note.part,
                    "pitch": note.pitch,
                    "bits": round(note.bits, 4),
                    "marked": note in marked,
                }
                for note in self.notes
            ],
            "rest": {kind: round(bits, 4) for kind, bits in self.other_bits.items()},
        }

    def _format_note_name(self, note: NoteSurprise) -> str:
        name = spell(note.pitch, self.key)
        sign = "#" * name.alteration if name.alteration > 0 else "b" * -name.alteration
        return f"{name.letter}{sign}{name.octave}"


def measure_surprise(engine: Engine, codec: AnyCodec, piece: Score | str) -> Surprise:
    """Ask a model for the bits of a piece. Raises Refusal for what the codec cannot write."""
    encoded = codec.encode(piece)
    bits = measure_bits(engine, encoded.ids)
    notes = locate_notes(codec, encoded.ids, encoded.setting)
    note_positions = {position for note in notes for position in note.positions}
    rest: dict[str, float] = defaultdict(float)
    for position, id_ in enumerate(encoded.ids):
        if position not in note_positions:
            rest[codec.vocabulary.event(id_).kind] += float(bits[position])
    if isinstance(piece, str):
        return Surprise((), rest, len(piece), Key("C"))
    shown = codec.decode(encoded.ids, encoded.setting).piece
    unit = "second" if is_performance(shown) else "bar"
    note_surprises = _make_note_surprises(notes, bits, shown)
    return Surprise(note_surprises, rest, len(piece.canonical().notes), piece.key, unit)


def measure_bits(engine: Engine, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the bits of each id, given all ids before it: (ids,) float64."""
    state = engine.start()
    bits = np.empty(len(ids))
    for position, (previous_id, id_) in enumerate(zip((BEGIN_ID, *ids), ids, strict=False)):
        logits, state = engine.step([previous_id], state)
        bits[position] = -log_softmax(np.asarray(logits, dtype=np.float64))[id_] / math.log(2)
    return bits


def _make_note_surprises(
    notes: Sequence[NoteTokens], bits: npt.NDArray[np.float64], score: Score
) -> tuple[NoteSurprise, ...]:
    """Put the notes in order of time, each with its bar and bits."""
    bars = place_numbers(score, np.array([note.onset for note in notes], dtype=np.int64)).tolist()
    surprises = [
        NoteSurprise(
            note.onset, note.pitch, note.end - note.onset, note.part, bar,
            float(bits[note.positions].sum()),
        )
        for note, bar in zip(notes, bars, strict=True)
    ]  # fmt: skip
    return tuple(sorted(surprises, key=lambda note: (note.onset, note.part, -note.pitch)))
