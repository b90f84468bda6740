"""Cadences that are asked for by bar: each is met, or the request is refused with the reason."""

from __future__ import annotations

import pytest

from musicgen.errors import InvalidValue
from musicgen.music.bars import find_bars
from musicgen.music.score import CHOIR_ROLES, Score
from musicgen.music.voice_lines import name_cadence, read_voice_lines
from musicgen.sampling import cadence_drawing
from musicgen.sampling.cadences import parse_cadences
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import CHOIR_BARS, SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.song_form import THROUGH
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import load
from tests.fake_models import RandomEngine, may_be_seen
from tests.sampling.test_choirs import CHOIR_SEEN, CHOIR_SEEN_IDS, complete


def draw(seed: int, **options: object) -> Score:
    sampler = Sampler(RandomEngine(seed), CHOIR_SEEN_IDS)
    return sampler.sample(complete(CHOIR_SEEN, **{"bars": 3, **options}), Noise(1, seed))


def name_at_end_of(score: Score, bar: int) -> str:
    """Return the cadence at the last fermata of a bar, or at the end of the tune; "" for none."""
    bars = find_bars(score)
    span = bars[bar if bars[0].kind == "partial" else bar - 1]
    voices = read_voice_lines(score)
    assert voices is not None
    ends = [i for i in voices.phrase_ends.tolist() if span.start <= voices.onsets[i] < span.end]
    return name_cadence(voices, ends[-1]) if ends else ""


def test_cadences_are_sorted_by_bar() -> None:
    points = parse_cadences("16=authentic, 8 = Half")
    assert points.by_bar == ((8, "half"), (16, "authentic"))
    assert str(points) == "8=half,16=authentic"


@pytest.mark.parametrize("text", ["", "8", "8=other", "0=half", "half", "8=half,8=half", "x=half"])
def test_unknown_cadences_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="cadence"):
        parse_cadences(text)


def test_tune_with_cadences_is_as_long_as_they_need_and_has_no_repeats() -> None:
    options = complete(CHOIR_SEEN, cadence="8=half")
    assert (options.form, options.bars) == (THROUGH, CHOIR_BARS)
    assert complete(CHOIR_SEEN, cadence="20=authentic").bars == 20
    assert complete(CHOIR_SEEN, cadence="2=half", form="AABB").form == "AABB"


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cadence_drawing, "DRAWS", 6)
    monkeypatch.setattr(cadence_drawing, "CLOSING_DRAWS", 4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("asked", ["3=half", "3=plagal", "2=half"])
def test_each_cadence_is_met_or_refused(seed: int, asked: str) -> None:
    points = parse_cadences(asked)
    try:
        score = draw(seed, cadence=asked)
    except InvalidValue as refusal:
        assert f"cadence {asked}: none of" in str(refusal)  # noqa: PT017
        return
    assert [name_at_end_of(score, bar) for bar, _ in points.by_bar] == [
        kind for _, kind in points.by_bar
    ]


def test_same_seed_gives_the_same_tune_and_a_met_cadence_changes_nothing() -> None:
    model = load("chorale")
    for seed in range(40):
        free = model.sample(bars=3, form=THROUGH, end="any", seed=seed).score
        if (kind := name_at_end_of(free, 3)) in ("half", "plagal"):
            asked = model.sample(bars=3, form=THROUGH, end="any", cadence=f"3={kind}", seed=seed)
            assert asked.score.notes == free.notes
            return
    pytest.fail("no tune ends with a cadence")


def test_bars_and_parts_that_a_tune_lacks_are_refused() -> None:
    with pytest.raises(InvalidValue, match="ends with bar 3, before bar 4"):
        draw(1, cadence="4=half")
    melodies = frozenset(id_ for id_, event in enumerate(MEASURES.events) if may_be_seen(event))
    options = SamplingOptions.parse(cadence="2=half", bars=3)
    with pytest.raises(InvalidValue, match="not voices of a choir"):
        Sampler(RandomEngine(1), melodies).sample(options, Noise(1, 1))


@pytest.mark.parametrize("seed", range(3))
def test_bass_of_a_choir_ends_on_the_tonic(seed: int) -> None:
    options = complete(CHOIR_SEEN, bars=3, form=THROUGH)
    assert options.end == "close"
    score = draw(seed, form=THROUGH)
    bass = [note for note in score.notes if note.part == 3]
    assert bass[-1].pitch % 12 == score.key.pitch_class
    assert complete(CHOIR_SEEN, end="any").end == "any"


@pytest.mark.parametrize("seed", range(4))
def test_letter_that_returns_at_the_end_closes_the_tune(seed: int) -> None:
    model = load("chorale")
    tune = model.sample(form="ABA", bars=6, seed=seed)
    harmonised = model.sample(given=tune.score, given_parts="soprano", form="ABA", seed=seed + 20)
    for score in (tune.score, harmonised.score):
        lowest = max(range(4), key=lambda part: CHOIR_ROLES.index(score.parts[part].role))
        *_, last = (note.pitch for note in score.notes if note.part == lowest)
        assert last % 12 == score.key.pitch_class
