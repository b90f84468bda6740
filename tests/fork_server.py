"""Start real processes to kill, quickly: a server imports the libraries once and forks per job.

with ForkServer(CODE, errors) as fork_server:    # CODE defines work(job), a function of JSON types
    child = fork_server.start({"steps": 5})
    for line in child.lines(): ...    # its output, line by line
    child.kill()
    child.status                      # its exit code, or minus the number of the signal
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
SERVE = """
import json, os, sys

def run_child(job):
    try:
        work(job)
        code = 0
    except BaseException as fault:
        line = f"fault {type(fault).__name__}: {fault}\\n"
        os.write(1, line.encode())  # whole, even where memory is short
        code = getattr(fault, "exit_code", 99)
    sys.stdout.flush()
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        run_child(json.loads(line))
    print(f"child {pid}", flush=True)
    _, status = os.waitpid(pid, 0)
    print(f"status {os.waitstatus_to_exitcode(status)}", flush=True)
"""


class Child:
    """A forked process."""

    def __init__(self, server: subprocess.Popen[str], pid: int) -> None:
        self.server, self.pid = server, pid
        self.status: int | None = None
        self.error_lines: list[str] = []  # the exception that ended it

    def lines(self) -> Iterator[str]:
        """Yield the lines that it prints, until it ends."""
        assert self.server.stdout
        while self.status is None:
            line = self.server.stdout.readline()
            assert line, "the fork server is gone"
            if line.startswith("status "):
                self.status = int(line.split()[1])
            elif line.startswith("fault "):
                self.error_lines.append(line.removeprefix("fault ").rstrip("\n"))
            elif self.error_lines:
                self.error_lines.append(line.rstrip("\n"))  # of a message with several lines
            else:
                yield line.rstrip("\n")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> list[str]:
        """Wait until it ends; return the remaining lines that it printed."""
        return list(self.lines())


class ForkServer:
    """The process that forks the others."""

    def __init__(self, code: str, errors: Path) -> None:
        self.errors = errors
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{code}\n{SERVE}"],
                env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stderr=file,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        self._read("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def start(self, job: dict[str, Any]) -> Child:
        """Fork a process for a job."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Child(self.process, int(self._read("child").split()[1]))

    def _read(self, prefix: str) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith(prefix), (line, self.errors.read_text())
        return line
