"""Many tunes of one request, generated in this process or in several.

Tune k is the same for any number of tunes and processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from musicgen.sampling.generate import Generated
from musicgen.sampling.recipe import GenerationRequest
from musicgen.trained_model import Model, load
from musicgen.tune import Tune

_SERIAL_LIMIT: Final = 8  # tunes that take less time than the start of a second process


def sample_many(
    model: Model, request: GenerationRequest, *, count: int, jobs: int | None = None
) -> Iterator[Tune]:
    """Yield tunes 0..count-1 of a request in order.

    Args:
        model: the model.
        request: the request; its own number is ignored.
        count: number of tunes.
        jobs: number of processes; None starts one per CPU core.
    """
    jobs = count_processes(count, jobs)
    for number, generated in enumerate(_generate_in_order(model, request, count, jobs)):
        yield model.make_tune(replace(request, number=number), generated)


def _generate_in_order(
    model: Model, request: GenerationRequest, count: int, jobs: int
) -> Iterator[Generated]:
    """Yield the token ids of tunes 0..count-1 in order."""
    if jobs > 1:
        from musicgen.sampling.parallel import run_in_order  # imports multiprocessing, rarely used

        arguments = to_process_arguments(model, request)
        for answer in run_in_order(_generate_in_process, arguments, count, jobs):
            yield Generated.from_json(answer.decode())
    elif request.engine == "numpy" and count <= _SERIAL_LIMIT:
        for number in range(count):
            yield model.generate(replace(request, number=number))
    else:
        early: dict[int, Generated] = {}  # by number: done before their turn
        finished = model.generate_many(request, range(count))
        for number in range(count):
            while number not in early:
                finished_number, generated = next(finished)
                early[finished_number] = generated
            yield early.pop(number)


def count_processes(count: int, jobs: int | None) -> int:
    """Return the number of processes for so many tunes; 1 is this process alone."""
    return 1 if count <= _SERIAL_LIMIT else min(jobs or os.cpu_count() or 1, count)


def to_process_arguments(model: Model, request: GenerationRequest) -> tuple[str, str]:
    """Return a model's folder and a request as text, for another process."""
    return str(model.checkpoint.folder.resolve()), json.dumps(request.to_json())


def from_process_arguments(folder: str, request: str) -> tuple[Model, GenerationRequest]:
    """Load the model and parse the request of `to_process_arguments`."""
    return load(folder), GenerationRequest.from_json(request)


def _generate_in_process(numbers: Iterable[int], *arguments: str) -> Iterator[tuple[int, bytes]]:
    """Generate tunes in another process; they go back as JSON, since nothing is unpickled."""
    model, request = from_process_arguments(*arguments)
    for number, generated in model.generate_many(request, numbers):
        yield number, generated.to_json().encode()
