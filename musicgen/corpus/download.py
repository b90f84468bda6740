"""Download the files that corpus cards name by URL: once, and only used when their hash is right.

An interrupted download continues where it stopped. The file appears in the cache folder
(MUSICGEN_CACHE, else XDG_CACHE_HOME/musicgen, else ~/.cache/musicgen) under its final name only
when it is complete. A malformed URL is refused in one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urljoin, urlsplit

from musicgen.errors import InvalidValue, MusicgenError, WriteFailed, printable
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


Progress = Callable[[int, int], None]  # bytes so far, bytes in all
ATTEMPTS: Final = 5  # in a row that bring nothing
MAX_REDIRECTS: Final = 5
TIMEOUT: Final = 30.0  # seconds without a word
MAX_BYTES: Final = 64 * 2**30
_PIECE: Final = 2**18
_GONE: Final = (401, 403, 404, 410)  # asking again does not help


@dataclass(frozen=True, slots=True)
class Download:
    """What is wanted: where it lies, and how it is known. Raises InvalidValue."""

    url: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        split_url(self.url)
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InvalidValue(f"{self.url}: sha256 is {self.sha256!r}, not 64 digits of 0-9a-f")
        if not 0 < self.size <= MAX_BYTES:
            raise InvalidValue(f"{self.url}: bytes is {self.size}, not 1 to {MAX_BYTES}")

    @property
    def name(self) -> str:
        """What it is called in the cache: its hash, and as much of its name as is harmless."""
        last = re.sub(r"[^A-Za-z0-9._-]", "_", file_name(self.url))
        return f"{self.sha256[:16]}-{last[-60:].lstrip('.')}"


def cache_folder() -> Path:
    """Return where downloads are kept."""
    if own := os.environ.get("MUSICGEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "musicgen"


def download(
    wanted: Download, folder: Path | None = None, *, progress: Progress | None = None
) -> Path:
    """Return the file, downloaded if it is not there yet. Raises MusicgenError."""
    folder = folder or cache_folder()
    path, partial = folder / wanted.name, folder / f"{wanted.name}.part"
    with _explained(wanted, path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _hash(path) == wanted.sha256:
            return path
        resumed = partial.exists()
        _fill(wanted, partial, progress or _silent)
        if resumed and _hash(partial) != wanted.sha256:  # what lay there was something else
            partial.unlink()
            _fill(wanted, partial, progress or _silent)
        _check(wanted, partial)
        partial.replace(path)
    return path


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def _fill(wanted: Download, partial: Path, progress: Progress) -> None:
    """Ask until all bytes are there, as long as each few attempts bring some."""
    fruitless = 0
    with partial.open("ab") as file:
        _lock(file, wanted)
        while (have := file.seek(0, os.SEEK_END)) < wanted.size:
            fault = _attempt(wanted, file, progress)
            fruitless = 0 if file.seek(0, os.SEEK_END) > have else fruitless + 1
            if fruitless >= ATTEMPTS:
                raise MusicgenError(
                    f"{wanted.url}: the download stops at {have:,} of {wanted.size:,} bytes"
                    f" ({fault}); what is there is kept: try again later"
                )
        os.fsync(file.fileno())


def _attempt(wanted: Download, file: IO[bytes], progress: Progress) -> str:
    """Append what one request brings; return what ended it. Raises MusicgenError for good."""
    have = file.tell()
    asked = request.Request(wanted.url, headers=_headers(have))  # noqa: S310 - checked above
    try:
        with _opener().open(asked, timeout=TIMEOUT) as answer:
            if have and not _goes_on(answer, have):
                file.truncate(0)
            for piece in iter(lambda: answer.read(_PIECE), b""):
                file.write(piece)
                if file.tell() > wanted.size:
                    file.truncate(0)
                    raise MusicgenError(_too_long(wanted))
                progress(file.tell(), wanted.size)
    except HTTPError as fault:
        if fault.code in _GONE:
            raise MusicgenError(_refused(wanted, fault)) from fault
        if fault.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            file.truncate(0)
        return f"status {fault.code}"
    except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as fault:
        return printable(str(getattr(fault, "reason", fault)) or type(fault).__name__)[:80]
    except InvalidValue:
        raise
    except ValueError as fault:  # a place that the server names, or a host, is no URL
        message = f"{wanted.url}: it leads to what is no URL; check the card's URL in a browser"
        raise MusicgenError(message) from fault
    finally:
        file.flush()
    return "the server says no more"


def _headers(have: int) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "musicgen"}
    return headers | ({"Range": f"bytes={have}-"} if have else {})


def _goes_on(answer: Any, have: int) -> bool:
    """Tell whether an answer starts where the file ends, rather than at its start."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return False
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


class _Redirects(request.HTTPRedirectHandler):
    """A few redirects, to where a card could have pointed."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request | None:
        """Check the new URL. Raises InvalidValue."""
        split_url(urljoin(req.full_url, newurl))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Return what speaks HTTP and nothing else."""
    opener = request.OpenerDirector()
    for part in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(part)
    return opener


def _check(wanted: Download, partial: Path) -> None:
    found = _hash(partial)
    if found != wanted.sha256:
        partial.unlink()
        raise MusicgenError(
            f"{wanted.url}: the file has SHA-256 {found}, and the card says {wanted.sha256};"
            " it was not used: see whether the card is up to date"
        )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _too_long(wanted: Download) -> str:
    return (
        f"{wanted.url}: the file is longer than the {wanted.size:,} bytes that the card says;"
        " it was not used: see whether the card is up to date"
    )


def _refused(wanted: Download, fault: HTTPError) -> str:
    answer = f"{fault.code} {printable(str(fault.reason))[:80]}"
    return f"{wanted.url}: the server answers {answer}; check the card's URL in a browser"


def _lock(file: IO[bytes], wanted: Download) -> None:
    """Keep a second program from writing to the same file."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        message = f"{wanted.url} is being downloaded by another program; wait for it"
        raise MusicgenError(message) from fault


@contextlib.contextmanager
def _explained(wanted: Download, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise WriteFailed(
            f"{path} was not written: {fault.strerror or fault} ({wanted.size:,} bytes are needed);"
            " free some space, or name another folder in MUSICGEN_CACHE"
        ) from fault
