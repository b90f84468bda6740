"""Workers: what takes too long is stopped, what dies is replaced, and nobody else notices."""

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
from musicgen.web.worker_process import HttpError, WorkerCrashed
from musicgen.web.worker_protocol import WorkerAnswer
from tests.live_server import Served, served, until

LONG = {"do": "sample", "bars": 512, "form": "through", "seed": 1}


def test_a_job_that_takes_too_long_is_stopped(
    playground: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    playground.tune_of(do="sample", bars=2)  # it is warm
    monkeypatch.setattr(
        playground.playground.worker_pool, "limits", ServerLimits(workers=1, job_seconds=0.5)
    )
    end = playground.end_of(playground.ask(**LONG))
    assert end["state"] == "failed"
    assert end["error"] == "it took longer than 0.5 s and was stopped; ask for fewer bars"
    assert 0 < end["bars"] < 512
    monkeypatch.undo()
    assert playground.tune_of(do="sample", bars=2)["bars"] == 2


def test_a_worker_that_dies_is_replaced(playground: Served) -> None:
    job = playground.ask(**LONG)
    until(lambda: playground.get(f"/api/jobs/{job}")["bars"] > 0)
    (pid,) = playground.playground.worker_pool.pids
    os.kill(pid, signal.SIGKILL)
    end = playground.end_of(job)
    assert end["state"] == "failed"
    assert end["error"].startswith("the process that worked on it died (SIGKILL)")
    assert playground.tune_of(do="sample", bars=2)["bars"] == 2
    assert playground.playground.worker_pool.pids != [pid]


def test_a_worker_that_died_at_rest_costs_no_job(playground: Served) -> None:
    playground.tune_of(do="sample", bars=2)  # it is warm
    (pid,) = playground.playground.worker_pool.pids
    os.kill(pid, signal.SIGKILL)
    assert playground.tune_of(do="sample", bars=2)["bars"] == 2
    assert playground.playground.worker_pool.pids != [pid]


class Deadly:
    """A worker that crashes of each request but the first."""

    pid = 0
    starts = 0

    @classmethod
    async def started(cls, *_: object) -> Deadly:
        """Start."""
        cls.starts += 1
        return cls()

    async def ask(self, request: dict[str, Any], *_: object) -> WorkerAnswer:
        """Crash, unless it is to get warm."""
        if request["do"] == "warm":
            return WorkerAnswer({})
        raise WorkerCrashed(503, "it died")

    async def stop(self) -> None:
        """End."""


def test_a_request_that_kills_workers_is_tried_twice_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "Worker", Deadly)

    async def whole() -> None:
        some = worker_pool.WorkerPool(tmp_path, ServerLimits(workers=1))
        some.start()
        async with asyncio.timeout(10):
            with pytest.raises(HttpError, match="it died"):
                await some.submit_and_wait("a", do="x")
        await some.stop()

    asyncio.run(whole())
    assert Deadly.starts in (2, 3)  # the third gets ready for what is asked next


class Clumsy:
    """A worker that does what nobody foresaw, at first."""

    pid = 0
    faults: ClassVar[list[Exception]] = []
    stopped: ClassVar[list[bool]] = []

    @classmethod
    async def started(cls, *_: object) -> Clumsy:
        """Start, or fail at it."""
        if cls.faults and isinstance(cls.faults[0], OSError):
            raise cls.faults.pop(0)
        return cls()

    async def ask(self, request: dict[str, Any], *_: object) -> WorkerAnswer:
        """Answer all but what cannot be answered."""
        if request["do"] != "warm" and self.faults:
            raise self.faults.pop(0)
        return WorkerAnswer({})

    async def stop(self) -> None:
        """End."""
        self.stopped.append(True)


@pytest.mark.parametrize("faults", [[RuntimeError("x")], [OSError(24, "x"), KeyError("x")]])
def test_what_nobody_foresaw_ends_a_worker_and_not_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[Exception]
) -> None:
    monkeypatch.setattr(worker_pool, "Worker", Clumsy)
    monkeypatch.setattr(worker_pool, "BACKOFF_SECONDS", 0)
    monkeypatch.setattr(Clumsy, "faults", faults)
    monkeypatch.setattr(Clumsy, "stopped", [])

    async def whole() -> None:
        some = worker_pool.WorkerPool(tmp_path, ServerLimits(workers=1))
        some.start()
        async with asyncio.timeout(10):
            with pytest.raises(
                HttpError, match=r"the server failed at it \((Runtime|Key)Error\)"
            ) as told:
                await some.submit_and_wait("a", b"bytes", do="x")
            assert (told.value.status, some.upload_budget.used_bytes) == (503, 0)
            assert await some.submit_and_wait("a", do="x") == WorkerAnswer({})
        assert Clumsy.stopped == [True]
        await some.stop()
        with pytest.raises(HttpError, match="the server is stopping"):
            await some.submit_and_wait("a", do="x")

    asyncio.run(whole())


def test_a_job_that_is_over_holds_nothing_of_what_was_sent(playground: Served) -> None:
    """Nor does its fault, whose frames would: a refused upload is as large as others."""
    id_ = playground.ask(do="sample", primer={"text": "no music"})
    assert playground.end_of(id_)["state"] == "failed"
    job = playground.playground.worker_pool.find(id_)
    assert (job.payload, job.request, job.answer) == (b"", {}, None)
    assert job.fault is not None
    assert (job.fault.__traceback__, job.fault.__context__) == (None, None)
    assert playground.playground.worker_pool.upload_budget.used_bytes == 0


def test_a_job_that_waits_is_cancelled(idle: Served) -> None:
    before = len(idle.playground.worker_pool.queue)
    job = idle.ask(do="sample")
    assert len(idle.playground.worker_pool.queue) == before + 1
    assert idle.client.delete(f"/api/jobs/{job}").json()["state"] == "cancelled"
    assert idle.end_of(job)["state"] == "cancelled"
    assert len(idle.playground.worker_pool.queue) == before


def test_a_job_at_work_is_cancelled(playground: Served) -> None:
    job = playground.ask(**LONG)
    until(lambda: playground.get(f"/api/jobs/{job}")["bars"] > 0)
    assert playground.client.delete(f"/api/jobs/{job}").json()["state"] == "cancelled"
    assert playground.end_of(job)["tune"] is None
    assert playground.tune_of(do="sample", bars=2)["bars"] == 2


def test_what_is_over_is_forgotten_in_time(tmp_path: Path) -> None:
    with served(tmp_path, tmp_path, ServerLimits(workers=0, finished_jobs=3)) as found:
        jobs = []
        for _ in range(6):
            jobs.append(found.ask(do="sample"))
            found.client.delete(f"/api/jobs/{jobs[-1]}")
        known = [found.client.get(f"/api/jobs/{job}").status_code for job in jobs]
    assert known == [404, 404, 404, 200, 200, 200] or known == [404, 404, 200, 200, 200, 200]


def test_the_oldest_tunes_make_room() -> None:
    tunes = TuneCache(30)
    for number in range(5):
        tunes.add(CachedTune(f"tune {number}", "recipe", bytes(8)))
    tunes.add(CachedTune("tune 3", "recipe", bytes(9)))
    assert [tunes.find(f"tune {number}") is not None for number in range(5)] == [0, 0, 0, 1, 1]
    assert tunes.used_bytes == 14 + 15
    assert tunes.find("tune 4")
    tunes.add(CachedTune("large", "recipe", bytes(1000)))
    assert (len(tunes), tunes.used_bytes) == (1, 1006)


def test_whoever_waits_is_told_that_the_server_stops(tmp_path: Path) -> None:
    with served(tmp_path, tmp_path, ServerLimits(workers=0)) as found:
        job = found.ask(do="sample")
        with found.client.stream("GET", f"/api/jobs/{job}/events") as lines:
            told = (line for line in lines.iter_lines() if line.startswith("data: "))
            assert '"waiting"' in next(told)
            found.server.should_exit = True
            assert "the server is stopping" in list(told)[-1]
