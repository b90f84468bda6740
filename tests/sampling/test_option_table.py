"""The option table agrees with `SamplingOptions`, the command line, the API and the document."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click
import msgspec
import pytest

from musicgen.cli.sample import sample
from musicgen.cli.tweak import tweak
from musicgen.errors import InvalidValue
from musicgen.sampling.option_table import OPTIONS, OPTIONS_BY_NAME, Option, list_codec_options
from musicgen.sampling.options import SamplingOptions, SamplingOptionsTable
from musicgen.tokens.registry import find_codec
from musicgen.web.schemas import TuneRequest

DOCUMENT = Path(__file__).parents[2] / "docs" / "sampling.md"
NAMES = [option.name for option in OPTIONS]
BOUNDED = [option for option in OPTIONS if option.least is not None]


def test_sampling_options_have_the_names_and_defaults_of_the_table() -> None:
    defaults = {entry.name: entry.default for entry in fields(SamplingOptions)}
    assert defaults == {option.name: option.default for option in OPTIONS}


def test_recipe_and_request_schemas_have_all_options() -> None:
    assert list(SamplingOptionsTable.__struct_fields__) == NAMES
    assert set(NAMES) <= set(TuneRequest.__struct_fields__)


@pytest.mark.parametrize("command", [sample, tweak], ids=["sample", "tweak"])
def test_commands_have_all_options(command: click.Command) -> None:
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {f"--{option.flag}" for option in OPTIONS} <= flags


def test_openapi_describes_each_option() -> None:
    schema = msgspec.json.schema(TuneRequest)["$defs"]["TuneRequest"]["properties"]
    assert {name: schema[name]["description"] for name in NAMES} == {
        option.name: option.help for option in OPTIONS
    }


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_document_names_each_option(option: Option) -> None:
    assert f"--{option.flag}" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("option", BOUNDED, ids=lambda option: option.name)
def test_values_beyond_the_bounds_are_refused(option: Option) -> None:
    assert option.least is not None
    assert option.most is not None
    option.check(option.least)
    option.check(option.most)
    for value in (option.least - 1, option.most + 1):
        with pytest.raises(InvalidValue, match=f"^{option.flag} "):
            option.check(value)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_page_control_lies_within_the_bounds(option: Option) -> None:
    if {"min", "max"} <= option.control.keys():
        assert option.least is not None
        assert option.most is not None
        assert option.least <= option.control["min"] < option.control["max"] <= option.most


def test_codecs_without_bars_offer_filters_and_few_others() -> None:
    filters = ["temperature", "top_k", "top_p", "min_p"]
    offered = {
        codec: [option.name for option in list_codec_options(find_codec(codec))]
        for codec in ("performance", "frames", "frames-16", "text")
    }
    assert offered["performance"] == [*filters, "program"]
    assert offered["frames"] == offered["frames-16"] == [*filters, "program", "tempo"]
    assert offered["text"] == filters
    assert {
        option.name for option in list_codec_options(find_codec("measures"))
    } == OPTIONS_BY_NAME.keys()
