"""The receipt of performances: copies are found at another tempo, in another key, and shaken."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from musicgen.music.melodic_runs import NO_RATIO, PAUSE_MILLISECONDS, RunColumns, find_runs
from musicgen.music.milliseconds import PERFORMANCE_QPM
from musicgen.music.score import Mark, Note, Score
from musicgen.similarity.note_index import Label, NoteIndex, extract_notes
from musicgen.similarity.overlap_report import OverlapIndex

TEMPO = Mark(0, "tempo", PERFORMANCE_QPM)


def play(seed: int, count: int = 200) -> Score:
    """Return chords of one to three notes, 120 to 480 ms apart, at random pitches."""
    rng = random.Random(seed)
    notes, now = [], 0
    for _ in range(count):
        pitches = rng.sample(range(40, 90), rng.randint(1, 3))
        notes += [Note(now + rng.randrange(20), pitch, 200, 64) for pitch in pitches]
        now += rng.choice((120, 240, 480))
    return Score(tuple(notes), (TEMPO,), title=f"piece {seed}")


def index(*performances: Score) -> OverlapIndex:
    return OverlapIndex(
        NoteIndex.of(
            (extract_notes(score), Label(score.title, "live.mid", number, number))
            for number, score in enumerate(performances, 1)
        )
    )


def alter(score: Score, **changes: object) -> Score:
    """Return a score whose notes have changed fields, each a function of the note."""
    return replace(
        score,
        notes=tuple(
            replace(note, **{name: int(change(note)) for name, change in changes.items()})  # type: ignore[operator]
            for note in score.notes
        ),
    )


def test_runs_are_the_highest_notes_of_strikes() -> None:
    notes = (Note(0, 60, 90), Note(30, 67, 90), Note(200, 62, 90), Note(390, 64, 90))
    columns = RunColumns.of(Score((*notes, Note(420, 50, 90), Note(800, 65, 90)), (TEMPO,)))
    assert columns.onsets.tolist() == [0, 200, 390, 800]
    assert columns.pitches.tolist() == [67, 62, 64, 65]
    assert columns.intervals.tolist() == [0, -5, 2, 1]
    assert columns.rhythms.tolist() == [NO_RATIO, 3, 4, NO_RATIO]  # 190 of 200 ms; 410 of 190


def test_pause_ends_a_run() -> None:
    first, second = Note(0, 60, 100), Note(PAUSE_MILLISECONDS, 62, 100)
    assert [len(run) for run in find_runs(Score((first, second), (TEMPO,)))] == [2]
    later = replace(second, onset=PAUSE_MILLISECONDS + 1)
    assert [len(run) for run in find_runs(Score((first, later), (TEMPO,)))] == [1, 1]


def test_performance_without_notes_has_no_runs() -> None:
    assert find_runs(Score((), (TEMPO,))) == ()
    assert index(play(1)).make_receipt(Score((), (TEMPO,))).notes == 0


@given(st.integers(0, 50), st.integers(-12, 12), st.floats(0.6, 1.6))
def test_copy_is_found_in_any_key_and_tempo(seed: int, semitones: int, factor: float) -> None:
    """Ratios stay away from the bounds between two classes, so that rounding moves none."""
    receipts = index(play(seed + 1), play(seed)).make_receipt(
        alter(play(seed), pitch=lambda note: note.pitch + semitones,
              onset=lambda note: note.onset * factor)
    )  # fmt: skip
    assert receipts.longest is not None
    assert receipts.share > 0.5
    assert receipts.longest.label.title == f"piece {seed}"


def test_shaken_copy_is_still_found() -> None:
    rng = np.random.default_rng(1)
    shaken = alter(play(7), onset=lambda note: max(0, note.onset + int(rng.integers(-5, 6))))
    receipt = index(play(7)).make_receipt(shaken)
    assert receipt.share > 0.3
    assert receipt.longest is not None
    assert receipt.longest.notes >= 16


def test_other_piece_shares_no_long_run() -> None:
    receipt = index(play(1), play(2)).make_receipt(play(3))
    assert receipt.share == 0
    assert receipt.longest is None or receipt.longest.notes < 8


def test_places_are_seconds_in_words_and_json() -> None:
    receipt = index(play(7)).make_receipt(play(7))
    (run,) = receipt.runs
    end = max(note.onset for note in play(7).notes) // 1_000
    assert run.place == run.their_place == f"0:00-{end // 60}:{end % 60:02d}"
    assert f"notes, {run.place}, from 'piece 7' (live.mid, tune 1), {run.place}" in (
        receipt.format_line()
    )
    data = receipt.to_json()
    assert data["seconds"] == data["tune_seconds"] == [0, end]
    assert "bars" not in data
    assert data["runs"][0]["seconds"] == [0, end]


def test_index_of_performances_survives_a_file() -> None:
    written = index(play(7), play(8))
    again = OverlapIndex(NoteIndex.from_bytes(written.note_index.to_bytes()))
    assert again.make_receipt(play(8)) == written.make_receipt(play(8))
