"""The overlap report: exact, independent of key, and explicit about what it did not compare."""

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
from tests.related_tunes import count_copied_runs, duets, find_longest_run, indexed, line, lines
from tests.strategies import scores

SCALE = [(60 + step, 24) for step in (0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2, 0, 2)]
JUMPS = [(60 + step, 24) for step in (0, 7, 3, 12, 1, 9, 5, 14, 2, 11, 4, 13, 6, 0, 10, 3)]


@given(lines(), st.lists(lines(), max_size=4))
def test_receipt_agrees_with_brute_force(score: Score, training: list[Score]) -> None:
    receipt = indexed(training).make_receipt(score)
    longest = receipt.longest.notes if receipt.longest else 0
    assert longest == find_longest_run(score, training)
    assert (receipt.copied_runs, receipt.run_count) == count_copied_runs(score, training)


@given(duets(), st.lists(duets(), max_size=3))
def test_receipt_of_several_parts_agrees_with_brute_force(
    score: Score, training: list[Score]
) -> None:
    receipt = indexed(training).make_receipt(score)
    longest = receipt.longest.notes if receipt.longest else 0
    assert longest == find_longest_run(score, training)


@given(lines(), st.lists(lines(), min_size=1, max_size=3))
def test_shared_runs_occur_where_stated(score: Score, training: list[Score]) -> None:
    """Each run occurs in the named training tune, at the stated bars, and runs are disjoint."""
    covered: set[int] = set()
    for run in indexed(training).make_receipt(score).runs:
        other = training[run.label.number - 1]
        assert find_longest_run(_cut_run(score, run), [_cut_bars(other, run)]) == run.notes
        onsets = {note.onset for note in _cut_run(score, run).notes}
        assert len(onsets) == run.notes
        assert covered.isdisjoint(onsets)
        covered |= onsets


def _cut_run(score: Score, run: SharedRun) -> Score:
    notes = tuple(note for note in score.notes if run.onset <= note.onset < run.end)
    return Score(notes, score.marks)


def _cut_bars(score: Score, run: SharedRun) -> Score:
    first, last = run.their_bars
    notes = tuple(note for note in score.notes if first <= note.onset // 96 + 1 <= last)
    return Score(notes, score.marks)


@given(lines(), st.lists(lines(), min_size=1, max_size=3), st.integers(-12, 12))
def test_receipt_is_independent_of_key(score: Score, training: list[Score], semitones: int) -> None:
    index = indexed(training)
    assert index.make_receipt(score.transpose(semitones)) == index.make_receipt(score)


@given(scores(), st.lists(scores(), min_size=1, max_size=2))
def test_any_score_has_a_receipt(score: Score, training: list[Score]) -> None:
    receipt = indexed(training).make_receipt(score)
    longest = receipt.longest.notes if receipt.longest else 0
    assert longest == find_longest_run(score, training)
    assert receipt.format_line().isprintable()
    assert json.loads(json.dumps(receipt.to_json()))["longest_run"] == longest


def test_copy_is_named_with_its_bars() -> None:
    tune = line([*JUMPS[:3], *SCALE, *JUMPS], "Mine")
    index = indexed([line(JUMPS, "Other"), line([*JUMPS[:5], *SCALE], "The Scale")])
    receipt = index.make_receipt(tune)
    assert receipt.longest is not None
    assert (receipt.longest.notes, receipt.longest.label.title) == (16, "Other")
    receipt = index.make_receipt(line([*JUMPS[3:6], *SCALE], "Mine"))
    assert receipt.longest is not None
    assert receipt.longest.label.title == "The Scale"
    assert (receipt.longest.bars, receipt.longest.their_bars) == ((1, 5), (2, 6))
    assert (receipt.longest.onset, receipt.longest.end) == (72, 19 * 24)
    assert [run.notes for run in index.make_receipt(tune).runs] == [16, 16]


def test_rests_and_different_notes_break_a_run() -> None:
    index = indexed([line(SCALE)])
    for notes, longest in (
        ([*SCALE[:10], (0, 24), *SCALE[10:]], 10),
        ([*SCALE[:10], (SCALE[10][0], 48), *SCALE[11:]], 10),
        ([*SCALE[:10], (SCALE[10][0] + 1, 24), *SCALE[11:]], 10),
        ([(pitch, 2 * steps) for pitch, steps in SCALE], 0),
    ):
        receipt = index.make_receipt(line(notes))
        assert (receipt.longest.notes if receipt.longest else 0) == longest


def test_ties_are_joined_across_bar_lines() -> None:
    over_the_bar = [*SCALE[:3], (70, 72), *SCALE[3:]]
    index = indexed([line(over_the_bar)])
    receipt = index.make_receipt(line([(60, 24), *over_the_bar], start=48))
    assert receipt.longest is not None
    assert receipt.longest.notes == 17


def test_tune_that_shares_most_is_named_among_equals() -> None:
    once, twice = line([*SCALE, (0, 24), *SCALE[:3]], "Once"), line([*SCALE, (0, 24), *JUMPS[:9]])
    tune = line([*JUMPS[:9], (0, 48), *SCALE])
    for training in ([once, twice], [twice, once]):
        longest = indexed(training).make_receipt(tune).longest
        assert longest is not None
        assert longest.label.title == ""
    longest = indexed([once, once]).make_receipt(tune).longest
    assert longest is not None
    assert longest.label.number == 1


def test_group_can_be_excluded() -> None:
    index = indexed([line(SCALE, "a"), line(SCALE, "b"), line(SCALE[:9], "c")], groups=[4, 4, 5])
    receipt = index.make_receipt(line(SCALE), excluded_group=4)
    assert receipt.longest is not None
    assert (receipt.longest.notes, receipt.longest.label.title) == (9, "c")


@pytest.mark.parametrize(
    "score",
    [
        Score(),
        Score((Note(0, 36, 24, part=0),), parts=(Part(is_drums=True),)),
    ],
)
def test_receipt_without_notes_says_so(score: Score) -> None:
    receipt = indexed([line(SCALE)]).make_receipt(score)
    assert (receipt.longest, receipt.share, receipt.notes) == (None, 0.0, 0)
    assert receipt.format_line() == "there are no notes to compare with the training tunes"
    assert receipt.to_json()["tune"] is None


def test_receipt_compares_with_reference_tunes() -> None:
    training = indexed([line(SCALE)]).note_index.with_reference_stats(
        [12, 4, 8, 8], [0.5, 0.0, 0.1, 0.25]
    )
    receipt = OverlapIndex(training).make_receipt(line(SCALE[:12]))
    assert (receipt.longer_than, receipt.more_than) == (0.75, 1.0)
    words = receipt.format_line()
    assert "is 12 of 12 notes, bars 1-3, from book.abc, tune 1, bars 1-3" in words
    assert "longer than in 75% of real tunes" in words
    assert "100% of the 8-note runs are copied, more than in 100% of real tunes" in words


def test_receipt_escapes_control_characters_of_titles() -> None:
    title = "A\x1b[31m 'red'\ntune"
    longest = indexed([line(SCALE, title)]).make_receipt(line(SCALE))
    assert longest.format_line().isprintable()


@settings(max_examples=30)
@given(st.lists(lines(), max_size=4), lines())
def test_index_round_trips_through_bytes(training: list[Score], score: Score) -> None:
    index = OverlapIndex(indexed(training).note_index.with_reference_stats([3, 5], [0.25, 0.5]))
    restored = OverlapIndex.from_bytes(index.note_index.to_bytes())
    assert restored.make_receipt(score) == index.make_receipt(score)
    assert restored.note_index.to_bytes() == index.note_index.to_bytes()
    rebuilt = NoteIndex.of(restored.note_index.to_tunes()).with_reference_stats([3, 5], [0.25, 0.5])
    assert rebuilt.to_bytes() == restored.note_index.to_bytes()


def test_many_durations_use_two_byte_codes() -> None:
    notes = [(60 + number % 12, 1 + number) for number in range(400)]
    index = OverlapIndex.from_bytes(indexed([line(notes)]).note_index.to_bytes())
    longest = index.make_receipt(line(notes[300:])).longest
    assert longest is not None
    assert longest.notes == 100


@pytest.fixture(scope="module")
def data() -> bytes:
    return indexed([line(SCALE, "One"), line(JUMPS, "Two")]).note_index.to_bytes()


@pytest.mark.parametrize("cut", [0, 7, 15, 16, 40, -1])
def test_truncated_index_is_refused(data: bytes, cut: int) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"receipt\.bin: not a similarity index"):
        OverlapIndex.from_bytes(data[:cut])


def test_trailing_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedCheckpoint, match="differs from the length that it states"):
        OverlapIndex.from_bytes(data + b"x")


def test_other_format_version_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedCheckpoint, match="MGNOTES9"):
        OverlapIndex.from_bytes(b"MGNOTES9" + data[8:])


def test_decompression_bomb_is_refused() -> None:
    bomb = zlib.compress(bytes(2**22), 9)
    for stated_size, words in (
        (MAX_BYTES + 1, "exceeds"),
        (100, "differs from the length that it states"),
    ):
        with pytest.raises(DamagedCheckpoint, match=words):
            OverlapIndex.from_bytes(MAGIC + struct.pack("<Q", stated_size) + bomb)


def test_corrupted_index_is_refused_or_usable(data: bytes) -> None:
    """After a random change of a byte, the index is refused or still usable."""
    rng = np.random.default_rng(1)
    body = bytearray(zlib.decompress(data[16:]))
    refused = 0
    for _ in range(300):
        changed = body.copy()
        changed[rng.integers(len(body))] = rng.integers(256)
        packed = MAGIC + struct.pack("<Q", len(changed)) + zlib.compress(bytes(changed))
        try:
            assert isinstance(OverlapIndex.from_bytes(packed).make_receipt(line(SCALE)), Receipt)
        except DamagedCheckpoint:
            refused += 1
    assert refused > 50


def test_only_the_longest_run_may_be_under_eight_notes() -> None:
    receipt = indexed([line(JUMPS)]).make_receipt(line([*JUMPS[:5], (0, 24), *JUMPS[8:12]]))
    assert [run.notes for run in receipt.runs] == [5]
    assert RUN_NOTES == 8
