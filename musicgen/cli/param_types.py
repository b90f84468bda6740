"""Types of options, and options that several commands share.

A type refuses a bad value with a usage error that names the valid values.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    """A value that one of our own functions parses."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self.parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Parse the text; an InvalidValue becomes the usage error."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


class WholeNumber(click.IntRange):
    """An integer in a range, of at most 19 digits."""

    def _describe_range(self) -> str:  # click's own hook; without bounds it writes "x<=None"
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Match the text against a pattern before it is converted."""
        if isinstance(value, str):
            text = value
            try:
                value = parse_integer(text, self.name, -MOST_SEED, MOST_SEED)
            except InvalidValue:
                self.fail(f"{shorten(text)!r} is not an integer", param, ctx)
        return int(super().convert(value, param, ctx))


class DecimalNumber(click.FloatRange):
    """A finite number in a range."""

    def _describe_range(self) -> str:  # click's own hook; without bounds it writes "x<=None"
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Match the text against a pattern before it is converted."""
        if isinstance(value, str):
            text = value
            try:
                value = parse_decimal(text, self.name, -math.inf, math.inf)
            except InvalidValue:
                self.fail(f"{shorten(text)!r} is not a number such as 0.5 or 2e-3", param, ctx)
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits, from a file
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return float(super().convert(number, param, ctx))


class OutputPath(click.Path):
    """A path to write to; an empty one is refused, for it would name the current folder."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Check the path."""
        if not str(value).strip():
            self.fail("the name is empty; give one", param, ctx)
        if "\0" in str(value):
            self.fail("the name contains a NUL character; choose another", param, ctx)
        return super().convert(value, param, ctx)


class OutputFolder(OutputPath):
    """A folder to write to, which is created if it does not exist."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Check the path; refuse one that cannot be a folder."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not _has_valid_length(path):
            self.fail(f"{shorten(str(path))!r}: the name is too long; choose another", param, ctx)
        ancestors = (path, *path.absolute().parents)
        existing = next(ancestor for ancestor in ancestors if os.path.lexists(ancestor))
        if not existing.is_dir():
            self.fail(f"{str(existing)!r} is not a folder; choose another", param, ctx)
        return path


def _has_valid_length(folder: Path) -> bool:
    """Return whether the file system allows the folder's name, and files in the folder."""
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in folder.parts):
        return False
    try:
        (folder / "tune.abc").lstat()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Hardware to train on; auto prefers CUDA, then MPS, then the CPU.",
)
force_option = click.option("--force", is_flag=True, help="Replace existing files.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")

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
    if option.is_repeatable:
        return None  # _join_values parses it
    if option.is_file:
        return ParsedText(option.metavar or option.name, _read_lineup)
    if option.parser is not None:
        return ParsedText(option.metavar or option.name, option.parse)
    if option.choices:
        return click.Choice(option.choices)
    return {str: None, int: WHOLE, float: DECIMAL}[option.json_type]


def _read_lineup(path: str) -> object:
    """Read the line-up of a tune file. Raises MusicgenError if it cannot be read."""
    from musicgen.sampling.part_requests import copy_lineup
    from musicgen.trained_model import read_first_tune

    return copy_lineup(read_first_tune(Path(path)))


def _get_help(option: Option) -> str:
    if option.is_filter:
        return f"{option.help}  [default: that of the model]"
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
            multiple=option.is_repeatable,
            callback=partial(_join_values, option) if option.is_repeatable else None,
        )(command)
    return command


def _join_values(
    option: Option, ctx: click.Context, param: click.Parameter, texts: Sequence[str]
) -> object:
    """Parse all texts of an option as one value; None if it is not given."""
    parsed_text = ParsedText(option.metavar or option.name, option.parse)
    return parsed_text.convert(",".join(texts), param, ctx) if texts else None


def select_given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}
