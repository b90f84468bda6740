"""The compiled grammar against the walk that defines it, place by place."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from musicgen.sampling.noise import position_id
from musicgen.tokens.compiled_grammar import CompiledGrammar
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.song_form import FormLayout
from musicgen.tokens.vocabulary import MEASURES
from tests.tokens.test_grammar import BASE, subset

VOICES = frozenset(
    [*BASE, MEASURES.id("parts", 2), MEASURES.id("part", 1), MEASURES.id("voice", 1)]
)
DRUMS = VOICES | {MEASURES.id("drum", 36), MEASURES.id("drum", 38)}
TONICS = frozenset(MEASURES.id("pitch", n) for n in (-12, 0, 12))


def compare(automaton: CompiledGrammar, rules: Rules, luck: random.Random) -> int:
    """Draw a tune, as `wander` does, and compare both at each of its places; count them."""
    walk = MeasuresGrammar(rules)
    place, places = automaton.locate(walk), 0
    while not walk.is_done:
        legal = walk.legal_ids()
        assert automaton.allowed_ids[automaton.legal_columns(place)].tolist() == sorted(legal)
        assert automaton.context(place) == walk.context
        assert automaton.find_position_id(place) == position_id(walk.context)
        kind = luck.choice(sorted({MEASURES.events[i].kind for i in legal}))
        id_ = luck.choice([i for i in legal if MEASURES.events[i].kind == kind])
        walk.take(id_)
        place, places = automaton.follow(place, int(automaton.column_by_id[id_])), places + 1
    assert automaton.is_done(place)
    assert not len(automaton.legal_columns(place))
    return places


RULES = [
    Rules(allowed_ids=BASE, max_bars=12),
    Rules(allowed_ids=BASE, min_bars=8, max_bars=8),
    Rules(allowed_ids=VOICES, max_bars=6),
    Rules(allowed_ids=BASE, max_bars=12, final_pitch_ids=TONICS),
    Rules(allowed_ids=BASE, min_bars=8, max_bars=8, final_pitch_ids=TONICS, pickup=24),
    Rules(allowed_ids=BASE, max_bars=16, layout=FormLayout.of("AABB", 16)),
    Rules(allowed_ids=BASE, max_bars=16, layout=FormLayout.of("ABAC", 16), final_pitch_ids=TONICS),
    Rules(allowed_ids=DRUMS, max_bars=6, drum_parts=None),
    Rules(allowed_ids=DRUMS, max_bars=6, drum_parts=None, final_pitch_ids=TONICS),
]


@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_the_automaton_is_the_walk(rules: Rules) -> None:
    automaton, luck = CompiledGrammar(rules, position_id), random.Random(1)
    assert sum(compare(automaton, rules, luck) for _ in range(5)) > 100


def test_the_automaton_of_a_small_corpus_is_the_walk() -> None:
    luck = random.Random(5)
    for _ in range(8):
        rules = Rules(allowed_ids=subset(luck), max_bars=luck.choice((1, 3, 8)))
        automaton = CompiledGrammar(rules, position_id)
        for _ in range(2):
            compare(automaton, rules, luck)


@pytest.mark.promises
@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_the_automaton_is_the_walk_in_thousands_of_tunes(rules: Rules) -> None:
    automaton, luck = CompiledGrammar(rules, position_id), random.Random(2)
    for _ in range(1000):
        compare(automaton, rules, luck)


def test_rules_that_narrow_share_an_automaton() -> None:
    wide, luck = RULES[0], random.Random(3)
    low = frozenset(MEASURES.id("pitch", n) for n in range(-40, 0))
    narrow = replace(wide, allowed_ids=wide.allowed_ids - low, _fitting_cache={}, _pickup_cache={})
    automaton = CompiledGrammar(wide, position_id)
    for _ in range(3):
        compare(automaton, wide, luck)
        compare(automaton, narrow, luck)


def test_a_place_is_shared_by_all_bars() -> None:
    few = {MEASURES.id("bar"), MEASURES.id("end"), MEASURES.id("meter", "6/8"),
           MEASURES.id("duration", 24), MEASURES.id("pitch", 0), MEASURES.id("pitch", 2),
           *(MEASURES.ranges[kind][0] for kind in ("mode", "rhythm", "parts"))}  # fmt: skip
    rules, luck = Rules(frozenset(few), 16, 32), random.Random(4)
    automaton = CompiledGrammar(rules, position_id)
    assert sum(compare(automaton, rules, luck) for _ in range(9)) > 1000
    assert len(automaton.inner_grammars) < 60
