"""Which ids write each note of a tune, in any codec of notes.

A note's own ids are those that say that it is there, how high and how long: in `measures` its
duration, with the tuplet that opens before it, its pitch, and the durations for which it is held;
in `performance` its velocity, where that changes, its on and its off; in `frames` its pitch in each
frame. All others are the tune's: header, bar lines, rests, time, the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from musicgen.tokens.codec import AnyCodec, Setting
from musicgen.tokens.frames import FRAME, FRAMES, PITCH, FramesCodec
from musicgen.tokens.measures import MeasuresCodec, Sounding, followed
from musicgen.tokens.performance import PERFORMANCE, UNIT, PerformanceCodec


@dataclass(slots=True)
class Writing:
    """A note, and the places of its own ids."""

    onset: int  # steps
    end: int
    pitch: int
    part: int = 0
    places: list[int] = field(default_factory=list)


def written(codec: AnyCodec, ids: Iterable[int], setting: Setting) -> list[Writing]:
    """Return the notes in the order in which they are written; a text has none."""
    if isinstance(codec, MeasuresCodec):
        return _in_measures(ids, setting)
    if isinstance(codec, PerformanceCodec):
        return list(_in_performance(ids))
    if isinstance(codec, FramesCodec):
        return list(_in_frames(ids, codec.frame_steps))
    return []


def _in_measures(ids: Iterable[int], setting: Setting) -> list[Writing]:
    found: list[tuple[Sounding, Writing]] = []
    tops: dict[int, Writing] = {}  # the first note of each chord: what holds it belongs to it
    waiting: list[int] = []  # tuplet and duration, until their head comes
    for place, (event, chord) in enumerate(followed(ids, setting)):
        if event.kind in ("tuplet", "duration"):
            waiting.append(place)
            continue
        if chord is not None and event.kind == "hold":
            tops[id(chord)].places += [*waiting, place]
        elif chord is not None:
            note = Writing(chord.onset, 0, chord.pitches[-1], chord.part, [*waiting, place])
            tops.setdefault(id(chord), note)
            found.append((chord, note))
        waiting = []
    for chord, note in found:
        note.end = chord.end
    return [note for _, note in found]


def _in_performance(ids: Iterable[int]) -> Iterator[Writing]:
    sounding: dict[int, Writing] = {}
    now, waiting = 0, list[int]()
    for place, id_ in enumerate(ids):
        event = PERFORMANCE.event(id_)
        value = event.value if isinstance(event.value, int) else 0
        if event.kind == "velocity":
            waiting = [place]
        elif event.kind == "on" and value not in sounding:
            note = Writing(now, now + UNIT, value, places=[*waiting, place])
            sounding[value], waiting = note, []
            yield note
        elif event.kind == "off" and value in sounding:
            note = sounding.pop(value)
            note.end = now
            note.places.append(place)
        elif event.kind == "shift":
            now += UNIT * value


def _in_frames(ids: Iterable[int], steps: int) -> Iterator[Writing]:
    before: dict[int, Writing] = {}  # what sounds in the frame before
    here: dict[int, Writing] = {}
    now = 0
    for place, id_ in enumerate(ids):
        if id_ == FRAME:
            before, here, now = here, {}, now + steps
        elif id_ in PITCH:
            pitch = int(FRAMES.event(id_).value or 0)
            is_held = pitch in before
            note = before[pitch] if is_held else Writing(now, now, pitch)
            note.end = now + steps
            note.places.append(place)
            here[pitch] = note
            if not is_held:
                yield note
