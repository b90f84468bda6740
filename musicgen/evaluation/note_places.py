"""Where notes stand in their bars and sections, and which bars came before: bits by place.

Only the own ids of a note count (`sampling.surprisal.locate_notes`), so that bar lines, repeats and
the header, which are not spread evenly, do not hide how well notes are predicted. Places are those
of full bars of the written form:

- **eighth**: the eighth of the bar, by meter, in which a note starts.
- **bar of the section**: counted from 1 after each repeat sign or ending.
- **occurrence**: which time the bar, or a phrase of 4 bars from the start of a section, is there
  with the same notes; compared among those that return, whose notes are the same each time.
- **distance**: from a bar that returns to its last occurrence, in full bars.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from musicgen.corpus.store import EncodedTune
from musicgen.music.arrays import FloatArray
from musicgen.music.bars import Bar, find_bars
from musicgen.music.score import Score, find_jumps
from musicgen.sampling.surprisal import NoteTokens, locate_notes
from musicgen.tokens.codec import AnyCodec, Setting

STEPS_PER_EIGHTH: Final = 24
PHRASE_BARS: Final = 4
LAST_BAR: Final = 16  # of a section; later ones count as this
LAST_OCCURRENCE: Final = 4  # later ones count as this
LAST_DISTANCE: Final = 16  # longer ones count as this


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place of notes, such as the third eighth of a bar of 6/8."""

    kind: str  # "eighth", "section_bar", "bar_occurrence", "phrase_occurrence", "bar_distance"
    number: int
    meter: str = ""  # of an eighth


@dataclass(frozen=True, slots=True)
class PlaceBits:
    """The bits per note at a place, of the notes' own ids."""

    place: Place
    bits_per_note: float
    notes: int

    def to_json(self) -> dict[str, str | int | float]:
        """Return it as JSON's own types."""
        return {**asdict(self.place), "bits_per_note": self.bits_per_note, "notes": self.notes}


@dataclass(frozen=True, slots=True)
class PlacedNote:
    """The positions of a note's own ids among the ids of all tunes, and its places."""

    positions: tuple[int, ...]
    places: tuple[Place, ...]


def place_notes(codec: AnyCodec, tunes: Iterable[EncodedTune]) -> list[PlacedNote]:
    """Find the places of all notes of full bars; none for a codec without bars."""
    placed: list[PlacedNote] = []
    offset = 0
    for tune in tunes if codec.has_bars else ():
        setting, ids = Setting.from_json(tune.setting), tune.ids.tolist()
        notes = locate_notes(codec, ids, setting)
        for note, places in _iter_placed_notes(codec.decode(ids, setting).piece, notes):
            placed.append(PlacedNote(tuple(offset + place for place in note.positions), places))
        offset += len(ids)
    return placed


def _iter_placed_notes(
    score: Score, notes: Iterable[NoteTokens]
) -> Iterator[tuple[NoteTokens, tuple[Place, ...]]]:
    """Yield the notes of full bars, with their places."""
    bars = find_bars(score)
    starts = [bar.start for bar in bars]
    by_bar: list[list[NoteTokens]] = [[] for _ in bars]
    for note in notes:
        by_bar[bisect_right(starts, note.onset) - 1].append(note)
    full_bars = [(bar, heard) for bar, heard in zip(bars, by_bar, strict=True)
                 if bar.kind == "full"]  # fmt: skip
    places_by_bar = _place_bars(
        [bisect_right(find_jumps(score), bar.start) for bar, _ in full_bars],
        [_describe_bar(bar, heard) for bar, heard in full_bars],
    )
    for (bar, heard), places in zip(full_bars, places_by_bar, strict=True):
        for note in heard:
            eighth = (note.onset - bar.start) // STEPS_PER_EIGHTH + 1
            yield note, (Place("eighth", eighth, str(bar.meter)), *places)


def _describe_bar(bar: Bar, notes: Iterable[NoteTokens]) -> Hashable:
    """Return what two bars with the same notes have in common; empty without notes."""
    return tuple((n.onset - bar.start, n.end - n.onset, n.pitch, n.part) for n in notes)


def _place_bars(sections: Sequence[int], contents: Sequence[Hashable]) -> list[list[Place]]:
    """Return the places of full bars, given the section and the notes of each."""
    bars_before = [index - sections.index(section) for index, section in enumerate(sections)]
    places = [[Place("section_bar", min(count + 1, LAST_BAR))] for count in bars_before]
    for index, (occurrence, distance) in enumerate(find_returns(contents)):
        if occurrence:
            places[index].append(Place("bar_occurrence", min(occurrence, LAST_OCCURRENCE)))
        if distance:
            places[index].append(Place("bar_distance", min(distance, LAST_DISTANCE)))
    firsts = [
        index
        for index, count in enumerate(bars_before)
        if count % PHRASE_BARS == 0
        and sections[index : index + PHRASE_BARS] == [sections[index]] * PHRASE_BARS
    ]
    phrases = [tuple(contents[first : first + PHRASE_BARS]) for first in firsts]
    for first, (occurrence, _) in zip(firsts, find_returns(phrases), strict=True):
        for index in range(first, first + PHRASE_BARS) if occurrence else ():
            places[index].append(Place("phrase_occurrence", min(occurrence, LAST_OCCURRENCE)))
    return places


def find_returns(contents: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return which occurrence of its content each item is, and the distance to the last one.

    Both are 0 for a content that occurs once or is empty, the distance also at the first occurrence.
    """
    totals = Counter(contents)
    last: dict[Hashable, tuple[int, int]] = {}
    returns = []
    for index, content in enumerate(contents):
        occurrence, previous = last.get(content, (0, index))
        last[content] = occurrence + 1, index
        is_return = bool(content) and totals[content] > 1
        returns.append((occurrence + 1, index - previous) if is_return else (0, 0))
    return returns


def sum_by_place(notes: Iterable[PlacedNote], bits: FloatArray) -> tuple[PlaceBits, ...]:
    """Average the bits of notes by place.

    Args:
        notes: of all tunes.
        bits: (token,) float64 bits of each id of all tunes.
    """
    sums, counts = Counter[Place](), Counter[Place]()
    values = bits.tolist()
    for note in notes:
        note_bits = sum(values[position] for position in note.positions)
        for place in note.places:
            sums[place] += note_bits
            counts[place] += 1
    return tuple(PlaceBits(place, sums[place] / counts[place], counts[place])
                 for place in sorted(counts))  # fmt: skip
