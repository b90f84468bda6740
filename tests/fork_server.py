"""Real processes to kill, that start at once: one reads the libraries, and forks for each job.

with Nursery(CODE) as nursery:        # CODE defines work(job), a function of JSON's own types
    child = nursery.start({"steps": 5})
    for line in child.lines(): ...    # what it prints, as it prints it
    child.kill()
    child.status                      # its exit code; of a killed one minus the signal's number
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
SERVE = """
import json, os, sys

def born(job):
    try:
        work(job)
        code = 0
    except BaseException as fault:
        print(f"fault {type(fault).__name__}: {fault}", flush=True)  # a pipe has no limit of size
        code = getattr(fault, "exit_code", 99)
    sys.stdout.flush()
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        born(json.loads(line))
    print(f"child {pid}", flush=True)
    _, status = os.waitpid(pid, 0)
    print(f"status {os.waitstatus_to_exitcode(status)}", flush=True)
"""


class Child:
    """A forked process at work."""

    def __init__(self, nursery: subprocess.Popen[str], pid: int) -> None:
        self.nursery, self.pid = nursery, pid
        self.status: int | None = None
        self.said: list[str] = []  # of what ended it

    def lines(self) -> Iterator[str]:
        """Go through what it prints, to its end."""
        assert self.nursery.stdout
        while self.status is None:
            line = self.nursery.stdout.readline()
            assert line, "the nursery is gone"
            if line.startswith("status "):
                self.status = int(line.split()[1])
            elif line.startswith("fault "):
                self.said.append(line.removeprefix("fault ").rstrip("\n"))
            elif self.said:
                self.said.append(line.rstrip("\n"))  # it was no single line
            else:
                yield line.rstrip("\n")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; it is there until its status was read."""
        os.kill(self.pid, number)

    def end(self) -> list[str]:
        """Wait for its end; return what else it printed."""
        return list(self.lines())


class Nursery:
    """The process that forks."""

    def __init__(self, code: str, errors: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                       "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
        self.errors = errors
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{code}\n{SERVE}"],
                env=environment, text=True, stderr=file,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        self._read("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
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

    def _read(self, first: str) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith(first), (line, self.errors.read_text())
        return line
