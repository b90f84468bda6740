from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.tokens.codec import Setting
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES
from tests.random_walks import MELODY_IDS, thin_out, walk_rules


@given(st.integers(0, 10**9), st.sampled_from((None, 1, 2, 3, 5, 8, 16, 31)), st.booleans())
def test_every_walk_yields_a_complete_tune(seed: int, bars: int | None, thinned: bool) -> None:
    rng = random.Random(seed)
    allowed_ids = thin_out(rng) if thinned else MELODY_IDS
    rules = Rules(allowed_ids, min_bars=bars or 1, max_bars=bars or 24)
    ids = walk_rules(rules, rng)
    decoded = MeasuresCodec().decode(ids, Setting())
    assert decoded.dropped == 0
    assert all(bar.kind != "irregular" for bar in find_bars(decoded.score))
    bars_heard = count_heard_bars(decoded.score)
    assert bars_heard == bars if bars else 1 <= bars_heard <= 24
    assert MEASURES.names[ids[-1]] == "end"
    assert decoded.score.notes


def follow(*names: str, rules: Rules | None = None) -> MeasuresGrammar:
    grammar = MeasuresGrammar(rules or Rules(allowed_ids=MELODY_IDS))
    for name in ("meter=6/8", "mode=major", "rhythm=jig", "parts=1", *names):
        id_ = MEASURES.names.index(name)
        assert id_ in grammar.legal_ids(), name
        grammar.take(id_)
    return grammar


def legal_names(grammar: MeasuresGrammar) -> set[str]:
    return {MEASURES.names[id_] for id_ in grammar.legal_ids()}


def test_durations_fit_into_the_rest_of_the_bar() -> None:
    grammar = follow("bar", "duration=96", "pitch=0")
    durations = {
        int(name.split("=")[1]) for name in legal_names(grammar) if name.startswith("duration")
    }
    assert max(durations) == 48
    assert "end" not in legal_names(grammar)


def test_durations_that_leave_an_unfillable_gap_are_illegal() -> None:
    value_ids = {*MEASURES.ranges["duration"], *MEASURES.ranges["tuplet"]}
    allowed_ids = MELODY_IDS - value_ids | {MEASURES.id("duration", n) for n in (36, 48)}
    grammar = follow("bar", "duration=48", "pitch=0", rules=Rules(allowed_ids))
    assert "duration=36" not in legal_names(grammar)
    assert "duration=48" in legal_names(grammar)


def test_repeat_with_pickup_closes_with_the_complementary_bar() -> None:
    pickup = ("repeat_start", "partial=24", "duration=24", "pitch=0")
    assert not {name for name in legal_names(follow(*pickup)) if name.startswith("partial")}
    full_bar = (*pickup, "bar", "duration=144", "pitch=0")
    assert "repeat_end=2" not in legal_names(follow(*full_bar))
    assert {name for name in legal_names(follow(*full_bar)) if name.startswith("partial")} == {
        "partial=120"
    }
    closing_bar = follow(*full_bar, "partial=120", "duration=96", "pitch=0", "duration=24", "hold")
    assert "repeat_end=2" in legal_names(closing_bar)
    assert "bar" not in legal_names(closing_bar)


def test_repeat_opens_only_if_it_fits_into_the_bars() -> None:
    rules = Rules(allowed_ids=MELODY_IDS, min_bars=3, max_bars=3)
    grammar = follow("bar", "duration=144", "pitch=0", rules=rules)
    assert "repeat_start" in legal_names(grammar)
    grammar = follow(
        "bar", "duration=144", "pitch=0", "bar", "duration=144", "pitch=0", rules=rules
    )
    assert "repeat_start" not in legal_names(grammar)


def test_hold_is_legal_only_after_a_sounding_note() -> None:
    assert "hold" not in legal_names(follow("bar", "duration=24"))
    assert "hold" in legal_names(follow("bar", "duration=24", "pitch=0", "duration=24"))
    after_rest = follow("bar", "duration=24", "pitch=0", "duration=24", "rest", "duration=24")
    assert "hold" not in legal_names(after_rest)
    after_repeat = follow("repeat_start", "bar", "duration=144", "pitch=0", "repeat_end=2",
                      "bar", "duration=24")  # fmt: skip
    assert "hold" not in legal_names(after_repeat)


def test_irregular_bars_are_illegal_under_strict_rules() -> None:
    assert "irregular" not in legal_names(follow())
    grammar = MeasuresGrammar(Rules.permissive())
    for name in ("meter=6/8", "mode=major", "rhythm=jig", "parts=1"):
        grammar.take(MEASURES.names.index(name))
    assert "irregular" in legal_names(grammar)


def test_context_states_position_and_bars_left() -> None:
    rules = Rules(allowed_ids=MELODY_IDS, min_bars=4, max_bars=4)
    context = follow("bar", "duration=24", "pitch=0", rules=rules).context
    assert (context.bar, context.position, context.bar_steps) == (1, 24, 144)
    assert context.bars_left == 3


@pytest.mark.parametrize(("min_bars", "max_bars"), [(0, 4), (5, 4)])
def test_invalid_numbers_of_bars_are_refused(min_bars: int, max_bars: int) -> None:
    with pytest.raises(InvalidValue, match="ask for 1 bar or more"):
        Rules(allowed_ids=MELODY_IDS, min_bars=min_bars, max_bars=max_bars)


def test_rules_without_pitches_are_refused() -> None:
    with pytest.raises(InvalidValue, match="no event 'pitch'"):
        Rules(allowed_ids=MELODY_IDS - set(MEASURES.ranges["pitch"]))


def note_kinds_by_part(rules: Rules, rng: random.Random) -> dict[int, set[str]]:
    """Draw a tune and return the kinds of note in each part."""
    kinds: dict[int, set[str]] = {}
    part = 0
    for id_ in walk_rules(rules, rng):
        event = MEASURES.events[id_]
        if event.kind in ("bar", "partial", "part"):
            part = int(event.value or 0) if event.kind == "part" else 0
        elif event.kind in ("pitch", "drum"):
            kinds.setdefault(part, set()).add(event.kind)
    return kinds


@pytest.mark.parametrize("seed", range(20))
def test_first_note_of_a_part_decides_between_drums_and_pitches(seed: int) -> None:
    more_ids = {MEASURES.id("parts", 3), *(MEASURES.id("part", n) for n in (1, 2)),
                *(MEASURES.id("drum", n) for n in (36, 38, 42))}  # fmt: skip
    other_counts = set(MEASURES.ranges["parts"]) - {MEASURES.id("parts", 3)}
    rules = Rules(
        allowed_ids=frozenset(MELODY_IDS | more_ids) - other_counts, max_bars=8, drum_parts=None
    )
    kinds_by_part = note_kinds_by_part(rules, random.Random(seed))
    assert all(len(kinds) == 1 for kinds in kinds_by_part.values())
    tonic_rules = replace(
        rules,
        final_pitch_ids=frozenset([MEASURES.id("pitch", 0)]),
        _fitting_cache={},
        _pickup_cache={},
    )
    assert note_kinds_by_part(tonic_rules, random.Random(seed))[0] == {"pitch"}


def test_drum_parts_need_no_pitches() -> None:
    pitches = set(MEASURES.ranges["pitch"])
    rules = Rules(frozenset(MELODY_IDS - pitches) | {MEASURES.id("drum", 36)}, drum_parts=None)
    assert note_kinds_by_part(rules, random.Random(1)) == {0: {"drum"}}
