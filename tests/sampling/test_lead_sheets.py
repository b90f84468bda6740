"""Chord symbols as a part: given or drawn, asked for by `chords`, met exactly or refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import pytest

from musicgen.errors import InvalidValue
from musicgen.formats import read
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.symbols_part import SYMBOLS_PART, has_symbols_part
from musicgen.music.theory import Key, Meter, normalize_chord
from musicgen.sampling.chord_sheets import FEWEST_BARS, format_chord_sheet, make_chord_score
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.measures import MeasuresCodec
from musicgen.trained_model import Model, load
from tests.command_runner import run
from tests.fake_models import (
    LEAD_SEEN_IDS,
    RandomEngine,
    may_be_seen_in_lead_sheets,
    untrained,
)

CODEC: Final = MeasuresCodec()
CHORDS: Final = "D | D | G A7 | D"
MELODY: Final = """X:1
M:6/8
L:1/8
K:G
|: GAB d2B | cAF G3 | GAB d2B | AFD G3 :|
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sheets"
    corpus = {"densities": {"melody": (2, 5)}}
    return untrained(path, is_seen=may_be_seen_in_lead_sheets, corpus=corpus)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


@pytest.fixture
def melody(tmp_path: Path) -> Path:
    path = tmp_path / "melody.abc"
    path.write_text(MELODY)
    return path


def list_chords(score: Score) -> list[tuple[int, str]]:
    return [(mark.onset, mark.value) for mark in score.of("chord")]


def list_notes(score: Score) -> list[tuple[int, int, int]]:
    return [(note.onset, note.pitch, note.duration) for note in score.notes]


def test_sampled_sheets_have_a_silent_part_of_symbols() -> None:
    for seed in range(4):
        sampler = Sampler(RandomEngine(seed), LEAD_SEEN_IDS)
        parts = ("melody,symbols", "symbols,melody")[seed % 2]
        options = SamplingOptions.parse(parts=parts, bars=4, form="through", end="tonic")
        encoded = sampler.sample_encoded(options, Noise(seed))
        decoded = CODEC.decode(encoded.ids, encoded.setting)
        assert decoded.dropped == 0
        symbols = next(n for n, part in enumerate(decoded.score.parts) if part.role == "symbols")
        assert all(note.part != symbols for note in decoded.score.notes)
        assert list_chords(decoded.score)
        assert decoded.score.notes[-1].pitch % 12 == decoded.score.key.pitch_class
        assert all(bar.kind != "irregular" for bar in find_bars(decoded.score))


def test_chords_are_as_asked_and_repeated(model: Model) -> None:
    tune = model.sample(chords=CHORDS, seed=1, meter="4/4")
    bars = find_bars(tune.score)
    assert len(bars) == FEWEST_BARS
    per_round = [(0, "D"), (192, "D"), (384, "G"), (480, "A7"), (576, "D")]
    expected = [(start * 768 + step, chord) for start in range(4) for step, chord in per_round]
    assert list_chords(tune.score) == expected
    assert tune.score.key == Key("D", "major")
    assert tune.score.notes
    assert not has_symbols_part(tune.score)


@pytest.mark.parametrize("seed", range(12))
def test_random_chords_are_met_exactly(model: Model, seed: int) -> None:
    random_source = random.Random(seed)
    meter = Meter.parse(random_source.choice(["4/4", "3/4", "6/8", "2/4", "9/8"]))
    beats = meter.steps // meter.beat_steps
    names = ["D", "Em", "F#m7", "Bb7", "C/E", "N.C.", "Gdim", "Asus4", "Cmaj7"]
    bars = [
        " ".join(random_source.choices(names, k=random_source.randint(int(number == 0), beats)))
        for number in range(random_source.randint(1, 6))
    ]
    options: dict[str, Any] = {
        "bars": random_source.randint(1, 9),
        "end": random_source.choice(["any", "tonic"]),
    }
    key = random_source.choice(["D", "Am", "Edor"])
    sheet = " | ".join(chords or "%" for chords in bars)
    tune = model.sample(chords=sheet, seed=seed, key=key, meter=str(meter), **options)
    assert len(find_bars(tune.score)) == options["bars"]
    steps = []
    for number in range(options["bars"]):
        chords = bars[number % len(bars)].split()
        steps += [
            (number * meter.steps + n * beats // len(chords) * meter.beat_steps, normalize_chord(c))
            for n, c in enumerate(chords)
        ]
    assert list_chords(tune.score) == steps
    assert tune.score.key == Key.parse(key)


def test_chords_come_from_a_file_line_by_line(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "chords.txt"
    path.write_text("| G | % |\n| C D7 | G ||\n")
    tune = model.sample(chords=str(path), bars=4, seed=3)
    expected = [(0, "G"), (384, "C"), (480, "D7"), (576, "G")]
    assert list_chords(tune.score) == expected


@pytest.mark.parametrize(
    ("chords", "options", "words"),
    [
        ("D | Hx | G", {}, "'Hx' in bar 2 is not a chord"),
        ("D | G A B", {"meter": "6/8"}, "bar 2 has 3 chords, and a bar of 6/8 has 2 beats"),
        ("| |", {}, "write bars such as"),
        ("% | D", {}, "the first bar has no chord"),
        ("D", {"bars": 513}, "ask for 1 to 512"),
    ],
)
def test_impossible_chords_are_refused(
    model: Model, chords: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidValue, match=words):
        model.sample(chords=chords, **options)


def test_models_without_chord_symbols_refuse_chords() -> None:
    with pytest.raises(InvalidValue, match="does not write melodies to chords"):
        load("folk").sample(chords=CHORDS)


def test_chords_are_drawn_to_a_melody_that_stays(model: Model, melody: Path) -> None:
    (score,), _ = read(melody)
    chords = set()
    for seed in range(3):
        tune = model.sample(given=melody, seed=seed)
        assert list_notes(tune.score) == list_notes(score.canonical())
        assert list_chords(tune.score)
        chords.add(tuple(list_chords(tune.score)))
    assert len(chords) == 3


def test_chords_of_a_lead_sheet_can_be_kept_or_replaced(model: Model, melody: Path) -> None:
    sheet = MELODY.replace("GAB d2B | c", '"G"GAB d2B | "D7"c')
    melody.write_text(sheet)
    (score,), _ = read(melody)
    with pytest.raises(InvalidValue, match="nothing is left to draw"):
        model.sample(given=melody)
    kept = model.sample(given=melody, given_parts="symbols", seed=2)
    assert list_chords(kept.score) == list_chords(score)
    assert kept.score.end == score.end
    assert list_notes(kept.score) != list_notes(score)
    replaced = model.sample(given=melody, given_parts="melody", seed=2)
    assert list_notes(replaced.score) == list_notes(score.canonical())
    assert list_chords(replaced.score) != list_chords(score)


def test_kept_bars_state_the_chord_that_goes_on_in_them(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "sheet.abc"
    path.write_text('X:1\nM:4/4\nL:1/1\nK:C\n"C"c | "G7/B"B | B | "C"c |]\n')
    for seed in range(3):
        tune = model.sample(given=path, given_parts="melody,symbols:3-4", seed=seed)
        kept = [chord for chord in list_chords(tune.score) if chord[0] >= 384]
        assert kept == [(384, "G7/B"), (576, "C")]


def test_given_melody_may_have_an_instrument_that_the_model_has_not_met(model: Model) -> None:
    notes = tuple(Note(48 * n, 62 + n, 48) for n in range(8))
    score = Score(notes, (Mark(384, "bar"), Mark(192, "bar")), (Part("fiddle", 40),))
    tune = model.sample(given=score, seed=1)
    assert [(part.name, part.program) for part in tune.score.parts] == [("fiddle", 40)]
    assert list_chords(tune.score)


def test_parts_of_a_tune_are_kept_in_variants(model: Model) -> None:
    tune = model.sample(bars=4, form="through", seed=5)
    other_chords = tune.tweak(keep="melody", seed=6)
    assert list_notes(other_chords.score) == list_notes(tune.score)
    other_melody = tune.tweak(keep="symbols", seed=6)
    assert list_chords(other_melody.score) == list_chords(tune.score)


@pytest.mark.parametrize("suffix", [".mid", ".abc"])
def test_tweak_without_options_writes_the_same_bytes(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    arguments = ["--model", str(folder), "--seed", "1", "--chords", CHORDS]
    run("sample", *arguments, "--out", str(first))
    run("tweak", str(first), "--model", str(folder), "--out", str(second))
    assert first.read_bytes() == second.read_bytes()


def test_sheet_of_chords_is_a_score_without_notes() -> None:
    score = make_chord_score("Am | E7", bars=3)
    assert score.parts == (SYMBOLS_PART,)
    assert score.key == Key("A", "minor")
    assert not score.notes
    assert len(find_bars(score)) == 3


@pytest.mark.parametrize(
    ("text", "meter"),
    [("D | % | G A7 | D", "4/4"), ("N.C. | C#m | F#7", "3/4"), ("Bb | Eb F7", "6/8")],
)
def test_chord_sheet_is_read_as_it_is_written(text: str, meter: str) -> None:
    bars = text.count("|") + 1
    score = make_chord_score(text, meter=Meter.parse(meter), bars=bars)
    again = make_chord_score(format_chord_sheet(score), meter=Meter.parse(meter), bars=bars)
    assert list(again.of("chord")) == list(score.of("chord"))


@pytest.mark.parametrize(
    ("form", "bars", "sheet", "repeats"),
    [
        ("AABB", 16, "D | G | A7", "D G A7 D : G A7 D G :"),
        ("AABA", 16, "D | G | A7 | D | Bm | Em", "D G A7 D : Bm Em D G D G A7 D"),
        ("ABCB", 8, "D | % | % | G", "D - D G D - D G"),
        ("ABAC", 8, "D | N.C.", "D N.C. D N.C. D N.C. D N.C."),
    ],
)
def test_chords_are_repeated_over_the_letters_of_a_form(
    model: Model, form: str, bars: int, sheet: str, repeats: str
) -> None:
    tune = model.sample(chords=sheet, form=form, bars=bars, end="tonic", key="D", seed=3)
    score = tune.score
    chords = dict(list_chords(score))
    ends = {mark.onset for mark in score.of("repeat_end")}
    written = [
        chords.get(bar.start, "-") + (" :" if bar.end in ends else "") for bar in find_bars(score)
    ]
    assert " ".join(written) == repeats
    assert count_heard_bars(score) == bars
    assert score.notes[-1].pitch % 12 == score.key.pitch_class
    assert tune.tweak() == tune


def test_letter_that_returns_has_its_notes_again(model: Model) -> None:
    score = model.sample(chords="D | A7 | Bm | G", form="ABCB", bars=8, seed=4).score
    bar = score.meter.steps
    sections = [
        [
            (onset % (2 * bar), *rest)
            for onset, *rest in list_notes(score)
            if onset // (2 * bar) == n
        ]
        for n in range(4)
    ]
    assert sections[1] == sections[3] != sections[0]


@pytest.mark.parametrize(
    "options", [{"density": "melody=low"}, {"end": "cadence"}, {"range": "D4-D6"}]
)
def test_letter_that_returns_is_the_same_under_other_options(
    model: Model, options: dict[str, Any]
) -> None:
    for seed in range(3):
        score = model.sample(
            chords="D | G | A7 | D", form="ABA", bars=6, key="D", meter="4/4", seed=seed, **options
        ).score
        assert_returns(score, 0, 2)


def assert_returns(score: Score, first: int, again: int, bars: int = 2) -> None:
    """Check that a section of so many bars has the notes of another one."""
    steps = bars * score.meter.steps
    sections = [
        {(onset % steps, *rest) for onset, *rest in list_notes(score) if onset // steps == number}
        for number in (first, again)
    ]
    assert sections[0] == sections[1]


def test_chords_may_have_every_written_bar_of_a_form(model: Model) -> None:
    once = model.sample(chords="D | G | A7 | D", form="AABA", bars=8, seed=1)
    sheet = format_chord_sheet(once.score)
    assert sheet.count("|") == 5  # A, B and A are written
    again = model.sample(chords=sheet, form="AABA", bars=8, seed=1)
    assert again.score == once.score
    with pytest.raises(InvalidValue, match="chords: bar 5 is bar 1 again in this form"):
        model.sample(chords="D | G | A7 | D | Em | G", form="AABA", bars=8, seed=1)


@pytest.mark.parametrize(("sheet", "bars"), [("D | G | A7 | D | Em | G | A7 | D", 16),
                                             ("D | G | A7 | D", 32)])  # fmt: skip
def test_letters_share_the_chords_where_no_bars_are_asked_for(
    model: Model, sheet: str, bars: int
) -> None:
    tune = model.sample(chords=sheet, form="AABB", seed=1)
    assert count_heard_bars(tune.score) == bars


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pickup": "1/4"}, "chords: a tune to chords has no pickup"),
        ({"max_copy": 8}, "chords: runs to given chords are not limited"),
    ],
)
def test_options_that_chords_exclude_are_named(
    model: Model, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidValue, match=words):
        model.sample(chords=CHORDS, **options)


def test_form_stays_where_parts_are_kept() -> None:
    tune = load("lead").sample(chords="D | G | A7 | D", form="ABA", bars=6, seed=3)
    for keep in ("symbols", "symbols,melody:1-2", "symbols,melody:3-4"):
        variant = tune.tweak(keep=keep, seed=5)
        assert variant.score != tune.score
        assert_returns(variant.score, 0, 2)


def test_candidates_do_not_shorten_a_letter_that_returns(model: Model) -> None:
    tune = model.sample(chords="D | G | A7 | D", form="ABA", bars=6, seed=2)
    redrawn = model.sample(given=tune.score, given_parts="melody", form="ABA", candidates=3, seed=1)
    assert list_notes(redrawn.score) == list_notes(tune.score)


def test_form_of_a_file_with_a_pickup_is_taken(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "pickup.abc"
    path.write_text("X:1\nM:2/4\nL:1/4\nK:D\n|: D | FA | B :|\n|: A | FD | E :|\n")
    tune = model.sample(given=path, form="AABB", seed=1)
    assert tune.score == model.sample(given=path, seed=1).score


def test_repeats_contradict_a_form_without_them(model: Model, melody: Path) -> None:
    with pytest.raises(InvalidValue, match="form through: the repeats are those of the given"):
        model.sample(given=melody, form="through", seed=1)


def test_chords_need_room_in_the_letters(model: Model) -> None:
    with pytest.raises(InvalidValue, match="there are 5 bars, and the letters of the form have 4"):
        model.sample(chords="D | G | D | A7 | D", form="AABB", bars=8)


def test_form_of_given_parts_is_theirs_or_refused(model: Model, melody: Path) -> None:
    formed = model.sample(given=melody, form="AA", seed=1)
    assert formed.score == model.sample(given=melody, seed=1).score
    for form in ("AABB", "AB"):
        with pytest.raises(InvalidValue, match="the repeats are those of the given parts"):
            model.sample(given=melody, form=form, seed=1)
    with pytest.raises(InvalidValue, match="bars 8: the form AAB has 3 parts of equal length"):
        model.sample(given=melody, form="AAB", seed=1)


def test_given_bars_that_differ_where_a_letter_returns_are_refused(model: Model) -> None:
    score = make_chord_score("D | G | A7 | D", bars=4)
    with pytest.raises(InvalidValue, match="bar 3 is bar 1 again, and what is given of the two"):
        model.sample(given=score, form="ABAC", seed=1)


def test_score_without_chord_symbols_has_no_chord_sheet() -> None:
    assert format_chord_sheet(Score([Note(0, 60, 48)])) == ""
