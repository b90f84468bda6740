"""Parts with their roles, instruments, drums and dynamics, as ids and back."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue, Mismatch, Refusal
from musicgen.music.bars import find_bars
from musicgen.music.dynamics import LEVEL_VELOCITIES
from musicgen.music.general_midi import FAMILIES, find_family, find_typical_program
from musicgen.music.score import PART_ROLES, SYMBOLS_ROLE, Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.tokens.bar_split import BarSplit, split_by_voice
from musicgen.tokens.codec import Decoded, Setting, find_first_illegal
from musicgen.tokens.constraints import PartRule, Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.level_writer import restate_levels
from musicgen.tokens.lineup import measure_header, read_lineup
from musicgen.tokens.measures import MeasuresCodec, find_drum_parts
from musicgen.tokens.vocabulary import DRUM_KIT, MEASURES
from tests.random_walks import BAND_IDS, walk_rules
from tests.strategies import bands, scores

CODEC = MeasuresCodec()
NOTE_ROLES = tuple(role for role in PART_ROLES if role != SYMBOLS_ROLE)
FIRST_TABLE = 844  # events before line-ups were added
TONICS = frozenset(MEASURES.id("pitch", n) for n in (-12, 0, 12))


def names(score: Score) -> list[str]:
    return [MEASURES.names[id_] for id_ in CODEC.encode(score).ids]


@st.composite
def described_bands(draw: st.DrawFn) -> Score:
    """Draw a band whose parts have roles, and whose notes have velocities of their own."""
    band = draw(st.one_of(bands(), scores()))
    parts = tuple(replace(part, role=draw(st.sampled_from(NOTE_ROLES))) for part in band.parts)
    velocities = draw(st.lists(st.integers(1, 127), min_size=1, max_size=5))
    notes = tuple(
        replace(note, velocity=velocities[index % len(velocities)])
        for index, note in enumerate(band.notes)
    )
    return replace(band, parts=parts, notes=notes)


@given(described_bands())
def test_notes_programs_drums_roles_and_dynamics_come_back(score: Score) -> None:
    canonical = score.canonical_with_dynamics()
    encoded = CODEC.encode(score)
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)
    assert canonical.parts == score.parts


@given(described_bands())
def test_described_bands_obey_the_grammar(score: Score) -> None:
    encoded = CODEC.encode(score)
    grammar = CODEC.create_grammar(encoded.setting, strict=False)
    assert find_first_illegal(encoded.ids, grammar) is None


@given(described_bands())
def test_header_says_what_each_part_is(score: Score) -> None:
    encoded = CODEC.encode(score)
    lineup = read_lineup(encoded.ids)
    if len(score.parts) > 1:
        assert [part.role for part in lineup] == [part.role for part in score.parts]
        assert [part.family for part in lineup] == [
            DRUM_KIT if part.is_drums else find_family(part.program) for part in score.parts
        ]
    drums = frozenset(number for number, part in enumerate(score.parts) if part.is_drums)
    assert find_drum_parts(encoded.ids) == drums


def test_one_part_with_a_role_has_a_line_up() -> None:
    part = Part("flute", 73, role="melody")
    encoded = CODEC.encode(Score((Note(0, 60, 48, 99),), (Mark(48, "bar"),), (part,)))
    assert [description.role for description in read_lineup(encoded.ids)] == ["melody"]
    assert CODEC.decode(encoded.ids, encoded.setting).score.parts == (part,)


def test_one_part_at_its_own_level_without_a_role_has_no_line_up() -> None:
    part = Part("flute", 73)
    marks = (Mark(0, "meter", Meter(2, 4)), Mark(96, "bar"))
    score = Score((Note(0, 60, 48, 99), Note(48, 62, 48, 99)), marks, (part,))
    assert names(score)[3:] == [
        "parts=1", "bar", "duration=48", "pitch=0", "duration=48", "pitch=2", "end",
    ]  # fmt: skip
    encoded = CODEC.encode(score)
    assert CODEC.decode(encoded.ids, encoded.setting).score.parts == (part,)


def test_levels_are_written_where_a_voice_changes_its_own() -> None:
    line = ((0, 60, 48, 80), (48, 62, 48, 80), (96, 64, 48, 112), (144, 65, 48, 112))
    notes = (*(Note(*note) for note in line), Note(192, 60, 192, 80))
    marks = (Mark(0, "meter", Meter(4, 4)), Mark(192, "bar"), Mark(384, "bar"))
    assert names(Score(notes, marks))[3:] == [
        "lineup=1", "role=", "family=piano",
        "bar", "duration=48", "pitch=0", "duration=48", "pitch=2",
        "level=6", "duration=48", "pitch=4", "duration=48", "pitch=5",
        "bar", "level=4", "duration=192", "pitch=0", "end",
    ]  # fmt: skip


def test_notes_of_a_chord_may_differ_in_level() -> None:
    notes = (Note(0, 42, 96, 50), Note(0, 36, 96, 112), Note(96, 42, 96, 50))
    marks = (Mark(0, "meter", Meter(4, 4)), Mark(192, "bar"))
    score = Score(notes, marks, (Part("kit", is_drums=True, role="drums"),))
    assert names(score)[3:] == [
        "lineup=1", "role=drums", "level=2", "family=drum kit", "bar",
        "duration=96", "drum=42", "level=6", "drum=36",
        "level=2", "duration=96", "drum=42", "end",
    ]  # fmt: skip


def test_table_of_older_models_is_the_beginning_of_the_table() -> None:
    first = "\n".join(MEASURES.names[:FIRST_TABLE]).encode()
    assert hashlib.sha256(first).hexdigest()[:16] == "81be1f7dbafe7769"
    MEASURES.check(MEASURES.names[:FIRST_TABLE], "an older model")
    with pytest.raises(Mismatch, match="differs from this program's"):
        MEASURES.check((*MEASURES.names, "another"), "a newer model")


@given(st.integers(0, 10**9), st.booleans())
def test_walks_over_line_ups_are_whole_in_all_parts(seed: int, ends_on_tonic: bool) -> None:
    tonics = TONICS if ends_on_tonic else frozenset[int]()
    rules = Rules(
        BAND_IDS, min_bars=3, max_bars=3, drum_parts=None, final_pitch_ids=tonics,
        needs_pitches=ends_on_tonic,
    )  # fmt: skip
    ids = walk_rules(rules, random.Random(seed))
    lineup = read_lineup(ids)
    parts = tuple(
        Part(
            "", 0 if part.is_drums else find_typical_program(part.family), part.is_drums, part.role
        )
        for part in lineup
    )
    velocities = tuple(int(LEVEL_VELOCITIES[part.level]) for part in lineup)
    decoded = CODEC.decode(ids, Setting(parts=parts, velocities=velocities))
    assert decoded.dropped == 0
    assert all(bar.kind != "irregular" for bar in find_bars(decoded.score))
    assert [part.role == "drums" for part in parts] == [part.is_drums for part in parts]
    if ends_on_tonic:
        first = min(number for number, part in enumerate(parts) if not part.is_drums)
        assert last_heads(ids, (first, 0))[0] in TONICS


def last_heads(ids: list[int], voice: tuple[int, int]) -> list[int]:
    """Return the notes that are struck last in a voice, the highest first."""
    contents = [split_by_voice(bar.content).get(voice, ()) for bar in BarSplit.of(ids).bars]
    heads: list[int] = []
    for before, id_ in pairwise(id_ for content in contents for id_ in content):
        if MEASURES.events[id_].kind in ("pitch", "drum"):
            is_first = MEASURES.events[before].kind == "duration"
            heads = [id_] if is_first else [*heads, id_]
    return heads


def follow(*event_names: str, rules: Rules) -> MeasuresGrammar:
    grammar = MeasuresGrammar(rules)
    for name in ("meter=4/4", "mode=major", "rhythm=", *event_names):
        id_ = MEASURES.names.index(name)
        assert id_ in grammar.legal_ids(), name
        grammar.take(id_)
    return grammar


def legal_names(grammar: MeasuresGrammar) -> set[str]:
    return {MEASURES.names[id_] for id_ in grammar.legal_ids()}


def test_role_of_drums_has_the_drum_kit_and_no_other_role_has() -> None:
    rules = Rules(BAND_IDS)
    drums = follow("lineup=3", "role=drums", rules=rules)
    assert {name for name in legal_names(drums) if "family" in name} == {"family=drum kit"}
    bass = follow("lineup=3", "role=bass", rules=rules)
    assert {name for name in legal_names(bass) if "family" in name} == {
        "family=reed",
        "family=bass",
    }


def test_line_up_may_be_required() -> None:
    wanted = PartRule(
        frozenset([MEASURES.id("role", "bass")]), frozenset([MEASURES.id("family", "bass")])
    )
    grammar = follow("lineup=3", rules=Rules(BAND_IDS, lineup=(wanted,)))
    assert legal_names(grammar) == {"role=bass"}
    grammar.take(MEASURES.id("role", "bass"))
    assert {name for name in legal_names(grammar) if "level" not in name} == {"family=bass"}


def test_last_bar_must_have_the_voice_that_ends_on_the_tonic() -> None:
    rules = Rules(
        BAND_IDS, min_bars=1, max_bars=1, final_pitch_ids=TONICS, needs_pitches=True
    )  # fmt: skip
    lineup = ("lineup=3", "role=drums", "family=drum kit", "role=drums", "family=drum kit")
    grammar = follow(*lineup, rules=rules)
    assert "role=drums" not in legal_names(grammar)
    bar = (*lineup, "role=melody", "family=reed", "bar", "duration=192", "drum=36")
    full = legal_names(follow(*bar, rules=rules))
    assert "end" not in full
    assert "part=2" in full
    ended = legal_names(follow(*bar, "part=2", "duration=192", "pitch=0", rules=rules))
    assert "end" in ended


def test_models_of_older_tables_have_no_line_up() -> None:
    rules = Rules(frozenset(range(1, FIRST_TABLE)))
    grammar = MeasuresGrammar(rules)
    for name in ("meter=4/4", "mode=major", "rhythm="):
        grammar.take(MEASURES.names.index(name))
    assert all(name.startswith("parts=") for name in legal_names(grammar))
    grammar.take(MEASURES.id("parts", 2))
    for name in ("bar", "duration=48", "pitch=0"):
        grammar.take(MEASURES.names.index(name))
    assert not any(name.startswith("level") for name in legal_names(grammar))


def test_restated_levels_sound_the_same_after_other_bars() -> None:
    notes = [Note(step, 60, 48, 127 if step >= 96 else 80) for step in range(0, 384, 48)]
    marks = (Mark(0, "meter", Meter(4, 4)), Mark(192, "bar"), Mark(384, "bar"))
    ids = CODEC.encode(Score(tuple(notes), marks)).ids
    header = measure_header(ids)
    second_bar = ids.index(MEASURES.id("bar"), header + 1) + 1
    restated = restate_levels(ids, second_bar, len(ids) - 1)
    assert MEASURES.names[restated[0]] == "level=7"
    assert restated[1:] == ids[second_bar:-1]
    first_bar = ids[header + 1 : second_bar - 1]  # it has a level before its first note
    assert restate_levels(ids, header + 1, second_bar - 1) == first_bar


def test_part_with_an_unknown_role_is_refused() -> None:
    with pytest.raises(InvalidValue, match="role 'leader' is unknown: choose one of melody, bass"):
        Part(role="leader")


def test_each_family_has_a_typical_program_of_its_own() -> None:
    assert [find_family(find_typical_program(family)) for family in FAMILIES] == list(FAMILIES)


def test_voices_without_names_and_instruments_need_no_lineup() -> None:
    notes = (Note(0, 72, 192), Note(0, 60, 192, part=1))
    assert "parts=2" in names(Score(notes, parts=(Part(), Part())))
    assert "parts=2" in names(Score(notes, parts=(Part("first"), Part("second"))))
    assert "lineup=2" in names(Score(notes, parts=(Part(), Part(program=33))))
    assert "lineup=2" in names(Score(notes, parts=(Part(role="melody"), Part(role="bass"))))


def test_more_parts_than_can_be_written_are_refused_by_their_number() -> None:
    parts = tuple(Part(f"{number}") for number in range(18))
    notes = tuple(Note(0, 60, 192, part=number) for number in range(18))
    with pytest.raises(Refusal, match="18 parts, and at most 16 can be written"):
        CODEC.encode(Score(notes, parts=parts))
