"""A tune of which nothing is said has a form worth hearing; what is said leaves the default out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen import load
from musicgen.checkpoint import Manifest, save, weight_shapes
from musicgen.config import ModelSettings
from musicgen.errors import InvalidValue
from musicgen.formats import parse
from musicgen.music.bars import count_heard_bars
from musicgen.music.score import find_sections
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions, complete_options
from musicgen.sampling.recipe import GenerationRequest, Recipe, make_variant_request
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import Model, sample_many
from musicgen.variants import tweak as tweak_file
from tests.fake_models import SEEN, SEEN_IDS, RandomEngine
from tests.sampling.test_valid import check_form

REPEATS = ("repeat_start", "repeat_end", "ending", "ending_end")
UNREPEATED = tuple(
    0 if event.kind in REPEATS else count
    for event, count in zip(MEASURES.events, SEEN, strict=True)
)
IDEA = "X:1\nM:6/8\nL:1/8\nK:D\nDFA dAF|GBd gdB|\n"


def manifest(seen: tuple[int, ...] = SEEN, codec: str = "measures") -> Manifest:
    shape = ModelSettings(len(MEASURES), hidden=16, embedding=16)
    return Manifest("some", 1, shape, MEASURES.names, seen, codec)


def random_model(folder: Path, seen: tuple[int, ...]) -> Model:
    """Return a model of random weights that ends nearly every tune as soon as it may."""
    checkpoint = manifest(seen)
    rng = np.random.default_rng(3)
    weights = {
        name: rng.normal(size=shape).astype(np.float32) * 0.1
        for name, shape in weight_shapes(checkpoint.settings).items()
    }
    weights["head.bias"][MEASURES.id("end")] = 9
    save(folder, weights, checkpoint)
    return load(folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"form": "AABB"}),
        ({"form": None, "bars": None}, {"form": "AABB"}),
        ({"pickup": "1/8", "meter": "9/8"}, {"form": "AABB", "pickup": 24, "meter": "9/8"}),
        ({"form": "free"}, {}),
        ({"form": "FREE", "bars": 12}, {"bars": 12}),
        ({"bars": 7}, {"bars": 7}),
        ({"min_bars": 20}, {"min_bars": 20}),
        ({"form": "through"}, {"form": "through", "min_bars": 8}),
        ({"form": "through", "bars": 3}, {"form": "through", "bars": 3}),
        ({"form": "abac"}, {"form": "ABAC"}),
    ],
)
def test_given_options_decide_what_the_default_adds(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert complete_options(options, manifest()).to_dict() == expected


def test_model_brings_its_own_temperature_and_filters() -> None:
    tuned = replace(manifest(), sampling={"temperature": 1.0, "min_p": 0.05})
    assert complete_options({"form": "AB"}, tuned).to_dict() == {
        "form": "AB", "temperature": 1.0, "min_p": 0.05
    }  # fmt: skip
    assert complete_options({"form": "AB", "temperature": 0.8}, tuned).min_p == 0.05
    assert complete_options({"form": "AB", "min_p": 0}, tuned).temperature == 1.0
    assert complete_options({"form": "AB", "min_p": 0}, manifest()).to_dict()["min_p"] == 0


def test_a_primer_and_a_model_without_repeats_get_a_free_form_of_eight_bars() -> None:
    assert complete_options({}, manifest(), has_primer=True).to_dict() == {"min_bars": 8}
    assert complete_options({}, manifest(UNREPEATED)).to_dict() == {"min_bars": 8}
    assert complete_options({"bars": 4}, manifest(UNREPEATED)).to_dict() == {"bars": 4}


def test_other_codecs_have_no_form() -> None:
    assert complete_options({}, manifest(codec="performance")) == SamplingOptions()
    assert complete_options({"form": "free"}, manifest(codec="text")) == SamplingOptions()


def test_an_unknown_option_is_refused_even_if_none() -> None:
    with pytest.raises(InvalidValue, match="option 'colour' is unknown"):
        complete_options({"colour": None}, manifest())


def test_the_default_is_two_repeated_parts_and_free_is_what_it_was() -> None:
    folk = load("folk")
    tune = folk.sample(seed=2)
    assert tune.bars == 32
    assert [one.plays for one in find_sections(tune.score)] == [2, 2]
    sampling = folk.checkpoint.manifest.sampling
    assert sampling
    assert tune.recipe.request.options.to_dict() == {"form": "AABB", **sampling}
    free = folk.sample(seed=2, form="free")
    assert free.recipe == folk.draw(SamplingOptions.parse(**sampling), 2).recipe
    assert '"wishes":{}' in folk.draw(SamplingOptions(), 2).recipe.to_text()


def test_a_recipe_without_a_form_means_the_free_form_that_it_meant(tmp_path: Path) -> None:
    old = load("folk").draw(SamplingOptions(), 2)
    for suffix in (".mid", ".abc"):
        old.write(tmp_path / f"old{suffix}")
        again = tweak_file(tmp_path / f"old{suffix}")
        again.write(tmp_path / f"again{suffix}")
        both = (tmp_path / f"old{suffix}", tmp_path / f"again{suffix}")
        assert both[0].read_bytes() == both[1].read_bytes()


def test_a_form_of_an_old_recipe_may_have_any_letters() -> None:
    folk = load("folk")
    old = folk.draw(SamplingOptions(form="HELLO", bars=10), 3)
    recipe = Recipe.from_text(old.recipe.to_text())
    assert recipe == old.recipe
    assert folk.sample_request(recipe.request).recipe == recipe
    warmer = folk.make_variant(recipe.request, temperature=0.9)
    assert warmer.recipe.request.options.form == "HELLO"
    assert GenerationRequest.from_json(
        '{"seed":1,"number":0,"wishes":{"form":"FREE"}}'
    ) == GenerationRequest(SamplingOptions(form="FREE"), 1)
    with pytest.raises(InvalidValue, match="letters A to H, not 'L'"):
        old.tweak(form="hello")


@pytest.mark.parametrize(
    ("engine", "seen"), [("numpy", SEEN), ("numpy", UNREPEATED), ("torch", SEEN)]
)
def test_no_tune_ends_before_its_least_number_of_bars(
    tmp_path: Path, engine: str, seen: tuple[int, ...]
) -> None:
    model = random_model(tmp_path / "model", seen)
    options = SamplingOptions.parse(min_bars=8, meter="2/4")
    request = GenerationRequest(options, 5, engine=engine)
    tunes = list(sample_many(model, request, count=16, jobs=1))
    bars = Counter(tune.bars for tune in tunes)
    assert min(bars) >= 8
    assert bars[8] > 0, "it would have ended sooner"
    for tune in tunes:
        check_form(tune.score, SamplingOptions())
    if engine == "numpy":
        alone = [model.sample_request(replace(request, number=number)) for number in range(4)]
        assert [tune.recipe for tune in tunes[:4]] == [tune.recipe for tune in alone]
        free = [model.draw(replace(options, min_bars=None), 5, number).bars for number in range(4)]
        assert min(free) < 8


@pytest.mark.parametrize(
    ("least", "end", "ids"),
    [
        (8, "any", SEEN_IDS),
        (8, "tonic", SEEN_IDS - {MEASURES.id("repeat_start")}),
        (31, "tonic", SEEN_IDS),
    ],
)
def test_the_least_number_of_bars_is_met_with_all_else(
    least: int, end: str, ids: frozenset[int]
) -> None:
    sampler = Sampler(RandomEngine(least), ids)
    for number, pickup in enumerate(("none", "1/8")):
        options = SamplingOptions.parse(
            min_bars=least, end=end, pickup=pickup, meter="2/4", range="C4-C6"
        )
        score = sampler.sample(options, Noise(1, number))
        check_form(score, SamplingOptions())
        assert least <= count_heard_bars(score) <= 64


def test_a_primer_goes_on_for_eight_bars_at_least(tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", SEEN)
    (idea,), _ = parse(IDEA.encode(), ".abc")
    for seed in range(2):
        tune = model.sample(primer=idea, seed=seed)
        assert tune.bars >= 8
        assert tune.recipe.request.options.to_dict() == {"min_bars": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_bars": 0}, "min-bars 0: ask for 1 to 64"),
        ({"min_bars": 65}, "min-bars 65: ask for 1 to 64"),
        ({"min_bars": 8, "bars": 16}, "min-bars 8: the tune has 16 bars"),
        ({"min_bars": 8, "form": "AABB"}, "min-bars 8: the tune has 32 bars"),
    ],
)
def test_a_least_number_that_contradicts_the_rest_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        SamplingOptions.parse(**options)


@pytest.mark.parametrize(
    ("before", "changes", "expected"),
    [
        ({"min_bars": 8}, {"bars": 4}, {"bars": 4}),
        ({"min_bars": 8}, {"form": "AABB"}, {"form": "AABB"}),
        ({"min_bars": 8}, {"form": "free"}, {"min_bars": 8}),
        ({"min_bars": 8}, {"key": None}, {"min_bars": 8}),
        ({"form": "AABB"}, {"form": "free"}, {}),
        ({"form": "AABB"}, {"form": "through"}, {"form": "through", "min_bars": 8}),
        ({"form": "AABB", "bars": 16}, {"form": "through"}, {"form": "through", "bars": 16}),
        ({"form": "AABB"}, {"bars": 16}, {"form": "AABB", "bars": 16}),
        ({"form": "AABB"}, {"form": "AABBCC"}, {"form": "AABBCC"}),
    ],
)
def test_a_variant_keeps_what_its_changes_allow(
    before: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    request = make_variant_request(
        GenerationRequest(SamplingOptions.parse(**before), 1),
        SamplingOptions.parse_changes(**changes),
    )
    assert request.options.to_dict() == expected
