from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.tokens.codec import Decoded, Setting, find_first_illegal
from musicgen.tokens.frames import (
    EIGHTH,
    FRAMES,
    SIXTEENTH,
    Frame,
    FramesCodec,
    FramesGrammar,
    decode_frames,
    encode_frames,
    frames_to_notes,
    score_to_frames,
)
from tests.random_walks import walk_codec
from tests.strategies import scores

CODEC = FramesCodec()
PITCHES = st.integers(0, 127)


def rolls() -> st.SearchStrategy[list[Frame]]:
    return st.lists(st.frozensets(PITCHES, max_size=6), max_size=30)


def names(score: Score) -> list[str]:
    return [FRAMES.names[id_] for id_ in CODEC.encode(score).ids]


@given(rolls())
def test_decoding_undoes_encoding_of_rolls(roll: list[Frame]) -> None:
    assert decode_frames(encode_frames(roll)) == (tuple(roll), 0)


@given(rolls(), st.sampled_from((EIGHTH, SIXTEENTH)), st.integers(1, 127))
def test_score_decoded_from_frames_round_trips(
    roll: list[Frame], steps: int, velocity: int
) -> None:
    codec = FramesCodec("any", steps)
    setting = Setting(title="Roll", rhythm="air", tempos=((0, 96.5),), parts=(Part("harp", 46),))
    score = codec.decode(encode_frames(roll), setting).score
    assert score_to_frames(score, steps) == tuple(roll)
    encoded = codec.encode(score)
    assert (encoded.ids, encoded.lost) == (encode_frames(roll), 0)
    assert codec.decode(encoded.ids, encoded.setting) == Decoded(score, 0)


@given(scores(drums=False))
def test_lost_notes_are_counted_and_lost_only_once(score: Score) -> None:
    encoded = CODEC.encode(score)
    decoded = CODEC.decode(encoded.ids, encoded.setting)
    assert decoded.dropped == 0
    assert len(decoded.score.notes) + encoded.lost == len(score.unfolded().notes)
    again = CODEC.encode(decoded.score)
    assert (again.ids, again.setting, again.lost) == (encoded.ids, encoded.setting, 0)


@given(scores(drums=False))
def test_encoded_scores_obey_the_grammar(score: Score) -> None:
    assert find_first_illegal(CODEC.encode(score).ids, CODEC.create_grammar(strict=False)) is None


@given(st.lists(st.integers(0, len(FRAMES) - 1), max_size=200))
def test_decoding_accepts_any_ids(ids: list[int]) -> None:
    decoded = CODEC.decode(ids, Setting())
    assert 0 <= decoded.dropped <= len(ids)
    encoded = CODEC.encode(decoded.score)
    assert encoded.lost == 0
    assert CODEC.decode(encoded.ids, encoded.setting).score.notes == decoded.score.notes


@given(st.integers(0, 10**9), st.integers(1, 120))
def test_every_walk_yields_a_piece_without_dropped_ids(seed: int, max_ids: int) -> None:
    ids = walk_codec(CODEC, random.Random(seed), max_ids)
    decoded = CODEC.decode(ids, Setting())
    assert decoded.dropped == 0
    assert decoded.score.notes
    assert list(CODEC.encode(decoded.score).ids) == ids


def test_encoding_of_a_small_roll() -> None:
    score = Score((Note(0, 60, 48), Note(0, 64, 24), Note(24, 67, 24), Note(72, 60, 24)))
    assert names(score) == [
        "pitch=64", "pitch=60", "frame", "pitch=67", "pitch=60", "frame", "frame",
        "pitch=60", "frame", "end",
    ]  # fmt: skip


def test_repeated_note_is_held_and_counted_as_lost() -> None:
    score = Score((Note(0, 60, 24), Note(24, 60, 24), Note(60, 72, 8)))
    encoded = CODEC.encode(score)
    assert encoded.lost == 2  # the second C, and a note between two frames
    (note,) = CODEC.decode(encoded.ids, encoded.setting).score.notes
    assert note == Note(0, 60, 48)


def test_shorter_frames_lose_fewer_notes() -> None:
    score = Score(tuple(Note(12 * number, 60 + number, 12) for number in range(8)))
    assert CODEC.encode(score).lost == 4
    assert FramesCodec("frames-16", SIXTEENTH).encode(score).lost == 0


def test_encoding_unfolds_repeats() -> None:
    score = Score((Note(0, 60, 24), Note(24, 62, 24)), (Mark(48, "repeat_end", 2),))
    assert names(score).count("frame") == 4


def test_reading_a_file_unfolds_repeats() -> None:
    book = b"X:1\nM:6/8\nL:1/8\nK:G\n|:D|GAB c2A|G3 G2:|\n"
    (score,), refusals = CODEC.read(book, ".abc")
    assert not refusals
    assert len(score.notes) == 2 * 8
    assert [mark.onset for mark in score.of("bar")] == [score.end]
    (original,), _ = formats.parse(book, ".abc")
    assert CODEC.encode(score).ids == CODEC.encode(original).ids


def test_parts_are_merged_and_drums_refused() -> None:
    parts = Part("voice", 52), Part("kit", 0, is_drums=True)
    assert CODEC.encode(Score((Note(0, 60, 48),), (), parts)).setting.parts == parts[:1]
    with pytest.raises(Refusal, match="drums cannot be merged"):
        CODEC.encode(Score((Note(0, 38, 48, part=1),), (), parts))


def test_unusable_ids_are_counted() -> None:
    end, frame, low, high = (FRAMES.names.index(n) for n in ("end", "frame", "pitch=1", "pitch=9"))
    roll, dropped = decode_frames([0, low, low, high, frame, high, end, low, 999, -1])
    assert roll == (frozenset({1}), frozenset({9}))
    assert dropped == 6


def test_pitches_descend_in_a_frame() -> None:
    grammar = FramesGrammar(1000)
    grammar.take(FRAMES.id("pitch", 2))
    assert {FRAMES.names[id_] for id_ in grammar.legal_ids()} == {"frame", "pitch=0", "pitch=1"}
    grammar.take(FRAMES.id("frame"))
    assert {"end", "frame", "pitch=127"} <= {FRAMES.names[id_] for id_ in grammar.legal_ids()}


def test_pitch_in_consecutive_frames_is_one_note() -> None:
    roll = [frozenset({60, 64}), frozenset({60}), frozenset[int](), frozenset({60})]
    assert list(frames_to_notes(roll, 10)) == [
        Note(0, 64, 10), Note(0, 60, 20), Note(30, 60, 10),
    ]  # fmt: skip
