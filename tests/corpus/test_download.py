"""What a card names by URL is downloaded whole, or not at all; a server of our own lies to it."""

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
    """Serves one file, with the faults that a test asks for."""

    data = DATA
    cut_after = 0  # bytes of an answer, then the connection goes
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
        asked = self.headers.get("Range", "")
        server.ranges.append(asked)
        start = int(asked[6:-1]) if asked and not server.ignores_range else 0
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
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield serving
        serving.shutdown()


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = download(server.wanted, tmp_path, progress=lambda *now: told.append(now))
    assert path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert told == sorted(told)
    assert download(server.wanted, tmp_path) == path
    assert server.ranges == [""]
    assert list(tmp_path.iterdir()) == [path]


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    assert download(server.wanted, tmp_path).read_bytes() == DATA
    assert server.ranges == ["", *(f"bytes={n}00000-" for n in range(1, 6))]


def test_it_goes_on_in_another_run(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / f"{server.wanted.cache_name}.part"
    partial.write_bytes(DATA[:300_000])
    assert download(server.wanted, tmp_path).read_bytes() == DATA
    assert server.ranges == ["bytes=300000-"]
    assert not partial.exists()


def test_what_lay_there_may_be_something_else(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{server.wanted.cache_name}.part").write_bytes(b"x" * 300_000)
    assert download(server.wanted, tmp_path).read_bytes() == DATA
    assert server.ranges == ["bytes=300000-", ""]


def test_a_damaged_copy_in_the_cache_is_not_used(server: Server, tmp_path: Path) -> None:
    path = download(server.wanted, tmp_path)
    path.write_bytes(DATA[:-1] + b"!")
    assert download(server.wanted, tmp_path).read_bytes() == DATA


def test_a_server_may_ignore_ranges(server: Server, tmp_path: Path) -> None:
    server.ignores_range = True
    (tmp_path / f"{server.wanted.cache_name}.part").write_bytes(DATA[:1000])
    assert download(server.wanted, tmp_path).read_bytes() == DATA


def test_a_server_may_lie_about_the_length(server: Server, tmp_path: Path) -> None:
    server.lies_about_length = True
    assert download(server.wanted, tmp_path).read_bytes() == DATA


def short(server: Server) -> RemoteFile:
    return RemoteFile(server.url, SHA, len(DATA) + 5)


def long(server: Server) -> RemoteFile:
    return RemoteFile(server.url, SHA, len(DATA) - 5)


def other(server: Server) -> RemoteFile:
    return RemoteFile(server.url, "0" * 64, len(DATA))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (short, r"stops at 512,000 of 512,005 bytes .*; what is there is kept: try again later"),
        (long, r"longer than the 511,995 bytes that the card says"),
        (other, rf"has SHA-256 {SHA}, and the card says 0000.*see whether the card is up to date"),
    ],
)
def test_what_the_card_does_not_describe_is_not_used(
    server: Server, tmp_path: Path, wanted: Callable[[Server], RemoteFile], words: str
) -> None:
    with pytest.raises(MusicgenError, match=words):
        download(wanted(server), tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".part"] == []


def test_a_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(MusicgenError, match="the server answers 404 Not Found; check the card"):
        download(server.wanted, tmp_path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("status", [416, 500, 503])
def test_a_server_that_never_answers_is_given_up(
    server: Server, tmp_path: Path, status: int
) -> None:
    server.status = status
    with pytest.raises(MusicgenError, match=f"stops at 0 of 512,000 bytes .status {status}"):
        download(server.wanted, tmp_path)
    assert len(server.ranges) == 5


def test_no_network_is_said_in_one_line(tmp_path: Path, server: Server) -> None:
    wanted = RemoteFile("http://127.0.0.1:9/tunes.bin", SHA, len(DATA))
    with pytest.raises(MusicgenError, match=r"stops at 0 of .*refused"):
        download(wanted, tmp_path)


@pytest.mark.parametrize(
    "place",
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
def test_redirects_lead_to_no_other_kind_of_place(
    server: Server, tmp_path: Path, place: str
) -> None:
    server.status, server.location = 302, place
    with pytest.raises(MusicgenError, match=r"only https://|is no URL|status 302"):
        download(server.wanted, tmp_path)


def test_redirects_end(server: Server, tmp_path: Path) -> None:
    server.status, server.location = 302, server.url
    with pytest.raises(MusicgenError, match="stops at 0"):
        download(server.wanted, tmp_path)
    assert len(server.ranges) <= 5 * 6


def test_a_full_disk_is_said_in_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteFailed, match=r"No space left .*512,000 bytes are needed.*MUSICGEN_CA"):
        download(server.wanted, tmp_path)


@pytest.mark.parametrize(
    ("url", "sha", "size", "words"),
    [
        ("file:///etc/passwd", SHA, 5, "no URL of a file"),
        ("http://example.org/a.zip", SHA, 5, "only https"),
        ("https://example.org/a b.zip", SHA, 5, "no URL of a file"),
        ("https://example.org/a.zip", "abc", 5, "not 64 digits"),
        ("https://example.org/a.zip", SHA, 0, "bytes is 0"),
        ("https://example.org/a.zip", SHA, 2**60, "not 1 to"),
    ],
)
def test_a_card_that_cannot_be_meant_is_refused(url: str, sha: str, size: int, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        RemoteFile(url, sha, size)


@pytest.mark.parametrize("last", ["..%2f..%2fevil", "..", "a\\..\\b.zip", ".hidden", "è.zip", ""])
def test_a_urls_name_becomes_no_path(last: str) -> None:
    name = RemoteFile(f"https://example.org/x/{last}", SHA, 5).cache_name
    assert name.startswith(f"{SHA[:16]}-")
    assert "/" not in name
    assert "\\" not in name


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("MUSICGEN_CACHE", "/y")
    assert cache_folder() == Path("/y")
    monkeypatch.delenv("MUSICGEN_CACHE")
    assert cache_folder() == Path("/x/musicgen")


CARD = 'title = "T"\ndescription = "d"\nwhere = "{}"\nfiles = "*.abc"\nsha256 = "{}"\nbytes = {}\n'


def test_a_card_of_ones_own_is_a_source(
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = 5", "title: expected str, got int; one is TOML with"),
        ('title = "T"', "missing required field description"),
        ('title = "T"\ndescription = "d"', "lacks one of where and includes"),
        ('titel = "T"', "unknown field titel; one is TOML with title, description"),
        ('title = "T"\ndescription = "d"\nwhere = "https://x/y"', "needs sha256 and bytes"),
        ("= 5", "is not a corpus card"),
        (CARD.format("http://[/x.mid", SHA, 5), r"^[^\n]*no URL of a file; give https[^\n]*TOML"),
        (CARD.format("https://x:port/x.mid", SHA, 5), "no URL of a file"),
        (CARD.format("https://x:70000/x.mid", SHA, 5), "no URL of a file"),
        (CARD.format("https:///x.mid", SHA, 5), "no URL of a file"),
        (CARD.format("https://a\u2100b/x.mid", SHA, 5), "no URL of a file"),
        (CARD.format("http://example.org/x.mid", SHA, 5), "only https:// is downloaded"),
    ],
)
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InvalidValue, match=words):
        find_files(str(tmp_path / "bad.toml"))
