"""Words that commands share: counts, spans of time and sizes as people say them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 tune, 2 tunes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def span(seconds: float) -> str:
    """Write a span of time with the unit that suits it: 12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def size(count: int) -> str:
    """Write a number of bytes: 640 MiB, 1.5 GiB."""
    mebibytes = count / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.1f} GiB"
