"""The receipt: exact, blind to keys, honest about what it could not compare."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.errors import DamagedCheckpoint
from musicgen.music.score import Note, Part, Score
from musicgen.similarity.note_index import MAGIC, MAX_BYTES, NoteIndex
from musicgen.similarity.overlap_report import RUN_NOTES, OverlapIndex, Receipt, SharedRun
from tests.related_tunes import duets, indexed, line, lines, slow_copied, slow_longest
from tests.strategies import scores

SCALE = [(60 + step, 24) for step in (0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2, 0, 2)]
JUMPS = [(60 + step, 24) for step in (0, 7, 3, 12, 1, 9, 5, 14, 2, 11, 4, 13, 6, 0, 10, 3)]


@settings(max_examples=150)
@given(lines(), st.lists(lines(), max_size=4))
def test_it_agrees_with_comparing_each_note_with_each(score: Score, known: list[Score]) -> None:
    found = indexed(known).make_receipt(score)
    longest = found.longest.notes if found.longest else 0
    assert longest == slow_longest(score, known)
    assert (found.copied_runs, found.run_count) == slow_copied(score, known)


@settings(max_examples=60)
@given(duets(), st.lists(duets(), max_size=3))
def test_parts_chords_and_drums_too(score: Score, known: list[Score]) -> None:
    found = indexed(known).make_receipt(score)
    longest = found.longest.notes if found.longest else 0
    assert longest == slow_longest(score, known)


@settings(max_examples=100)
@given(lines(), st.lists(lines(), min_size=1, max_size=3))
def test_what_is_told_stands_there(score: Score, known: list[Score]) -> None:
    """Each run is in the training tune that is named, at its bars; none has a note of another."""
    taken: set[int] = set()
    for run in indexed(known).make_receipt(score).runs:
        other = known[run.label.number - 1]
        assert slow_longest(_between(score, run), [_bars_of(other, run)]) == run.notes
        here = {note.onset for note in score.notes if run.onset <= note.onset < run.end}
        assert len(here) == run.notes
        assert not here & taken
        taken |= here


def _between(score: Score, run: SharedRun) -> Score:
    kept = tuple(note for note in score.notes if run.onset <= note.onset < run.end)
    return Score(kept, score.marks)


def _bars_of(score: Score, run: SharedRun) -> Score:
    first, last = run.their_bars
    kept = tuple(n for n in score.notes if first <= n.onset // 96 + 1 <= last)
    return Score(kept, score.marks)


@settings(max_examples=50)
@given(lines(), st.lists(lines(), min_size=1, max_size=3), st.integers(-12, 12))
def test_it_does_not_know_the_key(score: Score, known: list[Score], semitones: int) -> None:
    index = indexed(known)
    assert index.make_receipt(score.transpose(semitones)) == index.make_receipt(score)


@settings(max_examples=50)
@given(scores(), st.lists(scores(), min_size=1, max_size=2))
def test_any_score_has_a_receipt(score: Score, known: list[Score]) -> None:
    found = indexed(known).make_receipt(score)
    longest = found.longest.notes if found.longest else 0
    assert longest == slow_longest(score, known)
    assert found.format_line().isprintable()
    assert json.loads(json.dumps(found.to_json()))["longest_run"] == longest


def test_a_copy_is_named_with_its_bars_and_marked() -> None:
    tune = line([*JUMPS[:3], *SCALE, *JUMPS], "Mine")
    index = indexed([line(JUMPS, "Other"), line([*JUMPS[:5], *SCALE], "The Scale")])
    found = index.make_receipt(tune)
    assert found.longest is not None
    assert (found.longest.notes, found.longest.label.title) == (16, "Other")
    found = index.make_receipt(line([*JUMPS[3:6], *SCALE], "Mine"))
    assert found.longest is not None
    assert found.longest.label.title == "The Scale"
    assert (found.longest.bars, found.longest.their_bars) == ((1, 5), (2, 6))
    assert (found.longest.onset, found.longest.end) == (72, 19 * 24)
    assert [run.notes for run in index.make_receipt(tune).runs] == [16, 16]


def test_a_rest_and_another_rhythm_break_a_run() -> None:
    index = indexed([line(SCALE)])
    for notes, longest in (
        ([*SCALE[:10], (0, 24), *SCALE[10:]], 10),
        ([*SCALE[:10], (SCALE[10][0], 48), *SCALE[11:]], 10),
        ([*SCALE[:10], (SCALE[10][0] + 1, 24), *SCALE[11:]], 10),
        ([(pitch, 2 * steps) for pitch, steps in SCALE], 0),
    ):
        found = index.make_receipt(line(notes))
        assert (found.longest.notes if found.longest else 0) == longest


def test_ties_are_joined() -> None:
    over_the_bar = [*SCALE[:3], (70, 72), *SCALE[3:]]
    index = indexed([line(over_the_bar)])
    found = index.make_receipt(line([(60, 24), *over_the_bar], start=48))
    assert found.longest is not None
    assert found.longest.notes == 17


def test_of_tunes_that_share_the_longest_run_the_one_that_shares_most_is_named() -> None:
    once, twice = line([*SCALE, (0, 24), *SCALE[:3]], "Once"), line([*SCALE, (0, 24), *JUMPS[:9]])
    tune = line([*JUMPS[:9], (0, 48), *SCALE])
    for known in ([once, twice], [twice, once]):
        longest = indexed(known).make_receipt(tune).longest
        assert longest is not None
        assert longest.label.title == ""
    longest = indexed([once, once]).make_receipt(tune).longest
    assert longest is not None
    assert longest.label.number == 1


def test_a_group_can_be_left_out() -> None:
    index = indexed([line(SCALE, "a"), line(SCALE, "b"), line(SCALE[:9], "c")], groups=[4, 4, 5])
    found = index.make_receipt(line(SCALE), excluded_group=4)
    assert found.longest is not None
    assert (found.longest.notes, found.longest.label.title) == (9, "c")


@pytest.mark.parametrize(
    "score",
    [
        Score(),
        Score((Note(0, 36, 24, part=0),), parts=(Part(is_drums=True),)),
    ],
)
def test_without_notes_it_says_so(score: Score) -> None:
    found = indexed([line(SCALE)]).make_receipt(score)
    assert (found.longest, found.share, found.notes) == (None, 0.0, 0)
    assert found.format_line() == "there are no notes to compare with the training tunes"
    assert found.to_json()["tune"] is None


def test_it_is_placed_among_real_tunes() -> None:
    known = indexed([line(SCALE)]).note_index.with_reference_stats(
        [12, 4, 8, 8], [0.5, 0.0, 0.1, 0.25]
    )
    found = OverlapIndex(known).make_receipt(line(SCALE[:12]))
    assert (found.longer_than, found.more_than) == (0.75, 1.0)
    words = found.format_line()
    assert "is 12 of 12 notes, bars 1-3, from book.abc, tune 1, bars 1-3" in words
    assert "longer than in 75% of real tunes" in words
    assert "100% of the 8-note runs are copied, more than in 100% of real tunes" in words


def test_words_of_titles_steer_no_terminal() -> None:
    title = "A\x1b[31m 'red'\ntune"
    longest = indexed([line(SCALE, title)]).make_receipt(line(SCALE))
    assert longest.format_line().isprintable()


@settings(max_examples=30)
@given(st.lists(lines(), max_size=4), lines())
def test_bytes_give_the_same_index(known: list[Score], score: Score) -> None:
    index = OverlapIndex(indexed(known).note_index.with_reference_stats([3, 5], [0.25, 0.5]))
    again = OverlapIndex.from_bytes(index.note_index.to_bytes())
    assert again.make_receipt(score) == index.make_receipt(score)
    assert again.note_index.to_bytes() == index.note_index.to_bytes()
    rebuilt = NoteIndex.of(again.note_index.to_tunes()).with_reference_stats([3, 5], [0.25, 0.5])
    assert rebuilt.to_bytes() == again.note_index.to_bytes()


def test_many_durations_have_numbers_of_two_bytes() -> None:
    notes = [(60 + number % 12, 1 + number) for number in range(400)]
    index = OverlapIndex.from_bytes(indexed([line(notes)]).note_index.to_bytes())
    longest = index.make_receipt(line(notes[300:])).longest
    assert longest is not None
    assert longest.notes == 100


@pytest.fixture(scope="module")
def data() -> bytes:
    return indexed([line(SCALE, "One"), line(JUMPS, "Two")]).note_index.to_bytes()


@pytest.mark.parametrize("cut", [0, 7, 15, 16, 40, -1])
def test_half_an_index_is_refused(data: bytes, cut: int) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"receipt\.bin: it is no receipt index"):
        OverlapIndex.from_bytes(data[:cut])


def test_more_than_an_index_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedCheckpoint, match="longer or shorter"):
        OverlapIndex.from_bytes(data + b"x")


def test_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedCheckpoint, match="MGNOTES9"):
        OverlapIndex.from_bytes(b"MGNOTES9" + data[8:])


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(2**22), 9)
    for told, words in ((MAX_BYTES + 1, "over"), (100, "longer or shorter")):
        with pytest.raises(DamagedCheckpoint, match=words):
            OverlapIndex.from_bytes(MAGIC + struct.pack("<Q", told) + bomb)


def test_what_contradicts_itself_is_refused_and_never_crashes(data: bytes) -> None:
    """Change bytes of what is packed: it is refused, or still an index that can be asked."""
    luck = np.random.default_rng(1)
    body = bytearray(zlib.decompress(data[16:]))
    refused = 0
    for _ in range(300):
        changed = body.copy()
        changed[luck.integers(len(body))] = luck.integers(256)
        packed = MAGIC + struct.pack("<Q", len(changed)) + zlib.compress(bytes(changed))
        try:
            assert isinstance(OverlapIndex.from_bytes(packed).make_receipt(line(SCALE)), Receipt)
        except DamagedCheckpoint:
            refused += 1
    assert refused > 50


def test_runs_under_eight_notes_are_the_longest_only() -> None:
    found = indexed([line(JUMPS)]).make_receipt(line([*JUMPS[:5], (0, 24), *JUMPS[8:12]]))
    assert [run.notes for run in found.runs] == [5]
    assert RUN_NOTES == 8
