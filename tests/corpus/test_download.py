"""Downloads are complete or absent, tested against a local server that misbehaves."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from musicgen.corpus.download import RemoteFile, cache_folder, download
from musicgen.corpus.sources import find_files
from musicgen.errors import InvalidValue, MusicgenError, WriteFailed
from tests.malformed_files import TUNE, zipped

DATA = bytes(range(256)) * 2_000
SHA = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file, with faults that a test selects."""

    data = DATA
    cut_after = 0  # bytes, after which the connection is closed
    ignores_range = False
    lies_about_length = False
    status = 200
    location = ""
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tunes.bin"

    @property
    def wanted(self) -> RemoteFile:
        return RemoteFile(self.url, hashlib.sha256(self.data).hexdigest(), len(self.data))


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        byte_range = self.headers.get("Range", "")
        server.ranges.append(byte_range)
        start = int(byte_range[6:-1]) if byte_range and not server.ignores_range else 0
        if server.status != 200:
            self.send_response(server.status)
            self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/*")
        lie = 999 if server.lies_about_length else 0
        self.send_header("Content-Length", str(len(body) + lie))
        self.end_headers()
        self.wfile.write(body[: server.cut_after or None])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield serving
        serving.shutdown()


def test_downloads_a_file_once(server: Server, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    path = download(server.wanted, tmp_path, progress=lambda *report: reports.append(report))
    assert path.read_bytes() == DATA
    assert reports[-1] == (len(DATA), len(DATA))
    assert reports == sorted(reports)
    assert download(server.wanted, tmp_path) == path
    assert server.ranges == [""]
    assert list(tmp_path.iterdir()) == [path]


def test_resumes_after_cut_connection(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    assert download(server.wanted, tmp_path).read_bytes() == DATA
    assert server.ranges == ["", *(f"bytes={n}00000-" for n in range(1, 6))]


def test_resumes_partial_file_of_an_earlier_process(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / f"{server.wanted.cache_name}.part"
    partial.write_bytes(DATA[:300_000])
    assert download(server.wanted, tmp_path).read_bytes() == DATA
    assert server.ranges == ["bytes=300000-"]
    assert not partial.exists()


def test_restarts_if_partial_file_is_wrong(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{server.wanted.cache_name}.part").write_bytes(b"x" * 300_000)
    assert download(server.wanted, tmp_path).read_bytes() == DATA
    assert server.ranges == ["bytes=300000-", ""]


def test_downloads_again_if_cached_file_is_damaged(server: Server, tmp_path: Path) -> None:
    path = download(server.wanted, tmp_path)
    path.write_bytes(DATA[:-1] + b"!")
    assert download(server.wanted, tmp_path).read_bytes() == DATA


def test_handles_server_that_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.ignores_range = True
    (tmp_path / f"{server.wanted.cache_name}.part").write_bytes(DATA[:1000])
    assert download(server.wanted, tmp_path).read_bytes() == DATA


def test_handles_server_with_wrong_content_length(server: Server, tmp_path: Path) -> None:
    server.lies_about_length = True
    assert download(server.wanted, tmp_path).read_bytes() == DATA


def too_large(server: Server) -> RemoteFile:
    return RemoteFile(server.url, SHA, len(DATA) + 5)


def too_small(server: Server) -> RemoteFile:
    return RemoteFile(server.url, SHA, len(DATA) - 5)


def other_hash(server: Server) -> RemoteFile:
    return RemoteFile(server.url, "0" * 64, len(DATA))


@pytest.mark.parametrize(
    ("make_remote", "message"),
    [
        (too_large, r"stops at 512,000 of 512,005 bytes .*; the part is kept: try again later"),
        (too_small, r"longer than the 511,995 bytes that the card says"),
        (
            other_hash,
            rf"has SHA-256 {SHA}, and the card says 0000.*see whether the card is up to date",
        ),
    ],
)
def test_refuses_file_with_other_size_or_hash(
    server: Server, tmp_path: Path, make_remote: Callable[[Server], RemoteFile], message: str
) -> None:
    with pytest.raises(MusicgenError, match=message):
        download(make_remote(server), tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".part"] == []


def test_does_not_retry_missing_file(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(MusicgenError, match="the server answers 404 Not Found; check the card"):
        download(server.wanted, tmp_path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("status", [416, 500, 503])
def test_gives_up_on_failing_server(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(MusicgenError, match=f"stops at 0 of 512,000 bytes .status {status}"):
        download(server.wanted, tmp_path)
    assert len(server.ranges) == 5


def test_reports_refused_connection(tmp_path: Path, server: Server) -> None:
    remote = RemoteFile("http://127.0.0.1:9/tunes.bin", SHA, len(DATA))
    with pytest.raises(MusicgenError, match=r"stops at 0 of .*refused"):
        download(remote, tmp_path)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://example.org/a",
        "//example.org/a",
        "http://[/a",
        "http://127.0.0.1:port/a",
        f"https://{'a' * 70}.b/",
    ],
)
def test_refuses_redirect_to_forbidden_url(server: Server, tmp_path: Path, location: str) -> None:
    server.status, server.location = 302, location
    with pytest.raises(MusicgenError, match=r"only https://|not the URL|invalid URL|status 302"):
        download(server.wanted, tmp_path)


def test_limits_redirects(server: Server, tmp_path: Path) -> None:
    server.status, server.location = 302, server.url
    with pytest.raises(MusicgenError, match="stops at 0"):
        download(server.wanted, tmp_path)
    assert len(server.ranges) <= 5 * 6


def test_reports_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteFailed, match=r"No space left .*512,000 bytes are needed.*MUSICGEN_CA"):
        download(server.wanted, tmp_path)


@pytest.mark.parametrize(
    ("url", "sha", "size", "message"),
    [
        ("file:///etc/passwd", SHA, 5, "not the URL of a file"),
        ("http://example.org/a.zip", SHA, 5, "only https"),
        ("https://example.org/a b.zip", SHA, 5, "not the URL of a file"),
        ("https://example.org/a.zip", "abc", 5, "not 64 digits"),
        ("https://example.org/a.zip", SHA, 0, "bytes is 0"),
        ("https://example.org/a.zip", SHA, 2**60, "not 1 to"),
    ],
)
def test_refuses_invalid_remote_file(url: str, sha: str, size: int, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        RemoteFile(url, sha, size)


@pytest.mark.parametrize(
    "file_name", ["..%2f..%2fevil", "..", "a\\..\\b.zip", ".hidden", "è.zip", ""]
)
def test_cache_name_is_never_a_path(file_name: str) -> None:
    name = RemoteFile(f"https://example.org/x/{file_name}", SHA, 5).cache_name
    assert name.startswith(f"{SHA[:16]}-")
    assert "/" not in name
    assert "\\" not in name


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("MUSICGEN_CACHE", "/y")
    assert cache_folder() == Path("/y")
    monkeypatch.delenv("MUSICGEN_CACHE")
    assert cache_folder() == Path("/x/musicgen")


CARD = 'title = "T"\ndescription = "d"\nwhere = "{}"\nfiles = "*.abc"\nsha256 = "{}"\nbytes = {}\n'


def test_reads_card_of_the_user(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = zipped({"a.abc": TUNE.encode(), "b.mid": b""})
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "cache"))
    url = server.url.replace("tunes.bin", "tunes.zip")
    (tmp_path / "my.toml").write_text(CARD.format(url, server.wanted.sha256, len(server.data)))
    (file,) = find_files(str(tmp_path / "my.toml")).files
    scores, refused = file.read()
    assert ([score.title for score in scores], refused) == (["Hostile"], ())
    assert [part.name for part, _ in file.iter_contents()] == ["my/tunes.zip/a.abc"]


def test_card_downloads_each_file_below_its_url(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = TUNE.encode()
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "cache"))
    folder_url = server.url.removesuffix("tunes.bin")
    card = f'title = "T"\ndescription = "d"\nwhere = "{folder_url}"\nfiles = "*.abc"\n'
    for name in ("a.abc", "b.abc"):
        card += f'[[downloads]]\nname = "{name}"\nsha256 = "{server.wanted.sha256}"\n'
        card += f"bytes = {len(server.data)}\n"
    (tmp_path / "my.toml").write_text(card)
    files = find_files(str(tmp_path / "my.toml")).files
    assert [file.name for file in files] == ["my/a.abc", "my/b.abc"]
    assert [file.read()[0][0].title for file in files] == ["Hostile"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = 5", "title: expected str, got int; a card is TOML with"),
        ('title = "T"', "missing required field description"),
        ('title = "T"\ndescription = "d"', "needs exactly one of where and includes"),
        ('titel = "T"', "unknown field titel; a card is TOML with title, description"),
        ('title = "T"\ndescription = "d"\nwhere = "https://x/y"', "needs sha256 and bytes"),
        ("= 5", "is not a corpus card"),
        (
            CARD.format("http://[/x.mid", SHA, 5),
            r"^[^\n]*not the URL of a file; give https[^\n]*TOML",
        ),
        (CARD.format("https://x:port/x.mid", SHA, 5), "not the URL of a file"),
        (CARD.format("https://x:70000/x.mid", SHA, 5), "not the URL of a file"),
        (CARD.format("https:///x.mid", SHA, 5), "not the URL of a file"),
        (CARD.format("https://a\u2100b/x.mid", SHA, 5), "not the URL of a file"),
        (CARD.format("http://example.org/x.mid", SHA, 5), "only https:// URLs are downloaded"),
    ],
)
def test_refuses_malformed_card(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InvalidValue, match=message):
        find_files(str(tmp_path / "bad.toml"))
