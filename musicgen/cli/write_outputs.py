"""The files that `sample` and `tweak` write, and what is told of each."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from musicgen.cli.formatting import counted
from musicgen.errors import InvalidValue, printable
from musicgen.files import explaining, is_folder

if TYPE_CHECKING:
    from concurrent.futures import Future

    from musicgen.sampling.generate import Written
    from musicgen.sampling.recipe import Order
    from musicgen.tune import Model, Tune

Tell = Callable[[str], object]
QUIET, PLAIN, VERBOSE = range(3)  # how much is told
_WAITING: Final = 64  # tunes that are drawn and not yet written


def silent(_: str) -> None:
    """Say nothing."""


def loudness(*, quiet: bool, verbose: bool) -> int:
    """Return how much is told."""
    return QUIET if quiet else VERBOSE if verbose else PLAIN


def files_of(
    outs: Sequence[str], model: Model, *, count: int, suffix: str, force: bool
) -> list[list[Path]]:
    """Return the files that each --out stands for. Raises InvalidValue or OutputExists."""
    from musicgen.files import prepare_outputs
    from musicgen.tune import beside_of, check_writable, has_room, refuse_other_recipe

    names = [list(_names(out, count, suffix)) for out in outs]
    for files in names:
        check_writable(files, model.writable)
    every = list(chain.from_iterable(names))
    recipes = [beside_of(file) for file in every if not has_room(file.suffix)]
    prepare_outputs([*every, *recipes], force=force)
    for recipe in recipes:
        refuse_other_recipe(recipe)
    return names


def write_tune(tune: Tune, files: Sequence[Path], *, force: bool, loud: int) -> list[str]:
    """Write a tune to its files; return what there is to tell of it."""
    for file in files:
        tune.write(file, force=force)
    if loud == QUIET:
        return []
    place = f"; seed {tune.seed}, number {tune.number + 1}" if loud == VERBOSE else ""
    told = [*map(printable, tune.told), _told(tune, [str(file) for file in files]) + place]
    if tune.receipt is None:
        return told
    receipt = tune.receipt.line() if loud == VERBOSE else tune.receipt.short_line()
    return [*told, f"  {receipt}"]


def write_tunes(
    model: Model,
    order: Order,
    names: Sequence[Sequence[str]],
    *,
    force: bool,
    loud: int,
    jobs: int | None = None,
) -> Iterator[list[str]]:
    """Write tunes 0, 1, ... of an order, each to its files, and yield what there is to tell of it.

    Many are drawn and written in processes, each of which writes what it has drawn.
    """
    from musicgen.tune import processes_for, sample_many, start_of

    count = len(names)
    jobs = processes_for(count, jobs)
    if jobs == 1:
        tunes = sample_many(model, order, count=count, jobs=1)
        for tune, files in zip(tunes, names, strict=True):
            yield write_tune(tune, list(map(Path, files)), force=force, loud=loud)
        return
    from musicgen.sampling.parallel import in_order  # multiprocessing, wanted by few

    start = (*start_of(model, order), json.dumps([names, force, loud]))
    for told in in_order(_write_some, start, count, jobs):
        yield json.loads(told)


def _write_some(numbers: Iterable[int], *start: str) -> Iterator[tuple[int, bytes]]:
    """Draw and write tunes in a process of its own; while the disk is waited for, it draws."""
    from concurrent.futures import ThreadPoolExecutor

    from musicgen.tune import started

    model, order = started(*start[:-1])
    names, force, loud = json.loads(start[-1])

    def written(number: int, found: Written) -> tuple[int, bytes]:
        tune = model.tune(replace(order, number=number), found)
        told = write_tune(tune, list(map(Path, names[number])), force=force, loud=loud)
        return number, json.dumps(told).encode()

    under_way: deque[Future[tuple[int, bytes]]] = deque()
    writer = ThreadPoolExecutor(max_workers=1)
    try:
        for number, found in model.carried_out_many(order, numbers):
            under_way.append(writer.submit(written, number, found))
            while under_way and (under_way[0].done() or len(under_way) > _WAITING):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        writer.shutdown(cancel_futures=True)  # what is being written is finished


def model_told(model: Model) -> str:
    """Say what a model is."""
    manifest = model.checkpoint.manifest
    shape = manifest.settings
    return printable(
        f"{model.checkpoint.folder}: {manifest.name} {manifest.version},"
        f" {shape.layers} x {shape.hidden} {shape.cell}, codec {manifest.codec},"
        f" {counted(shape.vocabulary_size, 'event')}"
    )


def _names(out: str, count: int, suffix: str) -> Iterator[Path]:
    """Yield the files that one --out stands for."""
    path = Path(out)
    if out.endswith(("/", "\\")) or is_folder(path):
        with explaining(path):
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


def _told(tune: Tune, files: list[str]) -> str:
    return f"{', '.join(files)}: {tune.summary}"
