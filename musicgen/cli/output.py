"""What commands write: output files of tunes, the lines about each, and amounts in messages."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from musicgen.errors import InvalidValue, escape_unprintable
from musicgen.files import is_folder, translate_os_errors

if TYPE_CHECKING:
    from concurrent.futures import Future

    from musicgen.sampling.generate import Generated
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.trained_model import Model
    from musicgen.tune import Tune, TuneModel

PLAIN_LINE_SECONDS: Final = 20.0  # between two progress lines where stderr is not a terminal
LinePrinter = Callable[[str], object]
QUIET, NORMAL, VERBOSE = range(3)  # verbosity
_MAX_PENDING_TUNES: Final = 64  # generated and not yet written, per process


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun: 1 tune, 2 tunes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Format a duration in a fitting unit: 12 s, 3 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def format_bytes(count: int) -> str:
    """Format a number of bytes: 640 MiB, 1.5 GiB."""
    mebibytes = count / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.1f} GiB"


def discard_line(_: str) -> None:
    """Do nothing; the LinePrinter of --quiet."""


def select_verbosity(*, quiet: bool, verbose: bool) -> int:
    """Return QUIET, NORMAL or VERBOSE for the options of a command."""
    return QUIET if quiet else VERBOSE if verbose else NORMAL


def resolve_output_files(
    outs: Sequence[str], model: TuneModel, *, count: int, suffix: str, force: bool
) -> list[list[Path]]:
    """Return the files that each --out stands for, after checks that they can be written.

    Args:
        outs: the values of --out: a file, a folder, or a pattern with {n}.
        model: the model, which decides the formats that can be written.
        count: number of tunes.
        suffix: suffix of the files in a folder, such as ".mid".
        force: whether to replace existing files.

    Returns:
        For each value of --out, one file per tune.

    Raises:
        InvalidValue: if a format cannot be written, or one file is named for several tunes.
        OutputExists: if a file exists and `force` is not set, or is not one of ours.
    """
    from musicgen.files import prepare_outputs
    from musicgen.render.export import check_suffix
    from musicgen.tune import refuse_non_recipe, sidecar_path, supports_metadata

    names = [list(_expand_output(out, count, suffix)) for out in outs]
    for files in names:
        for file in files:
            check_suffix(file, model.writable)
    outputs = list(chain.from_iterable(names))
    sidecars = [sidecar_path(file) for file in outputs if not supports_metadata(file.suffix)]
    prepare_outputs([*outputs, *sidecars], force=force)
    for sidecar in sidecars:
        refuse_non_recipe(sidecar)
    return names


def write_tune(tune: Tune, files: Sequence[Path], *, force: bool, verbosity: int) -> list[str]:
    """Write a tune to its files and return the lines to print about it.

    Args:
        tune: the tune.
        files: one file per format.
        force: whether to replace existing files.
        verbosity: QUIET, NORMAL or VERBOSE.
    """
    for file in files:
        tune.write(file, force=force)
    if verbosity == QUIET:
        return []
    is_verbose = verbosity == VERBOSE
    origin = f"; seed {tune.seed}, number {tune.number + 1}" if is_verbose else ""
    lines = [
        *map(escape_unprintable, tune.messages),
        f"{', '.join(map(str, files))}: {tune.summary}{origin}",
    ]
    if tune.receipt is not None:
        receipt = tune.receipt.format_line() if is_verbose else tune.receipt.format_short_line()
        lines.append(f"  {receipt}")
    return lines


def write_tunes(
    model: Model,
    request: GenerationRequest,
    names: Sequence[Sequence[Path]],
    *,
    force: bool,
    verbosity: int,
    jobs: int | None,
) -> Iterator[list[str]]:
    """Generate and write tunes 0, 1, ... of a request; yield the lines to print about each.

    Many tunes are generated in several processes, each of which writes its own tunes.

    Args:
        model: the model to sample from.
        request: what to generate.
        names: the files of each tune.
        force: whether to replace existing files.
        verbosity: QUIET, NORMAL or VERBOSE.
        jobs: number of processes; None for one per core.
    """
    from musicgen.trained_model import count_processes, sample_many, to_process_arguments

    count = len(names)
    jobs = count_processes(count, jobs)
    if jobs == 1:
        tunes = sample_many(model, request, count=count, jobs=1)
        for tune, files in zip(tunes, names, strict=True):
            yield write_tune(tune, files, force=force, verbosity=verbosity)
        return
    from musicgen.sampling.parallel import run_in_order  # imports multiprocessing

    file_names = [list(map(str, files)) for files in names]
    write_arguments = json.dumps([file_names, force, verbosity])
    arguments = (*to_process_arguments(model, request), write_arguments)
    for lines in run_in_order(_write_batch, arguments, count, jobs):
        yield json.loads(lines)


def _write_batch(numbers: Iterable[int], *arguments: str) -> Iterator[tuple[int, bytes]]:
    """Generate tunes while a thread writes them; runs in a worker process."""
    from concurrent.futures import ThreadPoolExecutor

    from musicgen.trained_model import from_process_arguments

    model, request = from_process_arguments(*arguments[:-1])
    file_names, force, verbosity = json.loads(arguments[-1])

    def write(number: int, generated: Generated) -> tuple[int, bytes]:
        tune = model.make_tune(replace(request, number=number), generated)
        files = [Path(name) for name in file_names[number]]
        return number, json.dumps(
            write_tune(tune, files, force=force, verbosity=verbosity)
        ).encode()

    pending: deque[Future[tuple[int, bytes]]] = deque()
    writer = ThreadPoolExecutor(max_workers=1)
    try:
        for number, generated in model.generate_many(request, numbers):
            pending.append(writer.submit(write, number, generated))
            while pending and (pending[0].done() or len(pending) > _MAX_PENDING_TUNES):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        writer.shutdown(cancel_futures=True)  # finishes the current file


def describe_model(model: TuneModel) -> str:
    """Describe a model on one line: folder, name, version, size, codec."""
    manifest = model.checkpoint.manifest
    shape = manifest.settings
    return escape_unprintable(
        f"{model.checkpoint.folder}: {manifest.name} {manifest.version},"
        f" {shape.layers} x {shape.hidden} {shape.cell}, codec {manifest.codec},"
        f" {format_count(shape.vocabulary_size, 'event')}"
    )


def _expand_output(out: str, count: int, suffix: str) -> Iterator[Path]:
    """Yield the files that a value of --out stands for, one per tune."""
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
