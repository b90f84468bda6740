"""Clients take turns: whoever asks for much waits behind those who ask for little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.web.limits import ServerLimits
from musicgen.web.worker_pool import FairQueue, Job
from musicgen.web.worker_process import HttpError


def job(client: str) -> Job:
    return Job(client, {})


def served(turns: FairQueue) -> list[str]:
    found = []
    while (one := turns.pop()) is not None:
        found.append(one.client)
    return found


def test_clients_are_served_in_turn() -> None:
    turns = FairQueue(ServerLimits())
    for client in ("a", "a", "a", "b", "c", "c"):
        turns.add(job(client))
    assert served(turns) == ["a", "b", "c", "a", "c", "a"]
    assert len(turns) == 0


def test_a_hundred_clients_do_not_starve_one() -> None:
    turns = FairQueue(ServerLimits(waiting_total=400))
    for _ in range(2):
        for number in range(99):
            turns.add(job(f"greedy {number}"))
    turns.add(job("modest"))
    assert served(turns).index("modest") == 99


def test_one_client_does_not_fill_the_line() -> None:
    turns = FairQueue(ServerLimits(waiting_per_client=4))
    for _ in range(4):
        turns.add(job("greedy"))
    with pytest.raises(HttpError, match="4 of your jobs wait already; let one finish") as told:
        turns.add(job("greedy"))
    assert told.value.status == 429
    turns.add(job("modest"))


def test_the_last_half_is_for_those_who_have_nothing_waiting() -> None:
    turns = FairQueue(ServerLimits(waiting_per_client=4, waiting_total=8))
    for client in ("a", "a", "b", "b"):
        turns.add(job(client))
    with pytest.raises(HttpError, match="4 jobs wait already; try again in a moment"):
        turns.add(job("a"))
    for client in ("c", "d", "e", "f"):
        turns.add(job(client))
    with pytest.raises(HttpError, match="8 jobs wait already"):
        turns.add(job("g"))


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.data())
def test_how_many_come_before_is_told_truly(clients: list[str], data: st.DataObject) -> None:
    turns = FairQueue(ServerLimits(waiting_per_client=30, waiting_total=100))
    jobs = [job(client) for client in clients]
    for one in jobs:
        turns.add(one)
    for one in data.draw(st.lists(st.sampled_from(jobs), unique=True)) if jobs else []:
        turns.remove(one)
        jobs.remove(one)
    assert len(turns) == len(jobs)
    told = {turns.count_ahead(one): one for one in jobs}
    assert sorted(told) == list(range(len(jobs)))
    assert all(turns.pop() is told[place] for place in sorted(told))
