"""Options of commands: their types, those that several commands share, and values in a TOML file.

A type refuses a bad value with a usage error that names the valid values.

A file has values that are read as defaults of the command line, and can be written:

    hidden = 512
    learning-rate = 2e-3          # for --learning-rate; learning_rate is accepted too
    sources = ["mytunes/"]

A key is the long name of an option. Unknown keys and invalid values are refused with their line.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from musicgen.config import MOST_EPOCHS, MOST_MINUTES, MOST_SEED
from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.files import MAX_NAME_BYTES, read_regular_file
from musicgen.folder_contents import CONFIG_HEAD
from musicgen.music.general_midi import parse_program
from musicgen.sampling.option_table import OPTIONS, Option
from musicgen.typed_data import LargeNumber, parse_decimal, parse_integer, parse_toml, shorten

MAX_CONFIG_BYTES: Final = 2**16
# Options that a file may not contain: they select an action or the verbosity.
NON_SETTING_OPTIONS: Final = (
    "config",
    "save_config",
    "resume",
    "force",
    "quiet",
    "verbose",
    "help",
)
_COMMENT_COLUMN: Final = 32


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


class GroupedCommand(click.Command):
    """A command whose help lists the options under headings."""

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.groups = groups  # heading -> long names of its options, in order

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options per heading; ungrouped options come last."""
        records = {
            long_name(param): param.get_help_record(ctx)
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
        }
        grouped = {name for names in self.groups.values() for name in names}
        ungrouped = [name for name in records if name not in grouped]
        for heading, names in [*self.groups.items(), ("Other", ungrouped)]:
            rows = [record for name in names if (record := records.get(name)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def long_name(param: click.Parameter) -> str:
    """Return the long name of an option without its dashes, or the name of an argument."""
    if isinstance(param, click.Argument):
        return str(param.name)
    return max(param.opts, key=len).lstrip("-")


def apply_config_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Use the values of a file as defaults of the command; the callback of `--config`."""
    del param
    if path is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read_settings(path, ctx)}
    return path


def is_on_command_line(ctx: click.Context, name: str) -> bool:
    """Return whether a parameter was given on the command line, not by a file or a default."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def read_settings(path: Path, ctx: click.Context) -> dict[str, Any]:
    """Read the options in a TOML file.

    Args:
        path: the file.
        ctx: context of the command whose options may occur.

    Returns:
        Parameter name -> converted value.

    Raises:
        NotFound: if the file does not exist.
        InvalidValue: if the file is not TOML, or has an unknown key or an invalid value.
    """
    text = _read_text(path)
    params = {long_name(param): param for param in select_setting_params(ctx.command.params)}
    settings: dict[str, Any] = {}
    for key, value in _parse(text, path).items():
        location = f"{path}, line {_find_line(text, key)}"
        param = params.get(key.replace("_", "-"))
        if param is None:
            nearest = _find_nearest(key, params)
            raise InvalidValue(f"{location}: {key!r} is not an option; did you mean {nearest!r}?")
        settings[str(param.name)] = _convert_value(param, key, value, location, ctx)
    return settings


def select_setting_params(params: Iterable[click.Parameter]) -> list[click.Parameter]:
    """Return the parameters that a file may contain."""
    return [param for param in params if param.name not in NON_SETTING_OPTIONS]


def render_settings(
    values: Mapping[str, Any], params: Iterable[click.Parameter], derived_values: Mapping[str, Any]
) -> str:
    """Write options as TOML that `read_settings` reads.

    Args:
        values: parameter name -> value; None and empty values are omitted.
        params: parameters of the command, in the order to write.
        derived_values: key -> value chosen for an omitted option, written as a comment.
    """
    lines = [CONFIG_HEAD, ""]
    for param in select_setting_params(params):
        lines.extend(_render_setting(long_name(param), values.get(str(param.name)), derived_values))
    return "\n".join([*lines, ""])


def _render_setting(key: str, value: Any, derived_values: Mapping[str, Any]) -> Iterator[str]:
    if value not in (None, (), []):
        yield f"{key} = {_to_toml(value)}"
    elif derived_values.get(key) is not None:
        line = f"# {key} = {_to_toml(derived_values[key])}"
        yield f"{line:{_COMMENT_COLUMN}}  derived"


def _to_toml(value: Any) -> str:
    """Format a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _quote(str(value))
    return f"[{', '.join(_to_toml(item) for item in value)}]"


def _quote(text: str) -> str:
    """Format a basic string of TOML, which is a string of JSON in which DEL is escaped too."""
    valid_text = text.encode("utf-8", "replace").decode()  # surrogates of an undecodable file name
    return json.dumps(valid_text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_text(path: Path) -> str:
    try:
        return read_regular_file(path, limit=MAX_CONFIG_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValue(f"{path}: not valid UTF-8; save the file as UTF-8 text") from error
    except NotFound:
        raise
    except Refusal as error:
        raise InvalidValue(f"{path}: {error.message}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except LargeNumber as error:
        line = _find_line(text, error.key.partition(".")[0])
        raise InvalidValue(f"{path}, line {line}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{path}: not valid TOML: {error}; write key = value") from error


def _find_line(text: str, key: str) -> int:
    """Return the number of the line that sets a key, from 1."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)


def _find_nearest(key: str, names: Iterable[str]) -> str:
    return get_close_matches(key.replace("_", "-"), list(names), n=1, cutoff=0.0)[0]


def _convert_value(
    param: click.Parameter, key: str, value: Any, location: str, ctx: click.Context
) -> Any:
    """Convert a value as the command line does. Raises InvalidValue."""
    expected_type, type_name = _expected_type(param)
    if not isinstance(value, expected_type) or (
        isinstance(value, bool) and expected_type is not bool
    ):
        raise InvalidValue(f"{location}: {key} is {_format_value(value)}; write {type_name}")
    if isinstance(param, click.Argument):
        return _check_strings(value, key, location)
    try:
        return param.type.convert(value, param, ctx)
    except click.BadParameter as error:
        raise InvalidValue(f"{location}: {key}: {' '.join(error.message.split())}") from error


def _check_strings(value: str | list[Any], key: str, location: str) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    for item in strings:
        if not isinstance(item, str):
            raise InvalidValue(f"{location}: {key} has {_format_value(item)}; write only strings")
    return strings


def _expected_type(param: click.Parameter) -> tuple[Any, str]:
    """Return the Python type of a parameter's values in TOML, and its name for messages."""
    if isinstance(param, click.Argument):
        return str | list, 'a string, or a list of strings: ["a.abc", "b/"]'
    if getattr(param, "is_flag", False):
        return bool, "true or false"
    if isinstance(param.type, click.types.IntParamType):
        return int, "an integer"
    if isinstance(param.type, click.types.FloatParamType):
        return int | float, "a number"
    return str, "a string, in quotes"


def _format_value(value: Any) -> str:
    """Format a value for a message; tables, lists and dates only by their type."""
    if isinstance(value, bool | int | float | str):
        return _to_toml(value)
    return _TOML_TYPE_NAMES.get(type(value), "a date or time")


_TOML_TYPE_NAMES: Final[Mapping[type[Any], str]] = {dict: "a table", list: "a list"}
