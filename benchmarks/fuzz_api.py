"""Fuzz the playground's API: valid and hostile requests, sent to a real server.

    python benchmarks/fuzz_api.py --minutes 20            # prints its seed
    python benchmarks/fuzz_api.py --minutes 3 --seed 7
    python benchmarks/fuzz_api.py --toy

Hypothesis generates paths and bodies from /openapi.json. Findings are: a status of 500 or more, an
answer that takes over 2 s although it needs no worker, an error that is not one line, a worker that
crashed, a traceback in the server's log, and a shutdown that takes over 4 s. The exit code is 1 if
there are findings.
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

MAX_ANSWER_SECONDS: Final = 2.0  # for answers that need no worker
MAX_SHUTDOWN_SECONDS: Final = 4.0
BATCH_SIZE: Final = 100  # requests per Hypothesis seed
MAX_FINDINGS: Final = 10
MAX_REMEMBERED_IDS: Final = 20  # ids that paths may name
FOLLOW_INTERVAL: Final = 20  # one job in 20 is followed to its end; the others are cancelled
HOSTILE_TEXTS: Final = (
    "1e-9999999", "1e9999999", "²", "½", "٣", "9" * 90, "1/0", f"1/{'9' * 90}", "1-99999999999",
    "nan", "inf", "-0", "", " ", "\x00", "\x1b[31m", "\ud7ff", "../../etc/passwd", "AB" * 40,
    "<script>", "%s%n", "A" * 100_000,
)  # fmt: skip
HOSTILE_BODIES: Final = (
    b"", b"null", b"[" * 100_000, b"[" + b"[]," * 100_000 + b"[]]", b'{"do":"sample","do":"tweak"}',
    b'{"do":"sample","tempo":1e999}', b'{"do":"sample","bars":' + b"9" * 5000 + b"}",
    b'{"do":"sample","key":"\xff"}', b'{"do":"sample","key":"\\ud800"}', b"\xef\xbb\xbf{}",
    b"{" + b'"a":1,' * 50_000 + b'"b":1}', b'{"do":"sample","temperature":NaN}',
)  # fmt: skip
AWAITS_WORKER: Final = ("/api/tunes/", "/api/shelf", "/api/parts")  # and .../tune


@dataclass
class Fuzz:
    """A server under test, and the findings."""

    client: httpx.Client
    tunes: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def send(self, method: str, path: str, body: bytes | None = None) -> httpx.Response | None:
        """Send a request and record findings."""
        headers = {"X-Client": secrets.token_hex(4)}
        headers |= {} if body is None else {"Content-Type": "application/json"}
        request_text = f"{method} {path[:200]} {(body or b'')[:300]!r}"
        start_time = time.monotonic()
        try:
            response = self.client.request(method, path, content=body, headers=headers)
        except httpx.InvalidURL:
            return None
        except httpx.HTTPError as error:
            self.findings.append(f"{request_text}: {type(error).__name__} {error}")
            return None
        seconds = time.monotonic() - start_time
        self.counts[f"{method} {response.status_code}"] += 1
        may_wait = path.startswith(AWAITS_WORKER) or path.endswith("/tune")
        if response.status_code >= 500 or (seconds > MAX_ANSWER_SECONDS and not may_wait):
            self.findings.append(
                f"{request_text}: {response.status_code} in {seconds:.1f} s {response.text[:200]}"
            )
        if response.status_code >= 400 and not is_one_line(response):
            self.findings.append(
                f"{request_text}: the refusal is not one line: {response.text[:200]!r}"
            )
        return response

    def request_tune(self, body: bytes) -> None:
        """Request a tune; follow some of the jobs to their end."""
        response = self.send("POST", "/api/jobs", body)
        if response is None or response.status_code != 202:
            return
        job = str(response.json()["id"])
        self.jobs = [*self.jobs[-MAX_REMEMBERED_IDS:], job]
        if self.counts["POST 202"] % FOLLOW_INTERVAL != 1:
            self.send("DELETE", f"/api/jobs/{job}")
            return
        self.follow_job(job, body)

    def follow_job(self, job: str, body: bytes) -> None:
        """Wait until a job ends."""
        while (response := self.send("GET", f"/api/jobs/{job}")) is not None:
            state = response.json()
            if state["state"] not in ("waiting", "working"):
                break
            time.sleep(0.05)
        else:
            return
        self.counts[f"job {state['state']}"] += 1
        if state["error"] and ("died" in state["error"] or not state["error"].isprintable()):
            self.findings.append(f"{body[:300]!r}: {state['error']}")
        if state["tune"]:
            self.tunes = [*self.tunes[-MAX_REMEMBERED_IDS:], state["tune"]]


def is_one_line(response: httpx.Response) -> bool:
    """Return whether a response is {"error": one line}."""
    try:
        body = response.json()
    except ValueError:
        return False
    return list(body) == ["error"] and body["error"].isprintable() and len(body["error"]) < 1000


# Requests, generated from the description


def values_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Generate values of a schema of /openapi.json."""
    if "$ref" in schema:
        return values_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return st.one_of([values_of(variant, schemas) for variant in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return bodies_of(schema, schemas)
    if kind == "integer":
        return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))
    if kind == "number":
        return st.floats(0, 5) | st.floats(allow_nan=False, allow_infinity=False)
    if kind == "string":
        return texts_of(schema)
    return st.none()


def texts_of(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    """Generate texts: from the schema's pattern, musical words, hostile and random texts."""
    words = ["Dmix", "6/8", "AABB", "jig", "D4-B5", "tonic", "1/8", "none", "flute", "1-4", "folk"]
    texts = st.sampled_from(words) | st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=40)
    return texts | st.from_regex(schema["pattern"]) if "pattern" in schema else texts


def bodies_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Generate objects of a schema with a few of its fields."""
    fields = {name: values_of(part, schemas) for name, part in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", ())}
    field_names = st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True)
    valid_bodies = field_names.flatmap(
        lambda names: st.fixed_dictionaries(required | {name: fields[name] for name in names})
    )
    odd_bodies = st.dictionaries(st.sampled_from([*fields, *required, "x"]), any_json(), max_size=4)
    return st.one_of(
        valid_bodies,
        valid_bodies,
        valid_bodies,
        st.builds(lambda a, b: a | b, valid_bodies, odd_bodies),
    )


def any_json() -> st.SearchStrategy[Any]:
    """Generate any JSON value."""
    scalars = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(HOSTILE_TEXTS)
    )
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def requests_of(
    openapi: Mapping[str, Any],
) -> st.SearchStrategy[tuple[str, str, bytes, list[str]]]:
    """Generate (method, path with names in braces, body, hostile values for the names)."""
    schemas = openapi["components"]["schemas"]
    bodies = values_of({"$ref": "#/components/schemas/TuneRequest"}, schemas).map(to_bytes)
    calls = [
        (method.upper(), path) for path, methods in openapi["paths"].items() for method in methods
    ]
    calls += [("POST", "/api/jobs")] * len(calls)  # the path with the most input
    calls += [("GET", "/static/{name}"), ("PATCH", "/api/jobs"), ("GET", "/{name}")]
    names = st.lists(st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=30), min_size=3, max_size=3)
    return st.tuples(st.sampled_from(calls), bodies | st.sampled_from(HOSTILE_BODIES), names).map(
        lambda drawn: (*drawn[0], drawn[1], drawn[2])
    )


def to_bytes(body: Any) -> bytes:
    """Encode a body as JSON, lone surrogates included."""
    return json.dumps(body).encode("utf-8", "surrogatepass")


def send_one(fuzz: Fuzz, method: str, path: str, body: bytes, names: list[str]) -> None:
    """Send a request; half of the names in its path are real tune and job ids."""
    if (method, path) == ("POST", "/api/jobs"):
        tune_id = fuzz.tunes[-1] if fuzz.tunes else "0" * 16
        fuzz.request_tune(body.replace(b'"0000000000000000"', json.dumps(tune_id).encode()))
        return
    kinds = {"id": [*fuzz.tunes[-1:], *fuzz.jobs[-1:]], "a": fuzz.tunes[-1:], "b": fuzz.tunes[:1],
             "suffix": ["mid", "svg"], "run": ["mine"], "name": ["app.js"]}  # fmt: skip
    for index, (kind, real_names) in enumerate(kinds.items()):
        name = names[index % len(names)]
        if len(name) % 2 and real_names:
            name = real_names[len(name) % len(real_names)]
        path = path.replace(f"{{{kind}}}", quote_name(name))
    if not path.endswith("/events"):  # the event stream lasts as long as its job
        fuzz.send(method, path)


def quote_name(name: str) -> str:
    """Percent-encode a name for a path."""
    return httpx.QueryParams({"": name[:2000]}).__str__()[1:].replace("+", "%20") or "%00"


def send_hostile_texts(fuzz: Fuzz, openapi: Mapping[str, Any]) -> None:
    """Send each hostile text once in each field of a body."""
    for name in openapi["components"]["schemas"]["TuneRequest"]["properties"]:
        for text in HOSTILE_TEXTS:
            fuzz.request_tune(to_bytes({"do": "sample", name: text}))
    for body in HOSTILE_BODIES:
        fuzz.request_tune(body)


def run_batch(fuzz: Fuzz, openapi: Mapping[str, Any], number: int, deadline: float) -> None:
    """Send the requests of one seed, until the deadline."""

    @seed(number)
    @settings(max_examples=BATCH_SIZE, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(requests_of(openapi))
    def send_request(request: tuple[str, str, bytes, list[str]]) -> None:
        if time.monotonic() < deadline and len(fuzz.findings) < MAX_FINDINGS:
            send_one(fuzz, *request)

    send_request()


# The server


@contextmanager
def server(folder: Path, findings: list[str]) -> Iterator[httpx.Client]:
    """Run a server in a folder; then check its log and the time of its shutdown."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            with httpx.Client(base_url=address, timeout=120) as client:
                yield client
        finally:
            process.terminate()
            start_time = time.monotonic()
            process.wait(60)
            seconds = time.monotonic() - start_time
            if seconds > MAX_SHUTDOWN_SECONDS:
                findings.append(f"the server took {seconds:.1f} s to end")
    log_text = log.read_text("utf-8", "replace")
    if "Traceback" in log_text:
        findings.append(f"a traceback in the log: {log_text[-2000:]}")


def fuzz_api(minutes: float, number: int) -> int:
    """Send requests for some minutes; return the number of findings."""
    findings: list[str] = []
    start_time = time.monotonic()
    deadline = start_time + 60 * minutes
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), findings) as client:
        fuzz = Fuzz(client, findings=findings)
        openapi = client.get("/openapi.json").json()
        fuzz.request_tune(b'{"do":"sample","bars":2,"seed":1}')
        if minutes >= 1:
            send_hostile_texts(fuzz, openapi)
        for batch in count():
            if time.monotonic() > deadline or len(findings) >= MAX_FINDINGS:
                break
            run_batch(fuzz, openapi, number + batch, deadline)
    for finding in findings:
        print(f"finding: {finding}")
    request_count = sum(times for name, times in fuzz.counts.items() if not name.startswith("job"))
    seconds = time.monotonic() - start_time
    print(f"seed {number}: {request_count:,} requests in {seconds:.1f} s, {len(findings)} findings")
    for name, times in sorted(fuzz.counts.items()):
        print(f"  {name:14} {times:7,}")
    return len(findings)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--toy", action="store_true", help="a few seconds")
    arguments = parser.parse_args()
    number = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    return 1 if fuzz_api(0.1 if arguments.toy else arguments.minutes, number) else 0


if __name__ == "__main__":
    sys.exit(main())
