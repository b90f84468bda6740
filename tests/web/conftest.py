"""Playgrounds that the tests of this package share."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from musicgen.web.limits import ServerLimits
from tests.browser import TIMEOUT_MS, launch_chromium
from tests.fake_models import untrained
from tests.live_server import LiveServer, run_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Launch a browser whose expectations wait as long as its other waits."""
    expect.set_options(timeout=TIMEOUT_MS)
    with launch_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Run a server with one worker, for tests that restore its state."""
    folder = tmp_path_factory.mktemp("playground")
    (folder / "checkpoints").mkdir()
    untrained(folder / "checkpoints" / "mine")
    lines = (json.dumps({"step": n, "tokens": 9 * n, "loss": 7 / n}) for n in range(1, 1001))
    (folder / "checkpoints" / "mine" / "metrics.jsonl").write_text("\n".join(lines))
    with run_server(folder / "tunes", folder / "checkpoints", ServerLimits(workers=1)) as server:
        yield server


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Run a server without workers, so that all jobs wait."""
    tmp_path = tmp_path_factory.mktemp("idle")
    limits = ServerLimits(workers=0, body_bytes=2**20, body_seconds=0.5, header_seconds=0.5)
    with run_server(tmp_path / "tunes", tmp_path / "checkpoints", limits) as server:
        yield server
