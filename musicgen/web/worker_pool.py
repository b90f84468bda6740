"""The worker pool: jobs, the fair queue in which they wait, and the workers that run them.

Clients take turns, so that a client with a hundred jobs does not delay the others.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from musicgen.web.limits import Limits
from musicgen.web.worker_process import Away, Crashed, Died, Refused, Worker
from musicgen.web.worker_protocol import Answer

State = Literal["waiting", "working", "done", "failed", "cancelled"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(eq=False)
class Job:
    """What is asked of a worker, and how far it has come."""

    client: str
    request: dict[str, Any]
    payload: bytes = b""
    of: int | None = None  # bars that are to be written
    awaited: bool = False  # whether somebody waits for its answer; else only the tune's id is held
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    bars: int = 0
    tune: str | None = None
    answer: Answer | None = None
    fault: Refused | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in OVER

    def move(self, state: State | None = None, **news: Any) -> None:
        """Note what happened, and wake those who wait for it; what is over stays as it is."""
        if self.is_over:
            return
        self.state = state or self.state
        for name, value in news.items():
            setattr(self, name, value)
        if self.is_over:
            self.request, self.payload = {}, b""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def wrote(self, bars: int) -> None:
        """Note how many bars are written."""
        self.move(bars=bars)

    async def next(self, seconds: float) -> None:
        """Wait until something happens, so many seconds at the most."""
        try:
            await asyncio.wait_for(self._moved.wait(), seconds)
        except TimeoutError:
            return

    async def over(self) -> Answer:
        """Wait for its end. Raises Refused."""
        while not self.is_over:
            await self._moved.wait()
        if self.answer is None:  # it failed, or was cancelled
            raise self.fault or Refused(400, "the job was cancelled")
        return self.answer


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


WARM: dict[str, Any] = {"do": "warm", "model": "folk"}
CANCEL_SECONDS = 2.0  # a job that is no longer wanted may still finish in
REST_SECONDS = 1.0  # after what nobody foresaw, lest it be met without a pause
STOPPING = "the server is stopping"
UNFORESEEN = "the server failed at it ({}); ask again, or for something else"
LOG = logging.getLogger(__name__)


@dataclass
class Held:
    """The bytes of uploads that are read or wait; there is room for so many."""

    room: int
    taken: int = 0

    def take(self, count: int) -> None:
        """Hold some bytes. Raises Refused where there is no room."""
        if self.taken + count > self.room:
            raise Refused(429, "too many uploads at once; try again in a moment")
        self.taken += count

    def give_back(self, count: int) -> None:
        """Hold them no longer."""
        self.taken -= count


@dataclass
class Crew:
    """Long-lived workers that take one job after the other, from each client in turn."""

    runs: Path
    limits: Limits
    done: Callable[[Job, Answer], None] = lambda *_: None  # told of each answer, before the job is
    held: Held = field(init=False)
    turns: Turns = field(init=False)
    _jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _hands: list[asyncio.Task[None]] = field(default_factory=list)
    _workers: dict[int, Worker] = field(default_factory=dict)
    _is_stopped: bool = False
    _warming: asyncio.Lock = field(default_factory=asyncio.Lock)  # the first is there the sooner

    def __post_init__(self) -> None:
        self.held = Held(self.limits.held_bytes)
        self.turns = Turns(self.limits)

    def start(self) -> None:
        """Start the workers; they are warm a second or two later."""
        self._is_stopped = False
        self._hands = [asyncio.create_task(self._hand(n)) for n in range(self.limits.workers)]

    async def stop(self) -> None:
        """End the workers; what waits or is at work fails, and so does what is asked later."""
        self._is_stopped = True
        for hand in self._hands:
            hand.cancel()
        await asyncio.gather(*self._hands, return_exceptions=True)
        self._hands = []
        for job in list(self._jobs.values()):
            job.move("failed", fault=Away(503, STOPPING))

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [worker.pid for worker in self._workers.values()]

    def submit(self, job: Job) -> Job:
        """Let a job wait for its turn. Raises Refused."""
        if self._is_stopped:
            raise Away(503, STOPPING)
        self.held.take(len(job.payload))
        try:
            self.turns.add(job)
        except Refused:
            self.held.give_back(len(job.payload))
            raise
        self._jobs[job.id] = job
        self._forget()
        self._asked.set()
        return job

    async def ask(self, client: str, payload: bytes = b"", **request: Any) -> Answer:
        """Submit a job, wait for it and forget it. Raises Refused."""
        job = self.submit(Job(client, request, payload, awaited=True))
        try:
            return await job.over()
        finally:
            self.cancel(job)
            del self._jobs[job.id]

    def find(self, id_: str) -> Job:
        """Return a job. Raises Refused where it is not known, or no longer."""
        if id_ not in self._jobs:
            raise Refused(404, "there is no such job, or it ended long ago")
        return self._jobs[id_]

    def cancel(self, job: Job) -> None:
        """Want a job no longer."""
        if job.state == "waiting":
            self.turns.remove(job)
            self.held.give_back(len(job.payload))
        job.move("cancelled")

    def _forget(self) -> None:
        """Drop the oldest jobs that are over, where there are too many."""
        spare = len(self._jobs) - self.limits.jobs_known
        for id_ in [id_ for id_, job in self._jobs.items() if job.is_over][: max(0, spare)]:
            del self._jobs[id_]

    async def _hand(self, number: int) -> None:
        """Keep one worker at work."""
        try:
            await self._get_ready(number)
            while True:
                await self._round(number, await self._next())
                if number not in self._workers:
                    await self._get_ready(number)
        finally:
            await self._drop(number)

    async def _round(self, number: int, job: Job) -> None:
        """Do one job; whatever comes of it, the next is done too."""
        try:
            await self._work(number, job)
        except Exception:
            LOG.exception("a worker, or what was made of its answer, failed")
            await self._recover(number)

    async def _get_ready(self, number: int) -> None:
        """Have a worker warm before it is asked; where that fails the next job tries, and tells."""
        try:
            await self._warm(number)
        except Refused:
            return
        except Exception:
            LOG.exception("a worker did not get ready")
            await self._recover(number)

    async def _recover(self, number: int) -> None:
        """Do without a worker of which nobody foresaw what came, and rest; the next is another."""
        await self._drop(number)
        await asyncio.sleep(REST_SECONDS)

    async def _drop(self, number: int) -> None:
        """End a worker, if there is one."""
        if number in self._workers:
            await self._workers.pop(number).stop()

    async def _warm(self, number: int) -> Worker:
        """Return the worker, started and warm. Raises Died."""
        if number in self._workers:
            return self._workers[number]
        async with self._warming:
            worker = await Worker.started(self.runs, self.limits.start_seconds)
            self._workers[number] = worker
            try:
                await worker.ask(WARM, b"", self.limits.start_seconds, lambda _: None)
            except Died as fault:
                del self._workers[number]
                raise Away(fault.status, str(fault)) from fault
            except Refused:
                pass  # a job that needs the model will say why
        return worker

    async def _next(self) -> Job:
        while (job := self.turns.take()) is None:
            self._asked.clear()
            await self._asked.wait()
        return job

    async def _work(self, number: int, job: Job) -> None:
        """Let a worker do a job; whatever comes of it is noted there."""
        request, payload = job.request, job.payload
        job.move("working")
        try:
            self._note(job, await self._answer_of(number, job, request, payload))
        except Refused as fault:
            if isinstance(fault, Died):
                self._workers.pop(number, None)
            kind = Away if isinstance(fault, Away) else Refused
            job.move("failed", fault=kind(fault.status, str(fault)))  # no frames with it
        except asyncio.CancelledError:
            job.move("failed", fault=Away(503, STOPPING))
            raise
        except Exception as fault:
            job.move("failed", fault=Refused(503, UNFORESEEN.format(type(fault).__name__)))
            raise
        finally:
            self.held.give_back(len(payload))

    async def _answer_of(
        self, number: int, job: Job, request: dict[str, Any], payload: bytes
    ) -> Answer:
        """Ask the worker, and another one where it had crashed while it had nothing to do."""
        was_idle = number in self._workers
        try:
            return await self._asked_of(await self._warm(number), job, request, payload)
        except Crashed:
            if not was_idle or job.bars or job.is_over:
                raise
        self._workers.pop(number, None)
        return await self._asked_of(await self._warm(number), job, request, payload)

    def _note(self, job: Job, answer: Answer) -> None:
        """Note that a job is done."""
        if not job.is_over:
            self.done(job, answer)
        held = answer if job.awaited else None
        job.move("done", answer=held, tune=answer.head.get("id"), bars=job.of or job.bars)

    async def _asked_of(
        self, worker: Worker, job: Job, request: dict[str, Any], payload: bytes
    ) -> Answer:
        """Ask a worker; a job that is cancelled meanwhile has a moment more, for it may be done."""
        asking = asyncio.create_task(
            worker.ask(request, payload, self.limits.job_seconds, job.wrote)
        )
        leaving = asyncio.create_task(_left(job))
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await asyncio.wait((asking,), timeout=CANCEL_SECONDS)
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,))
                raise Died(400, "the job was cancelled")
            return asking.result()
        finally:
            leaving.cancel()
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,))


async def _left(job: Job) -> None:
    """Wait until a job is wanted no longer."""
    while not job.is_over:
        await job.next(60)
