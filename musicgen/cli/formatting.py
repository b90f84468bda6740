"""Text for people: option groups in the help, and counts, durations and sizes in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

PLAIN_LINE_SECONDS: Final = 20.0  # between two progress lines where stderr is not a terminal


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun: 1 tune, 2 tunes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Format a duration in a fitting unit: 12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def format_bytes(count: int) -> str:
    """Format a number of bytes: 640 MiB, 1.5 GiB."""
    mebibytes = count / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.1f} GiB"


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
