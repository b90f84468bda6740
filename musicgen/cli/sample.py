"""`musicgen sample`: new tunes from a trained model.

With `--best K` it draws many tunes, keeps those that are most like real ones, and says why.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli.param_types import (
    OUT,
    SEED,
    WholeNumber,
    add_sampling_options,
    select_given_options,
)
from musicgen.cli.write_outputs import (
    LinePrinter,
    describe_model,
    discard_line,
    resolve_output_files,
    select_verbosity,
    write_tune,
    write_tunes,
)
from musicgen.errors import InvalidValue, escape_unprintable
from musicgen.files import is_folder

if TYPE_CHECKING:
    from musicgen.sampling.ranking import RankedTune, TuneFigures
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.tune import Model, Tune


COLUMNS = ("bits", "longest", "copied", "returning", "leap", "pace")
TABLE_COLUMNS = ("file", "number", "seed", "title", *COLUMNS, "cost", "alike", "why")
TABLE_HEADER_LINE = "\t".join(TABLE_COLUMNS).encode()


def write_best(
    model: Model,
    request: GenerationRequest,
    names: Sequence[Sequence[Path]],
    table_path: Path | None,
    *,
    count: int,
    jobs: int | None,
    force: bool,
    verbosity: int,
    print_line: LinePrinter,
) -> None:
    """Draw so many tunes and write the best of them, as many as there are names, with a table.

    Raises InvalidValue for a model whose tunes cannot be compared with real ones.
    """
    from musicgen.files import write_atomically
    from musicgen.sampling.ranking import choose, measure_real_ranges

    if not model.codec.has_bars or not model.has_index:
        raise InvalidValue(
            "best: the model has no index of the tunes that it learnt from, which others are"
            " compared with; train it without --no-index, or leave --best out"
        )
    bits = model.checkpoint.manifest.scores.get("valid", {}).get("middle_90")
    ranges = measure_real_ranges(model.index.note_index, tuple(bits) if bits else None)
    tunes, figures = [], []
    for tune, measured in _draw_and_measure(model, request, count, jobs):
        tunes.append(tune)
        figures.append(measured)
        if len(tunes) % 50 == 0:
            print_line(f"{len(tunes):,} of {count:,} tunes drawn and measured")
    chosen = list(choose(figures, len(names), ranges))
    for files, one in zip(names, chosen, strict=True):
        for line in write_tune(tunes[one.index], files, force=force, verbosity=verbosity):
            print_line(line)
        print_line(f"  {_explain_choice(one, count)}")
    if table_path is not None:
        lines = _format_table(tunes, figures, chosen, names)
        write_atomically(table_path, "".join(f"{line}\n" for line in lines).encode(), force=force)


def _draw_and_measure(
    model: Model, request: GenerationRequest, count: int, jobs: int | None
) -> Iterator[tuple[Tune, TuneFigures]]:
    """Yield tunes in turn, with their figures; they are drawn and measured in processes."""
    from musicgen.sampling.generate import Generated
    from musicgen.sampling.parallel import run_in_order
    from musicgen.sampling.ranking import measure_tune
    from musicgen.tune import count_processes, to_process_arguments

    jobs = count_processes(count, jobs)
    start = to_process_arguments(model, request)
    answers = run_in_order(_draw_batch, start, count, jobs) if jobs > 1 else (
        answer for _, answer in sorted(_draw_batch(range(count), *start))
    )  # fmt: skip
    for number, answer in enumerate(answers):
        text, figures = json.loads(answer)
        tune = model.make_tune(replace(request, number=number), Generated.from_json(text))
        yield tune, measure_tune(tune.score, figures)


def _draw_batch(numbers: Iterable[int], *start: str) -> Iterator[tuple[int, bytes]]:
    """Draw and measure tunes in a process of its own."""
    from musicgen.tune import from_process_arguments

    model, order = from_process_arguments(*start)
    for number, found in model.generate_many(order, numbers):
        receipt = model.make_receipt(found.score)
        figures = {
            "bits": model.measure_surprise(found.score).bits_per_note,
            "longest": float(receipt.longest.notes if receipt.longest else 0),
            "copied": receipt.share,
        }
        yield number, json.dumps([found.to_json(), figures]).encode()


def _explain_choice(choice: RankedTune, count: int) -> str:
    """Say in a line why a tune was chosen."""
    inside = "all its figures are those of real tunes"
    outside = f"outside of real tunes: {'; '.join(choice.outliers)}"
    alike = (
        f"; {choice.similarity:.0%} of its short runs are in one above" if choice.similarity else ""
    )
    return f"number {choice.index + 1} of {count}: {outside if choice.outliers else inside}{alike}"


def _format_table(
    tunes: Sequence[Tune],
    figures: Sequence[TuneFigures],
    chosen: Sequence[RankedTune],
    names: Sequence[Sequence[Path]],
) -> Iterator[str]:
    """Yield the lines of the table: tab-separated, the best first."""
    yield "\t".join(TABLE_COLUMNS)
    for files, one in zip(names, chosen, strict=True):
        tune, row = tunes[one.index], figures[one.index].figures
        values = [f"{row[name]:.3f}" if name in row else "" for name in COLUMNS]
        words = (
            files[0].name,
            str(one.index + 1),
            str(tune.seed),
            tune.score.title,
            *values,
            f"{one.cost:.3f}",
            f"{one.similarity:.3f}",
            _explain_choice(one, len(tunes)),
        )
        yield "\t".join(map(escape_unprintable, words))


def choose_table_path(out: str, files: Sequence[Path]) -> Path | None:
    """Return where the table stands: in the folder that is filled, or beside the pattern."""
    if "{n}" in Path(out).name:
        return Path(out.replace("{n}", "index")).with_suffix(".tsv")
    return files[0].parent / "index.tsv" if len(files) > 1 or is_folder(Path(out)) else None


@click.command()
@click.option(
    "--model", default="folk", show_default=True, help="A model's name, or the folder of a run."
)
@click.option(
    "--out",
    "outs",
    type=OUT,
    metavar="FILE",
    multiple=True,
    required=True,
    help="Where to write; .mid .abc .musicxml, sound (.wav), sheet music (.svg .png), a page to"
    " play (.html); a model of text: .txt or .abc. May be given several times. With --count: a"
    " folder (tunes/) or a pattern (song-{n}.mid).",
)
@click.option(
    "--count",
    type=WholeNumber(1, 1_000_000),
    default=1,
    show_default=True,
    help="How many tunes. Tune k is the same however many are asked for.",
)
@click.option("--seed", type=SEED, help="The same seed, the same tune.")
@add_sampling_options
@click.option(
    "--primer",
    type=click.Path(path_type=Path),
    help="Start from the notes of a file (.mid, .abc, .musicxml), fitted to the model.",
)
@click.option(
    "--best",
    type=WholeNumber(1, 10_000),
    metavar="K",
    help="Of --count tunes write the K that are most like real ones and unlike each other, and a"
    " table (index.tsv) of what was chosen and why.",
)
@click.option("--no-primer", is_flag=True, help="Write only what comes after the primer.")
@click.option(
    "--engine",
    type=click.Choice(["numpy", "torch"]),
    default="numpy",
    show_default=True,
    help="What draws many tunes; torch, on CUDA where there is one, has tunes of its own.",
)
@click.option(
    "--jobs",
    type=WholeNumber(1, 256),
    help="Processes for many tunes; else as many as there are cores.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Tell the model, the seeds, whole receipts.",
)
def sample(
    model: str,
    outs: tuple[str, ...],
    count: int,
    seed: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    engine: str,
    jobs: int | None,
    primer: Path | None,
    no_primer: bool,
    best: int | None,
    **sampling_options: Any,
) -> None:
    """Write new tunes: of the form AABB in 32 bars, where neither form nor bars are named.

    With a primer, and of a model that never met a repeated part, they are of any form and at least
    8 bars.

    \b
    musicgen sample --out song.mid
    musicgen sample --out song.mid --out song.abc --key Edor --rhythm jig --form AABB --end tonic
    musicgen sample --out more.abc --primer idea.abc --bars 16
    musicgen sample --out tunes/ --count 100 --best 5
    """  # noqa: D301 - click wants the character itself
    from musicgen.files import refuse_existing, refuse_foreign
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.tune import load

    if no_primer and primer is None:
        raise InvalidValue("--no-primer: there is no primer to leave out; name one with --primer")
    loaded = load(model)
    asked = loaded.complete_options(
        select_given_options(sampling_options), has_primer=primer is not None
    )
    suffix = ".mid" if loaded.codec.has_bars else loaded.writable[0]
    if best is not None and best > count:
        raise InvalidValue(f"--best {best}: of {count} tunes; add --count with a larger number")
    names = resolve_output_files(outs, loaded, count=best or count, suffix=suffix, force=force)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    tell = discard_line if quiet else partial(click.echo, err=True)
    if verbose:
        tell(describe_model(loaded))
    order = GenerationRequest(asked, drawn, writes_primer=not no_primer, engine=engine)
    if primer is not None:
        order = loaded.add_primer(order, primer)
        for change in order.primer.changes if order.primer else ():
            tell(escape_unprintable(f"{primer}: {change}"))
    for remark in loaded.describe_unseen_dances(order):
        tell(f"Warning: {escape_unprintable(remark)}")
    loud = select_verbosity(quiet=quiet, verbose=verbose)
    if best is not None:
        table = choose_table_path(outs[0], names[0])
        refuse_existing([table] if table else [], force=force)
        if table:
            refuse_foreign(table, TABLE_HEADER_LINE, "a table of tunes")
        write_best(loaded, order, list(zip(*names, strict=True)), table, count=count, jobs=jobs,
                   force=force, verbosity=loud, print_line=tell)  # fmt: skip
    each = [] if best is not None else [list(map(str, files)) for files in zip(*names, strict=True)]
    for lines in write_tunes(loaded, order, each, force=force, verbosity=loud, jobs=jobs):
        for line in lines:
            tell(line)
    if seed is None:
        tell(f"seed {drawn}: add --seed {drawn} to write the same again")
