from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.config import CONTEXTS, VERTICAL_FIELDS
from musicgen.formats import abc
from musicgen.music.score import Part, Score
from musicgen.music.theory import CHORD_QUALITIES, ChordSymbol
from musicgen.tokens.codec import Setting
from musicgen.tokens.constraints import Rules
from musicgen.tokens.context_families import count_field_values
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.measures import (
    MeasuresCodec,
    SoundingChord,
    find_drum_parts,
    trace_chords,
)
from musicgen.tokens.score_context import (
    FIELDS,
    FIRST_ECHO,
    FIRST_VERTICAL,
    ContextLanes,
    ContextTable,
    ScoreContext,
    compute_contexts,
)
from musicgen.tokens.vertical_context import DRUM_GROUPS, NO_CHORD, SLOT_STEPS
from musicgen.tokens.vocabulary import MEASURES, Event
from tests.random_walks import BAND_IDS, walk_rules
from tests.strategies import bands, scores

CODEC: Final = MeasuresCodec()
TABLE: Final = ContextTable(has_vertical=True)
CHORALE: Final = """X:1
M:4/4
L:1/4
K:G
V:1
"G"G2 A2|"D7"F4|"Em"[EG]4|
V:2
G,B, D2-|D4|z2 (3E,F,G,|
"""
ENDINGS: Final = """X:1
M:2/4
L:1/8
K:C
V:1
c|:cdef|g2 (3gab|1 cdef|g3c:|2 gfed|c3|:c|cdef|g2 (3gab-|b3|cdef|g3:|
V:2
C|:C4-|C4|1 C2D2|[CE]3C:|2 G,4|C3|:z|C4-|C2 (3EFG|G3|z4|C3:|
"""
BAND: Final = tuple(
    MEASURES.ids[Event(kind, value)]
    for kind, value in (
        ("meter", "4/4"), ("mode", "major"), ("rhythm", ""), ("lineup", 3), ("role", "drums"),
        ("family", "drum kit"), ("role", "bass"), ("family", "bass"), ("role", "melody"),
        ("family", "reed"), ("bar", None),
        ("duration", 24), ("drum", 42), ("drum", 36), ("duration", 72), ("drum", 42),
        ("duration", 96), ("drum", 38),
        ("part", 1), ("duration", 96), ("pitch", -24), ("duration", 96), ("hold", None),
        ("part", 2), ("duration", 48), ("pitch", 14), ("pitch", 7),
        ("duration", 144), ("rest", None),
        ("bar", None), ("duration", 192), ("drum", 50),
        ("part", 1), ("duration", 192), ("hold", None),
        ("part", 2), ("duration", 192), ("pitch", 4), ("end", None),
    )
)  # fmt: skip


def follow(ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the vertical fields before each id."""
    context, rows = ScoreContext(TABLE), []
    for id_ in ids:
        rows.append(context.compute_fields()[FIRST_VERTICAL:FIRST_ECHO])
        context = context.take(id_)
    return rows


def read_fields(ids: Sequence[int], event: str) -> dict[str, int]:
    """Return the fields before the only occurrence of an event."""
    (index,) = [n for n, id_ in enumerate(ids) if MEASURES.names[id_] == event]
    return dict(zip(VERTICAL_FIELDS, follow(ids)[index], strict=True))


def pitch_value(pitch: int) -> int:
    return pitch + 69  # the lowest pitch of the vocabulary, -68, is 1


def walk_band(seed: int) -> list[int]:
    """Draw a tune of three parts, some with two voices."""
    return walk_rules(Rules(allowed_ids=BAND_IDS, max_bars=6), random.Random(seed))


def make_setting(ids: Sequence[int]) -> Setting:
    drums = find_drum_parts(ids)
    parts = tuple(Part(str(n), is_drums=n in drums) for n in range(16))
    return Setting(parts=parts, velocities=(90,) * 16)


def test_fields_are_those_that_a_model_may_read() -> None:
    assert " ".join(FIELDS) == CONTEXTS["all+vertical"]
    assert FIELDS[FIRST_VERTICAL:FIRST_ECHO] == VERTICAL_FIELDS


def test_drums_are_told_at_their_place_and_ahead() -> None:
    fields = read_fields(BAND, "pitch=-24")
    assert fields["drums"] == 0b101  # hi-hat and bass drum
    assert (fields["kicks"], fields["sounding"], fields["until"]) == (1, 0, 0)
    assert read_fields(BAND, "rest")["drums"] == 0  # the snare comes 48 steps later


def test_a_pitch_sounds_on_where_it_is_held() -> None:
    fields = read_fields(BAND, "pitch=14")
    assert fields["sounding"] == 1
    assert fields["onsets"] == 1
    assert fields["lowest"] == fields["highest"] == pitch_value(-24)
    fields = read_fields(BAND, "pitch=4")  # over the bar line
    assert fields["lowest"] == pitch_value(-24)
    assert (fields["onsets"], fields["until"]) == (0, 0)


def test_own_chord_does_not_count() -> None:
    fields = read_fields(BAND, "pitch=7")
    assert fields["lowest"] == fields["highest"] == pitch_value(-24)


def test_chord_symbols_are_in_force_until_the_next() -> None:
    (score,), _ = abc.parse(CHORALE)
    ids = CODEC.encode(score.canonical()).ids
    rows = [dict(zip(VERTICAL_FIELDS, row, strict=True)) for row in follow(ids)]
    roots = [
        row["root"] for row, id_ in zip(rows, ids, strict=True) if "part" in MEASURES.names[id_]
    ]
    assert roots[-3:] == [1, 8, 10]
    assert rows[-1]["quality"] == CHORD_QUALITIES.index("m") + 1
    assert NO_CHORD not in roots


def test_lookback_is_kept_per_part() -> None:
    """A note of part 2 is found again 1 bar later in part 2, and not in the other parts."""
    bar = BAND[BAND.index(MEASURES.id("bar")) : 29]
    ids = (*BAND[:10], *bar, *bar, MEASURES.id("end"))
    context, seen = ScoreContext(ContextTable()), []
    for id_ in ids:
        seen.append(context.compute_fields()[4])
        context = context.take(id_)
    second = 10 + len(bar)
    assert seen[second + 1 : second + len(bar)] == [id_ + 1 for id_ in bar[1:]]


@given(st.integers(0, 10**6), st.data())
def test_later_ids_change_no_field(seed: int, data: st.DataObject) -> None:
    ids = walk_band(seed)
    cut = data.draw(st.integers(0, len(ids)))
    other = ids[:cut] + data.draw(st.lists(st.integers(1, len(MEASURES) - 1), max_size=20))
    assert follow(ids)[: cut + 1] == follow([*other, ids[-1]])[: min(cut, len(ids) - 1) + 1]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3))
def test_lanes_equal_tunes_alone_on_random_walks(seeds: list[int]) -> None:
    check_lanes([walk_band(seed) for seed in seeds])


@given(st.lists(scores() | bands(), min_size=1, max_size=3))
def test_lanes_equal_tunes_alone(several: list[Score]) -> None:
    check_lanes([CODEC.encode(score).ids for score in several])


@given(st.lists(st.integers(1, len(MEASURES) - 1), min_size=1, max_size=60), st.integers(0, 99))
def test_lanes_equal_tunes_alone_for_any_ids(ids: list[int], seed: int) -> None:
    check_lanes([[*walk_band(seed)[:40], *ids], ids])


def check_lanes(tunes: Sequence[Sequence[int]]) -> None:
    contexts = compute_contexts([np.array(ids) for ids in tunes], TABLE)
    for ids, fields in zip(tunes, contexts, strict=True):
        assert fields[:, FIRST_VERTICAL:FIRST_ECHO].tolist() == [list(row) for row in follow(ids)]


@given(st.integers(0, 10**6), st.data())
def test_lane_goes_on_from_a_context(seed: int, data: st.DataObject) -> None:
    ids = walk_band(seed)
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
    sizes = [count_field_values(name, len(MEASURES)) for name in VERTICAL_FIELDS]
    for row in follow(walk_band(seed)):
        assert all(0 <= value < size for value, size in zip(row, sizes, strict=True))


# A second computation, from the chords that the decoder makes of all ids


@dataclass(frozen=True)
class Place:
    """Where an id stands: the bar, the voice, and the step from the start of the tune."""

    visit: int  # of a bar; -1 between bars
    voice: tuple[int, int]
    step: int
    bar_start: int
    bar_end: int
    last_bar: range  # the steps of the bar before, or between bars of the bar that was left


def iter_places(ids: Sequence[int]) -> Iterator[Place]:
    """Yield the place before each id."""
    grammar = MeasuresGrammar(Rules.permissive(find_drum_parts(ids)))
    visit, start, length = -1, 0, 0
    bars: dict[int, range] = {-1: range(0), -2: range(0)}
    places = []
    for id_ in ids:
        if grammar.in_bar:
            places.append((visit, visit - 1, grammar.voice, start + grammar.cursor))
        else:
            places.append((-1, visit, (0, 0), start + length))
        if MEASURES.events[id_].kind in ("bar", "partial"):
            visit, start, length = visit + 1, start + length, 0
        grammar.take(id_)
        if grammar.in_bar and grammar.voice == (0, 0):
            length = grammar.cursor
            bars[visit] = range(start, start + length)
    for number, last, voice, step in places:
        bar = bars[number] if number in bars and number >= 0 else range(step, step)
        yield Place(number, voice, step, bar.start, bar.stop, bars[last])


def compute_by_brute_force(ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Compute the fields before each id from the decoded chords, and the chord symbols so far."""
    setting = make_setting(ids)
    places = list(iter_places(ids))
    chords: dict[int, tuple[Place, SoundingChord]] = {}
    for place, (_, chord) in zip(places, trace_chords(ids, setting), strict=True):
        if chord is not None:
            chords.setdefault(id(chord), (place, chord))
    symbols: list[tuple[int, tuple[int, int, int]]] = [(0, (0, 0, 0))]
    rows: list[tuple[int, ...]] = []
    last_pitches: dict[tuple[int, int], int] = {}
    fermatas: list[tuple[int, int]] = []  # visit of the bar, slot
    is_first = False  # whether the next pitch is the first of a chord
    for place, id_ in zip(places, ids, strict=True):
        earlier = [
            chord
            for start, chord in chords.values()
            if start.voice < place.voice and chord.onset < place.bar_end and place.visit >= 0
        ]
        symbol = [values for step, values in symbols if step <= place.step][-1]
        tones = list_tones(earlier, range(place.bar_start, place.bar_end), setting)
        last_tones = list_tones([chord for _, chord in chords.values()], place.last_bar, setting)
        lineup = (*list_descriptions(ids[: len(rows)]), (0, 0), (0, 0))
        part = min(place.voice[0] if place.visit >= 0 else 0, len(lineup) - 2)
        described = (*lineup[part], lineup[part + 1][0])
        slot = find_slot(place)
        ahead = [other - slot + 1 for visit, other in fermatas if visit == place.visit]
        whole = [chord for _, chord in chords.values()]
        before = (
            list_tones(earlier, range(place.step - 1, place.step), setting)
            if place.step > place.bar_start
            else list_tones(whole, place.last_bar[-1:], setting)
        )
        later = [c.onset for c in earlier if c.onset > place.step and is_pitched(c, setting)]
        step = min(later, default=place.step)
        after = list_tones(earlier, range(step, step + 1), setting) if later else 0
        fermata = min((n for n in ahead if n > 0), default=0)
        modes = [MEASURES.events[i].kind == "mode" and i for i in ids[: len(rows)]]
        mode = next((i - MEASURES.ranges["mode"].start + 1 for i in modes if i), 0)
        own = last_pitches.get(place.voice, 0), fermata, before, after, mode
        rows.append(
            (*describe(earlier, place, setting), *symbol, tones, last_tones, *described, *own)
        )
        event = MEASURES.events[id_]
        if event.kind == "pitch":
            others = 0 if is_first else last_pitches.get(place.voice, 0)
            last_pitches[place.voice] = max(others, pitch_value(int(event.value or 0)))
        elif event.kind in ("rest", "drum"):
            last_pitches[place.voice] = 0
        elif event.kind == "fermata":
            fermatas.append((place.visit, slot))
        if event.kind in ("duration", "pitch", "hold"):
            is_first = event.kind == "duration"
        if event.kind in ("chord", "no_chord"):
            symbols.append((place.step, describe_symbol(event)))
        elif event.kind == "bass":
            step, (root, quality, _) = symbols[-1]
            symbols[-1] = step, (root, quality, int(event.value or 0) + 1)
    return rows


def is_pitched(chord: SoundingChord, setting: Setting) -> bool:
    return not setting.parts[chord.part].is_drums


def find_slot(place: Place) -> int:
    return min((place.step - place.bar_start) // SLOT_STEPS, 31)


def list_descriptions(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return role and family of the parts that are described so far, as values of the fields."""
    values = [
        (kind, id_ - MEASURES.ranges[kind].start + 1)
        for id_ in ids
        for kind in [MEASURES.events[id_].kind]
        if kind in ("role", "family")
    ]
    return [(before[1], value) for before, (kind, value) in pairwise(values) if kind == "family"]


def list_tones(chords: Sequence[SoundingChord], steps: range, setting: Setting) -> int:
    """Return the pitch classes of the chords that sound at some of the steps, as bits."""
    pitches = {
        (pitch - setting.tonic_pitch) % 12
        for chord in chords
        if not setting.parts[chord.part].is_drums
        and max(chord.onset, steps.start) < min(chord.end, steps.stop)
        for pitch in chord.pitches
    }
    return sum(1 << pitch for pitch in pitches)


def describe_symbol(event: Event) -> tuple[int, int, int]:
    if event.kind == "no_chord":
        return NO_CHORD, 0, 0
    root, quality = str(event.value).split(" ")
    chord = ChordSymbol(int(root), quality)
    return chord.root + 1, CHORD_QUALITIES.index(chord.quality) + 1, 0


def describe(chords: Sequence[SoundingChord], place: Place, setting: Setting) -> tuple[int, ...]:
    """Return the fields but the chord symbol: of all chords in the bar by earlier voices."""
    pitched = [chord for chord in chords if not setting.parts[chord.part].is_drums]
    drums = [chord for chord in chords if setting.parts[chord.part].is_drums]
    sounding = [
        pitch - setting.tonic_pitch
        for chord in pitched
        if chord.onset <= place.step < min(chord.end, place.bar_end)
        for pitch in chord.pitches
    ]
    struck = [key for chord in drums if chord.onset == place.step for key in chord.pitches]
    ahead = [chord.onset - place.step for chord in pitched if chord.onset >= place.step]
    kicks = [
        chord.onset - place.step
        for chord in drums
        if chord.onset >= place.step and not {35, 36}.isdisjoint(chord.pitches)
    ]
    return (
        sum(1 << n for n in {pitch % 12 for pitch in sounding}),
        pitch_value(min(sounding)) if sounding else 0,
        pitch_value(max(sounding)) if sounding else 0,
        sum(1 << n for n in {find_group(key) for key in struck}),
        fill_slots(ahead),
        fill_slots(kicks),
        min((384, *(steps for steps in ahead if steps))) if any(ahead) else 0,
    )


def find_group(key: int) -> int:
    groups = [number for number, keys in enumerate(DRUM_GROUPS) if key in keys]
    return groups[0] if groups else len(DRUM_GROUPS) - 1


def fill_slots(offsets: Sequence[int]) -> int:
    return sum(
        1 << slot
        for slot in range(15)
        if any((slot - 1) * SLOT_STEPS < offset <= slot * SLOT_STEPS for offset in offsets)
    )


@given(st.integers(0, 10**6))
def test_fields_equal_those_of_the_decoded_score_on_random_walks(seed: int) -> None:
    ids = walk_band(seed)
    assert follow(ids) == compute_by_brute_force(ids)


@given(scores() | bands())
@settings(max_examples=60)
def test_fields_equal_those_of_the_decoded_score(score: Score) -> None:
    ids = CODEC.encode(score).ids
    assert follow(ids) == compute_by_brute_force(ids)


@pytest.mark.parametrize("text", [CHORALE, ENDINGS])
def test_fields_equal_those_of_a_read_tune(text: str) -> None:
    (score,), _ = abc.parse(text)
    ids = CODEC.encode(score.canonical()).ids
    assert follow(ids) == compute_by_brute_force(ids)


def test_later_voices_know_their_last_note_and_the_next_fermata() -> None:
    """The bass knows where the soprano has its fermata, and what sounded before and comes next."""
    text = "X:1\nM:4/4\nL:1/4\nK:C\nV:1\ncd!fermata!e2|c4|\nV:2\nC2G,2|C4|\n"
    (score,), _ = abc.parse(text)
    ids = CODEC.encode(score.canonical()).ids
    rows = [dict(zip(VERTICAL_FIELDS, row, strict=True)) for row in follow(ids)]
    part = ids.index(MEASURES.id("part", 1))
    at_start, at_half = rows[part + 1], rows[part + 3]
    assert (at_start["own"], at_start["fermata"], at_start["next_tones"]) == (0, 9, 1 << 2)
    assert at_half["own"] == pitch_value(0)
    assert (at_half["fermata"], at_half["prior_tones"], at_half["next_tones"]) == (1, 1 << 2, 0)
    second = ids.index(MEASURES.id("part", 1), part + 1)
    assert rows[second + 1]["own"] == pitch_value(-5)
    assert rows[second + 1]["prior_tones"] == 1 << 4 | 1 << 7
