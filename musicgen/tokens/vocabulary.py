"""The table of events, which encoder, decoder and grammar all read.

========================  ==========================================================
event                     meaning
========================  ==========================================================
begin, end                before the first event; after the last bar
meter, mode, rhythm       header; rhythm "" if not named, "other" if not in RHYTHMS
parts n                   header: the number of parts
repeat_start              a repeated section opens before the next bar
repeat_end n              it closes, played n times; inside an ending, the pass ends
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
lineup n                  header, instead of parts n: each of n parts is described
role, family              header, part by part: what it is for, and its instruments
level n                   the dynamics of a part (header) or of its next notes, 0 (ppp) to 7
given                     header: the part is given, and the others are written to fit it
fermata                   what starts here is held, as at the end of a phrase
========================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from typing import Final

from musicgen.errors import Mismatch
from musicgen.music.bars import PARTIAL_BAR_STEPS
from musicgen.music.durations import PLAIN_DURATIONS, TUPLETS
from musicgen.music.dynamics import LEVEL_NAMES
from musicgen.music.general_midi import FAMILIES
from musicgen.music.score import BAND_ROLES, MAX_PLAYS, SYMBOLS_ROLE, UPPER_VOICE_ROLES
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
DRUM_KIT: Final = "drum kit"  # the family of a part of drums

Value = str | int | None


@dataclass(frozen=True, slots=True)
class Event:
    """A musical event: its kind and value."""

    kind: str
    value: Value = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value}"


NOTHING: Final = Event("nothing")  # stands for an invalid id


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
    # appended in format 2 of the table; a stored table that is a prefix of this one still loads
    yield "lineup", range(1, MAX_PARTS + 1)
    yield "role", BAND_ROLES
    yield "family", (*FAMILIES, DRUM_KIT)
    yield "level", range(len(LEVEL_NAMES))
    yield "given", (None,)
    # appended in format 3
    yield "role", UPPER_VOICE_ROLES
    yield "fermata", (None,)
    # appended in format 4
    yield "role", (SYMBOLS_ROLE,)


class Vocabulary:
    """Maps events to ids and back, in the order of `blocks`.

    Attributes:
        ranges: the ids of the first block of each kind, which is its only one for most.
        ids_by_kind: all ids of each kind, ascending; a kind that has grown has several blocks.
    """

    def __init__(self, blocks: Iterable[tuple[str, Iterable[Value]]]) -> None:
        self.events: Final = tuple(Event(kind, v) for kind, values in blocks for v in values)
        self.ids: Final = {event: index for index, event in enumerate(self.events)}
        self.ranges: Final[dict[str, range]] = {}
        self.ids_by_kind: Final[dict[str, tuple[int, ...]]] = {}
        first_index = 0
        for kind, events in groupby(self.events, key=lambda event: event.kind):
            ids = range(first_index, first_index + sum(1 for _ in events))
            self.ranges.setdefault(kind, ids)
            self.ids_by_kind[kind] = (*self.ids_by_kind.get(kind, ()), *ids)
            first_index = ids.stop

    def __len__(self) -> int:
        return len(self.events)

    def id(self, kind: str, value: Value = None) -> int:
        """Return the id of an event. Raises KeyError if there is no such event."""
        return self.ids[Event(kind, value)]

    def event(self, id_: int) -> Event:
        """Return the event of an id; NOTHING for a number that is not an id."""
        return self.events[id_] if 0 <= id_ < len(self.events) else NOTHING

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The events as text, in the order of their ids, as checkpoints store them."""
        return tuple(map(str, self.events))

    def check(self, names: Iterable[str], where: str) -> None:
        """Check that a checkpoint or a data set was made with this vocabulary.

        A stored vocabulary that is the beginning of this one, of an older version, will do.

        Args:
            names: the stored names of the events, in the order of their ids.
            where: the checkpoint or data set, for the error message.

        Raises:
            Mismatch: the names differ.
        """
        stored = tuple(names)
        if stored and stored == self.names[: len(stored)]:
            return
        pairs = zip(stored, self.names, strict=False)
        differences = (index for index, (old, new) in enumerate(pairs) if old != new)
        first = next(differences, min(len(stored), len(self.names)))
        raise Mismatch(
            f"{where}: its vocabulary of {len(stored)} events differs from this program's"
            f" {len(self.names)} from event {first} on; use the version that trained it, or"
            " train again"
        )


MEASURES: Final = Vocabulary(_blocks())
