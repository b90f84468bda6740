"""The queue is fair: a client with many jobs does not delay clients with few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.web.limits import ServerLimits
from musicgen.web.worker_pool import FairQueue, Job
from musicgen.web.worker_process import HttpError


def make_job(client: str) -> Job:
    return Job(client, {})


def pop_all(queue: FairQueue) -> list[str]:
    clients = []
    while (job := queue.pop()) is not None:
        clients.append(job.client)
    return clients


def test_clients_are_served_in_turn() -> None:
    queue = FairQueue(ServerLimits())
    for client in ("a", "a", "a", "b", "c", "c"):
        queue.add(make_job(client))
    assert pop_all(queue) == ["a", "b", "c", "a", "c", "a"]
    assert len(queue) == 0


def test_many_clients_do_not_starve_one() -> None:
    queue = FairQueue(ServerLimits(waiting_total=400))
    for _ in range(2):
        for number in range(99):
            queue.add(make_job(f"greedy {number}"))
    queue.add(make_job("modest"))
    assert pop_all(queue).index("modest") == 99


def test_one_client_cannot_fill_the_queue() -> None:
    queue = FairQueue(ServerLimits(waiting_per_client=4))
    for _ in range(4):
        queue.add(make_job("greedy"))
    with pytest.raises(HttpError, match="4 of your jobs are waiting; wait until one") as refusal:
        queue.add(make_job("greedy"))
    assert refusal.value.status == 429
    queue.add(make_job("modest"))


def test_last_half_is_reserved_for_clients_without_waiting_jobs() -> None:
    queue = FairQueue(ServerLimits(waiting_per_client=4, waiting_total=8))
    for client in ("a", "a", "b", "b"):
        queue.add(make_job(client))
    with pytest.raises(HttpError, match="4 jobs are waiting; try again in a moment"):
        queue.add(make_job("a"))
    for client in ("c", "d", "e", "f"):
        queue.add(make_job(client))
    with pytest.raises(HttpError, match="8 jobs are waiting"):
        queue.add(make_job("g"))


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.data())
def test_count_ahead_predicts_the_order(clients: list[str], data: st.DataObject) -> None:
    queue = FairQueue(ServerLimits(waiting_per_client=30, waiting_total=100))
    jobs = [make_job(client) for client in clients]
    for job in jobs:
        queue.add(job)
    for job in data.draw(st.lists(st.sampled_from(jobs), unique=True)) if jobs else []:
        queue.remove(job)
        jobs.remove(job)
    assert len(queue) == len(jobs)
    job_by_count = {queue.count_ahead(job): job for job in jobs}
    assert sorted(job_by_count) == list(range(len(jobs)))
    assert all(queue.pop() is job_by_count[count] for count in sorted(job_by_count))
