"""Download the files that corpus cards name by URL into a cache, and check their SHA-256.

An interrupted download resumes where it stopped. A file appears in the cache folder
(MUSICGEN_CACHE, else XDG_CACHE_HOME/musicgen, else ~/.cache/musicgen) under its final name only
when it is complete.
"""

from __future__ import annotations

import contextlib
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
from musicgen.files import acquire_lock, hash_file
from musicgen.typed_data import shorten

_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


def split_url(url: str) -> SplitResult:
    """Split the URL of a file. Raises InvalidValue if it is malformed or not https."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are not IPv6, or a port that is not a number
        has_host = False
    if not has_host or not url.isprintable() or " " in url:
        raise InvalidValue(f"{shorten(url)!r} is not the URL of a file; give https://HOST/PATH")
    if parts.scheme != "https" and (parts.scheme, parts.hostname in _LOCAL_HOSTS) != ("http", True):
        raise InvalidValue(f"{shorten(url)}: only https:// URLs are downloaded; use one")
    return parts


def url_file_name(url: str) -> str:
    """Return the last part of the path of a URL. Raises InvalidValue."""
    return split_url(url).path.rpartition("/")[2]


DownloadCallback = Callable[[int, int], None]  # bytes so far, bytes in all
MAX_FRUITLESS_ATTEMPTS: Final = 5  # consecutive attempts that receive nothing
MAX_REDIRECTS: Final = 5
TIMEOUT_SECONDS: Final = 30.0  # without any data
MAX_BYTES: Final = 64 * 2**30
_CHUNK_BYTES: Final = 2**18
_PERMANENT_STATUSES: Final = (401, 403, 404, 410)  # retrying does not help


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download: its URL, SHA-256 and size. Raises InvalidValue if one is malformed."""

    url: str
    sha256: str  # in hex
    size: int  # bytes

    def __post_init__(self) -> None:
        split_url(self.url)
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InvalidValue(f"{self.url}: sha256 is {self.sha256!r}, not 64 digits of 0-9a-f")
        if not 0 < self.size <= MAX_BYTES:
            raise InvalidValue(f"{self.url}: bytes is {self.size}, not 1 to {MAX_BYTES}")

    @property
    def cache_name(self) -> str:
        """The file name in the cache: the start of the hash, and the sanitized end of the name."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", url_file_name(self.url))
        return f"{self.sha256[:16]}-{name[-60:].lstrip('.')}"


def cache_folder() -> Path:
    """Return the folder of downloaded files."""
    if folder := os.environ.get("MUSICGEN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "musicgen"


def download(
    remote: RemoteFile, folder: Path | None = None, *, progress: DownloadCallback | None = None
) -> Path:
    """Return the path of a file in the cache; download it if needed.

    Args:
        remote: the file.
        folder: the cache folder; by default that of the user.
        progress: called with the bytes so far and in all.

    Raises:
        MusicgenError: the download failed, or the file is not the one that the card describes.
        WriteFailed: the system refused to write.
    """
    folder = folder or cache_folder()
    path, partial = folder / remote.cache_name, folder / f"{remote.cache_name}.part"
    with _translate_os_errors(remote, path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and hash_file(path) == remote.sha256:
            return path
        is_resumed = partial.exists()
        _download_missing(remote, partial, progress or _ignore_progress)
        if is_resumed and hash_file(partial) != remote.sha256:  # the old part was of another file
            partial.unlink()
            _download_missing(remote, partial, progress or _ignore_progress)
        _verify_hash(remote, partial)
        partial.replace(path)
    return path


def _ignore_progress(*_: int) -> None:
    """Do nothing."""


def _download_missing(remote: RemoteFile, partial: Path, progress: DownloadCallback) -> None:
    """Request the rest of a file until it is complete or several attempts receive nothing."""
    fruitless_attempts = 0
    with partial.open("ab") as file:
        _lock(file, remote)
        while (offset := file.seek(0, os.SEEK_END)) < remote.size:
            fault = _request_once(remote, file, progress)
            has_grown = file.seek(0, os.SEEK_END) > offset
            fruitless_attempts = 0 if has_grown else fruitless_attempts + 1
            if fruitless_attempts >= MAX_FRUITLESS_ATTEMPTS:
                raise MusicgenError(
                    f"{remote.url}: the download stops at {offset:,} of {remote.size:,} bytes"
                    f" ({fault}); the part is kept: try again later"
                )
        os.fsync(file.fileno())


def _request_once(remote: RemoteFile, file: IO[bytes], progress: DownloadCallback) -> str:
    """Append the response to one request; return what ended it. Raises MusicgenError for good."""
    offset = file.tell()
    ranged = request.Request(remote.url, headers=_build_headers(offset))  # noqa: S310 - checked above
    try:
        with _build_opener().open(ranged, timeout=TIMEOUT_SECONDS) as response:
            if offset and not _is_continuation(response, offset):
                file.truncate(0)
            for chunk in iter(lambda: response.read(_CHUNK_BYTES), b""):
                file.write(chunk)
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
    except ValueError as fault:  # a redirect target or host is malformed
        message = f"{remote.url}: it redirects to an invalid URL; check the card's URL in a browser"
        raise MusicgenError(message) from fault
    finally:
        file.flush()
    return "the server closed the connection"


def _build_headers(offset: int) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "musicgen"}
    return headers | ({"Range": f"bytes={offset}-"} if offset else {})


def _is_continuation(response: Any, offset: int) -> bool:
    """Tell whether a response continues the file at an offset, rather than restarts it."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return False
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")


class _Redirects(request.HTTPRedirectHandler):
    """Follow a few redirects, only to URLs that a card could have named."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request | None:
        """Check the new URL. Raises InvalidValue."""
        split_url(urljoin(req.full_url, newurl))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _build_opener() -> request.OpenerDirector:
    """Return an opener that speaks only HTTP and HTTPS."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _verify_hash(remote: RemoteFile, partial: Path) -> None:
    digest = hash_file(partial)
    if digest != remote.sha256:
        partial.unlink()
        raise MusicgenError(
            f"{remote.url}: the file has SHA-256 {digest}, and the card says {remote.sha256};"
            " it was not used: see whether the card is up to date"
        )


def _too_long_message(remote: RemoteFile) -> str:
    return (
        f"{remote.url}: the file is longer than the {remote.size:,} bytes that the card says;"
        " it was not used: see whether the card is up to date"
    )


def _http_error_message(remote: RemoteFile, fault: HTTPError) -> str:
    status = f"{fault.code} {escape_unprintable(str(fault.reason))[:80]}"
    return f"{remote.url}: the server answers {status}; check the card's URL in a browser"


def _lock(file: IO[bytes], remote: RemoteFile) -> None:
    """Keep a second process from writing to the same file."""
    try:
        acquire_lock(file.fileno(), wait=False)
    except OSError as fault:
        message = f"{remote.url} is being downloaded by another process; wait for it"
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
