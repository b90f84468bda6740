"""The context by time: a function of the ids so far, equal to what their notes say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.config import CONTEXTS, HELD_FIELDS, TIME_FIELDS, TIME_LOOK_UPS, TONES_FIELDS
from musicgen.music.score import Mark, Note, Score
from musicgen.tokens.codec import Setting
from musicgen.tokens.context_families import (
    count_field_values,
    find_columns,
    make_context_source,
)
from musicgen.tokens.performance import (
    OFF,
    ON,
    PERFORMANCE,
    SHIFT,
    PerformanceCodec,
    PerformanceGrammar,
)
from musicgen.tokens.time_context import LAGS, TOLERANCE, TimeContext, TimeContextSource
from musicgen.training.batches import find_transposition_range, transpose_ids
from tests.random_walks import choose_id

CODEC = PerformanceCodec()
SOURCE = TimeContextSource()
MARKS = (Mark(0, "tempo", 1250.0),)
PITCH_RANGES = (ON, OFF)


MIDDLE_PITCHES = range(50, 70)
ALLOWED_IDS = frozenset(range(len(PERFORMANCE))) - {
    pitches[pitch] for pitches in PITCH_RANGES for pitch in set(range(128)) - set(MIDDLE_PITCHES)
}


def walk(seed: int) -> list[int]:
    """Draw a piece from the grammar in few pitches, so that pitches and figures return."""
    grammar, rng = PerformanceGrammar(60), random.Random(seed)
    ids: list[int] = []
    while not grammar.is_done:
        legal = grammar.legal_ids()
        ids.append(choose_id(ALLOWED_IDS.intersection(legal) or legal, PERFORMANCE, rng))
        grammar.take(ids[-1])
    return ids


def compute(ids: list[int]) -> np.ndarray:
    return SOURCE.compute([np.array(ids)])[0]


def column(fields: np.ndarray, name: str) -> list[int]:
    values: list[int] = fields[:, TIME_FIELDS.index(name)].tolist()
    return values


def encode(*notes: Note) -> list[int]:
    return list(CODEC.encode(Score(notes, MARKS)).ids)


walks = st.integers(0, 10**6).map(walk)


@given(walks, st.data())
def test_context_is_a_function_of_the_ids_before(ids: list[int], data: st.DataObject) -> None:
    whole, stop = compute(ids), data.draw(st.integers(0, len(ids)))
    assert (compute(ids[:stop]) == whole[:stop]).all()


@given(walks)
def test_values_are_below_the_size_of_their_field(ids: list[int]) -> None:
    sizes = [count_field_values(name, len(PERFORMANCE)) for name in TIME_FIELDS]
    fields = compute(ids)
    assert (fields >= 0).all()
    assert (fields < np.array(sizes)).all()


@given(walks, st.data())
def test_fields_follow_a_transposition(ids: list[int], data: st.DataObject) -> None:
    semitones = data.draw(st.sampled_from(find_transposition_range(np.array(ids), PITCH_RANGES)))
    transposed = transpose_ids(np.array(ids), PITCH_RANGES, semitones)
    assert (SOURCE.transpose(compute(ids), semitones) == compute(transposed.tolist())).all()


@given(walks)
def test_held_notes_equal_those_of_the_decoded_prefix(ids: list[int]) -> None:
    """Decode each prefix, and ask for the notes that have no end yet."""
    fields = compute(ids)
    for index in range(len(ids)):
        grammar = CODEC.create_grammar(Setting(), strict=False)
        for id_ in ids[:index]:
            grammar.take(id_)
        held = [
            12 * octave + pitch_class
            for octave, name in enumerate(HELD_FIELDS)
            for pitch_class in range(12)
            if column(fields, name)[index] >> pitch_class & 1
        ]
        assert held == sorted(grammar.sounding_pitches)
        assert column(fields, "held_count")[index] == min(15, len(held))
        assert column(fields, "low")[index] == min((p + 1 for p in held), default=0)
        assert column(fields, "high")[index] == max((p + 1 for p in held), default=0)


@given(walks)
def test_what_is_looked_up_may_come_next(ids: list[int]) -> None:
    """Each id that a field looks up is one that the grammar allows."""
    fields = compute(ids)
    grammar = CODEC.create_grammar(Setting(), strict=False)
    for row, id_ in zip(fields, ids, strict=True):
        looked_up = {int(row[TIME_FIELDS.index(name)]) - 1 for name in TIME_LOOK_UPS} - {-1}
        assert looked_up <= set(grammar.legal_ids())
        grammar.take(id_)


@given(walks)
def test_tones_equal_a_search_through_the_onsets(ids: list[int]) -> None:
    fields, now = compute(ids), 0
    onsets: list[tuple[int, int]] = []
    edges = (0, *LAGS)
    for row, id_ in zip(fields, ids, strict=True):
        for number, name in enumerate(TONES_FIELDS):
            tones = {
                pitch % 12
                for time, pitch in onsets
                if edges[number] <= now - time < edges[number + 1]
            }
            assert row[TIME_FIELDS.index(name)] == sum(1 << tone for tone in tones)
        if id_ in SHIFT:
            now += id_ - SHIFT.start + 1
        elif id_ in ON:
            onsets.append((now, id_ - ON.start))


@given(walks)
def test_onset_of_then_is_near_in_time_and_has_not_come_again(ids: list[int]) -> None:
    fields, now = compute(ids), 0
    onsets: list[tuple[int, int]] = []
    for row, id_ in zip(fields, ids, strict=True):
        recent = {pitch for time, pitch in onsets if now - time <= TOLERANCE}
        for lag in LAGS:
            found = int(row[TIME_FIELDS.index(f"ago{10 * lag}")])
            near = {p for time, p in onsets if abs(now - lag - time) <= TOLERANCE}
            assert not found or found - 1 - ON.start in near - recent
        if id_ in SHIFT:
            now += id_ - SHIFT.start + 1
        elif id_ in ON:
            onsets.append((now, id_ - ON.start))


def test_intervals_and_dues_of_even_strikes() -> None:
    """Chords every 200 ms; after 150 ms the next one is due in 50 ms."""
    notes = [Note(200 * n, pitch, 150, 64) for n in range(4) for pitch in (60, 64)]
    fields = compute(encode(*notes))
    last = len(fields) - 3  # before the first off of the last chord
    assert column(fields, "since")[last] == 15
    assert [column(fields, f"interval{n}")[last] for n in (1, 2, 3)] == [20, 20, 20]
    assert column(fields, "due1")[last] == column(fields, "due2")[last] == 5 + 20 + 1
    assert column(fields, "age1")[last] == column(fields, "age2")[last] == 15 + 1


def test_passage_that_returns_is_looked_up_in_pitches_and_in_intervals() -> None:
    """A figure of six notes, then again, then a fifth higher."""
    figure = [60, 62, 64, 67, 65, 69]
    pitches = [*figure, *figure, *(pitch + 7 for pitch in figure)]
    ids = encode(*(Note(100 * n, pitch, 100, 64) for n, pitch in enumerate(pitches)))
    fields = compute(ids)
    places = [index for index, id_ in enumerate(ids) if id_ in ON]
    repeats = [column(fields, "repeat")[place] == ids[place] + 1 for place in places]
    motifs = [column(fields, "motif")[place] == ids[place] + 1 for place in places]
    assert repeats == [False] * 9 + [True] * 3 + [False] * 6
    assert motifs == [False] * 10 + [True] * 2 + [False] * 4 + [True] * 2
    assert column(fields, "repeat_run")[places[11]] > column(fields, "repeat_run")[places[9]] > 0


def test_onset_half_a_second_ago_is_looked_up() -> None:
    ids = encode(Note(0, 60, 100, 64), Note(500, 72, 100, 64))
    fields = compute(ids)
    second = ids.index(ON[72])
    assert column(fields, "ago500")[second] == ON[60] + 1
    assert column(fields, "ago1000")[second] == 0


@given(walks)
def test_lanes_equal_tunes_alone(ids: list[int]) -> None:
    fields, lanes = compute(ids), SOURCE.start_lanes(2)
    lanes.select_lanes(np.array([1]))
    for row, id_ in zip(fields, ids, strict=True):
        assert lanes.compute_fields().tolist() == [row.tolist()]
        lanes.take(np.array([id_]))


@given(st.lists(st.integers(0, len(PERFORMANCE) - 1), max_size=200))
def test_any_ids_have_a_context(ids: list[int]) -> None:
    context = TimeContext()
    sizes = [count_field_values(name, len(PERFORMANCE)) for name in TIME_FIELDS]
    for id_ in ids:
        context = context.take(id_)
        fields = context.compute_fields()
        assert all(0 <= value < size for value, size in zip(fields, sizes, strict=True))


@pytest.mark.parametrize("name", list(CONTEXTS))
def test_source_follows_from_the_fields(name: str) -> None:
    fields = tuple(CONTEXTS[name].split())
    source = make_context_source(fields)
    assert (source is None) == (not fields)
    for field, number in find_columns(fields).items():
        assert source is not None
        assert source.fields[number] == field
