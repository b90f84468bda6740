"""Run `musicgen serve` as a process, for tests of the page."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


@dataclass
class ServeProcess:
    """`musicgen serve` as a process that can be stopped and started again."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tunes(self) -> Path:
        return self.folder / "tunes"

    def start(self) -> None:
        command = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert match is not None, line
        self.port = int(match[1])

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)

    def tune(self, id_: str) -> dict[str, Any]:
        response = httpx.get(f"{self.address}/api/tunes/{id_}")
        assert response.status_code == 200, response.text
        match: dict[str, Any] = response.json()
        return match


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[ServeProcess]:
    """Serve a folder until the end of the block."""
    process = ServeProcess(folder)
    process.start()
    try:
        yield process
    finally:
        process.stop()
