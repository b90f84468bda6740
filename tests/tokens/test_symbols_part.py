"""A part of chord symbols: the codec writes the symbols in its place, and the grammar allows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import Refusal
from musicgen.music.score import Mark, Note, Score
from musicgen.music.symbols_part import (
    SYMBOLS_PART,
    add_symbols_part,
    has_symbols_part,
    without_symbols_part,
)
from musicgen.tokens.codec import Decoded
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vertical_context import VerticalContext, find_cursor
from musicgen.tokens.vocabulary import MEASURES
from tests.strategies import scores

CODEC: Final = MeasuresCodec()
CHORDS: Final = ("D", "Em7", "A7/C#", "N.C.", "Bdim")
TUNE: Final = Score(
    tuple(Note(48 * n, 62 + n, 48) for n in range(8)),
    (Mark(0, "chord", "C"), Mark(96, "chord", "G7/B"), Mark(384, "bar"), Mark(192, "bar")),
)


@st.composite
def lead_sheets(draw: st.DrawFn) -> Score:
    """Draw a tune with chord symbols, in either order of its parts."""
    score = draw(scores())
    score = replace(score, parts=score.parts[:1], notes=[n for n in score.notes if n.part == 0])
    steps = draw(st.lists(st.integers(0, max(1, score.end // 12)), max_size=6, unique=True))
    marks = [Mark(12 * step, "chord", draw(st.sampled_from(CHORDS))) for step in steps]
    others = [mark for mark in score.marks if mark.kind != "chord"]
    sheet = replace(score, marks=(*others, *marks), parts=(*score.parts, SYMBOLS_PART))
    return sheet.select_parts((1, 0)) if draw(st.booleans()) else sheet


@given(lead_sheets())
def test_decoding_undoes_encoding(score: Score) -> None:
    encoded = CODEC.encode(score)
    canonical = score.canonical_with_dynamics()
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)


@given(lead_sheets())
def test_grammar_allows_each_id_and_chords_in_their_part_alone(score: Score) -> None:
    walk = CODEC.create_grammar(strict=False)
    symbols = score.parts.index(SYMBOLS_PART)
    for id_ in CODEC.encode(score).ids:
        assert id_ in walk.legal_ids()
        if MEASURES.events[id_].kind in ("chord", "no_chord", "bass"):
            assert walk.voice == (symbols, 0)
        walk.take(id_)
    assert walk.is_done


def list_events(score: Score) -> str:
    return " ".join(MEASURES.names[id_] for id_ in CODEC.encode(score).ids)


def test_symbols_are_written_before_or_after_the_melody() -> None:
    sheet = add_symbols_part(TUNE)
    assert list_events(sheet.select_parts((1,))).endswith(
        "lineup=1 role=symbols family=piano bar chord=0  duration=96 rest chord=7 7 bass=11"
        " duration=96 rest bar duration=192 rest end"
    )
    after = "part=1 chord=0  duration=96 rest chord=7 7 bass=11 duration=96 rest bar"
    assert after in list_events(sheet)
    before = "bar chord=0  duration=96 rest chord=7 7 bass=11 duration=96 rest part=1 duration=48"
    assert before in list_events(sheet.select_parts((1, 0)))


def test_tunes_without_the_part_keep_their_ids() -> None:
    assert "parts=1 bar chord=0  duration=48 pitch=2" in list_events(TUNE)


def test_melody_sees_the_chord_that_sounds() -> None:
    sheet = add_symbols_part(TUNE).select_parts((1, 0))
    walk, context = CODEC.create_grammar(strict=False), VerticalContext()
    seen = []
    for id_ in CODEC.encode(sheet).ids:
        if MEASURES.events[id_].kind == "pitch":
            seen.append(context.fields[7:10])
        before = find_cursor(walk)
        walk.take(id_)
        context = context.take(id_, before, find_cursor(walk))
    assert [root for root, _, _ in seen] == [1, 1, 8, 8, 8, 8, 8, 8]
    assert [bass for _, _, bass in seen] == [0, 0, 12, 12, 12, 12, 12, 12]


def test_part_can_be_added_and_removed() -> None:
    sheet = add_symbols_part(TUNE)
    assert has_symbols_part(sheet)
    assert add_symbols_part(sheet) == sheet
    assert without_symbols_part(sheet).marks == TUNE.marks
    assert not has_symbols_part(without_symbols_part(sheet))
    bare = replace(TUNE, marks=())
    assert not has_symbols_part(add_symbols_part(bare))


def test_notes_in_the_part_are_refused() -> None:
    sheet = add_symbols_part(TUNE)
    notes = (*sheet.notes, Note(0, 60, 48, part=1))
    with pytest.raises(Refusal, match="its part of chord symbols has notes"):
        CODEC.encode(replace(sheet, notes=notes))
