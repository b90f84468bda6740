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

from musicgen.web.limits import ServerLimits
from musicgen.web.worker_process import (
    HttpError,
    Worker,
    WorkerCrashed,
    WorkerLost,
    WorkerUnavailable,
)
from musicgen.web.worker_protocol import WorkerAnswer

State = Literal["waiting", "working", "done", "failed", "cancelled"]
FINISHED_STATES: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(eq=False)
class Job:
    """What is asked of a worker, and how far it has come."""

    client: str
    request: dict[str, Any]
    payload: bytes = b""
    total_bars: int | None = None  # bars that are to be written
    is_awaited: bool = (
        False  # whether somebody waits for its answer; else only the tune's id is held
    )
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    bars: int = 0
    tune: str | None = None
    answer: WorkerAnswer | None = None
    fault: HttpError | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED_STATES

    def transition(self, state: State | None = None, **changes: Any) -> None:
        """Note what happened, and wake those who wait for it; what is over stays as it is."""
        if self.is_finished:
            return
        self.state = state or self.state
        for name, value in changes.items():
            setattr(self, name, value)
        if self.is_finished:
            self.request, self.payload = {}, b""
        moved, self._changed = self._changed, asyncio.Event()
        moved.set()

    def set_progress(self, bars: int) -> None:
        """Note how many bars are written."""
        self.transition(bars=bars)

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until something happens, so many seconds at the most."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def wait_for_answer(self) -> WorkerAnswer:
        """Wait for its end. Raises Refused."""
        while not self.is_finished:
            await self._changed.wait()
        if self.answer is None:  # it failed, or was cancelled
            raise self.fault or HttpError(400, "the job was cancelled")
        return self.answer


@dataclass
class FairQueue:
    """Jobs that wait, in a line for each client; the clients' lines are served in turn."""

    limits: ServerLimits
    _queues: OrderedDict[str, deque[Job]] = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job) -> None:
        """Let a job wait. Raises Refused where there are too many.

        The last half of all places is for clients that have nothing waiting.
        """
        line = self._queues.get(job.client, ())
        if len(line) >= self.limits.waiting_per_client:
            raise HttpError(429, f"{len(line)} of your jobs wait already; let one finish first")
        room = self.limits.waiting_total // (2 if line else 1)
        if self._count >= room:
            raise HttpError(429, f"{self._count} jobs wait already; try again in a moment")
        self._queues.setdefault(job.client, deque()).append(job)
        self._count += 1

    def pop(self) -> Job | None:
        """Return the next job, and let its client wait behind all others; None without jobs."""
        if not self._queues:
            return None
        client, line = next(iter(self._queues.items()))
        job = line.popleft()
        self._count -= 1
        self._queues.move_to_end(client)
        if not line:
            del self._queues[client]
        return job

    def remove(self, job: Job) -> None:
        """Take a job out that waits no longer."""
        line = self._queues.get(job.client, deque())
        if job in line:
            line.remove(job)
            self._count -= 1
            if not line:
                del self._queues[job.client]

    def count_ahead(self, job: Job) -> int:
        """Return how many jobs are to be served before one, as things stand."""
        line = self._queues.get(job.client)
        if line is None or job not in line:
            return 0
        place, before, total = line.index(job), True, 0
        for client, other in self._queues.items():
            if client == job.client:
                before = False
            else:
                total += min(len(other), place + before)
        return total + place


WARM_UP_REQUEST: dict[str, Any] = {"do": "warm", "model": "folk"}
CANCEL_SECONDS = 2.0  # a job that is no longer wanted may still finish in
BACKOFF_SECONDS = 1.0  # after what nobody foresaw, lest it be met without a pause
STOPPING = "the server is stopping"
UNEXPECTED_ERROR_MESSAGE = "the server failed at it ({}); ask again, or for something else"
LOG = logging.getLogger(__name__)


@dataclass
class UploadBudget:
    """The bytes of uploads that are read or wait; there is room for so many."""

    max_bytes: int
    used_bytes: int = 0

    def reserve(self, count: int) -> None:
        """Hold some bytes. Raises Refused where there is no room."""
        if self.used_bytes + count > self.max_bytes:
            raise HttpError(429, "too many uploads at once; try again in a moment")
        self.used_bytes += count

    def release(self, count: int) -> None:
        """Hold them no longer."""
        self.used_bytes -= count


@dataclass
class WorkerPool:
    """Long-lived workers that take one job after the other, from each client in turn."""

    runs: Path
    limits: ServerLimits
    on_answer: Callable[[Job, WorkerAnswer], None] = lambda *_: (
        None
    )  # told of each answer, before the job is
    upload_budget: UploadBudget = field(init=False)
    queue: FairQueue = field(init=False)
    _jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    _job_added: asyncio.Event = field(default_factory=asyncio.Event)
    _worker_tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _workers: dict[int, Worker] = field(default_factory=dict)
    _is_stopped: bool = False
    _warm_up_lock: asyncio.Lock = field(
        default_factory=asyncio.Lock
    )  # the first is there the sooner

    def __post_init__(self) -> None:
        self.upload_budget = UploadBudget(self.limits.upload_bytes)
        self.queue = FairQueue(self.limits)

    def start(self) -> None:
        """Start the workers; they are warm a second or two later."""
        self._is_stopped = False
        self._worker_tasks = [
            asyncio.create_task(self._run_worker(n)) for n in range(self.limits.workers)
        ]

    async def stop(self) -> None:
        """End the workers; what waits or is at work fails, and so does what is asked later."""
        self._is_stopped = True
        for hand in self._worker_tasks:
            hand.cancel()
        await asyncio.gather(*self._worker_tasks, return_exceptions=True)
        self._worker_tasks = []
        for job in list(self._jobs.values()):
            job.transition("failed", fault=WorkerUnavailable(503, STOPPING))

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [worker.pid for worker in self._workers.values()]

    def submit(self, job: Job) -> Job:
        """Let a job wait for its turn. Raises Refused."""
        if self._is_stopped:
            raise WorkerUnavailable(503, STOPPING)
        self.upload_budget.reserve(len(job.payload))
        try:
            self.queue.add(job)
        except HttpError:
            self.upload_budget.release(len(job.payload))
            raise
        self._jobs[job.id] = job
        self._drop_finished_jobs()
        self._job_added.set()
        return job

    async def submit_and_wait(
        self, client: str, payload: bytes = b"", **request: Any
    ) -> WorkerAnswer:
        """Submit a job, wait for it and forget it. Raises Refused."""
        job = self.submit(Job(client, request, payload, is_awaited=True))
        try:
            return await job.wait_for_answer()
        finally:
            self.cancel(job)
            del self._jobs[job.id]

    def find(self, id_: str) -> Job:
        """Return a job. Raises Refused where it is not known, or no longer."""
        if id_ not in self._jobs:
            raise HttpError(404, "there is no such job, or it ended long ago")
        return self._jobs[id_]

    def cancel(self, job: Job) -> None:
        """Want a job no longer."""
        if job.state == "waiting":
            self.queue.remove(job)
            self.upload_budget.release(len(job.payload))
        job.transition("cancelled")

    def _drop_finished_jobs(self) -> None:
        """Drop the oldest jobs that are over, where there are too many."""
        spare = len(self._jobs) - self.limits.finished_jobs
        for id_ in [id_ for id_, job in self._jobs.items() if job.is_finished][: max(0, spare)]:
            del self._jobs[id_]

    async def _run_worker(self, number: int) -> None:
        """Keep one worker at work."""
        try:
            await self._prepare_worker(number)
            while True:
                await self._run_job_and_recover(number, await self._wait_for_job())
                if number not in self._workers:
                    await self._prepare_worker(number)
        finally:
            await self._stop_worker(number)

    async def _run_job_and_recover(self, number: int, job: Job) -> None:
        """Do one job; whatever comes of it, the next is done too."""
        try:
            await self._run_job(number, job)
        except Exception:
            LOG.exception("a worker, or what was made of its answer, failed")
            await self._discard_and_back_off(number)

    async def _prepare_worker(self, number: int) -> None:
        """Have a worker warm before it is asked; where that fails the next job tries, and tells."""
        try:
            await self._get_warm_worker(number)
        except HttpError:
            return
        except Exception:
            LOG.exception("a worker did not get ready")
            await self._discard_and_back_off(number)

    async def _discard_and_back_off(self, number: int) -> None:
        """Do without a worker of which nobody foresaw what came, and rest; the next is another."""
        await self._stop_worker(number)
        await asyncio.sleep(BACKOFF_SECONDS)

    async def _stop_worker(self, number: int) -> None:
        """End a worker, if there is one."""
        if number in self._workers:
            await self._workers.pop(number).stop()

    async def _get_warm_worker(self, number: int) -> Worker:
        """Return the worker, started and warm. Raises Died."""
        if number in self._workers:
            return self._workers[number]
        async with self._warm_up_lock:
            worker = await Worker.start(self.runs, self.limits.start_seconds)
            self._workers[number] = worker
            try:
                await worker.ask(WARM_UP_REQUEST, b"", self.limits.start_seconds, lambda _: None)
            except WorkerLost as fault:
                del self._workers[number]
                raise WorkerUnavailable(fault.status, str(fault)) from fault
            except HttpError:
                pass  # a job that needs the model will say why
        return worker

    async def _wait_for_job(self) -> Job:
        while (job := self.queue.pop()) is None:
            self._job_added.clear()
            await self._job_added.wait()
        return job

    async def _run_job(self, number: int, job: Job) -> None:
        """Let a worker do a job; whatever comes of it is noted there."""
        request, payload = job.request, job.payload
        job.transition("working")
        try:
            self._finish_job(job, await self._ask_with_retry(number, job, request, payload))
        except HttpError as fault:
            if isinstance(fault, WorkerLost):
                self._workers.pop(number, None)
            kind = WorkerUnavailable if isinstance(fault, WorkerUnavailable) else HttpError
            job.transition("failed", fault=kind(fault.status, str(fault)))  # no frames with it
        except asyncio.CancelledError:
            job.transition("failed", fault=WorkerUnavailable(503, STOPPING))
            raise
        except Exception as fault:
            job.transition(
                "failed",
                fault=HttpError(503, UNEXPECTED_ERROR_MESSAGE.format(type(fault).__name__)),
            )
            raise
        finally:
            self.upload_budget.release(len(payload))

    async def _ask_with_retry(
        self, number: int, job: Job, request: dict[str, Any], payload: bytes
    ) -> WorkerAnswer:
        """Ask the worker, and another one where it had crashed while it had nothing to do."""
        was_idle = number in self._workers
        try:
            return await self._ask_worker(
                await self._get_warm_worker(number), job, request, payload
            )
        except WorkerCrashed:
            if not was_idle or job.bars or job.is_finished:
                raise
        self._workers.pop(number, None)
        return await self._ask_worker(await self._get_warm_worker(number), job, request, payload)

    def _finish_job(self, job: Job, answer: WorkerAnswer) -> None:
        """Note that a job is done."""
        if not job.is_finished:
            self.on_answer(job, answer)
        held = answer if job.is_awaited else None
        job.transition(
            "done", answer=held, tune=answer.head.get("id"), bars=job.total_bars or job.bars
        )

    async def _ask_worker(
        self, worker: Worker, job: Job, request: dict[str, Any], payload: bytes
    ) -> WorkerAnswer:
        """Ask a worker; a job that is cancelled meanwhile has a moment more, for it may be done."""
        asking = asyncio.create_task(
            worker.ask(request, payload, self.limits.job_seconds, job.set_progress)
        )
        leaving = asyncio.create_task(_wait_until_finished(job))
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await asyncio.wait((asking,), timeout=CANCEL_SECONDS)
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,))
                raise WorkerLost(400, "the job was cancelled")
            return asking.result()
        finally:
            leaving.cancel()
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,))


async def _wait_until_finished(job: Job) -> None:
    """Wait until a job is wanted no longer."""
    while not job.is_finished:
        await job.wait_for_change(60)
