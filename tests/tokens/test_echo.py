from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.config import ECHO_FIELDS
from musicgen.music.score import Score
from musicgen.tokens.constraints import Rules
from musicgen.tokens.context_families import count_field_values
from musicgen.tokens.echo import MIN_ALIKE, SEARCHED_BARS
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.score_context import (
    FIELDS,
    FIRST_ECHO,
    ContextLanes,
    ContextTable,
    ScoreContext,
    compute_contexts,
)
from musicgen.tokens.vocabulary import MEASURES
from tests.random_walks import BAND_IDS, walk_rules
from tests.strategies import bands, scores

TABLE: Final = ContextTable(has_vertical=True)
HEADER: Final = "meter=4/4 mode=major rhythm= parts=2"
MELODIES: Final = {  # of a bar: four quarter notes of part 0
    "a": "pitch=0 pitch=2 pitch=4 pitch=5", "b": "pitch=12 pitch=11 pitch=9 pitch=7",
    "c": "pitch=3 pitch=1 pitch=3 pitch=1",
}  # fmt: skip
BASSES: Final = {"a": -24, "b": -17, "c": -12}  # of the same bars, a whole note of part 1


def read_ids(text: str) -> list[int]:
    """Return the ids of events by name."""
    return [MEASURES.names.index(name) for name in text.split()]


def write_song(bars: str) -> list[int]:
    """Return the ids of a song of two parts, whose bars are named."""
    ids = read_ids(HEADER)
    for name in bars:
        notes = " ".join(f"duration=48 {pitch}" for pitch in MELODIES[name].split())
        ids += read_ids(f"bar {notes} part=1 duration=192 pitch={BASSES[name]}")
    return [*ids, *read_ids("end")]


def follow(ids: Sequence[int], table: ContextTable = TABLE) -> list[tuple[int, ...]]:
    """Return the fields of the echo before each id."""
    context, rows = ScoreContext(table), []
    for id_ in ids:
        rows.append(context.compute_fields()[FIRST_ECHO:])
        context = context.take(id_)
    return rows


def read_echoes(bars: str, last: int) -> list[str]:
    """Return the events that the echo names before the last ids of a song; "" for none."""
    rows = follow(write_song(bars))[-last - 1 : -1]
    return [MEASURES.names[row[0] - 1] if row[0] else "" for row in rows]


def walk_band(seed: int) -> list[int]:
    """Draw a tune of three parts, some with two voices."""
    return walk_rules(Rules(allowed_ids=BAND_IDS, max_bars=8), random.Random(seed))


def test_fields_are_the_last() -> None:
    assert FIELDS[FIRST_ECHO:] == ECHO_FIELDS


def test_bass_is_that_of_the_same_melody_however_long_ago() -> None:
    assert read_echoes("abccccccccccccca", 2) == ["duration=192", "pitch=-24"]
    assert read_echoes("abcccccccccccccb", 2) == ["duration=192", "pitch=-17"]


def test_first_part_goes_on_as_after_a_bar_like_the_last() -> None:
    echoes = read_echoes("abcbca", 11)
    assert echoes[:4] == ["duration=48", "pitch=12", "duration=48", "pitch=11"]  # b followed c
    echoes = read_echoes("abccaa", 11)
    assert echoes[1] == "pitch=12"  # b followed a


def test_nothing_is_found_in_a_bar_like_no_other() -> None:
    assert {row[1] for row in follow(write_song("ab"))} == {0}
    assert read_echoes("abc", 2) == ["", ""]


def test_it_is_told_for_how_long_the_echo_was_right() -> None:
    levels = [row[2] for row in follow(write_song("abab"))[-12:-1]]
    assert levels == [0, 1, 2, 2, 3, 3, 3, 3, 4, 0, 1]  # a bar is looked for again at the part


def test_old_bars_are_forgotten() -> None:
    assert read_echoes("a" + "c" * (SEARCHED_BARS - 1) + "a", 1) == ["pitch=-24"]
    assert read_echoes("a" + "c" * SEARCHED_BARS + "a", 1) == ["pitch=-12"]


@given(st.integers(0, 10**6), st.data())
def test_later_ids_change_no_field(seed: int, data: st.DataObject) -> None:
    ids = walk_band(seed)
    cut = data.draw(st.integers(0, len(ids)))
    other = ids[:cut] + data.draw(st.lists(st.integers(1, len(MEASURES) - 1), max_size=20))
    assert follow(ids)[: cut + 1] == follow([*other, ids[-1]])[: min(cut, len(ids) - 1) + 1]


def write_random_song(seed: int) -> list[int]:
    rng = random.Random(seed)
    return write_song("".join(rng.choice("abc") for _ in range(rng.randint(1, 12))))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3), st.integers(0, 99))
def test_lanes_equal_tunes_alone_on_random_walks(seeds: list[int], song: int) -> None:
    check_lanes([*(walk_band(seed) for seed in seeds), write_random_song(song)])


def test_lanes_forget_old_bars_too() -> None:
    check_lanes([write_song("a" + "cab" * 50), write_song("abc" * 9)])


@given(st.lists(scores() | bands(), min_size=1, max_size=3))
def test_lanes_equal_tunes_alone(several: list[Score]) -> None:
    check_lanes([MeasuresCodec().encode(score).ids for score in several])


@given(st.lists(st.integers(1, len(MEASURES) - 1), min_size=1, max_size=60), st.integers(0, 99))
def test_lanes_equal_tunes_alone_for_any_ids(ids: list[int], seed: int) -> None:
    check_lanes([[*walk_band(seed)[:40], *ids], ids])


def check_lanes(tunes: Sequence[Sequence[int]]) -> None:
    contexts = compute_contexts([np.array(ids) for ids in tunes], TABLE)
    for ids, fields in zip(tunes, contexts, strict=True):
        assert fields[:, FIRST_ECHO:].tolist() == [list(row) for row in follow(ids)]


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=40)
def test_lane_goes_on_from_a_context(seed: int, data: st.DataObject) -> None:
    ids = data.draw(st.sampled_from([walk_band(seed), write_random_song(seed)]))
    start = data.draw(st.integers(0, len(ids)))
    context, lanes = ScoreContext(TABLE), ContextLanes(TABLE, 2)
    for id_ in ids[:start]:
        context = context.take(id_)
    lanes.take(np.array(walk_band(1)[:2]))  # is forgotten
    lanes.set_context(1, context)
    lanes.select_lanes(np.array([1]))
    for id_ in ids[start:]:
        assert lanes.compute_fields().tolist() == [list(context.compute_fields())]
        context = context.take(id_)
        lanes.take(np.array([id_]))


@given(st.integers(0, 10**6))
def test_values_are_below_the_size_of_their_field(seed: int) -> None:
    sizes = [count_field_values(name, len(MEASURES)) for name in ECHO_FIELDS]
    for row in follow(walk_band(seed)):
        assert all(0 <= value < size for value, size in zip(row, sizes, strict=True))


# A second computation, from lists of all bars


@dataclass
class NotedBar:
    """A bar as a list of ids by place, and the notes before each voice."""

    ids: dict[object, int] = field(default_factory=dict)
    notes: set[int] = field(default_factory=set)
    entries: dict[int, frozenset[int]] = field(default_factory=dict)


def compare(first: set[int] | frozenset[int], second: set[int] | frozenset[int]) -> float:
    return 2 * len(first & second) / max(len(first) + len(second), 1)


def compute_by_brute_force(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the fields "echo" and "alike" before each id."""
    bars, found, alike = [NotedBar()], NotedBar(), 0
    table, state = ContextTable(has_vertical=True), 0
    for id_ in ids:
        yield found.ids.get(table.place[state], 0), alike
        kind, cursor = MEASURES.events[id_].kind, table.cursors[state]
        bars[-1].ids[table.place[state]] = id_ + 1
        state, _ = table.step(state, id_)
        if kind in ("pitch", "drum"):
            bars[-1].notes.add((cursor.step // 12 * 37 + id_) % 256)
        if kind in ("bar", "partial"):
            bars.append(NotedBar())
        if kind in ("bar", "partial", "part", "voice"):
            voice = table.cursors[state].voice
            found, alike = search(bars, voice)
            bars[-1].entries[voice] = frozenset(bars[-1].notes)


def search(bars: Sequence[NotedBar], voice: int) -> tuple[NotedBar, int]:
    """Return the bar that is most like the last one where a voice starts, and how much."""
    padded = [NotedBar(), NotedBar(), *bars]

    def measure(number: int) -> float:
        before = compare(padded[-2].notes, padded[number + 1].notes)
        if len(bars[-1].notes) >= 2:
            return 0.7 * compare(bars[-1].notes, bars[number].entries[voice]) + 0.3 * before
        return 0.7 * before + 0.3 * compare(padded[-3].notes, padded[number].notes)

    numbers = [n for n, bar in enumerate(bars[:-1]) if voice in bar.entries][-SEARCHED_BARS:]
    best = max(numbers, key=lambda number: (measure(number), number), default=None)
    alike = 0 if best is None else int(10 * measure(best))
    return (bars[best], alike) if best is not None and alike >= MIN_ALIKE else (NotedBar(), 0)


@given(st.integers(0, 10**6))
def test_echo_equals_a_search_through_all_bars(seed: int) -> None:
    for ids in (walk_band(seed), write_random_song(seed)):
        assert [row[:2] for row in follow(ids)] == list(compute_by_brute_force(ids))
