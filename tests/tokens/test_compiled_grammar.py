"""The compiled grammar against the grammar that defines it, position by position."""

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
from tests.random_walks import BAND_IDS, MELODY_IDS, choose_id, thin_out

VOICES = frozenset(
    [*MELODY_IDS, MEASURES.id("parts", 2), MEASURES.id("part", 1), MEASURES.id("voice", 1)]
)
DRUMS = VOICES | {MEASURES.id("drum", 36), MEASURES.id("drum", 38)}
TONICS = frozenset(MEASURES.id("pitch", n) for n in (-12, 0, 12))


def compare(compiled: CompiledGrammar, rules: Rules, rng: random.Random) -> int:
    """Draw a tune, compare both grammars at each position, and return the number of positions."""
    grammar = MeasuresGrammar(rules)
    position, position_count = compiled.locate(grammar), 0
    while not grammar.is_done:
        legal = grammar.legal_ids()
        assert compiled.allowed_ids[compiled.legal_columns(position)].tolist() == sorted(legal)
        assert compiled.context(position) == grammar.context
        assert compiled.find_position_id(position) == position_id(grammar.context)
        id_ = choose_id(legal, MEASURES, rng)
        grammar.take(id_)
        position = compiled.follow(position, int(compiled.column_by_id[id_]))
        position_count += 1
    assert compiled.is_done(position)
    assert not len(compiled.legal_columns(position))
    return position_count


RULES = [
    Rules(allowed_ids=MELODY_IDS, max_bars=12),
    Rules(allowed_ids=MELODY_IDS, min_bars=8, max_bars=8),
    Rules(allowed_ids=VOICES, max_bars=6),
    Rules(allowed_ids=MELODY_IDS, max_bars=12, final_pitch_ids=TONICS),
    Rules(allowed_ids=MELODY_IDS, min_bars=8, max_bars=8, final_pitch_ids=TONICS, pickup=24),
    Rules(allowed_ids=MELODY_IDS, max_bars=16, layout=FormLayout.of("AABB", 16)),
    Rules(
        allowed_ids=MELODY_IDS,
        max_bars=16,
        layout=FormLayout.of("ABAC", 16),
        final_pitch_ids=TONICS,
    ),
    Rules(allowed_ids=DRUMS, max_bars=6, drum_parts=None),
    Rules(allowed_ids=DRUMS, max_bars=6, drum_parts=None, final_pitch_ids=TONICS),
    Rules(allowed_ids=VOICES, max_bars=6, final_pitch_ids=TONICS, requires_cadence=True),
    Rules(
        allowed_ids=MELODY_IDS,
        max_bars=4,
        layout=FormLayout.of("AABB", 4),
        final_pitch_ids=TONICS,
        requires_cadence=True,
    ),
    Rules(allowed_ids=BAND_IDS, max_bars=4),
    Rules(allowed_ids=BAND_IDS, max_bars=4, final_pitch_ids=TONICS, needs_pitches=True),
    Rules(
        allowed_ids=BAND_IDS,
        min_bars=4,
        max_bars=4,
        layout=FormLayout.of("ABAC", 4),
        final_pitch_ids=TONICS,
        requires_cadence=True,
        needs_pitches=True,
    ),
]


@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_compiled_grammar_equals_the_grammar(rules: Rules) -> None:
    compiled, rng = CompiledGrammar(rules, position_id), random.Random(1)
    assert sum(compare(compiled, rules, rng) for _ in range(5)) > 100


def test_compiled_grammar_of_a_small_corpus_equals_the_grammar() -> None:
    rng = random.Random(5)
    for _ in range(8):
        rules = Rules(allowed_ids=thin_out(rng), max_bars=rng.choice((1, 3, 8)))
        compiled = CompiledGrammar(rules, position_id)
        for _ in range(2):
            compare(compiled, rules, rng)


@pytest.mark.promises
@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_compiled_grammar_equals_the_grammar_in_thousands_of_tunes(rules: Rules) -> None:
    compiled, rng = CompiledGrammar(rules, position_id), random.Random(2)
    for _ in range(300):
        compare(compiled, rules, rng)


def test_narrower_rules_share_a_compiled_grammar() -> None:
    wide, rng = RULES[0], random.Random(3)
    low_ids = frozenset(MEASURES.id("pitch", n) for n in range(-40, 0))
    narrow = replace(
        wide, allowed_ids=wide.allowed_ids - low_ids, _fitting_cache={}, _pickup_cache={}
    )
    compiled = CompiledGrammar(wide, position_id)
    for _ in range(3):
        compare(compiled, wide, rng)
        compare(compiled, narrow, rng)


def test_all_bars_share_their_inner_states() -> None:
    ids = {MEASURES.id("bar"), MEASURES.id("end"), MEASURES.id("meter", "6/8"),
           MEASURES.id("duration", 24), MEASURES.id("pitch", 0), MEASURES.id("pitch", 2),
           *(MEASURES.ranges[kind][0] for kind in ("mode", "rhythm", "parts"))}  # fmt: skip
    rules, rng = Rules(frozenset(ids), 16, 32), random.Random(4)
    compiled = CompiledGrammar(rules, position_id)
    assert sum(compare(compiled, rules, rng) for _ in range(9)) > 1000
    assert len(compiled.inner_grammars) < 60
