"""Help with options in groups; counts, time spans and sizes as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


def format_count(count: int, noun: str) -> str:
    """Write a count with its noun: 1 tune, 2 tunes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Write a span of time with the unit that suits it: 12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def format_bytes(count: int) -> str:
    """Write a number of bytes: 640 MiB, 1.5 GiB."""
    mebibytes = count / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.1f} GiB"


class GroupedCommand(click.Command):
    """A command that lists its options under headings."""

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.groups = groups  # heading -> the options' long names, in order

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list a heading; what stands under none comes last."""
        records = {long_name(p): p.get_help_record(ctx) for p in self.get_params(ctx)
                   if isinstance(p, click.Option)}  # fmt: skip
        named = {name for names in self.groups.values() for name in names}
        rest = [name for name in records if name not in named]
        for heading, names in [*self.groups.items(), ("Other", rest)]:
            rows = [record for name in names if (record := records.get(name)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def long_name(param: click.Parameter) -> str:
    """Return an option's long name without its dashes; an argument's own."""
    if isinstance(param, click.Argument):
        return str(param.name)
    return max(param.opts, key=len).lstrip("-")
