"""Option types: bad values are refused at the edge, in words that say what is possible."""

from __future__ import annotations

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


KEY = Parsed("KEY", Key.parse)
METER = Parsed("METER", Meter.parse)
PROGRAM = Parsed("NAME|N", program)
