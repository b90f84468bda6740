"""Bars that are kept stay as they were; the others are drawn so that they lead into them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from musicgen import Model, Tune, load
from musicgen.errors import InvalidValue
from musicgen.sampling.kept_bars import KeepRequest
from musicgen.sampling.recipe import GenerationRequest, Recipe
from musicgen.tokens.bar_split import BarSplit
from musicgen.tokens.vocabulary import MEASURES
from tests.fake_models import untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(untrained(tmp_path_factory.mktemp("models") / "untrained"))


def bars_of(model: Model, request: GenerationRequest) -> dict[int, list[tuple[int, ...]]]:
    """Return the ids of each numbered bar: its own and its pickup's."""
    written = BarSplit.of(model.generate(request).encoded.ids)
    bars: dict[int, list[tuple[int, ...]]] = {}
    for bar in written.bars:
        bars.setdefault(bar.number, []).append((*bar.opening, *bar.content))
    return bars


def check_kept(model: Model, tune: Tune, rng: random.Random) -> None:
    before = bars_of(model, tune.recipe.request)
    chosen = sorted(rng.sample(sorted(before), rng.randint(1, len(before))))
    keep = ",".join(map(str, chosen))
    variant = tune.tweak(keep=keep, candidates=3)
    after = bars_of(model, variant.recipe.request)
    assert after.keys() == before.keys()
    for number in chosen:
        assert after[number] == before[number]
    assert variant.bars == tune.bars
    again = variant.tweak()
    assert (again.score, again.recipe) == (variant.score, variant.recipe)


FORMS = (None, "AABB", "ABAC", "AABA")


@pytest.mark.parametrize(
    "number", [*range(5), *(pytest.param(n, marks=pytest.mark.promises) for n in range(5, 40))]
)
def test_kept_bars_stay(model: Model, number: int) -> None:
    rng = random.Random(number)
    form = rng.choice(FORMS)
    tune = model.sample(seed=number, bars=rng.choice((8, 16)), form=form)
    check_kept(model, tune, rng)


def test_kept_bars_of_folk_stay() -> None:
    folk = load("folk")
    for number in range(3):
        tune = folk.sample(seed=number, bars=16, form=FORMS[number])
        check_kept(folk, tune, random.Random(number))


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(10))
def test_300_tunes_of_folk_keep_what_is_kept(chunk: int) -> None:
    folk = load("folk")
    for number in range(30 * chunk, 30 * chunk + 30):
        rng = random.Random(number)
        tune = folk.sample(seed=number, bars=rng.choice((8, 8, 16)), form=rng.choice(FORMS))
        check_kept(folk, tune, rng)


def test_bars_that_are_not_kept_are_new(model: Model) -> None:
    tune = model.sample(seed=1, bars=8, form="through")
    variant = tune.tweak(keep="1-4")
    before, after = (bars_of(model, original.recipe.request) for original in (tune, variant))
    assert all(before[n] == after[n] for n in range(1, 5))
    assert all(before[n] != after[n] for n in range(5, 9))
    assert variant.messages == ("bars 5-8: drawn",)


def test_effective_candidates_are_reported(model: Model) -> None:
    tune = model.sample(seed=1, bars=8, form="through").tweak(keep="1-3,6-8", candidates=5)
    assert tune.messages[0].startswith("bars 4-5: chosen from 5 candidates, which are worth ")


@pytest.mark.parametrize(
    ("words", "ranges"), [("1-8", ((1, 8),)), ("3", ((3, 3),)), ("1-2, 5-6", ((1, 2), (5, 6)))]
)
def test_bars_are_read(words: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert KeepRequest.parse(words) == KeepRequest(ranges)


@pytest.mark.parametrize("words", ["", "0", "8-1", "1-", "-3", "1--2", ":1", "a:", "a:b"])
def test_invalid_bar_ranges_are_refused(words: str) -> None:
    with pytest.raises(InvalidValue, match="write bars such as 1-8 or 1-8,13-16"):
        KeepRequest.parse(words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "9"}, "keep 9: the tune has 8 bars as they are written"),
        ({"keep": "1", "candidates": 0}, "candidates 0: weigh 1 to 512"),
        ({"keep": "1", "meter": "1/16"}, "meter: its kept part does not allow another"),
        ({"keep": "1-8", "range": "C-1-D-1"}, "what is asked for leaves it out|range"),
    ],
)
def test_changes_that_contradict_kept_bars_are_refused(
    model: Model, changes: dict[str, object], message: str
) -> None:
    tune = model.sample(seed=1, bars=8, meter="4/4", form="through")
    with pytest.raises(InvalidValue, match=message):
        tune.tweak(**changes)  # type: ignore[arg-type]


def mutants(ids: list[int], rng: random.Random) -> Iterator[list[int]]:
    """Yield the ids of a tune with small faults, as a damaged or edited recipe has them."""
    yield ids[::-1]
    yield []
    for length in (3, 4, 5, len(ids) - 1):
        yield ids[:length]
    for _ in range(6):
        here, there = sorted(rng.sample(range(4, len(ids)), 2))
        yield [*ids[:here], *ids[there:]]
        yield [*ids[:here], rng.randrange(len(MEASURES)), *ids[here:]]
        swapped = list(ids)
        swapped[here], swapped[there] = swapped[there], swapped[here]
        yield swapped
        yield [*ids[:here], rng.randrange(len(MEASURES)), *ids[here + 1 :]]


@pytest.mark.parametrize(
    "form", [None, "ABAC", *(pytest.param(f, marks=pytest.mark.promises) for f in ("AABB", "AABA"))]
)
def test_a_corrupted_kept_tune_is_valid_or_refused(model: Model, form: str | None) -> None:
    tune = model.sample(seed=3, bars=8, form=form).tweak(keep="1-2,4", candidates=1)
    bars = json.loads(json.dumps(tune.recipe.to_json()))
    refused: list[str] = []
    for ids in mutants(bars["keep"]["ids"], random.Random(0)):
        text = json.dumps(bars | {"keep": bars["keep"] | {"ids": ids}})
        try:
            model.sample_request(Recipe.from_text(text).request)
        except InvalidValue as fault:
            refused.append(str(fault))
    assert len(refused) > 15
    assert all("\n" not in line and len(line) < 300 for line in refused)
    assert model.sample_request(Recipe.from_text(json.dumps(bars)).request).score == tune.score


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drawn": {"meter": "3/4"}}, "meter=3/4: the tune that is kept has meter=4/4"),
        ({"wishes": {"bars": 4}}, "the kept tune: bar has no place in bar 4"),
        ({"wishes": {"bars": 16}}, "the kept tune: end has no place in bar 8"),
        ({"wishes": {"form": "AABB"}}, "the kept tune: bar has no place in bar 0"),
    ],
)
def test_a_kept_tune_is_of_the_form_that_is_asked_for(
    model: Model, changes: dict[str, dict[str, Any]], message: str
) -> None:
    tune = model.sample(seed=1, bars=8, meter="4/4", form="through", pickup=0)
    bars = tune.tweak(keep="1-2", candidates=1).recipe.to_json()
    changed = bars | {name: bars[name] | change for name, change in changes.items()}
    changed["wishes"].pop("meter")
    with pytest.raises(InvalidValue, match=message):
        model.sample_request(Recipe.from_text(json.dumps(changed)).request)


def test_letter_that_returns_has_the_same_last_chord(model: Model) -> None:
    for seed in (0, 21, 24, 39, 58, 62):
        bars = bars_of(
            model, model.sample(seed=seed, bars=6, form="ABA", pickup="0").recipe.request
        )
        assert [bars[1], bars[2]] == [bars[5], bars[6]]
