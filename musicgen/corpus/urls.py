"""URLs of corpus cards, taken apart in one place: what is no URL is refused in one line."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

from musicgen.errors import InvalidValue
from musicgen.number_parsing import shorten

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


def split_url(url: str) -> SplitResult:
    """Take apart the URL of a file that may be downloaded. Raises InvalidValue."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are not IPv6, a port that is no number
        is_whole = False
    if not is_whole or not url.isprintable() or " " in url:
        raise InvalidValue(f"{shorten(url)!r} is no URL of a file; give https://HOST/PATH")
    if parts.scheme != "https" and (parts.scheme, parts.hostname in _LOCAL) != ("http", True):
        raise InvalidValue(f"{shorten(url)}: only https:// is downloaded; choose such a place")
    return parts


def file_name(url: str) -> str:
    """Return the last part of a URL's path. Raises InvalidValue."""
    return split_url(url).path.rpartition("/")[2]
