"""Option types: bad values are refused at the edge, in words that say what is possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from musicgen.errors import InvalidValue
from musicgen.music.programs import program
from musicgen.music.theory import Key, Meter


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


POSITIVE = Finite(0, min_open=True)
FRACTION = Finite(0, 1, min_open=True)
KEY = Parsed("KEY", Key.parse)
METER = Parsed("METER", Meter.parse)
PROGRAM = Parsed("NAME|N", program)
