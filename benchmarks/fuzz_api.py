"""Requests that the playground's description allows, and hostile ones, sent to a real server.

    python benchmarks/fuzz_api.py --minutes 20            # prints its seed
    python benchmarks/fuzz_api.py --minutes 3 --seed 7
    python benchmarks/fuzz_api.py --toy

Bodies and paths are made of /openapi.json by Hypothesis. A finding is an answer of 500 or more, an
answer that takes over 2 s though it needs no worker, a refusal that is not one line, a worker that
died of a job, a traceback in the server's log, or an end that takes over 4 s. Exit code 1 if there
is one.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SLOW: Final = 2.0  # seconds for what needs no worker
END_SECONDS: Final = 4.0
BATCH: Final = 100  # requests of one seed
MOST_FINDINGS: Final = 10
MOST_TUNES: Final = 20  # that are remembered, for the paths that name one
FOLLOWED: Final = 20  # one job in so many is waited for; the others are cancelled
HOSTILE: Final = (
    "1e-9999999", "1e9999999", "²", "½", "٣", "9" * 90, "1/0", f"1/{'9' * 90}", "1-99999999999",
    "nan", "inf", "-0", "", " ", "\x00", "\x1b[31m", "\ud7ff", "../../etc/passwd", "AB" * 40,
    "<script>", "%s%n", "A" * 100_000,
)  # fmt: skip
RAW: Final = (
    b"", b"null", b"[" * 100_000, b"[" + b"[]," * 100_000 + b"[]]", b'{"do":"sample","do":"tweak"}',
    b'{"do":"sample","tempo":1e999}', b'{"do":"sample","bars":' + b"9" * 5000 + b"}",
    b'{"do":"sample","key":"\xff"}', b'{"do":"sample","key":"\\ud800"}', b"\xef\xbb\xbf{}",
    b"{" + b'"a":1,' * 50_000 + b'"b":1}', b'{"do":"sample","temperature":NaN}',
)  # fmt: skip
AWAITS_WORKER: Final = ("/api/tunes/", "/api/shelf", "/tune")


@dataclass
class Fuzz:
    """A server under test, and what was seen of it."""

    client: httpx.Client
    tunes: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def send(self, method: str, path: str, body: bytes | None = None) -> httpx.Response | None:
        """Send a request, and note what none may do."""
        headers = {"X-Client": secrets.token_hex(4)}
        headers |= {} if body is None else {"Content-Type": "application/json"}
        said = f"{method} {path[:200]} {(body or b'')[:300]!r}"
        started = time.monotonic()
        try:
            answer = self.client.request(method, path, content=body, headers=headers)
        except httpx.InvalidURL:
            return None
        except httpx.HTTPError as fault:
            self.findings.append(f"{said}: {type(fault).__name__} {fault}")
            return None
        seconds = time.monotonic() - started
        self.counts[f"{method} {answer.status_code}"] += 1
        may_wait = path.startswith(AWAITS_WORKER[:2]) or path.endswith(AWAITS_WORKER[2])
        if answer.status_code >= 500 or (seconds > SLOW and not may_wait):
            self.findings.append(
                f"{said}: {answer.status_code} in {seconds:.1f} s {answer.text[:200]}"
            )
        if answer.status_code >= 400 and not is_one_line(answer):
            self.findings.append(f"{said}: the refusal is not one line: {answer.text[:200]!r}")
        return answer

    def ask(self, body: bytes) -> None:
        """Ask for a tune; follow some of the jobs to their end."""
        answer = self.send("POST", "/api/jobs", body)
        if answer is None or answer.status_code != 202:
            return
        job = str(answer.json()["id"])
        self.jobs = [*self.jobs[-MOST_TUNES:], job]
        if self.counts["POST 202"] % FOLLOWED != 1:
            self.send("DELETE", f"/api/jobs/{job}")
            return
        self.follow(job, body)

    def follow(self, job: str, body: bytes) -> None:
        """Wait for the end of a job."""
        while (answer := self.send("GET", f"/api/jobs/{job}")) is not None:
            state = answer.json()
            if state["state"] not in ("waiting", "working"):
                break
            time.sleep(0.05)
        else:
            return
        self.counts[f"job {state['state']}"] += 1
        if state["error"] and ("died" in state["error"] or not state["error"].isprintable()):
            self.findings.append(f"{body[:300]!r}: {state['error']}")
        if state["tune"]:
            self.tunes = [*self.tunes[-MOST_TUNES:], state["tune"]]


def is_one_line(answer: httpx.Response) -> bool:
    """Tell whether an answer is {"error": one line}."""
    try:
        body = answer.json()
    except ValueError:
        return False
    return list(body) == ["error"] and body["error"].isprintable() and len(body["error"]) < 1000


# Requests, out of the description


def values_of(schema: Mapping[str, Any], named: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema of /openapi.json describes."""
    if "$ref" in schema:
        return values_of(named[schema["$ref"].rpartition("/")[2]], named)
    if "anyOf" in schema:
        return st.one_of([values_of(one, named) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return bodies_of(schema, named)
    if kind == "integer":
        return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))
    if kind == "number":
        return st.floats(0, 5) | st.floats(allow_nan=False, allow_infinity=False)
    if kind == "string":
        return texts_of(schema)
    return st.none()


def texts_of(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    """Return texts: of the schema's pattern, musical words, anything."""
    words = ["Dmix", "6/8", "AABB", "jig", "D4-B5", "tonic", "1/8", "none", "flute", "1-4", "folk"]
    found = st.sampled_from(words) | st.sampled_from(HOSTILE) | st.text(max_size=40)
    return found | st.from_regex(schema["pattern"]) if "pattern" in schema else found


def bodies_of(schema: Mapping[str, Any], named: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return objects of a schema with a few of its fields."""
    fields = {name: values_of(one, named) for name, one in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", ())}
    few = st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True)
    chosen = few.flatmap(
        lambda names: st.fixed_dictionaries(required | {name: fields[name] for name in names})
    )
    odd = st.dictionaries(st.sampled_from([*fields, *required, "x"]), anything(), max_size=4)
    return st.one_of(chosen, chosen, chosen, st.builds(lambda a, b: a | b, chosen, odd))


def anything() -> st.SearchStrategy[Any]:
    """Return any value of JSON."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(HOSTILE)
    return st.recursive(plain, lambda one: st.lists(one, max_size=3), max_leaves=4)


def requests_of(
    described: Mapping[str, Any],
) -> st.SearchStrategy[tuple[str, str, bytes, list[str]]]:
    """Return (method, path with names in braces, body, hostile names for them)."""
    named = described["components"]["schemas"]
    bodies = values_of({"$ref": "#/components/schemas/Ask"}, named).map(to_bytes)
    calls = [(method.upper(), path) for path, ways in described["paths"].items() for method in ways]
    calls += [("POST", "/api/jobs")] * len(calls)  # where most can go wrong
    calls += [("GET", "/static/{name}"), ("PATCH", "/api/jobs"), ("GET", "/{name}")]
    names = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=30), min_size=3, max_size=3)
    return st.tuples(st.sampled_from(calls), bodies | st.sampled_from(RAW), names).map(
        lambda drawn: (*drawn[0], drawn[1], drawn[2])
    )


def to_bytes(body: Any) -> bytes:
    """Write a body as JSON, as far as it can be."""
    return json.dumps(body).encode("utf-8", "surrogatepass")


def send_one(fuzz: Fuzz, method: str, path: str, body: bytes, names: list[str]) -> None:
    """Send a request; half of the names in its path are those of tunes and jobs that there are."""
    if (method, path) == ("POST", "/api/jobs"):
        known = fuzz.tunes[-1] if fuzz.tunes else "0" * 16
        fuzz.ask(body.replace(b'"0000000000000000"', json.dumps(known).encode()))
        return
    kinds = {"id": [*fuzz.tunes[-1:], *fuzz.jobs[-1:]], "a": fuzz.tunes[-1:], "b": fuzz.tunes[:1],
             "suffix": ["mid", "svg"], "run": ["mine"], "name": ["app.js"]}  # fmt: skip
    for place, (kind, known_names) in enumerate(kinds.items()):
        name = names[place % len(names)]
        if len(name) % 2 and known_names:
            name = known_names[len(name) % len(known_names)]
        path = path.replace(f"{{{kind}}}", quoted(name))
    if not path.endswith("/events"):  # which lasts as long as its job
        fuzz.send(method, path)


def quoted(name: str) -> str:
    """Write a name as it stands in a path."""
    return httpx.QueryParams({"": name[:2000]}).__str__()[1:].replace("+", "%20") or "%00"


def sweep(fuzz: Fuzz, described: Mapping[str, Any]) -> None:
    """Send each hostile text once in each field of a body."""
    for name in described["components"]["schemas"]["Ask"]["properties"]:
        for text in HOSTILE:
            fuzz.ask(to_bytes({"do": "sample", name: text}))
    for body in RAW:
        fuzz.ask(body)


def run_batch(fuzz: Fuzz, described: Mapping[str, Any], number: int, deadline: float) -> None:
    """Send the requests of one seed, until the deadline."""

    @seed(number)
    @settings(max_examples=BATCH, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(requests_of(described))
    def each(request: tuple[str, str, bytes, list[str]]) -> None:
        if time.monotonic() < deadline and len(fuzz.findings) < MOST_FINDINGS:
            send_one(fuzz, *request)

    each()


# The server


@contextmanager
def server(folder: Path, findings: list[str]) -> Iterator[httpx.Client]:
    """Serve in a folder for a block; then note what the log says, and how long the end takes."""
    log = folder / "log.txt"
    words = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            words, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        try:
            assert child.stdout is not None
            address = child.stdout.readline().split()[0]
            with httpx.Client(base_url=address, timeout=120) as client:
                yield client
        finally:
            child.terminate()
            started = time.monotonic()
            child.wait(60)
            seconds = time.monotonic() - started
            if seconds > END_SECONDS:
                findings.append(f"the server took {seconds:.1f} s to end")
    told = log.read_text("utf-8", "replace")
    if "Traceback" in told:
        findings.append(f"a traceback in the log: {told[-2000:]}")


def fuzz_api(minutes: float, number: int) -> int:
    """Send requests for some minutes; return how many findings there are."""
    findings: list[str] = []
    started = time.monotonic()
    deadline = started + 60 * minutes
    with tempfile.TemporaryDirectory() as room, server(Path(room), findings) as client:
        fuzz = Fuzz(client, findings=findings)
        described = client.get("/openapi.json").json()
        fuzz.ask(b'{"do":"sample","bars":2,"seed":1}')
        if minutes >= 1:
            sweep(fuzz, described)
        for batch in count():
            if time.monotonic() > deadline or len(findings) >= MOST_FINDINGS:
                break
            run_batch(fuzz, described, number + batch, deadline)
    for finding in findings:
        print(f"finding: {finding}")
    sent = sum(times for name, times in fuzz.counts.items() if not name.startswith("job"))
    seconds = time.monotonic() - started
    print(f"seed {number}: {sent:,} requests in {seconds:.1f} s, {len(findings)} findings")
    for name, times in sorted(fuzz.counts.items()):
        print(f"  {name:14} {times:7,}")
    return len(findings)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--toy", action="store_true", help="a few seconds")
    asked = parser.parse_args()
    number = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    return 1 if fuzz_api(0.1 if asked.toy else asked.minutes, number) else 0


if __name__ == "__main__":
    sys.exit(main())
