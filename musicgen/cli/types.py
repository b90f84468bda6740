"""Option types: bad values are refused at the edge, in words that say what is possible."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from musicgen.errors import InvalidValue
from musicgen.music.programs import program
from musicgen.music.theory import Key, Meter, parse_range
from musicgen.sampling.wishes import parse_pickup
from musicgen.tokens.layout import parse_form


class Parsed(click.ParamType):  # type: ignore[type-arg]
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


class Finite(click.FloatRange):
    """A number in a range; infinity and what is no number lie in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{found} is no finite number", param, ctx)
        return found


class Named(click.Path):
    """A path that is written to; an empty one would name the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the path."""
        if not str(value).strip():
            self.fail("the name is empty; write one", param, ctx)
        return super().convert(value, param, ctx)


class Folder(Named):
    """A folder that is written to, and made where it is not there yet."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the path; refuse one at which no folder can be."""
        path = Path(super().convert(value, param, ctx))
        there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        if not there.is_dir():
            self.fail(f"{str(there)!r} is not a folder; name another", param, ctx)
        return path


OUT = Named()
OUT_PATH = Named(path_type=Path)
FOLDER = Folder(path_type=Path)
POSITIVE = Finite(0, min_open=True)
FRACTION = Finite(0, 1, min_open=True)
KEY = Parsed("KEY", Key.parse)
METER = Parsed("METER", Meter.parse)
FORM = Parsed("FORM", parse_form)
PICKUP = Parsed("none|1/8|STEPS", parse_pickup)
RANGE = Parsed("LOW-HIGH", parse_range)
PROGRAM = Parsed("NAME|N", program)
