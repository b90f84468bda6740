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

from musicgen.errors import InvalidValue, MusicgenError, WriteFailed, escape_unprintable
from musicgen.number_parsing import shorten

_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


def split_url(url: str) -> SplitResult:
    """Take apart the URL of a file that may be downloaded. Raises InvalidValue."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are not IPv6, a port that is no number
        is_whole = False
    if not is_whole or not url.isprintable() or " " in url:
        raise InvalidValue(f"{shorten(url)!r} is no URL of a file; give https://HOST/PATH")
    if parts.scheme != "https" and (parts.scheme, parts.hostname in _LOCAL_HOSTS) != ("http", True):
        raise InvalidValue(f"{shorten(url)}: only https:// is downloaded; choose such a place")
    return parts


def url_file_name(url: str) -> str:
    """Return the last part of a URL's path. Raises InvalidValue."""
    return split_url(url).path.rpartition("/")[2]


DownloadCallback = Callable[[int, int], None]  # bytes so far, bytes in all
MAX_FRUITLESS_ATTEMPTS: Final = 5  # in a row that bring nothing
MAX_REDIRECTS: Final = 5
TIMEOUT_SECONDS: Final = 30.0  # seconds without a word
MAX_BYTES: Final = 64 * 2**30
_CHUNK_BYTES: Final = 2**18
_PERMANENT_STATUSES: Final = (401, 403, 404, 410)  # asking again does not help


@dataclass(frozen=True, slots=True)
class RemoteFile:
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
    def cache_name(self) -> str:
        """What it is called in the cache: its hash, and as much of its name as is harmless."""
        last = re.sub(r"[^A-Za-z0-9._-]", "_", url_file_name(self.url))
        return f"{self.sha256[:16]}-{last[-60:].lstrip('.')}"


def cache_folder() -> Path:
    """Return where downloads are kept."""
    if own := os.environ.get("MUSICGEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "musicgen"


def download(
    remote: RemoteFile, folder: Path | None = None, *, progress: DownloadCallback | None = None
) -> Path:
    """Return the file, downloaded if it is not there yet. Raises MusicgenError."""
    folder = folder or cache_folder()
    path, partial = folder / remote.cache_name, folder / f"{remote.cache_name}.part"
    with _translate_os_errors(remote, path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _hash_file(path) == remote.sha256:
            return path
        resumed = partial.exists()
        _download_missing(remote, partial, progress or _ignore_progress)
        if resumed and _hash_file(partial) != remote.sha256:  # what lay there was something else
            partial.unlink()
            _download_missing(remote, partial, progress or _ignore_progress)
        _verify_hash(remote, partial)
        partial.replace(path)
    return path


def _ignore_progress(done: int, total: int) -> None:
    """Tell nobody."""


def _download_missing(remote: RemoteFile, partial: Path, progress: DownloadCallback) -> None:
    """Ask until all bytes are there, as long as each few attempts bring some."""
    fruitless = 0
    with partial.open("ab") as file:
        _lock(file, remote)
        while (have := file.seek(0, os.SEEK_END)) < remote.size:
            fault = _request_once(remote, file, progress)
            fruitless = 0 if file.seek(0, os.SEEK_END) > have else fruitless + 1
            if fruitless >= MAX_FRUITLESS_ATTEMPTS:
                raise MusicgenError(
                    f"{remote.url}: the download stops at {have:,} of {remote.size:,} bytes"
                    f" ({fault}); what is there is kept: try again later"
                )
        os.fsync(file.fileno())


def _request_once(remote: RemoteFile, file: IO[bytes], progress: DownloadCallback) -> str:
    """Append what one request brings; return what ended it. Raises MusicgenError for good."""
    have = file.tell()
    asked = request.Request(remote.url, headers=_build_headers(have))  # noqa: S310 - checked above
    try:
        with _build_opener().open(asked, timeout=TIMEOUT_SECONDS) as answer:
            if have and not _is_continuation(answer, have):
                file.truncate(0)
            for piece in iter(lambda: answer.read(_CHUNK_BYTES), b""):
                file.write(piece)
                if file.tell() > remote.size:
                    file.truncate(0)
                    raise MusicgenError(_too_long_message(remote))
                progress(file.tell(), remote.size)
    except HTTPError as fault:
        if fault.code in _PERMANENT_STATUSES:
            raise MusicgenError(_http_error_message(remote, fault)) from fault
        if fault.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            file.truncate(0)
        return f"status {fault.code}"
    except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as fault:
        return escape_unprintable(str(getattr(fault, "reason", fault)) or type(fault).__name__)[:80]
    except InvalidValue:
        raise
    except ValueError as fault:  # a place that the server names, or a host, is no URL
        message = f"{remote.url}: it leads to what is no URL; check the card's URL in a browser"
        raise MusicgenError(message) from fault
    finally:
        file.flush()
    return "the server says no more"


def _build_headers(offset: int) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "musicgen"}
    return headers | ({"Range": f"bytes={offset}-"} if offset else {})


def _is_continuation(answer: Any, offset: int) -> bool:
    """Tell whether an answer starts where the file ends, rather than at its start."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        return False
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")


class _Redirects(request.HTTPRedirectHandler):
    """A few redirects, to where a card could have pointed."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request | None:
        """Check the new URL. Raises InvalidValue."""
        split_url(urljoin(req.full_url, newurl))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _build_opener() -> request.OpenerDirector:
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


def _verify_hash(remote: RemoteFile, partial: Path) -> None:
    found = _hash_file(partial)
    if found != remote.sha256:
        partial.unlink()
        raise MusicgenError(
            f"{remote.url}: the file has SHA-256 {found}, and the card says {remote.sha256};"
            " it was not used: see whether the card is up to date"
        )


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _too_long_message(remote: RemoteFile) -> str:
    return (
        f"{remote.url}: the file is longer than the {remote.size:,} bytes that the card says;"
        " it was not used: see whether the card is up to date"
    )


def _http_error_message(remote: RemoteFile, fault: HTTPError) -> str:
    answer = f"{fault.code} {escape_unprintable(str(fault.reason))[:80]}"
    return f"{remote.url}: the server answers {answer}; check the card's URL in a browser"


def _lock(file: IO[bytes], remote: RemoteFile) -> None:
    """Keep a second program from writing to the same file."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        message = f"{remote.url} is being downloaded by another program; wait for it"
        raise MusicgenError(message) from fault


@contextlib.contextmanager
def _translate_os_errors(remote: RemoteFile, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise WriteFailed(
            f"{path} was not written: {fault.strerror or fault} ({remote.size:,} bytes are needed);"
            " free some space, or name another folder in MUSICGEN_CACHE"
        ) from fault
