"""Primers: any notes, in any key, meter or tempo, of any length, fitted and followed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen import Key, Mark, Meter, Model, Note, Part, Score, load
from musicgen.errors import InvalidValue, MusicgenError
from musicgen.formats import abc
from musicgen.music.bars import count_heard_bars
from musicgen.sampling.primer import Primer, PrimerTable
from musicgen.typed_data import check_schema
from tests.fake_models import untrained

IDEA = "X:1\nT:idea\nM:6/8\nL:1/8\nQ:3/8=100\nR:jig\nK:Em\nB|EBB ABd|BAG FED|EBB ABd|ef"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(untrained(tmp_path_factory.mktemp("models") / "untrained"))


def idea(text: str = IDEA) -> Score:
    (score,), _ = abc.parse(text)
    return score


def begins(score: Score, notes: list[tuple[int, int, int]]) -> bool:
    found = [(n.onset, n.pitch, n.duration) for n in score.notes[: len(notes)]]
    # the last note may be held on
    return found[:-1] == notes[:-1] and found[-1][:2] == notes[-1][:2]


def notes_of(score: Score) -> list[tuple[int, int, int]]:
    return [(note.onset, note.pitch, note.duration) for note in score.notes]


def test_a_tune_goes_on_from_inside_a_bar(model: Model) -> None:
    tune = model.sample(primer=idea(), bars=8, seed=1)
    assert begins(tune.score, notes_of(idea()))
    assert (tune.score.key, tune.score.meter) == (Key("E", "minor"), Meter(6, 8))
    assert (tune.score.qpm, tune.score.rhythm, tune.bars) == (150, "jig", 8)
    assert tune.messages == ()


def test_a_primer_is_transposed_to_the_requested_key(model: Model) -> None:
    tune = model.sample(primer=idea(), bars=8, key="Am", seed=1)
    moved = [(onset, pitch + 5, duration) for onset, pitch, duration in notes_of(idea())]
    assert begins(tune.score, moved)
    assert tune.messages == ("it is moved from E minor to A minor",)


def test_a_primer_is_rebarred_in_another_meter(model: Model) -> None:
    tune = model.sample(primer=idea(), bars=8, meter="4/4", seed=1)
    assert begins(tune.score, notes_of(idea()))
    assert tune.score.meter == Meter(4, 4)
    assert tune.messages == ("its bars are cut anew, in 4/4 instead of 6/8",)


def test_a_primer_fills_the_first_part_of_a_form(model: Model) -> None:
    tune = model.sample(primer=idea(), form="AABB", bars=16, seed=1)
    assert begins(tune.score, notes_of(idea()))
    assert tune.bars == 16


def test_without_the_primer_only_what_is_new_is_written(model: Model) -> None:
    whole = model.sample(primer=idea(), bars=8, seed=1)
    rest = model.sample(primer=idea(), bars=8, seed=1, no_primer=True)
    assert not begins(rest.score, notes_of(idea()))
    played = whole.score.unfolded()
    start = idea().end
    expected = [(n.onset - start, n.pitch, n.duration) for n in played.notes if n.onset >= start]
    assert notes_of(rest.score) == expected


NOTE_ROWS = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 127), st.integers(1, 200)),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.promises)])
def test_any_notes_are_fitted(model: Model, count: int) -> None:
    @settings(max_examples=count)
    @given(NOTE_ROWS, st.integers(0, 5))
    def check(rows: list[tuple[int, int, int]], seed: int) -> None:
        noise = Score(tuple(Note(*row) for row in rows))
        tune = model.sample(primer=noise, bars=24, seed=seed)
        assert tune.bars == count_heard_bars(tune.score) == 24

    check()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Score(), "primer: it has no notes"),
        (Score((Note(0, 40, 48),), parts=(Part(is_drums=True),)), "primer: it has no notes"),
        (
            Score(tuple(Note(48 * n, 60, 48) for n in range(4 * 200))),
            "it lasts 200 bars; a primer has at most 128",
        ),
        (
            Score((Note(0, 60, 48),), (Mark(0, "meter", Meter(17, 16)),)),
            "its meter is 17/16, and the model knows .* add --meter",
        ),
    ],
)
def test_unusable_primers_are_refused(model: Model, score: Score, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        model.sample(primer=score, seed=1)


def test_a_long_primer_is_refused_at_once(model: Model) -> None:
    score = Score(tuple(Note(n, 60 + n % 12, 1) for n in range(60_000)))
    start = time.process_time()
    with pytest.raises(InvalidValue, match="60,000 notes; a primer has at most 10,000, so cut it"):
        model.sample(primer=score, seed=1)
    assert time.process_time() - start < 1  # it took a minute and a half


def test_a_primer_of_the_most_notes_is_fitted_in_seconds(model: Model) -> None:
    notes = (Note(2 * n, 40 + m, 3) for n in range(2_500) for m in range(4))
    start = time.process_time()
    assert model.sample(primer=Score(tuple(notes)), seed=1).bars > 26
    assert time.process_time() - start < 8


def test_a_primer_longer_than_the_tune_is_refused(model: Model) -> None:
    with pytest.raises(InvalidValue, match="bars 2: the primer has 4; ask for as many or more"):
        model.sample(primer=idea(), bars=2, seed=1)


def test_of_several_voices_the_highest_is_taken(model: Model) -> None:
    notes = (*(Note(48 * n, 72 + n, 48, part=1) for n in range(4)), Note(0, 48, 192))
    tune = model.sample(primer=Score(notes, parts=(Part(), Part())), bars=4, seed=1)
    assert begins(tune.score, [(48 * n, 72 + n, 48) for n in range(4)])
    assert tune.messages == ("of its 2 parts part 2 is taken; left out: part 1",)


def test_a_file_without_music_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "junk.mid").write_bytes(b"junk")
    with pytest.raises(MusicgenError, match="MThd is missing"):
        model.sample(primer=tmp_path / "junk.mid", seed=1)


def test_a_primer_is_written_and_read(model: Model) -> None:
    primer = model.sample(primer=idea(), bars=8, seed=1).recipe.request.primer
    assert primer is not None
    table = check_schema(primer.to_json(), PrimerTable, "primer")
    assert Primer.from_table(table) == replace(primer, changes=())


def make_song() -> Score:
    """Return a song whose highest part is a bridge, with drums and chord symbols."""
    melody = [Note(48 * n, 64 + n % 5, 48) for n in range(32)]
    bridge = [Note(96 * n, 84, 96, part=1) for n in range(16)]
    piano = [Note(192 * n, p, 192, part=2) for n in range(8) for p in (48, 52, 55)]
    drums = [Note(48 * n, 36, 12, part=3) for n in range(32)]
    parts = (Part("MELODY", 73), Part("BRIDGE"), Part("PIANO"), Part("Kit", is_drums=True))
    marks = [Mark(192 * n, "bar") for n in range(1, 9)]
    marks += [Mark(0, "key", Key("C")), Mark(0, "meter", Meter(4, 4)), Mark(0, "chord", "C")]
    return Score([*melody, *bridge, *piano, *drums], tuple(marks), parts)


MELODY_ROWS = [(48 * n, 64 + n % 5, 48) for n in range(32)]


def test_melody_of_a_song_is_taken_and_what_is_left_out_is_said_in_one_line(model: Model) -> None:
    tune = model.sample(primer=make_song(), bars=10, seed=1)
    assert begins(tune.score, MELODY_ROWS)
    assert tune.messages[0] == (
        "of its 4 parts part 1 MELODY is taken; left out: part 2 BRIDGE, part 3 PIANO, part 4 Kit,"
        " its program, flute, 1 chord symbol"
    )


@pytest.mark.parametrize("text", ["BRIDGE", "bridge", "2", "brid"])
def test_part_is_chosen_by_name_or_number(model: Model, text: str) -> None:
    tune = model.sample(primer=make_song(), primer_part=text, bars=10, seed=1)
    assert {note.pitch % 12 for note in tune.score.notes[:16]} == {0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "it has no part '5'; choose one of 1 MELODY, 2 BRIDGE, 3 PIANO"),
        ("0", "it has no part '0'"),
        ("e", "it has no part 'e'; choose one of"),
        ("Kit", "part 4 is drums; choose one of 1 MELODY"),
    ],
)
def test_part_that_cannot_be_taken_is_refused_with_the_others(
    model: Model, text: str, message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        model.sample(primer=make_song(), primer_part=text, bars=10, seed=1)


def test_bars_of_a_primer_are_chosen(model: Model) -> None:
    tune = model.sample(primer=make_song(), primer_bars="3-4", bars=6, seed=1)
    assert begins(tune.score, [(48 * n, 64 + (n + 8) % 5, 48) for n in range(8)])
    assert "bars 3-4 of it are taken" in tune.messages


def test_pickup_goes_with_the_first_bar(model: Model) -> None:
    tune = model.sample(primer=idea(), primer_bars="1", bars=6, seed=1)
    assert begins(tune.score, notes_of(idea())[:7])


@pytest.mark.parametrize(
    ("text", "message"),
    [("0", "write bars such as 1-8"), ("4-2", "write bars such as 1-8"), ("x", "write bars"),
     ("7-99", "it has no bars 7-99; it has 8")],
)  # fmt: skip
def test_bars_that_do_not_exist_are_refused(model: Model, text: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        model.sample(primer=make_song(), primer_bars=text, bars=10, seed=1)


def test_long_song_is_a_primer_if_its_bars_are_chosen(model: Model) -> None:
    song = Score([Note(48 * n, 60 + n % 5, 48) for n in range(1_000)],
                 tuple(Mark(192 * n, "bar") for n in range(1, 251)))  # fmt: skip
    with pytest.raises(InvalidValue, match="choose some of them with --primer-bars"):
        model.sample(primer=song, seed=1)
    assert model.sample(primer=song, primer_bars="100-101", bars=4, seed=1).bars == 4


def test_recipe_records_the_choice_and_gives_the_same_tune(model: Model) -> None:
    tune = model.sample(primer=make_song(), primer_part="2", primer_bars="1-2", bars=4, seed=1)
    request = tune.recipe.request
    assert request.primer is not None
    table = request.primer.to_json()
    assert (table["chosen_part"], table["chosen_bars"]) == ("2", "1-2")
    assert Primer.from_table(check_schema(table, PrimerTable, "primer")).to_json() == table
    assert model.sample_request(request).score == tune.score


def test_recipe_of_a_whole_primer_has_no_new_field(model: Model) -> None:
    primer = model.sample(primer=idea(), bars=8, seed=1).recipe.request.primer
    assert primer is not None
    assert set(primer.to_json()) == {"meter", "key", "rhythm", "tempo", "end", "bars"}


def test_bars_in_which_the_part_rests_are_refused_with_its_first_bar(model: Model) -> None:
    song = make_song()
    late = [replace(note, onset=note.onset + 384) for note in song.notes if note.part == 0]
    others = [note for note in song.notes if note.part]
    with pytest.raises(InvalidValue, match="no notes in bars 1-2; it starts in bar 3"):
        model.sample(primer=replace(song, notes=[*late, *others]), primer_bars="1-2", seed=1)
