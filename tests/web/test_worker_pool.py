"""The worker pool: slow jobs are stopped, crashed workers replaced, other jobs unaffected."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from musicgen.web import worker_pool
from musicgen.web.app import CachedTune, TuneCache
from musicgen.web.limits import ServerLimits
from musicgen.web.worker_process import HttpError, WorkerAnswer, WorkerCrashed
from tests.live_server import LiveServer, run_server, wait_until

LONG_REQUEST = {"do": "sample", "bars": 512, "form": "through", "seed": 1}


def test_job_time_is_limited(playground: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    playground.generate(do="sample", bars=2)  # warms up the worker
    monkeypatch.setattr(
        playground.playground.worker_pool, "limits", ServerLimits(workers=1, job_seconds=0.5)
    )
    end = playground.wait_for_end(playground.submit(**LONG_REQUEST))
    assert end["state"] == "failed"
    assert end["error"] == "the job exceeded 0.5 s and was stopped; ask for fewer bars"
    assert 0 < end["bars"] < 512
    monkeypatch.undo()
    assert playground.generate(do="sample", bars=2)["bars"] == 2


def test_crashed_worker_is_replaced(playground: LiveServer) -> None:
    job = playground.submit(**LONG_REQUEST)
    wait_until(lambda: playground.get(f"/api/jobs/{job}")["bars"] > 0)
    (pid,) = playground.playground.worker_pool.pids
    os.kill(pid, signal.SIGKILL)
    end = playground.wait_for_end(job)
    assert end["state"] == "failed"
    assert end["error"].startswith("the worker process crashed (SIGKILL)")
    assert playground.generate(do="sample", bars=2)["bars"] == 2
    assert playground.playground.worker_pool.pids != [pid]


def test_job_survives_a_worker_that_crashed_while_idle(playground: LiveServer) -> None:
    playground.generate(do="sample", bars=2)  # warms up the worker
    (pid,) = playground.playground.worker_pool.pids
    os.kill(pid, signal.SIGKILL)
    assert playground.generate(do="sample", bars=2)["bars"] == 2
    assert playground.playground.worker_pool.pids != [pid]


class CrashingWorker:
    """A worker that crashes on each request except the warm-up."""

    pid = 0
    starts = 0

    @classmethod
    async def start(cls, *_: object) -> CrashingWorker:
        """Start."""
        cls.starts += 1
        return cls()

    async def ask(self, request: dict[str, Any], *_: object) -> WorkerAnswer:
        """Crash, except on the warm-up."""
        if request["do"] == "warm":
            return WorkerAnswer({})
        raise WorkerCrashed(503, "it crashed")

    async def stop(self) -> None:
        """End."""


def test_crashing_request_is_retried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "Worker", CrashingWorker)

    async def run_pool() -> None:
        pool = worker_pool.WorkerPool(tmp_path, ServerLimits(workers=1))
        pool.start()
        async with asyncio.timeout(10):
            with pytest.raises(HttpError, match="it crashed"):
                await pool.submit_and_wait("a", do="x")
        await pool.stop()

    asyncio.run(run_pool())
    assert CrashingWorker.starts in (2, 3)  # the third warms up for the next request


class FailingWorker:
    """A worker that fails with unexpected errors, at first."""

    pid = 0
    faults: ClassVar[list[Exception]] = []
    stopped: ClassVar[list[bool]] = []

    @classmethod
    async def start(cls, *_: object) -> FailingWorker:
        """Start, or raise the next error."""
        if cls.faults and isinstance(cls.faults[0], OSError):
            raise cls.faults.pop(0)
        return cls()

    async def ask(self, request: dict[str, Any], *_: object) -> WorkerAnswer:
        """Answer, or raise the next error."""
        if request["do"] != "warm" and self.faults:
            raise self.faults.pop(0)
        return WorkerAnswer({})

    async def stop(self) -> None:
        """End."""
        self.stopped.append(True)


@pytest.mark.parametrize("faults", [[RuntimeError("x")], [OSError(24, "x"), KeyError("x")]])
def test_unexpected_error_replaces_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[Exception]
) -> None:
    monkeypatch.setattr(worker_pool, "Worker", FailingWorker)
    monkeypatch.setattr(worker_pool, "BACKOFF_SECONDS", 0)
    monkeypatch.setattr(FailingWorker, "faults", faults)
    monkeypatch.setattr(FailingWorker, "stopped", [])

    async def run_pool() -> None:
        pool = worker_pool.WorkerPool(tmp_path, ServerLimits(workers=1))
        pool.start()
        async with asyncio.timeout(10):
            with pytest.raises(
                HttpError, match=r"internal error \((Runtime|Key)Error\)"
            ) as failure:
                await pool.submit_and_wait("a", b"bytes", do="x")
            assert (failure.value.status, pool.upload_budget.used_bytes) == (503, 0)
            assert await pool.submit_and_wait("a", do="x") == WorkerAnswer({})
        assert FailingWorker.stopped == [True]
        await pool.stop()
        with pytest.raises(HttpError, match="the server is stopping"):
            await pool.submit_and_wait("a", do="x")

    asyncio.run(run_pool())


def test_finished_job_releases_its_payload(playground: LiveServer) -> None:
    """Its error keeps no frames either, which would refer to the upload."""
    id_ = playground.submit(do="sample", primer={"text": "no music"})
    assert playground.wait_for_end(id_)["state"] == "failed"
    job = playground.playground.worker_pool.find(id_)
    assert (job.payload, job.request, job.answer) == (b"", {}, None)
    assert job.fault is not None
    assert (job.fault.__traceback__, job.fault.__context__) == (None, None)
    assert playground.playground.worker_pool.upload_budget.used_bytes == 0


def test_waiting_job_is_cancelled(idle: LiveServer) -> None:
    before = len(idle.playground.worker_pool.queue)
    job = idle.submit(do="sample")
    assert len(idle.playground.worker_pool.queue) == before + 1
    assert idle.client.delete(f"/api/jobs/{job}").json()["state"] == "cancelled"
    assert idle.wait_for_end(job)["state"] == "cancelled"
    assert len(idle.playground.worker_pool.queue) == before


def test_running_job_is_cancelled(playground: LiveServer) -> None:
    job = playground.submit(**LONG_REQUEST)
    wait_until(lambda: playground.get(f"/api/jobs/{job}")["bars"] > 0)
    assert playground.client.delete(f"/api/jobs/{job}").json()["state"] == "cancelled"
    assert playground.wait_for_end(job)["tune"] is None
    assert playground.generate(do="sample", bars=2)["bars"] == 2


def test_old_finished_jobs_are_dropped(tmp_path: Path) -> None:
    with run_server(tmp_path, tmp_path, ServerLimits(workers=0, finished_jobs=3)) as server:
        jobs = []
        for _ in range(6):
            jobs.append(server.submit(do="sample"))
            server.client.delete(f"/api/jobs/{jobs[-1]}")
        statuses = [server.client.get(f"/api/jobs/{job}").status_code for job in jobs]
    assert statuses == [404, 404, 404, 200, 200, 200] or statuses == [404, 404, 200, 200, 200, 200]


def test_cache_drops_the_oldest_tunes() -> None:
    cache = TuneCache(30)
    for number in range(5):
        cache.add(CachedTune(f"tune {number}", "recipe", bytes(8)))
    cache.add(CachedTune("tune 3", "recipe", bytes(9)))
    assert [cache.find(f"tune {number}") is not None for number in range(5)] == [0, 0, 0, 1, 1]
    assert cache.used_bytes == 14 + 15
    assert cache.find("tune 4")
    cache.add(CachedTune("large", "recipe", bytes(1000)))
    assert (len(cache), cache.used_bytes) == (1, 1006)


def test_waiting_client_is_told_that_the_server_stops(tmp_path: Path) -> None:
    with run_server(tmp_path, tmp_path, ServerLimits(workers=0)) as server:
        job = server.submit(do="sample")
        with server.client.stream("GET", f"/api/jobs/{job}/events") as response:
            events = (line for line in response.iter_lines() if line.startswith("data: "))
            assert '"waiting"' in next(events)
            server.server.should_exit = True
            assert "the server is stopping" in list(events)[-1]
