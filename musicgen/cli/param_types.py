"""Option types, and the options shared by `sample` and `tweak`.

A bad value is refused at the command line, in words that name the possible values.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from musicgen.config import MOST_EPOCHS, MOST_MINUTES, MOST_SEED
from musicgen.errors import InvalidValue
from musicgen.files import MAX_NAME_BYTES
from musicgen.music.general_midi import parse_program
from musicgen.number_parsing import parse_decimal, parse_integer, shorten
from musicgen.sampling.option_table import OPTIONS, Option


class ParsedText(click.ParamType):  # type: ignore[type-arg]
    """A value that one of our own functions reads from text."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self.parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Read the text; the refusal's own words become the usage error."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


class WholeNumber(click.IntRange):
    """A whole number in a range, written in at most 19 digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Match the text against a pattern before it is converted."""
        if isinstance(value, str):
            try:
                value = parse_integer(value, self.name, -MOST_SEED, MOST_SEED)
            except InvalidValue:
                self.fail(f"{shorten(value)!r} is not a whole number", param, ctx)
        return int(super().convert(value, param, ctx))


class DecimalNumber(click.FloatRange):
    """A number in a range; infinity and nan lie in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Match the text against a pattern before it is converted."""
        if isinstance(value, str):
            try:
                value = parse_decimal(value, self.name, -math.inf, math.inf)
            except InvalidValue:
                self.fail(f"{shorten(value)!r} is not a number such as 0.5 or 2e-3", param, ctx)
        try:
            number = float(value)
        except OverflowError:  # a whole number of a file, of hundreds of digits
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return float(super().convert(number, param, ctx))


class OutputPath(click.Path):
    """A path that is written to; an empty one would name the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the path."""
        if not str(value).strip():
            self.fail("the name is empty; write one", param, ctx)
        if "\0" in str(value):
            self.fail("the name holds a NUL character; write another", param, ctx)
        return super().convert(value, param, ctx)


class OutputFolder(OutputPath):
    """A folder that is written to, and made where it is not there yet."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the path; refuse one at which no folder can be."""
        path = Path(super().convert(value, param, ctx))
        if not _has_valid_length(path):
            self.fail(f"{shorten(str(path))!r}: the name is too long; write another", param, ctx)
        there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        if not there.is_dir():
            self.fail(f"{str(there)!r} is not a folder; name another", param, ctx)
        return path


def _has_valid_length(folder: Path) -> bool:
    """Tell whether the system can have a folder of that name, and files in it."""
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in folder.parts):
        return False
    try:
        (folder / "tune.abc").lstat()
    except OSError as fault:
        return fault.errno != errno.ENAMETOOLONG
    return True


OUT = OutputPath()
OUT_PATH = OutputPath(path_type=Path)
FOLDER = OutputFolder(path_type=Path)
WHOLE = WholeNumber()
DECIMAL = DecimalNumber()
POSITIVE = DecimalNumber(0, 1e6, min_open=True)
FRACTION = DecimalNumber(0, 1, min_open=True)
EPOCHS = DecimalNumber(0, MOST_EPOCHS, min_open=True)
MINUTES = DecimalNumber(0, MOST_MINUTES, min_open=True)
SEED = WholeNumber(0, MOST_SEED)
PROGRAM = ParsedText("NAME|N", parse_program)

Command = TypeVar("Command", bound=Callable[..., Any])


def _get_param_type(option: Option) -> click.ParamType | None:  # type: ignore[type-arg]
    """Return the type that parses an option; bounds are checked with the other options."""
    if option.parser is not None:
        return ParsedText(option.metavar or option.name, option.parse)
    if option.choices:
        return click.Choice(option.choices)
    return {str: None, int: WHOLE, float: DECIMAL}[option.json_type]


def _get_help(option: Option) -> str:
    has_default = option.default is not None
    return f"{option.help}  [default: {option.default}]" if has_default else option.help


def add_sampling_options(command: Command) -> Command:
    """Give a command the options of the option table."""
    for option in reversed(OPTIONS):
        command = click.option(
            f"--{option.flag}",
            type=_get_param_type(option),
            metavar=option.metavar,
            help=_get_help(option),
        )(command)
    return command


def select_given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}
