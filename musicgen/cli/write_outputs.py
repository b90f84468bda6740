"""The files that `sample` and `tweak` write, and what is told of each."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from musicgen.cli.formatting import format_count
from musicgen.errors import InvalidValue, escape_unprintable
from musicgen.files import is_folder, translate_os_errors

if TYPE_CHECKING:
    from concurrent.futures import Future

    from musicgen.sampling.generate import Generated
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.trained_model import Model
    from musicgen.tune import Tune, TuneModel

LinePrinter = Callable[[str], object]
QUIET, NORMAL, VERBOSE = range(3)  # how much is told
_MAX_PENDING_TUNES: Final = 64  # tunes that are drawn and not yet written


def discard_line(_: str) -> None:
    """Say nothing."""


def select_verbosity(*, quiet: bool, verbose: bool) -> int:
    """Return how much is told."""
    return QUIET if quiet else VERBOSE if verbose else NORMAL


def resolve_output_files(
    outs: Sequence[str], model: TuneModel, *, count: int, suffix: str, force: bool
) -> list[list[Path]]:
    """Return the files that each --out stands for. Raises InvalidValue or OutputExists."""
    from musicgen.files import prepare_outputs
    from musicgen.recipe_files import refuse_non_recipe, sidecar_path, supports_metadata
    from musicgen.render.export import check_suffix

    names = [list(_expand_output(out, count, suffix)) for out in outs]
    for files in names:
        for file in files:
            check_suffix(file, model.writable)
    every = list(chain.from_iterable(names))
    recipes = [sidecar_path(file) for file in every if not supports_metadata(file.suffix)]
    prepare_outputs([*every, *recipes], force=force)
    for recipe in recipes:
        refuse_non_recipe(recipe)
    return names


def write_tune(tune: Tune, files: Sequence[Path], *, force: bool, verbosity: int) -> list[str]:
    """Write a tune to its files; return what there is to tell of it."""
    for file in files:
        tune.write(file, force=force)
    if verbosity == QUIET:
        return []
    place = f"; seed {tune.seed}, number {tune.number + 1}" if verbosity == VERBOSE else ""
    told = [
        *map(escape_unprintable, tune.messages),
        _format_tune_line(tune, [str(file) for file in files]) + place,
    ]
    if tune.receipt is None:
        return told
    receipt = (
        tune.receipt.format_line() if verbosity == VERBOSE else tune.receipt.format_short_line()
    )
    return [*told, f"  {receipt}"]


def write_tunes(
    model: Model,
    request: GenerationRequest,
    names: Sequence[Sequence[str]],
    *,
    force: bool,
    verbosity: int,
    jobs: int | None = None,
) -> Iterator[list[str]]:
    """Write tunes 0, 1, ... of an order, each to its files, and yield what there is to tell of it.

    Many are drawn and written in processes, each of which writes what it has drawn.
    """
    from musicgen.tune_batch import count_processes, sample_many, to_process_arguments

    count = len(names)
    jobs = count_processes(count, jobs)
    if jobs == 1:
        tunes = sample_many(model, request, count=count, jobs=1)
        for tune, files in zip(tunes, names, strict=True):
            yield write_tune(tune, list(map(Path, files)), force=force, verbosity=verbosity)
        return
    from musicgen.sampling.parallel import run_in_order  # multiprocessing, wanted by few

    start = (*to_process_arguments(model, request), json.dumps([names, force, verbosity]))
    for told in run_in_order(_write_batch, start, count, jobs):
        yield json.loads(told)


def _write_batch(numbers: Iterable[int], *start: str) -> Iterator[tuple[int, bytes]]:
    """Draw and write tunes in a process of its own; while the disk is waited for, it draws."""
    from concurrent.futures import ThreadPoolExecutor

    from musicgen.tune_batch import from_process_arguments

    model, order = from_process_arguments(*start[:-1])
    names, force, loud = json.loads(start[-1])

    def written(number: int, found: Generated) -> tuple[int, bytes]:
        tune = model.make_tune(replace(order, number=number), found)
        told = write_tune(tune, list(map(Path, names[number])), force=force, verbosity=loud)
        return number, json.dumps(told).encode()

    under_way: deque[Future[tuple[int, bytes]]] = deque()
    writer = ThreadPoolExecutor(max_workers=1)
    try:
        for number, found in model.generate_many(order, numbers):
            under_way.append(writer.submit(written, number, found))
            while under_way and (under_way[0].done() or len(under_way) > _MAX_PENDING_TUNES):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        writer.shutdown(cancel_futures=True)  # what is being written is finished


def describe_model(model: TuneModel) -> str:
    """Say what a model is."""
    manifest = model.checkpoint.manifest
    shape = manifest.settings
    return escape_unprintable(
        f"{model.checkpoint.folder}: {manifest.name} {manifest.version},"
        f" {shape.layers} x {shape.hidden} {shape.cell}, codec {manifest.codec},"
        f" {format_count(shape.vocabulary_size, 'event')}"
    )


def _expand_output(out: str, count: int, suffix: str) -> Iterator[Path]:
    """Yield the files that one --out stands for."""
    path = Path(out)
    if out.endswith(("/", "\\")) or is_folder(path):
        with translate_os_errors(path):
            path.mkdir(exist_ok=True)
        yield from (path / f"tune-{number}{suffix}" for number in range(1, count + 1))
    elif "{n}" in path.name:
        yield from (Path(out.replace("{n}", str(number))) for number in range(1, count + 1))
    elif count == 1:
        yield path
    else:
        raise InvalidValue(
            f"--out {out}: for {count} tunes name a folder ({out}/) or a pattern"
            f" ({path.stem}-{{n}}{path.suffix})"
        )


def _format_tune_line(tune: Tune, files: list[str]) -> str:
    return f"{', '.join(files)}: {tune.summary}"
