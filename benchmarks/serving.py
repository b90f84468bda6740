"""The playground's server under load, and how soon a tune is there.

    python benchmarks/serving.py              both, as below
    python benchmarks/serving.py load         50 clients at once for 60 seconds
    python benchmarks/serving.py latency      50 tunes of 32 bars, one after the other
    python benchmarks/serving.py --toy        seconds, for continuous integration

`musicgen serve` runs as a process of its own; all that is sent stays on 127.0.0.1.

load: each client asks for tunes, follows them, fetches what is shown of them and their files,
varies some, and asks again at once; whoever is told to wait (429) waits. A tune is *wrong* if it
has not the bars, key or seed that were asked for, or if one that was asked for twice came out in
two ways; some are drawn once more in this process and compared. A job is *lost* if it was accepted
and did not end as a tune. Beside them one client sends its requests a byte at a time and is as slow
to read, one sends rubbish, one hangs up in mid-request. The memory of the server and of its workers
is read from /proc, sixty times.

latency: from the request until all that a page shows has arrived: the score as SVG, the sounds, the
receipt, the bits of each note. What a browser then does with it is measured with the page.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musicgen import load

KEYS = ("D major", "G major", "A minor", "E dorian")
CHECKED = 10  # tunes that are drawn once more
WARM = 1 / 4  # of the time, after which memory is to be flat
PATIENCE = 120


@dataclass(frozen=True)
class Server:
    """A server under way."""

    process: subprocess.Popen[str]
    port: int

    def request(
        self, method: str, path: str, body: Any = None, client: str = ""
    ) -> tuple[int, Any]:
        """Send one request; return the status and what the JSON of the answer says."""
        status, data = self.fetch(method, path, body, client)
        return status, json.loads(data)

    def fetch(self, method: str, path: str, body: Any, client: str) -> tuple[int, bytes]:
        """Send one request; return the status and the bytes of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = {"X-Client": client, "Content-Type": "application/json"}
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def end_of(self, job: str) -> dict[str, Any]:
        """Follow a job to its end."""
        _, data = self.fetch("GET", f"/api/jobs/{job}/events", None, "")
        last = [line for line in data.splitlines() if line.startswith(b"data: ")][-1]
        return json.loads(last.removeprefix(b"data: "))  # type: ignore[no-any-return]


@contextmanager
def serving() -> Iterator[Server]:
    """Run the server for a block, in a folder of its own."""
    words = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().split("/")[2].rpartition(":")[2])
            server = Server(process, port)
            for client in ("a", "b"):  # both workers are there
                _, told = server.request("POST", "/api/jobs", {"do": "sample"}, client)
                server.end_of(told["id"])
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0


# Load


@dataclass
class Seen:
    """What all clients have met."""

    until: float
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    tunes: dict[str, str] = field(default_factory=dict)  # what was asked -> the tune's id
    notes: dict[str, Any] = field(default_factory=dict)  # what was asked -> the notes
    words: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.until

    def wrong(self, why: str) -> None:
        """Note an answer that should not have been."""
        self.counts["wrong"] += 1
        self.words.add(why)


def honest(server: Server, seen: Seen, number: int) -> None:
    """Ask for tunes, one after the other."""
    luck = random.Random(number)
    while not seen.is_over:
        body = {"do": "sample", "bars": luck.choice((4, 8, 16)), "key": luck.choice(KEYS),
                "seed": luck.randrange(40)}  # fmt: skip
        shown = one_tune(server, seen, body, f"client {number}")
        if shown and luck.random() < 0.3:
            near = {"do": "tweak", "of": shown["id"], "temperature": 0.9}
            one_tune(server, seen, near, f"client {number}")
        if shown and luck.random() < 0.3:
            status, data = server.fetch("GET", f"/api/tunes/{shown['id']}/file/mid", None, "")
            seen.counts["files"] += 1
            if status not in (200, 429) or (status == 200 and not data.startswith(b"MThd")):
                seen.wrong(f"file: {status}")


def one_tune(
    server: Server, seen: Seen, body: dict[str, Any], client: str
) -> dict[str, Any] | None:
    """Ask for a tune and check it; None where the client is told to wait."""
    started = time.monotonic()
    status, told = server.request("POST", "/api/jobs", body, client)
    if status == 429:
        seen.counts["told to wait"] += 1
        time.sleep(0.2)
        return None
    if status != 202:
        seen.wrong(f"{body['do']}: {status} {told}")
        return None
    seen.counts["jobs"] += 1
    end = server.end_of(told["id"])
    if end["state"] != "done":
        seen.counts["lost"] += 1
        seen.words.add(str(end["error"]))
        return None
    status, shown = server.request("GET", f"/api/tunes/{end['tune']}", None, client)
    seen.seconds.append(time.monotonic() - started)
    check(seen, body, status, shown)
    return shown if status == 200 else None


def check(seen: Seen, body: dict[str, Any], status: int, shown: dict[str, Any]) -> None:
    """Compare what is shown of a tune with what was asked."""
    if status != 200:
        seen.wrong(f"tune: {status} {shown}")
        return
    asked = json.dumps(body, sort_keys=True)
    if seen.tunes.setdefault(asked, shown["id"]) != shown["id"]:
        seen.wrong(f"{asked}: two tunes")
    if body["do"] == "sample":
        seen.notes[asked] = [(sound[2], sound[5]) for sound in shown["sounds"]]
        met = (shown["bars"], shown["seed"], shown["key"])
        if met != (body["bars"], body["seed"], body["key"]):
            seen.wrong(f"{asked}: {met}")


def slow(server: Server, seen: Seen, _: int) -> None:
    """Send a byte at a time, and take the answer as slowly."""
    while not seen.is_over:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            line = f"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
            with suppress(OSError):
                for letter in line:
                    connection.sendall(letter.encode())
                    time.sleep(0.05)
                    if seen.is_over:
                        return
                seen.counts["slow, answered"] += connection.recv(1) == b"H"


def rubbish(server: Server, seen: Seen, _: int) -> None:
    """Send bytes that mean nothing, and JSON that means as little."""
    luck = random.Random(0)
    while not seen.is_over:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            with suppress(OSError):
                connection.sendall(luck.randbytes(luck.randrange(1, 5000)) + b"\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
            refused(seen, answer_on(connection))
        body = {"do": luck.choice(["sample", "x", 1]), "bars": luck.choice([0, -1, "x", 10**9])}
        status, told = server.request("POST", "/api/jobs", body, "rubbish")
        refused(seen, b"HTTP/1.1 %d" % status)
        seen.counts["rubbish let in"] += "error" not in told
        time.sleep(0.05)


def answer_on(connection: socket.socket) -> bytes:
    with suppress(OSError):
        return connection.recv(100)
    return b""


def refused(seen: Seen, answer: bytes) -> None:
    seen.counts["rubbish sent"] += 1
    seen.counts["rubbish let in"] += not (answer == b"" or answer.startswith(b"HTTP/1.1 4"))


def cut_off(server: Server, seen: Seen, _: int) -> None:
    """Hang up in the middle of a request, and of an answer."""
    while not seen.is_over:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            kind = "Content-Type: application/json\r\nContent-Length: 4000000\r\n\r\n"
            with suppress(OSError):
                connection.sendall(f"{head}{kind}".encode() + b" " * 1_000_000)
        status, told = server.request("POST", "/api/jobs", {"do": "sample", "bars": 4}, "cut off")
        if status == 202:
            path = f"GET /api/jobs/{told['id']}/events HTTP/1.1\r\n"
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
                connection.sendall(f"{path}Host: 127.0.0.1:{server.port}\r\n\r\n".encode())
                connection.recv(10)
        seen.counts["cut off"] += 1
        time.sleep(0.2)


def memory(pid: int) -> float:
    """Return the MiB of a process that are in memory, from /proc."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]
    return []


def watch(server: Server, seen: Seen, every: float) -> list[tuple[float, float]]:
    """Return the memory of the server and of its workers, from time to time."""
    found = []
    while not seen.is_over:
        pid = server.process.pid
        found.append((memory(pid), sum(map(memory, children(pid)))))
        time.sleep(every)
    return found


def under_load(server: Server, clients: int, seconds: float) -> None:
    """Let many clients ask at once, three of them rude."""
    seen = Seen(time.monotonic() + seconds)
    rude = [slow, rubbish, cut_off]
    kinds: list[Callable[[Server, Seen, int], None]] = [*rude, *[honest] * (clients - 3)]
    threads = [threading.Thread(target=kind, args=(server, seen, number))
               for number, kind in enumerate(kinds)]  # fmt: skip
    for thread in threads:
        thread.start()
    sizes = watch(server, seen, seconds / 60)
    for thread in threads:
        thread.join()
    told = report(seen, clients, seconds)
    print(f"{told}; drawn once more and other: {drawn_again(seen)} of {CHECKED} at most")
    tell_memory(sizes)


def report(seen: Seen, clients: int, seconds: float) -> str:
    counts = seen.counts
    for words in sorted(seen.words)[:5]:
        print(f"  {words}")
    return (
        f"{clients} clients, {seconds:.0f} s: {counts['jobs']} jobs, {counts['wrong']} wrong,"
        f" {counts['lost']} lost, {counts['told to wait']} told to wait, {counts['files']} files;"
        f" from asked to shown: median {statistics.median(seen.seconds or [0]):.1f} s, at most"
        f" {max(seen.seconds, default=0):.1f} s; rubbish: {counts['rubbish sent']} sent,"
        f" {counts['rubbish let in']} let in; cut off {counts['cut off']} times; the slow client"
        f" was answered {counts['slow, answered']} times"
    )


def drawn_again(seen: Seen) -> int:
    """Return how many of some tunes are others than what this process draws."""
    model, other = load("folk"), 0
    for asked, notes in list(seen.notes.items())[:CHECKED]:
        body = json.loads(asked)
        tune = model.sample(bars=body["bars"], key=body["key"], seed=body["seed"])
        pitches = tune.score.notes
        other += any(pitches[index].pitch != pitch for pitch, index in notes)
    return other


def tell_memory(sizes: list[tuple[float, float]]) -> None:
    warm = sizes[int(len(sizes) * WARM) :]
    for name, column in (("server", 0), ("workers", 1)):
        values = [one[column] for one in warm]
        half = len(values) // 2
        first, last = max(values[:half] or values), max(values[half:])
        print(
            f"memory of the {name} after the first quarter: at most {first:.1f} MiB in the first"
            f" half of the time, {last:.1f} in the second; ratio {last / max(first, 1):.3f}"
        )


# Latency


def latency(server: Server, times: int, bars: int) -> None:
    """Ask for tunes, one after the other, and time each."""
    bodies = [{"do": "sample", "bars": bars, "seed": number} for number in range(times)]
    found = sorted(seconds_of(server, body) for body in bodies)
    print(
        f"{times} tunes of {bars} bars, from asked to all that a page shows: median"
        f" {statistics.median(found):.2f} s, 95 % under {found[-(-95 * times // 100) - 1]:.2f} s"
    )


def seconds_of(server: Server, body: dict[str, Any]) -> float:
    started = time.perf_counter()
    status, told = server.request("POST", "/api/jobs", body)
    assert status == 202, told
    end = server.end_of(told["id"])
    status, shown = server.request("GET", f"/api/tunes/{end['tune']}")
    assert status == 200, shown
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", choices=["load", "latency"])
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    arguments = parser.parse_args()
    with serving() as server:
        if arguments.what != "load":
            latency(server, *((2, 4) if arguments.toy else (50, 32)))
        if arguments.what != "latency":
            under_load(server, *((6, 1) if arguments.toy else (50, 60)))


if __name__ == "__main__":
    main()
