"""Worker pool: jobs, a queue that is fair to clients, and the workers that run the jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from musicgen.web.limits import ServerLimits
from musicgen.web.worker_process import (
    HttpError,
    Worker,
    WorkerAnswer,
    WorkerCrashed,
    WorkerLost,
    WorkerUnavailable,
)

State: TypeAlias = Literal["waiting", "working", "done", "failed", "cancelled"]
FINISHED_STATES: Final[tuple[State, ...]] = ("done", "failed", "cancelled")
WARM_UP_REQUEST: Final[dict[str, Any]] = {"do": "warm", "model": "folk"}
CANCEL_SECONDS: Final = 2.0  # for a cancelled job to finish, before its worker is killed
BACKOFF_SECONDS: Final = 1.0  # after an unexpected error
STOPPING: Final = "the server is stopping"
CANCELLED: Final = "the job was cancelled"
UNEXPECTED_ERROR_MESSAGE: Final = (
    "the server failed with an internal error ({}); try again, or change the request"
)
LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A request to a worker, and its state."""

    client: str
    request: dict[str, Any]
    payload: bytes = b""
    total_bars: int | None = None  # bars to write, if known
    is_awaited: bool = False  # whether to keep the answer; otherwise only the tune's id is kept
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    bars: int = 0
    tune: str | None = None
    answer: WorkerAnswer | None = None
    fault: HttpError | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINISHED_STATES

    def transition(self, state: State | None = None, **changes: Any) -> None:
        """Change the state and other fields, and wake all waiters; a finished job never changes."""
        if self.is_finished:
            return
        self.state = state or self.state
        for name, value in changes.items():
            setattr(self, name, value)
        if self.is_finished:
            self.request, self.payload = {}, b""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def set_progress(self, bars: int) -> None:
        """Set the number of bars written so far."""
        self.transition(bars=bars)

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until the job changes, or until the seconds have passed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def wait_for_answer(self) -> WorkerAnswer:
        """Wait until the job ends, and return its answer.

        Raises:
            HttpError: the job failed or was cancelled.
        """
        while not self.is_finished:
            await self._changed.wait()
        if self.answer is None:  # it failed, or was cancelled
            raise self.fault or HttpError(400, CANCELLED)
        return self.answer


@dataclass
class FairQueue:
    """Waiting jobs, in one queue per client; clients are served in turn (round-robin)."""

    limits: ServerLimits
    _queues: OrderedDict[str, deque[Job]] = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job) -> None:
        """Add a job at the end of its client's queue.

        The last half of all places is reserved for clients without a waiting job.

        Raises:
            HttpError: too many jobs are waiting.
        """
        client_jobs = self._queues.get(job.client, ())
        if len(client_jobs) >= self.limits.waiting_per_client:
            raise HttpError(
                429, f"{len(client_jobs)} of your jobs are waiting; wait until one has finished"
            )
        if self._count >= self.limits.waiting_total // (2 if client_jobs else 1):
            raise HttpError(429, f"{self._count} jobs are waiting; try again in a moment")
        self._queues.setdefault(job.client, deque()).append(job)
        self._count += 1

    def pop(self) -> Job | None:
        """Remove the next job and move its client to the end; return None from an empty queue."""
        if not self._queues:
            return None
        client, client_jobs = next(iter(self._queues.items()))
        job = client_jobs.popleft()
        self._count -= 1
        self._queues.move_to_end(client)
        if not client_jobs:
            del self._queues[client]
        return job

    def remove(self, job: Job) -> None:
        """Remove a job, if it is waiting."""
        client_jobs = self._queues.get(job.client, deque())
        if job in client_jobs:
            client_jobs.remove(job)
            self._count -= 1
            if not client_jobs:
                del self._queues[job.client]

    def count_ahead(self, job: Job) -> int:
        """Return how many of the waiting jobs will run before a job."""
        client_jobs = self._queues.get(job.client)
        if client_jobs is None or job not in client_jobs:
            return 0
        index, is_earlier, ahead = client_jobs.index(job), True, 0
        for client, queue in self._queues.items():
            if client == job.client:
                is_earlier = False
            else:
                ahead += min(len(queue), index + is_earlier)
        return ahead + index


@dataclass
class UploadBudget:
    """Memory budget of the uploads that are being read or wait, in bytes."""

    max_bytes: int
    used_bytes: int = 0

    def reserve(self, count: int) -> None:
        """Reserve some bytes.

        Raises:
            HttpError: they exceed the budget.
        """
        if self.used_bytes + count > self.max_bytes:
            raise HttpError(429, "too many uploads at once; try again in a moment")
        self.used_bytes += count

    def release(self, count: int) -> None:
        """Release reserved bytes."""
        self.used_bytes -= count


@dataclass
class WorkerPool:
    """Long-lived worker processes, each of which runs one job at a time."""

    runs: Path
    limits: ServerLimits
    on_answer: Callable[[Job, WorkerAnswer], None] = lambda *_: None  # before the job is "done"
    upload_budget: UploadBudget = field(init=False)
    queue: FairQueue = field(init=False)
    _jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    _job_added: asyncio.Event = field(default_factory=asyncio.Event)
    _worker_tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _workers: dict[int, Worker] = field(default_factory=dict)
    _is_stopped: bool = False
    # one worker warms up at a time, so that the first is ready early
    _warm_up_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.upload_budget = UploadBudget(self.limits.upload_bytes)
        self.queue = FairQueue(self.limits)

    def start(self) -> None:
        """Start the workers in the background; they need a second or two to warm up."""
        self._is_stopped = False
        self._worker_tasks = [
            asyncio.create_task(self._run_worker(n)) for n in range(self.limits.workers)
        ]

    async def stop(self) -> None:
        """Stop the workers; all unfinished jobs fail, and so does every later job."""
        self._is_stopped = True
        for task in self._worker_tasks:
            task.cancel()
        await asyncio.gather(*self._worker_tasks, return_exceptions=True)
        self._worker_tasks = []
        for job in list(self._jobs.values()):
            job.transition("failed", fault=WorkerUnavailable(503, STOPPING))

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers.values()]

    def submit(self, job: Job) -> Job:
        """Add a job to the queue, and return it.

        Raises:
            HttpError: too many jobs or uploads are waiting.
            WorkerUnavailable: the pool is stopped.
        """
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
        """Submit a job, wait for its answer, and drop the job.

        Args:
            client: the client whose queue the job joins.
            payload: bytes sent to the worker.
            **request: the name of a handler as "do", and its arguments.

        Raises:
            HttpError: the job failed or could not be submitted.
        """
        job = self.submit(Job(client, request, payload, is_awaited=True))
        try:
            return await job.wait_for_answer()
        finally:
            self.cancel(job)
            del self._jobs[job.id]

    def find(self, id_: str) -> Job:
        """Return a job by its id.

        Raises:
            HttpError: the job does not exist, or was dropped after its end.
        """
        if id_ not in self._jobs:
            raise HttpError(404, "no such job, or it ended long ago; submit a new one")
        return self._jobs[id_]

    def cancel(self, job: Job) -> None:
        """Cancel a job; a finished job stays as it is."""
        if job.state == "waiting":
            self.queue.remove(job)
            self.upload_budget.release(len(job.payload))
        job.transition("cancelled")

    def _drop_finished_jobs(self) -> None:
        """Drop the oldest finished jobs beyond the limit."""
        excess = max(0, len(self._jobs) - self.limits.finished_jobs)
        finished_ids = [id_ for id_, job in self._jobs.items() if job.is_finished]
        for id_ in finished_ids[:excess]:
            del self._jobs[id_]

    async def _run_worker(self, number: int) -> None:
        """Run jobs on one worker, until cancelled."""
        try:
            await self._prepare_worker(number)
            while True:
                await self._run_job_and_recover(number, await self._wait_for_job())
                if number not in self._workers:
                    await self._prepare_worker(number)
        finally:
            await self._stop_worker(number)

    async def _run_job_and_recover(self, number: int, job: Job) -> None:
        """Run one job; replace the worker after an unexpected error."""
        try:
            await self._run_job(number, job)
        except Exception:
            LOG.exception("a job failed unexpectedly")
            await self._discard_and_back_off(number)

    async def _prepare_worker(self, number: int) -> None:
        """Warm up a worker in advance; if that fails, the next job tries again and reports it."""
        try:
            await self._get_warm_worker(number)
        except HttpError:
            return
        except Exception:
            LOG.exception("a worker failed to start")
            await self._discard_and_back_off(number)

    async def _discard_and_back_off(self, number: int) -> None:
        """Stop a worker after an unexpected error, and back off before the next is started."""
        await self._stop_worker(number)
        await asyncio.sleep(BACKOFF_SECONDS)

    async def _stop_worker(self, number: int) -> None:
        """Stop a worker, if it runs."""
        if number in self._workers:
            await self._workers.pop(number).stop()

    async def _get_warm_worker(self, number: int) -> Worker:
        """Return a worker that is running and warm.

        Raises:
            WorkerUnavailable: it cannot be started.
        """
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
                pass  # a job that needs the model will report why
        return worker

    async def _wait_for_job(self) -> Job:
        while (job := self.queue.pop()) is None:
            self._job_added.clear()
            await self._job_added.wait()
        return job

    async def _run_job(self, number: int, job: Job) -> None:
        """Run a job on a worker, and set the job's final state."""
        request, payload = job.request, job.payload
        job.transition("working")
        try:
            self._finish_job(job, await self._ask_with_retry(number, job, request, payload))
        except HttpError as fault:
            if isinstance(fault, WorkerLost):
                self._workers.pop(number, None)
            kind = WorkerUnavailable if isinstance(fault, WorkerUnavailable) else HttpError
            job.transition("failed", fault=kind(fault.status, str(fault)))  # without frames
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
        """Ask the worker; try once more if it crashed before the job started."""
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
        """Mark a job as done."""
        if not job.is_finished:
            self.on_answer(job, answer)
        job.transition(
            "done",
            answer=answer if job.is_awaited else None,
            tune=answer.head.get("id"),
            bars=job.total_bars or job.bars,
        )

    async def _ask_worker(
        self, worker: Worker, job: Job, request: dict[str, Any], payload: bytes
    ) -> WorkerAnswer:
        """Ask a worker; a job cancelled meanwhile has CANCEL_SECONDS to finish."""
        answer = asyncio.create_task(
            worker.ask(request, payload, self.limits.job_seconds, job.set_progress)
        )
        job_end = asyncio.create_task(_wait_until_finished(job))
        try:
            await asyncio.wait((answer, job_end), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await asyncio.wait((answer,), timeout=CANCEL_SECONDS)
            if not answer.done():
                answer.cancel()
                await asyncio.wait((answer,))
                raise WorkerLost(400, CANCELLED)
            return answer.result()
        finally:
            job_end.cancel()
            if not answer.done():
                answer.cancel()
                await asyncio.wait((answer,))


async def _wait_until_finished(job: Job) -> None:
    """Wait until a job ends, which a running job does when it is cancelled."""
    while not job.is_finished:
        await job.wait_for_change(60)
