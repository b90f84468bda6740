"""Measure the playground's server: under load, and the latency of a tune.

    python benchmarks/serving.py              both of the following
    python benchmarks/serving.py load         50 clients at once for 60 seconds
    python benchmarks/serving.py latency      50 tunes of 32 bars, one after another
    python benchmarks/serving.py --toy        seconds, for continuous integration

`musicgen serve` runs in its own process; all traffic stays on 127.0.0.1.

load: each client requests tunes, follows the jobs, fetches the tunes and their files, tweaks some,
and starts again at once; after a status 429 it waits. A tune is *wrong* if its bars, key or seed
are not the requested ones, or if the same request gave two different tunes; some tunes are sampled
again in this process and compared. A job is *lost* if it was accepted and did not end as a tune.
At the same time one client sends and reads byte by byte, one sends malformed requests, and one
disconnects in the middle of requests. The memory of the server and of its workers is read from
/proc, sixty times.

latency: from the request until the tune has arrived: score as SVG, sounds, receipt, bits of each
note. What the browser then does is measured by benchmarks/playground.py.
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
MAX_REGENERATED = 10  # tunes that are sampled again and compared
WARM_UP_SHARE = 1 / 4  # share of the time before memory should be constant
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    def request(
        self, method: str, path: str, body: Any = None, client: str = ""
    ) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer."""
        status, data = self.fetch(method, path, body, client)
        return status, json.loads(data)

    def fetch(self, method: str, path: str, body: Any, client: str) -> tuple[int, bytes]:
        """Send a request; return the status and the bytes of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            headers = {"X-Client": client, "Content-Type": "application/json"}
            body_text = None if body is None else json.dumps(body)
            connection.request(method, path, body_text, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def follow_job(self, job: str) -> dict[str, Any]:
        """Follow a job to its end; return its final state."""
        _, data = self.fetch("GET", f"/api/jobs/{job}/events", None, "")
        last = [line for line in data.splitlines() if line.startswith(b"data: ")][-1]
        return json.loads(last.removeprefix(b"data: "))  # type: ignore[no-any-return]


@contextmanager
def run_server() -> Iterator[Server]:
    """Run a server in a temporary folder."""
    command = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().split("/")[2].rpartition(":")[2])
            server = Server(process, port)
            for client in ("a", "b"):  # starts both workers
                _, answer = server.request("POST", "/api/jobs", {"do": "sample"}, client)
                server.follow_job(answer["id"])
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_SECONDS) == 0


# Load


@dataclass
class LoadResults:
    """What all clients have recorded."""

    deadline: float
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    tunes: dict[str, str] = field(default_factory=dict)  # request -> id of the tune
    notes: dict[str, Any] = field(default_factory=dict)  # request -> notes
    messages: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def record_wrong(self, why: str) -> None:
        """Record a wrong answer."""
        self.counts["wrong"] += 1
        self.messages.add(why)


def run_honest_client(server: Server, results: LoadResults, number: int) -> None:
    """Request tunes, one after another."""
    rng = random.Random(number)
    while not results.is_over:
        body = {"do": "sample", "bars": rng.choice((4, 8, 16)), "key": rng.choice(KEYS),
                "seed": rng.randrange(40)}  # fmt: skip
        tune = request_tune(server, results, body, f"client {number}")
        if tune and rng.random() < 0.3:
            variant_request = {"do": "tweak", "of": tune["id"], "temperature": 0.9}
            request_tune(server, results, variant_request, f"client {number}")
        if tune and rng.random() < 0.3:
            status, data = server.fetch("GET", f"/api/tunes/{tune['id']}/file/mid", None, "")
            results.counts["files"] += 1
            if status not in (200, 429) or (status == 200 and not data.startswith(b"MThd")):
                results.record_wrong(f"file: {status}")


def request_tune(
    server: Server, results: LoadResults, body: dict[str, Any], client: str
) -> dict[str, Any] | None:
    """Request a tune and check it; return None if the server is busy or the job fails."""
    start_time = time.monotonic()
    status, answer = server.request("POST", "/api/jobs", body, client)
    if status == 429:
        results.counts["told to wait"] += 1
        time.sleep(0.2)
        return None
    if status != 202:
        results.record_wrong(f"{body['do']}: {status} {answer}")
        return None
    results.counts["jobs"] += 1
    final_state = server.follow_job(answer["id"])
    if final_state["state"] != "done":
        results.counts["lost"] += 1
        results.messages.add(str(final_state["error"]))
        return None
    status, tune = server.request("GET", f"/api/tunes/{final_state['tune']}", None, client)
    results.seconds.append(time.monotonic() - start_time)
    check_tune(results, body, status, tune)
    return tune if status == 200 else None


def check_tune(
    results: LoadResults, body: dict[str, Any], status: int, tune: dict[str, Any]
) -> None:
    """Compare a tune with its request."""
    if status != 200:
        results.record_wrong(f"tune: {status} {tune}")
        return
    request_key = json.dumps(body, sort_keys=True)
    if results.tunes.setdefault(request_key, tune["id"]) != tune["id"]:
        results.record_wrong(f"{request_key}: two tunes")
    if body["do"] == "sample":
        results.notes[request_key] = [(sound[2], sound[5]) for sound in tune["sounds"]]
        properties = (tune["bars"], tune["seed"], tune["key"])
        if properties != (body["bars"], body["seed"], body["key"]):
            results.record_wrong(f"{request_key}: {properties}")


def run_slow_client(server: Server, results: LoadResults, _: int) -> None:
    """Send a request byte by byte, and read the answer as slowly."""
    while not results.is_over:
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as connection:
            line = f"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
            with suppress(OSError):
                for letter in line:
                    connection.sendall(letter.encode())
                    time.sleep(0.05)
                    if results.is_over:
                        return
                results.counts["slow, answered"] += connection.recv(1) == b"H"


def run_malformed_client(server: Server, results: LoadResults, _: int) -> None:
    """Send random bytes, and JSON with invalid values."""
    rng = random.Random(0)
    while not results.is_over:
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as connection:
            with suppress(OSError):
                connection.sendall(rng.randbytes(rng.randrange(1, 5000)) + b"\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
            count_refusal(results, receive_answer(connection))
        body = {"do": rng.choice(["sample", "x", 1]), "bars": rng.choice([0, -1, "x", 10**9])}
        status, answer = server.request("POST", "/api/jobs", body, "malformed")
        count_refusal(results, b"HTTP/1.1 %d" % status)
        results.counts["malformed accepted"] += "error" not in answer
        time.sleep(0.05)


def receive_answer(connection: socket.socket) -> bytes:
    with suppress(OSError):
        return connection.recv(100)
    return b""


def count_refusal(results: LoadResults, answer: bytes) -> None:
    results.counts["malformed sent"] += 1
    results.counts["malformed accepted"] += not (answer == b"" or answer.startswith(b"HTTP/1.1 4"))


def run_disconnecting_client(server: Server, results: LoadResults, _: int) -> None:
    """Disconnect in the middle of a request, and of an answer."""
    while not results.is_over:
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as connection:
            head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            headers = "Content-Type: application/json\r\nContent-Length: 4000000\r\n\r\n"
            with suppress(OSError):
                connection.sendall(f"{head}{headers}".encode() + b" " * 1_000_000)
        status, answer = server.request(
            "POST", "/api/jobs", {"do": "sample", "bars": 4}, "disconnected"
        )
        if status == 202:
            path = f"GET /api/jobs/{answer['id']}/events HTTP/1.1\r\n"
            with socket.create_connection(
                ("127.0.0.1", server.port), TIMEOUT_SECONDS
            ) as connection:
                connection.sendall(f"{path}Host: 127.0.0.1:{server.port}\r\n\r\n".encode())
                connection.recv(10)
        results.counts["disconnected"] += 1
        time.sleep(0.2)


def get_memory(pid: int) -> float:
    """Return the resident memory of a process in MiB, from /proc."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def list_children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]
    return []


def watch_memory(
    server: Server, results: LoadResults, interval: float
) -> list[tuple[float, float]]:
    """Return the memory of the server and of its workers in MiB, at intervals."""
    sizes = []
    while not results.is_over:
        pid = server.process.pid
        sizes.append((get_memory(pid), sum(map(get_memory, list_children(pid)))))
        time.sleep(interval)
    return sizes


def measure_load(server: Server, clients: int, seconds: float) -> None:
    """Run many clients at once, three of them misbehaving."""
    results = LoadResults(time.monotonic() + seconds)
    misbehaving = [run_slow_client, run_malformed_client, run_disconnecting_client]
    client_functions: list[Callable[[Server, LoadResults, int], None]] = [
        *misbehaving,
        *[run_honest_client] * (clients - 3),
    ]
    threads = [threading.Thread(target=client_function, args=(server, results, number))
               for number, client_function in enumerate(client_functions)]  # fmt: skip
    for thread in threads:
        thread.start()
    sizes = watch_memory(server, results, seconds / 60)
    for thread in threads:
        thread.join()
    report_text = format_report(results, clients, seconds)
    print(
        f"{report_text}; sampled again and different: {count_differing_tunes(results)}"
        f" of at most {MAX_REGENERATED}"
    )
    print_memory(sizes)


def format_report(results: LoadResults, clients: int, seconds: float) -> str:
    counts = results.counts
    for message in sorted(results.messages)[:5]:
        print(f"  {message}")
    return (
        f"{clients} clients, {seconds:.0f} s: {counts['jobs']} jobs, {counts['wrong']} wrong,"
        f" {counts['lost']} lost, {counts['told to wait']} told to wait, {counts['files']} files;"
        f" from request to tune: median {statistics.median(results.seconds or [0]):.1f} s, at most"
        f" {max(results.seconds, default=0):.1f} s; malformed requests:"
        f" {counts['malformed sent']} sent, {counts['malformed accepted']} accepted;"
        f" disconnected {counts['disconnected']} times; the slow client"
        f" was answered {counts['slow, answered']} times"
    )


def count_differing_tunes(results: LoadResults) -> int:
    """Sample some of the tunes again in this process; return how many differ."""
    model, differing = load("folk"), 0
    for request_key, notes in list(results.notes.items())[:MAX_REGENERATED]:
        body = json.loads(request_key)
        tune = model.sample(bars=body["bars"], key=body["key"], seed=body["seed"])
        pitches = tune.score.notes
        differing += any(pitches[index].pitch != pitch for pitch, index in notes)
    return differing


def print_memory(sizes: list[tuple[float, float]]) -> None:
    warm = sizes[int(len(sizes) * WARM_UP_SHARE) :]
    for name, column in (("server", 0), ("workers", 1)):
        values = [sizes_now[column] for sizes_now in warm]
        half = len(values) // 2
        first, second = max(values[:half] or values), max(values[half:])
        print(
            f"memory of the {name} after the first quarter: at most {first:.1f} MiB in the first"
            f" half of the time, {second:.1f} in the second; ratio {second / max(first, 1):.3f}"
        )


# Latency


def measure_latency(server: Server, times: int, bars: int) -> None:
    """Request tunes one after another, and time each."""
    bodies = [{"do": "sample", "bars": bars, "seed": number} for number in range(times)]
    seconds = sorted(time_tune(server, body) for body in bodies)
    percentile_95 = seconds[-(-95 * times // 100) - 1]
    print(
        f"{times} tunes of {bars} bars, from request to the whole tune: median"
        f" {statistics.median(seconds):.2f} s, 95 % under {percentile_95:.2f} s"
    )


def time_tune(server: Server, body: dict[str, Any]) -> float:
    start_time = time.perf_counter()
    status, answer = server.request("POST", "/api/jobs", body)
    assert status == 202, answer
    final_state = server.follow_job(answer["id"])
    status, tune = server.request("GET", f"/api/tunes/{final_state['tune']}")
    assert status == 200, tune
    return time.perf_counter() - start_time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", choices=["load", "latency"])
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of minutes")
    arguments = parser.parse_args()
    with run_server() as server:
        if arguments.what != "load":
            measure_latency(server, *((2, 4) if arguments.toy else (50, 32)))
        if arguments.what != "latency":
            measure_load(server, *((6, 1) if arguments.toy else (50, 60)))


if __name__ == "__main__":
    main()
