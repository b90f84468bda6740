"""The table of events: what a token may mean. Encoder, decoder and grammar all read it.

========================  ==========================================================
event                     meaning
========================  ==========================================================
begin, end                before the first event; after the last bar
meter, mode, rhythm       header; rhythm "" where none is named, "other" outside RHYTHMS
parts n                   header: the number of parts
repeat_start              a repeated section opens before the next bar
repeat_end n              it closes, played n times; inside an ending, that pass is over
ending "12"               a variant ending opens, played in passes 1 and 2
ending_end                the last ending of a section closes
key "5 minor"             the key changes: semitones above the tune's tonic, mode
meter                     inside a tune: the meter changes
irregular                 the next bar is neither full nor balanced
bar; partial n            a full bar opens; a pickup or its partner of n steps opens
part n; voice n           what follows belongs to part n, voice 0; to its voice n
chord "7 m7"; bass n      a chord symbol, its root above the tonic; its bass
no_chord                  the chord symbol that silences chords
tuplet "3 2 24"           p units in the time of q units opens; it closes when it is full
duration n                a written value, in steps; a pitch, rest or hold follows
pitch n                   semitones above the tonic; more pitches make a chord
drum n                    General MIDI percussion key
rest; hold                silence; what the voice sounded goes on
========================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final

from musicgen.errors import Mismatch
from musicgen.music.bars import PARTIAL_BAR_STEPS
from musicgen.music.durations import PLAIN_DURATIONS, TUPLETS
from musicgen.music.score import MAX_PLAYS
from musicgen.music.theory import CHORD_QUALITIES, MODES

RHYTHMS: Final = (
    "", "other", "air", "barndance", "carol", "chorale", "clog", "country dance", "double jig",
    "fling", "galop", "gavotte", "highland fling", "hornpipe", "jig", "lament", "march", "mazurka",
    "minuet", "planxty", "polka", "polska", "quadrille", "quickstep", "reel", "schottische",
    "set dance", "single jig", "slide", "slip jig", "song", "strathspey", "three-two", "walkaround",
    "waltz",
)  # fmt: skip
RHYTHM_ALIASES: Final = {"slipjig": "slip jig", "slängpolska": "polska"}
MAX_PARTS: Final = 16
MAX_VOICES: Final = 16  # in a part

Value = str | int | None


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of thing that happens in a tune, with its value."""

    kind: str
    value: Value = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value}"


NOTHING: Final = Event("nothing")


def _blocks() -> Iterator[tuple[str, Iterable[Value]]]:
    passes = range(1, MAX_PLAYS + 1)
    yield "begin", (None,)
    yield "end", (None,)
    yield "meter", (f"{beats}/{unit}" for unit in (1, 2, 4, 8, 16) for beats in range(1, 17))
    yield "mode", MODES
    yield "rhythm", RHYTHMS
    yield "parts", range(1, MAX_PARTS + 1)
    yield "repeat_start", (None,)
    yield "repeat_end", range(2, MAX_PLAYS + 1)
    yield "ending", ("".join(map(str, c)) for n in passes for c in combinations(passes, n))
    yield "ending_end", (None,)
    yield "key", (f"{interval} {mode}" for interval in range(12) for mode in MODES)
    yield "irregular", (None,)
    yield "bar", (None,)
    yield "partial", PARTIAL_BAR_STEPS
    yield "part", range(MAX_PARTS)
    yield "voice", range(1, MAX_VOICES)
    yield "chord", (f"{root} {quality}" for root in range(12) for quality in CHORD_QUALITIES)
    yield "bass", range(12)
    yield "no_chord", (None,)
    yield "tuplet", (f"{t.p} {t.q} {t.unit}" for t in TUPLETS)
    yield "duration", PLAIN_DURATIONS
    yield "rest", (None,)
    yield "hold", (None,)
    yield "pitch", range(-68, 71)
    yield "drum", range(128)


class Vocabulary:
    """Events to ids and back; every kind is one range of ids, in the order of `blocks`."""

    def __init__(self, blocks: Iterable[tuple[str, Iterable[Value]]]) -> None:
        self.events: Final = tuple(Event(kind, v) for kind, values in blocks for v in values)
        self.ids: Final = {event: index for index, event in enumerate(self.events)}
        self.ranges: Final[dict[str, range]] = {}
        for index, event in enumerate(self.events):
            known = self.ranges.get(event.kind, range(index, index))
            self.ranges[event.kind] = range(known.start, index + 1)

    def __len__(self) -> int:
        return len(self.events)

    def id(self, kind: str, value: Value = None) -> int:
        """Return the id of an event. Raises KeyError where the table has none."""
        return self.ids[Event(kind, value)]

    def event(self, id_: int) -> Event:
        """Return the event of any number at all; of what is no id, one that means nothing."""
        return self.events[id_] if 0 <= id_ < len(self.events) else NOTHING

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The events as text, in the order of their ids: what a checkpoint keeps."""
        return tuple(map(str, self.events))

    def check(self, names: Iterable[str], where: str) -> None:
        """Raise Mismatch where a checkpoint was made with another table."""
        theirs = tuple(names)
        if theirs == self.names:
            return
        unlike = (i for i, (a, b) in enumerate(zip(theirs, self.names, strict=False)) if a != b)
        first = next(unlike, min(len(theirs), len(self.names)))
        raise Mismatch(
            f"{where}: its vocabulary of {len(theirs)} events differs from this program's"
            f" {len(self.names)} from event {first} on; use the version that trained it, or"
            " train again"
        )


MEASURES: Final = Vocabulary(_blocks())
