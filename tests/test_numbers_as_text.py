"""Promise 27: a number that arrives as text is matched against a pattern before it is converted.

Every option of every command, every sampling option of the API, every key of a TOML file and the
shared parsers convert any text to a value or refuse it in one line, quickly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from musicgen.cli import COMMANDS
from musicgen.cli.command_options import read_settings
from musicgen.cli.train import train
from musicgen.errors import InvalidValue
from musicgen.music.general_midi import parse_program
from musicgen.music.theory import Key, Meter, parse_range
from musicgen.sampling.kept_bars import KeepRequest
from musicgen.sampling.option_table import parse_pickup
from musicgen.sampling.options import SamplingOptions
from musicgen.tokens.song_form import parse_form

HOSTILE = ("1e-9999999", "1e9999999", "²", "٣", "٣/٤", "²/4", "9" * 4_000, "1/" + "9" * 4_000,
           "1e308", "nan", "inf", "-inf", "-1", "0", "1_0", "0x10", "½", "", " ", "1\x00",
           "1-" + "9" * 4_000, "C٣-D٤", "+" * 4_000, "1+" * 4_000 + "1/4")  # fmt: skip
PARSERS: dict[str, Callable[[str], object]] = {
    "key": Key.parse, "meter": Meter.parse, "range": parse_range, "program": parse_program,
    "bars": KeepRequest.parse, "pickup": parse_pickup, "form": parse_form,
}  # fmt: skip
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=30) | st.from_regex(r"[0-9eE./+-]{1,12}")


def iter_options() -> Iterator[tuple[str, click.Option]]:
    """Yield the options of all commands that take a value."""
    commands: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = getattr(import_module(f"musicgen.cli.{name}"), name)
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        commands += [
            (f"{name} {subcommand}".strip(), inner_command)
            for subcommand, inner_command in inner.items()
        ]
    for name, command in commands:
        for param in command.params:
            if isinstance(param, click.Option) and not (param.is_flag or param.multiple):
                yield f"{name} {param.opts[0]}", param


OPTIONS = {
    name: param for name, param in iter_options()
    if not isinstance(param.type, click.types.StringParamType | click.Path | click.Choice)
}  # fmt: skip


def convert(name: str, text: str) -> object:
    """Convert the text of an option; None if it is refused."""
    param = OPTIONS[name]
    with suppress(click.BadParameter):
        return param.type.convert(text, param, click.Context(click.Command(name)))
    return None


def test_numeric_options_use_our_own_types() -> None:
    """The types of click accept other digits, and numbers of any length."""
    plain = (click.types.IntParamType, click.types.FloatParamType, click.IntRange, click.FloatRange)
    assert len(OPTIONS) > 40
    assert [name for name, param in OPTIONS.items() if type(param.type) in plain] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_option_refuses_malformed_numbers_quickly(name: str) -> None:
    began = time.perf_counter()
    values = {text: convert(name, text) for text in HOSTILE}
    assert time.perf_counter() - began < 1
    accepted = {"0", "-1", "", " "}  # in range for some options, or an empty list
    accepted |= {"inf", "nan"} if name.endswith("--form") else set()  # letters are a valid form
    assert {text for text, value in values.items() if value is not None} <= accepted


@settings(deadline=2_000)
@given(st.sampled_from(sorted(OPTIONS)), TEXTS)
def test_option_converts_or_refuses_any_text(name: str, text: str) -> None:
    convert(name, text)


@settings(deadline=2_000)
@given(st.sampled_from(sorted(PARSERS)), TEXTS)
@example("pickup", "1e-9999999")
@example("program", "²")
def test_parser_converts_or_refuses_any_text(name: str, text: str) -> None:
    with suppress(InvalidValue):
        PARSERS[name](text)


@pytest.mark.parametrize("name", sorted(PARSERS.keys() - {"key", "form"}))
def test_refuses_digits_that_are_not_ascii(name: str) -> None:
    plain = {"meter": "3/4", "range": "60-72", "program": "3", "bars": "1-3", "pickup": "1/8"}[name]
    PARSERS[name](plain)
    with pytest.raises(InvalidValue):
        PARSERS[name](plain.translate({ord("0") + n: 0x660 + n for n in range(10)}))  # Arabic


@settings(deadline=2_000)
@given(st.sampled_from(sorted(SamplingOptions.__dataclass_fields__)), TEXTS)
@example("tempo", "1e-9999999")
@example("bars", "²")
@example("top_k", "9" * 4_000)
def test_sampling_option_converts_or_refuses_any_text(name: str, text: str) -> None:
    with suppress(InvalidValue):
        SamplingOptions.parse(**{name: text})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("bars", "16", 16), ("tempo", "90.5", 90.5), ("temperature", "0.7", 0.7), ("top_k", "5", 5),
     ("top_p", ".9", 0.9), ("min_p", "0", 0.0), ("max_copy", "9", 9), ("program", "73", 73),
     ("pickup", "1/8", 24), ("pickup", "none", 0), ("pickup", "24", 24)],
)  # fmt: skip
def test_sampling_options_accept_numbers_as_text(name: str, text: str, value: float) -> None:
    assert getattr(SamplingOptions.parse(**{name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("bars", [8]), ("bars", 8.0), ("bars", True), ("tempo", {}), ("top_k", 1.5), ("key", 5),
     ("rhythm", 5), ("form", 5), ("program", {}), ("range", 60)],
)  # fmt: skip
def test_sampling_option_refuses_other_types(name: str, value: Any) -> None:
    with pytest.raises(InvalidValue):
        SamplingOptions.parse(**{name: value})


@settings(
    max_examples=40, deadline=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.sampled_from(["hidden", "epochs", "seed", "dropout", "minutes"]), text=TEXTS)
@example(key="epochs", text="1e308")
@example(key="epochs", text="1e-9999999")
@example(key="seed", text="9" * 4_000)
@example(key="seed", text="9" * 5_000)
def test_toml_option_converts_or_refuses_any_number(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"{key} = {text}\n", "utf-8")
    with suppress(InvalidValue):
        read_settings(path, click.Context(train))


def test_refuses_epochs_and_minutes_out_of_bounds() -> None:
    from musicgen.training.plan import TrainingOptions

    for number in (1e308, float("nan")):
        with pytest.raises(InvalidValue, match=r"epochs .*: choose"):
            TrainingOptions(epochs=number)
        with pytest.raises(InvalidValue, match=r"minutes .*: choose"):
            TrainingOptions(minutes=number)
