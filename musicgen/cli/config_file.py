"""A command's options in a TOML file: read under the flags of the command line, and written back.

    hidden = 512
    learning-rate = 2e-3          # as --learning-rate; learning_rate does as well
    sources = ["mytunes/"]

A key is an option's long name. Whatever is no option, or no value of one, is refused with its line.
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
# Options that are no settings: they say what to do with a run, or how much to tell of it.
NON_SETTING_OPTIONS: Final = (
    "config",
    "save_config",
    "resume",
    "force",
    "quiet",
    "verbose",
    "help",
)
_REMARK_COLUMN: Final = 32  # columns before a remark


def apply_config_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Take the values of a file as defaults of the command; the callback of `--config`."""
    del param
    if path is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read_settings(path, ctx)}
    return path


def is_on_command_line(ctx: click.Context, name: str) -> bool:
    """Tell whether a parameter's value was typed, not taken from a file or left open."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def read_settings(path: Path, ctx: click.Context) -> dict[str, Any]:
    """Return the values of a file by the names of a command's parameters. Raises InvalidValue."""
    text = _read_text(path)
    known = {long_name(param): param for param in select_setting_params(ctx.command.params)}
    found: dict[str, Any] = {}
    for key, value in _parse(text, path).items():
        place = f"{path}, line {_find_line(text, key)}"
        param = known.get(key.replace("_", "-"))
        if param is None:
            nearest = _find_nearest(key, known)
            raise InvalidValue(f"{place}: {key!r} is no setting; the nearest is {nearest!r}")
        found[str(param.name)] = _convert_value(param, key, value, place, ctx)
    return found


def select_setting_params(params: Iterable[click.Parameter]) -> list[click.Parameter]:
    """Return the parameters that a file may hold."""
    return [param for param in params if param.name not in NON_SETTING_OPTIONS]


def render_settings(
    values: Mapping[str, Any], params: Iterable[click.Parameter], derived_values: Mapping[str, Any]
) -> str:
    """Write the values of a command's parameters as a file that `read_settings` reads.

    What was left open is a remark with the value that was derived for it.
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
        yield f"{line:{_REMARK_COLUMN}}  derived"


def _to_toml(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _quote(str(value))
    return f"[{', '.join(_to_toml(item) for item in value)}]"


def _quote(text: str) -> str:
    """Write a basic string of TOML: that of JSON, where DEL is escaped too and nothing else is."""
    whole = text.encode(
        "utf-8", "replace"
    ).decode()  # a name of bytes that are no text has no place
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_text(path: Path) -> str:
    try:
        return read_regular_file(path, limit=MAX_CONFIG_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InvalidValue(f"{path}: it is no UTF-8; write the settings as TOML") from fault
    except NotFound:
        raise
    except Refusal as fault:
        raise InvalidValue(f"{path}: {fault.message}") from fault


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except LargeNumber as fault:
        line = _find_line(text, fault.key.partition(".")[0])
        raise InvalidValue(f"{path}, line {line}: {fault}") from fault
    except (ValueError, RecursionError) as fault:
        raise InvalidValue(f"{path}: it is no TOML: {fault}; write key = value") from fault


def _find_line(text: str, key: str) -> int:
    """Return the line on which a key stands, from 1."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)


def _find_nearest(key: str, known: Iterable[str]) -> str:
    return get_close_matches(key.replace("_", "-"), list(known), n=1, cutoff=0.0)[0]


def _convert_value(
    param: click.Parameter, key: str, value: Any, place: str, ctx: click.Context
) -> Any:
    """Check a value as the command line checks it. Raises InvalidValue."""
    kind, said = _expected_type(param)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidValue(f"{place}: {key} is {_format_value(value)}; write {said}")
    if isinstance(param, click.Argument):
        return _check_texts(value, key, place)
    try:
        return param.type.convert(value, param, ctx)
    except click.BadParameter as fault:
        raise InvalidValue(f"{place}: {key}: {' '.join(fault.message.split())}") from fault


def _check_texts(value: str | list[Any], key: str, place: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    for text in texts:
        if not isinstance(text, str):
            raise InvalidValue(f"{place}: {key} holds {_format_value(text)}; write texts only")
    return texts


def _expected_type(param: click.Parameter) -> tuple[Any, str]:
    """Return the Python type of a parameter's values in TOML, and how to say it."""
    if isinstance(param, click.Argument):
        return str | list, 'a text, or a list of them: ["a.abc", "b/"]'
    if getattr(param, "is_flag", False):
        return bool, "true or false"
    if isinstance(param.type, click.types.IntParamType):
        return int, "a whole number"
    if isinstance(param.type, click.types.FloatParamType):
        return int | float, "a number"
    return str, "a text, in quotes"


def _format_value(value: Any) -> str:
    """Write a value for a message; what is long or deep only by its kind."""
    if isinstance(value, bool | int | float | str):
        return _to_toml(value)
    return _TOML_TYPE_NAMES.get(type(value), "a date or time")


_TOML_TYPE_NAMES: Final[Mapping[type[Any], str]] = {dict: "a table", list: "a list"}
