"""What a model gives to each id of held-out tunes, and the bits of their notes by place.

Each tune is predicted whole, from its first id to its end event, from the begin event and a zero
state, many tunes side by side. With the grammar's mask, the probabilities of the legal ids are
divided by their sum.

By place: where a note stands in its bar and section, and which bars came before. Only the own ids
of a note count (`sampling.surprisal.locate_notes`), so that bar lines, repeats and the header,
which are not spread evenly, do not hide how well notes are predicted. Places are those of full bars
of the written form:

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

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.corpus.store import EncodedTune
from musicgen.errors import InvalidValue, Mismatch
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, TokenIds
from musicgen.music.bars import Bar, find_bars
from musicgen.music.score import Score, find_jumps
from musicgen.music.tune_content import PHRASE_BARS
from musicgen.sampling.batch_sampler import BatchEngine, NumpyBatchEngine
from musicgen.sampling.engine import Engine, NumpyEngine
from musicgen.sampling.surprisal import NoteTokens, locate_notes
from musicgen.tokens.codec import AnyCodec, Grammar, Setting

LANES: Final = 64
STEPS_PER_EIGHTH: Final = 24
LAST_BAR: Final = 16  # of a section; later ones count as this
LAST_OCCURRENCE: Final = 4  # later ones count as this
LAST_DISTANCE: Final = 16  # longer ones count as this


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The scores of all ids of some tunes, one tune after the other."""

    nats: FloatArray  # (token,) float64
    masked_nats: FloatArray  # (token,) float64, those among the legal ids
    is_top: BoolArray  # (token,) whether no id was more likely
    confidence: FloatArray  # (token,) float64, the probability of the most likely id


class LaneStates:
    """Lanes of an engine that steps one tune at a time."""

    def __init__(self, engine: Engine, lanes: int) -> None:
        self.engine = engine
        self.states = [engine.start() for _ in range(lanes)]

    def set_state(self, lane: int, state: object) -> None:
        """Set the state of a lane."""
        self.states[lane] = state

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        self.states = [self.states[lane] for lane in lanes.tolist()]

    def step(self, ids: IntArray) -> FloatArray:
        """Feed one id per lane, (lane,) int64; return the logits (lane, vocabulary) float64."""
        rows = []
        for lane, id_ in enumerate(ids.tolist()):
            logits, self.states[lane] = self.engine.step([id_], self.states[lane])
            rows.append(logits)
        return np.array(rows, np.float64)


def make_lanes(engine: Engine, lanes: int) -> BatchEngine:
    """Start lanes of an engine, side by side if it is one of NumPy."""
    if isinstance(engine, NumpyEngine):
        return NumpyBatchEngine(engine, lanes)
    return LaneStates(engine, lanes)


def score_tokens(
    engine: Engine, tunes: Sequence[TokenIds], grammars: Sequence[Grammar]
) -> TokenScores:
    """Score each id of whole tunes.

    Args:
        engine: the model.
        tunes: (token,) int16 or int64 each, at least one.
        grammars: the grammar of each tune, at its start; they are advanced.

    Raises:
        InvalidValue: there are no tunes, or one has no ids.
        Mismatch: the grammar forbids an id.
    """
    lengths = np.array([len(ids) for ids in tunes], np.int64)
    if not len(lengths) or not lengths.all():
        raise InvalidValue("there is nothing to score: give at least one tune, each with ids")
    offsets = np.cumsum(lengths) - lengths
    columns = np.empty((4, lengths.sum()))
    by_length = np.argsort(-lengths, kind="stable")
    for first in range(0, len(tunes), LANES):
        chosen = by_length[first : first + LANES]
        batch = [tunes[index] for index in chosen]
        masks = GrammarMasks([grammars[index] for index in chosen])
        for step, values in enumerate(iter_step_scores(engine, batch, masks)):
            columns[:, offsets[chosen[: values.shape[1]]] + step] = values
    nats, masked_nats, is_top, confidence = columns
    return TokenScores(nats, masked_nats, is_top > 0, confidence)


def iter_step_scores(
    engine: Engine, tunes: Sequence[TokenIds], masks: GrammarMasks
) -> Iterator[FloatArray]:
    """Yield the scores of the ids of tunes by position; tunes that have ended are left out.

    Args:
        engine: the model.
        tunes: (token,) int16 or int64 each, the longest first.
        masks: of these tunes.

    Yields:
        (4, tune) float64: nats, masked nats, 1 if no id was more likely, highest probability.
    """
    lengths = np.array([len(ids) for ids in tunes])
    padded = np.full((len(tunes), lengths[0] + 1), BEGIN_ID, np.int64)
    for row, ids in zip(padded, tunes, strict=True):
        row[1 : len(ids) + 1] = ids
    lanes, running = make_lanes(engine, len(tunes)), len(tunes)
    for position in range(lengths[0]):
        if (still_running := int(np.count_nonzero(lengths > position))) < running:
            running = still_running
            lanes.select_lanes(np.arange(running))
        logits = lanes.step(padded[:running, position]).astype(np.float64)
        targets = padded[:running, position + 1]
        yield compute_scores(logits, targets, masks.take(targets, logits.shape[1]))


def compute_scores(logits: FloatArray, targets: IntArray, is_legal: BoolArray) -> FloatArray:
    """Compute the scores of one id per tune.

    Args:
        logits: (tune, vocabulary) float64.
        targets: (tune,) int64, the ids that follow.
        is_legal: (tune, vocabulary) bool.

    Returns:
        (4, tune) float64: nats, masked nats, 1 if no id was more likely, highest probability.
    """
    highest = logits.max(axis=1)
    weights = np.exp(logits - highest[:, None])
    below_highest = highest - logits[np.arange(len(targets)), targets]
    sums, legal_sums = weights.sum(axis=1), (weights * is_legal).sum(axis=1)
    return np.array(
        [
            np.log(sums) + below_highest,
            np.log(legal_sums) + below_highest,
            below_highest == 0,
            1 / sums,
        ]
    )


class GrammarMasks:
    """The legal ids of tunes that are written side by side."""

    def __init__(self, grammars: Sequence[Grammar]) -> None:
        self.grammars = grammars
        self.rows: dict[tuple[int, ...], BoolArray] = {}  # by legal ids; they recur

    def take(self, targets: IntArray, vocabulary_size: int) -> BoolArray:
        """Return the mask of the first tunes, and advance these by their next ids.

        Args:
            targets: (tune,) int64.
            vocabulary_size: ids of a mask.

        Returns:
            (tune, vocabulary) bool.

        Raises:
            Mismatch: the grammar forbids an id.
        """
        masks = np.empty((len(targets), vocabulary_size), bool)
        for mask, grammar, id_ in zip(masks, self.grammars, targets.tolist(), strict=False):
            legal_ids = grammar.legal_ids()
            if legal_ids not in self.rows:
                self.rows[legal_ids] = np.isin(np.arange(vocabulary_size), legal_ids)
            mask[:] = self.rows[legal_ids]
            if id_ >= vocabulary_size or not mask[id_]:
                raise Mismatch(
                    f"the grammar forbids id {id_} of a tune: score tunes that were encoded with"
                    " the model's codec"
                )
            grammar.take(id_)
        return masks


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


@dataclass(frozen=True, slots=True, eq=False)
class NotePlaces:
    """The notes of full bars, each with its own ids and its places."""

    places: tuple[Place, ...]  # sorted
    id_positions: IntArray  # (own id,) int64, among the ids of all tunes
    id_notes: IntArray  # (own id,) int64, the number of its note
    place_indexes: IntArray  # (place of a note,) int64, in places
    place_notes: IntArray  # (place of a note,) int64, the number of the note

    def average_bits(self, bits: FloatArray) -> tuple[PlaceBits, ...]:
        """Average the bits of notes by place: (token,) float64 bits of each id of all tunes."""
        note_bits = np.bincount(self.id_notes, bits[self.id_positions])
        size = len(self.places)
        sums = np.bincount(self.place_indexes, note_bits[self.place_notes], size).tolist()
        counts = np.bincount(self.place_indexes, minlength=size).tolist()
        return tuple(
            PlaceBits(place, total / count, count)
            for place, total, count in zip(self.places, sums, counts, strict=True)
        )


def place_notes(
    codec: AnyCodec, tunes: Iterable[EncodedTune], scores: Iterable[Score]
) -> NotePlaces:
    """Find the places of all notes of full bars; none for a codec without bars.

    Args:
        codec: of the tunes.
        tunes: in any order.
        scores: the same tunes, decoded; not read if the codec has no bars.
    """
    own_ids: list[tuple[int, int]] = []  # position, note
    note_places: list[tuple[Place, int]] = []
    offset = note_count = 0
    for tune, score in zip(tunes, scores, strict=True) if codec.has_bars else ():
        notes = locate_notes(codec, tune.ids.tolist(), Setting.from_json(tune.setting))
        for note, places in _iter_placed_notes(score, notes):
            own_ids += [(offset + position, note_count) for position in note.positions]
            note_places += [(place, note_count) for place in places]
            note_count += 1
        offset += len(tune.ids)
    ordered = sorted({place for place, _ in note_places})
    index = {place: number for number, place in enumerate(ordered)}
    by_id = np.array(own_ids, np.int64).reshape(-1, 2).T
    by_place = [(index[place], note) for place, note in note_places]
    return NotePlaces(tuple(ordered), *by_id, *np.array(by_place, np.int64).reshape(-1, 2).T)


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
    borders = find_jumps(score)
    places_by_bar = _place_bars(
        [bisect_right(borders, bar.start) for bar, _ in full_bars],
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
    firsts = _find_phrase_starts(sections, bars_before)
    phrases = [tuple(contents[first : first + PHRASE_BARS]) for first in firsts]
    for first, (occurrence, _) in zip(firsts, find_returns(phrases), strict=True):
        for index in range(first, first + PHRASE_BARS) if occurrence else ():
            places[index].append(Place("phrase_occurrence", min(occurrence, LAST_OCCURRENCE)))
    return places


def _find_phrase_starts(sections: Sequence[int], bars_before: Sequence[int]) -> list[int]:
    """Return the first bars of whole phrases, counted from the start of each section."""
    return [
        index
        for index, count in enumerate(bars_before)
        if count % PHRASE_BARS == 0
        and list(sections[index : index + PHRASE_BARS]) == [sections[index]] * PHRASE_BARS
    ]


def find_returns(contents: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return which occurrence of its content each item is, and the distance to the last one.

    Both are 0 for a content that is empty or occurs once, the distance also at the first one.
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
