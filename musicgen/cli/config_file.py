"""Options of a command in a TOML file: read as defaults of the command line, and written.

    hidden = 512
    learning-rate = 2e-3          # for --learning-rate; learning_rate is accepted too
    sources = ["mytunes/"]

A key is the long name of an option. Unknown keys and invalid values are refused with their line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from musicgen.cli.formatting import long_name
from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.files import read_regular_file
from musicgen.folder_contents import CONFIG_HEAD
from musicgen.typed_data import LargeNumber, parse_toml

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
