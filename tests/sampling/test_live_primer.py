"""Primers of live notes: a performance goes on from some seconds of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen import Mark, Model, Note, Part, Score, load
from musicgen.errors import InvalidValue, Refusal
from musicgen.sampling.live_primer import LivePrimer, fit_live_primer
from musicgen.sampling.primer_choice import PrimerChoice, parse_seconds
from musicgen.sampling.recipe import Recipe
from musicgen.tokens.codec import find_first_illegal
from musicgen.tokens.performance import PERFORMANCE, PerformanceCodec
from tests.fake_models import untrained
from tests.tokens.test_performance import performances

CODEC = PerformanceCodec()
MARKS = (Mark(0, "tempo", 1250.0),)
PLAYED = Score(
    tuple(Note(250 * n, 60 + n % 7, 400, 40 + n) for n in range(40)), MARKS, (Part("piano"),)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = untrained(tmp_path_factory.mktemp("models") / "live", codec="performance")
    return load(folder)


def fit(score: Score, seconds: str | None = None) -> LivePrimer:
    return fit_live_primer(score, CODEC, "played.mid", PrimerChoice.parse(None, None, seconds))


@given(performances(), st.integers(0, 12), st.integers(1, 12))
def test_primer_is_the_start_of_the_encoded_notes(score: Score, first: int, length: int) -> None:
    """What is cut out of a performance can go on to an end that the grammar allows."""
    if not any(first <= note.onset / 1_000 < first + length for note in score.notes):
        with pytest.raises(InvalidValue, match="it has no notes"):
            fit(score, f"{first}-{first + length}")
        return
    primer = fit(score, f"{first}-{first + length}")
    assert find_first_illegal(primer.ids, CODEC.create_grammar(strict=False)) is None
    assert primer.end <= 1_000 * length
    onsets = [
        note for note in score.notes if first * 1_000 <= note.onset < 1_000 * (first + length)
    ]
    started = [id_ for id_ in primer.ids if PERFORMANCE.events[id_].kind == "on"]
    assert len(onsets) - 2 <= len(started) <= len(onsets)  # rounded to 10 ms at the cut


def test_performance_goes_on_from_the_notes(model: Model) -> None:
    tune = model.sample(primer=PLAYED, primer_seconds="0-5", seed=1)
    expected = [(note.onset, note.pitch) for note in PLAYED.notes if note.onset < 5_000]
    starts = [(note.onset, note.pitch) for note in tune.score.notes]
    assert starts[: len(expected)] == expected
    assert len(starts) > len(expected)
    assert tune.messages == ()


def test_same_recipe_gives_the_same_notes(model: Model) -> None:
    tune = model.sample(primer=PLAYED, primer_seconds="2-4", seed=1)
    recipe = Recipe.from_text(tune.recipe.to_text())
    assert recipe == tune.recipe
    assert model.sample_request(recipe.request).score == tune.score
    assert tune.tweak().score == tune.score
    assert tune.tweak(temperature=0.5).score != tune.score


def test_primer_can_be_left_out(model: Model) -> None:
    whole = model.sample(primer=PLAYED, primer_seconds="2-4", seed=1)
    rest = model.sample(primer=PLAYED, primer_seconds="2-4", seed=1, no_primer=True)
    primer = whole.recipe.request.primer
    assert isinstance(primer, LivePrimer)
    later = [(n.onset - primer.end, n.pitch) for n in whole.score.notes if n.onset >= primer.end]
    assert [(note.onset, note.pitch) for note in rest.score.notes] == later


def test_written_score_is_played_out(model: Model) -> None:
    written = Score(
        tuple(Note(48 * n, 60 + n, 48) for n in range(4)),
        (Mark(0, "tempo", 60.0), Mark(192, "bar")), (Part("a"), Part("b")),
    )  # fmt: skip
    primer = fit(written)
    assert primer.changes == ("its 2 parts are played as one",)
    assert primer.end == 4_000


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (PrimerChoice(part="2"), "a performance is one part; leave --primer-part out"),
        (PrimerChoice(bars=(1, 4)), "a performance has no bars; choose seconds with"),
        (PrimerChoice(seconds=(60, 70)), "it has no notes from 60 to 70 s; it lasts 10.2 s"),
    ],
)
def test_what_a_performance_lacks_is_refused(choice: PrimerChoice, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        fit_live_primer(PLAYED, CODEC, "played.mid", choice)


def test_long_primer_is_refused_with_a_way_out() -> None:
    long = Score(tuple(Note(100 * n, 40 + n % 40, 90, 64) for n in range(2_000)), MARKS)
    with pytest.raises(InvalidValue, match=r"at most 4,096, so choose some of it with --primer-s"):
        fit(long)
    assert len(fit(long, "0-15").ids) < 1_000


def test_silence_and_drums_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"played.mid: it has no notes$"):
        fit(Score((), MARKS))
    with pytest.raises(Refusal, match="drums cannot be merged"):
        fit(Score((Note(0, 36, 100),), MARKS, (Part(is_drums=True),)))


@pytest.mark.parametrize(
    ("text", "seconds"), [("0-15", (0, 15)), ("15", (0, 15)), (" 1.5 - 2.25 ", (1.5, 2.25))]
)
def test_seconds_are_read(text: str, seconds: tuple[float, float]) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5-3", "3-3", "-4", "0", "1-2-3", "1e9", "999999"])
def test_malformed_seconds_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"primer-seconds '.*': write seconds such as 0-15"):
        parse_seconds(text)


def test_model_that_counts_bars_takes_no_seconds(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "model"))
    with pytest.raises(InvalidValue, match="the model counts bars; choose some of them with"):
        model.sample(primer=PLAYED, primer_seconds="0-5")


def test_other_models_without_bars_take_no_primer(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "model", codec="frames"))
    with pytest.raises(InvalidValue, match="a primer: a model of codec frames has no bars"):
        model.sample(primer=PLAYED)
