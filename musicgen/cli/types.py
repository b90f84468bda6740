"""Option types: bad values are refused at the edge, in words that say what is possible."""

from __future__ import annotations

import click

from musicgen.errors import InvalidValue
from musicgen.music.programs import program
from musicgen.music.theory import Key, Meter


class KeyType(click.ParamType):
    """A tonic and a mode."""

    name = "KEY"

    def convert(
        self, value: str | Key, param: click.Parameter | None, ctx: click.Context | None
    ) -> Key:
        """Read "Dmix"."""
        try:
            return value if isinstance(value, Key) else Key.parse(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


class MeterType(click.ParamType):
    """A meter."""

    name = "METER"

    def convert(
        self, value: str | Meter, param: click.Parameter | None, ctx: click.Context | None
    ) -> Meter:
        """Read "6/8"."""
        try:
            return value if isinstance(value, Meter) else Meter.parse(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


class ProgramType(click.ParamType):
    """A General MIDI instrument."""

    name = "NAME|N"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read "flute" or 73."""
        try:
            return value if isinstance(value, int) else program(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


KEY = KeyType()
METER = MeterType()
PROGRAM = ProgramType()
