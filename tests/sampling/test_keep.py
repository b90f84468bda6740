"""Bars that are kept stay as they were; the others are drawn so that they lead into them."""

from __future__ import annotations

import random

import pytest

from musicgen import Model, Tune, load
from musicgen.errors import InvalidValue
from musicgen.sampling.keep import parse_bars
from musicgen.sampling.recipe import Order
from musicgen.tokens.bars import Written
from tests.models import untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(untrained(tmp_path_factory.mktemp("models") / "untrained"))


def bars_of(model: Model, order: Order) -> dict[int, list[tuple[int, ...]]]:
    """Return the ids of each numbered bar: its own and its pickup's."""
    written = Written.of(model.carried_out(order).encoded.ids)
    found: dict[int, list[tuple[int, ...]]] = {}
    for bar in written.bars:
        found.setdefault(bar.number, []).append((*bar.opening, *bar.content))
    return found


def check_kept(model: Model, tune: Tune, luck: random.Random) -> None:
    before = bars_of(model, tune.recipe.order)
    chosen = sorted(luck.sample(sorted(before), luck.randint(1, len(before))))
    keep = ",".join(map(str, chosen))
    other = tune.tweak(keep=keep, candidates=3)
    after = bars_of(model, other.recipe.order)
    assert after.keys() == before.keys()
    for number in chosen:
        assert after[number] == before[number]
    assert other.bars == tune.bars
    again = other.tweak()
    assert (again.score, again.recipe) == (other.score, other.recipe)


FORMS = (None, "AABB", "ABAC", "AABA")


@pytest.mark.parametrize("number", range(12))
def test_kept_bars_stay(model: Model, number: int) -> None:
    luck = random.Random(number)
    form = luck.choice(FORMS)
    tune = model.sample(seed=number, bars=luck.choice((8, 16)), form=form)
    check_kept(model, tune, luck)


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
        luck = random.Random(number)
        tune = folk.sample(seed=number, bars=16, form=luck.choice(FORMS))
        check_kept(folk, tune, luck)


def test_bars_that_are_not_kept_are_new(model: Model) -> None:
    tune = model.sample(seed=1, bars=8, form="through")
    other = tune.tweak(keep="1-4")
    before, after = (bars_of(model, one.recipe.order) for one in (tune, other))
    assert all(before[n] == after[n] for n in range(1, 5))
    assert all(before[n] != after[n] for n in range(5, 9))
    assert other.told == ("bars 5-8: drawn",)


def test_what_candidates_are_worth_is_told(model: Model) -> None:
    tune = model.sample(seed=1, bars=8, form="through").tweak(keep="1-3,6-8", candidates=5)
    assert tune.told[0].startswith("bars 4-5: chosen from 5 candidates, which are worth ")


@pytest.mark.parametrize(
    ("words", "ranges"), [("1-8", ((1, 8),)), ("3", ((3, 3),)), ("1-2, 5-6", ((1, 2), (5, 6)))]
)
def test_bars_are_read(words: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert parse_bars(words) == ranges


@pytest.mark.parametrize("words", ["", "0", "8-1", "a-b", "1-", "-3", "1--2"])
def test_bars_that_are_none_are_refused(words: str) -> None:
    with pytest.raises(InvalidValue, match="write bars such as 1-8 or 1-8,13-16"):
        parse_bars(words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": "9"}, "keep 9: the tune has 8 bars as they are written"),
        ({"keep": "1", "candidates": 0}, "candidates 0: weigh 1 to 512"),
        ({"keep": "1", "meter": "1/16"}, "meter: what is kept of it does not allow another"),
        ({"keep": "1-8", "range": "C-1-D-1"}, "what is asked for leaves it out|range"),
    ],
)
def test_what_does_not_go_with_what_is_kept_is_refused(
    model: Model, changes: dict[str, object], said: str
) -> None:
    tune = model.sample(seed=1, bars=8, meter="4/4", form="through")
    with pytest.raises(InvalidValue, match=said):
        tune.tweak(**changes)  # type: ignore[arg-type]
