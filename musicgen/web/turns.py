"""Who comes next: clients take turns, so that one with a hundred jobs keeps nobody waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from musicgen.web.job import Job
from musicgen.web.limits import Limits
from musicgen.web.worker import Refused


@dataclass
class Turns:
    """Jobs that wait, in a line for each client; the clients' lines are served in turn."""

    limits: Limits
    _lines: OrderedDict[str, deque[Job]] = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job) -> None:
        """Let a job wait. Raises Refused where there are too many.

        The last half of all places is for clients that have nothing waiting.
        """
        line = self._lines.get(job.client, ())
        if len(line) >= self.limits.waiting_each:
            raise Refused(429, f"{len(line)} of your jobs wait already; let one finish first")
        room = self.limits.waiting_all // (2 if line else 1)
        if self._count >= room:
            raise Refused(429, f"{self._count} jobs wait already; try again in a moment")
        self._lines.setdefault(job.client, deque()).append(job)
        self._count += 1

    def take(self) -> Job | None:
        """Return the next job, and let its client wait behind all others; None without jobs."""
        if not self._lines:
            return None
        client, line = next(iter(self._lines.items()))
        job = line.popleft()
        self._count -= 1
        self._lines.move_to_end(client)
        if not line:
            del self._lines[client]
        return job

    def remove(self, job: Job) -> None:
        """Take a job out that waits no longer."""
        line = self._lines.get(job.client, deque())
        if job in line:
            line.remove(job)
            self._count -= 1
            if not line:
                del self._lines[job.client]

    def ahead(self, job: Job) -> int:
        """Return how many jobs are to be served before one, as things stand."""
        line = self._lines.get(job.client)
        if line is None or job not in line:
            return 0
        place, before, total = line.index(job), True, 0
        for client, other in self._lines.items():
            if client == job.client:
                before = False
            else:
                total += min(len(other), place + before)
        return total + place
