from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.config import BEGIN_ID, CONTEXTS
from musicgen.formats import abc
from musicgen.music.score import Score
from musicgen.tokens.constraints import Rules
from musicgen.tokens.context_families import count_field_values
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.score_context import (
    FIELDS,
    LAGS,
    PAGE_FIELDS,
    UNKNOWN_LEFT,
    ContextLanes,
    ContextTable,
    ScoreContext,
    compute_contexts,
)
from musicgen.tokens.vocabulary import MEASURES
from tests.random_walks import MELODY_IDS, walk_rules
from tests.strategies import scores

CODEC = MeasuresCodec()
TUNE = """X:1
M:2/4
L:1/8
K:C
c|:cdef|g2 (3gab|1 cdef|g3c:|2 gfed|c3|:c|cdef|g2 (3gab|cdef|g3:|
"""


def encode(score: Score) -> tuple[int, ...]:
    return CODEC.encode(score).ids


def read(text: str) -> tuple[int, ...]:
    (score,), refusals = abc.parse(text)
    assert not refusals
    return encode(score.canonical())


def follow(ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the fields before each id."""
    context, rows = ScoreContext(ContextTable()), []
    for id_ in ids:
        rows.append(context.compute_fields())
        context = context.take(id_)
    return rows


def select(ids: Sequence[int], name: str, kinds: Sequence[str]) -> list[int]:
    """Return the values of a field before the events of some kinds."""
    column = FIELDS.index(name)
    return [
        row[column]
        for row, id_ in zip(follow(ids), ids, strict=True)
        if MEASURES.events[id_].kind in kinds
    ]


def test_fields_are_those_that_a_model_may_read() -> None:
    assert " ".join(PAGE_FIELDS) == CONTEXTS["all"]


def test_pickup_stands_at_the_end_of_its_bar() -> None:
    ids = read(TUNE)
    assert select(ids, "position", ("pitch",))[:2] == [72, 0]
    assert select(ids, "left", ("pitch",))[:2] == [24, 96]


def test_tuplets_are_counted_as_they_sound() -> None:
    positions = select(read(TUNE), "position", ("pitch",))[5:9]
    assert positions == [0, 48, 64, 80]


def test_second_ending_takes_the_bars_of_the_first() -> None:
    ids = read(TUNE)
    assert select(ids, "bar", ("bar", "partial")) == [0, 0, 1, 2, 3, 2, 3, 0, 0, 1, 2, 3]
    assert select(ids, "section", ("bar", "partial")) == [0] * 7 + [1] * 5


def test_irregular_bar_counts_and_has_no_known_end() -> None:
    ids = read("X:1\nM:2/4\nL:1/8\nK:C\ncdef|c3|cdef|c4|]\n")
    assert "irregular" in {MEASURES.events[id_].kind for id_ in ids}
    assert select(ids, "bar", ("bar", "partial")) == [0, 1, 2, 3]
    assert UNKNOWN_LEFT in select(ids, "left", ("pitch",))
    assert select(ids, "position", ("end",)) == [96]


def test_a_loop_is_felt_in_whole_bars() -> None:
    ids = read("X:1\nM:2/4\nL:1/8\nK:C\n" + "cdef|gabc'|" * 12 + "\n")
    assert select(ids, "match2", ("bar",))[-1] == 7 + 16  # events, then at most 16 bars
    assert select(ids, "match2", ("bar",))[3:7] == [4, 8, 9, 10]
    assert max(select(ids, "match1", ("bar",))) < 7


def test_begin_event_changes_nothing() -> None:
    context = ScoreContext(ContextTable())
    assert context.take(BEGIN_ID) == context
    lanes = ContextLanes(ContextTable(), 2)
    lanes.take(np.array([BEGIN_ID, BEGIN_ID]))
    assert lanes.compute_fields().tolist() == [list(context.compute_fields())] * 2
    with pytest.raises(ValueError, match="different times"):
        lanes.take(np.array([BEGIN_ID, 5]))


@given(scores(), st.data())
def test_later_ids_change_no_field(score: Score, data: st.DataObject) -> None:
    ids = list(encode(score))
    cut = data.draw(st.integers(0, len(ids)))
    other = ids[:cut] + data.draw(st.lists(st.integers(1, len(MEASURES) - 1), max_size=20))
    assert follow(ids)[: cut + 1] == follow([*other, ids[-1]])[: min(cut, len(ids) - 1) + 1]


@given(st.lists(scores(), min_size=1, max_size=4))
def test_lanes_equal_tunes_alone(several: list[Score]) -> None:
    tunes = [np.array(encode(score), np.int16) for score in several]
    for ids, fields in zip(tunes, compute_contexts(tunes, ContextTable()), strict=True):
        assert fields.tolist() == [list(row) for row in follow(ids.tolist())]


@given(st.integers(0, 10**6))
def test_lanes_equal_tunes_alone_on_random_walks(seed: int) -> None:
    ids = walk_rules(Rules(allowed_ids=MELODY_IDS, max_bars=12), random.Random(seed))
    (fields,) = compute_contexts([np.array(ids)], ContextTable())
    assert fields.tolist() == [list(row) for row in follow(ids)]


@given(scores(), st.data())
def test_lane_goes_on_from_a_context(score: Score, data: st.DataObject) -> None:
    ids = encode(score)
    start = data.draw(st.integers(0, len(ids)))
    context, lanes = ScoreContext(ContextTable()), None
    for id_ in ids[:start]:
        context = context.take(id_)
    lanes = ContextLanes(context.table, 2)
    lanes.set_context(1, context)
    lanes.select_lanes(np.array([1]))
    for id_ in ids[start:]:
        assert lanes.compute_fields().tolist() == [list(context.compute_fields())]
        context = context.take(id_)
        lanes.take(np.array([id_]))


@given(scores())
def test_values_are_below_the_size_of_their_field(score: Score) -> None:
    sizes = [count_field_values(name, len(MEASURES)) for name in PAGE_FIELDS]
    for row in follow(encode(score)):
        assert all(0 <= value < size for value, size in zip(row, sizes, strict=True))


@given(scores())
def test_lags_equal_a_search_through_the_tune(score: Score) -> None:
    """Look for the last earlier id at the same place, so many bars ago, event by event."""
    ids = encode(score)
    grammar = CODEC.create_grammar(CODEC.encode(score).setting, strict=False)
    bar = fork = 0
    visits: list[tuple[int, int, tuple[object, ...]]] = []  # bar, visit of that bar, place
    visit, newest = 0, {0: 0}
    here: tuple[object, ...] = ()
    count = 0
    rows = follow(ids)
    for index, id_ in enumerate(ids):
        form = grammar.form
        position = grammar.cursor
        if not grammar.in_bar:
            position = form.meter_steps - (form.steps_owed or 0) if form.has_started else 0
        elif form.is_after_pickup:
            position += form.meter_steps - (grammar.bar_length or 0)
        count = count + 1 if here == (grammar.voice, position, grammar.decision) else 0
        here = grammar.voice, position, grammar.decision
        place = *here, min(count, 15)
        for lag, seen in zip(LAGS, rows[index][4:8], strict=True):
            wanted = bar - lag, newest.get(bar - lag, -1), place
            earlier = [ids[n] + 1 for n, stood in enumerate(visits) if stood == wanted]
            assert seen == (earlier[-1] if earlier else 0)
        visits.append((bar, newest[bar], place))
        kind, section = MEASURES.events[id_].kind, form.section
        grammar.take(id_)
        if kind == "ending":
            if section is not None and section.is_between_endings:
                bar = fork
            else:
                fork = bar
        if kind in ("bar", "partial") and not grammar.form.is_after_pickup:
            bar, visit = bar + 1, visit + 1
            newest[bar] = visit
