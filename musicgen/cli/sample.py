"""`musicgen sample`: new tunes from a trained model.

`--best K` generates many tunes, writes the K most similar to real tunes, and a table of reasons.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.command_options import (
    OUT,
    SEED,
    WholeNumber,
    add_sampling_options,
    force_option,
    quiet_option,
    select_given_options,
)
from musicgen.cli.output import (
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
    from musicgen.sampling.primer_choice import PrimerChoice
    from musicgen.sampling.ranking import RankedTune, TuneFigures
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.trained_model import Model
    from musicgen.tune import Tune

FIGURE_COLUMNS: Final = ("bits", "longest", "copied", "returning", "leap", "pace")
TABLE_COLUMNS: Final = ("file", "number", "seed", "title", *FIGURE_COLUMNS, "cost", "alike", "why")
TUNES_PER_PROGRESS_LINE: Final = 50


@dataclass(frozen=True)
class Selection:
    """The generated tunes with their figures, and the best of them, best first."""

    tunes: list[Tune]
    figures: list[TuneFigures]
    chosen: list[RankedTune]


def _generate_best(
    model: Model,
    request: GenerationRequest,
    best: int,
    *,
    count: int,
    jobs: int | None,
    print_line: LinePrinter,
) -> Selection:
    """Generate `count` tunes and choose the best of them.

    Raises InvalidValue for a model without an index of its training tunes.
    """
    from musicgen.sampling.ranking import choose, measure_real_ranges

    if not model.codec.has_bars or not model.has_index:
        raise InvalidValue(
            "--best: the model has no index of its training tunes to compare with; train it without"
            " --no-index, or leave --best out"
        )
    bits = model.checkpoint.manifest.scores.get("valid", {}).get("middle_90")
    ranges = measure_real_ranges(model.index.note_index, tuple(bits) if bits else None)
    tunes, figures = [], []
    for tune, tune_figures in _draw_and_measure(model, request, count, jobs):
        tunes.append(tune)
        figures.append(tune_figures)
        if len(tunes) % TUNES_PER_PROGRESS_LINE == 0:
            print_line(f"{len(tunes):,} of {count:,} tunes generated and measured")
    return Selection(tunes, figures, list(choose(figures, best, ranges)))


def _write_best(
    selection: Selection,
    names: Sequence[Sequence[Path]],
    table_path: Path | None,
    *,
    force: bool,
    verbosity: int,
) -> Iterator[list[str]]:
    """Write the chosen tunes, and a table of the reasons; yield lines to print."""
    from musicgen.files import write_atomically

    count = len(selection.tunes)
    for files, choice in zip(names, selection.chosen, strict=True):
        tune = selection.tunes[choice.index]
        lines = write_tune(tune, files, force=force, verbosity=verbosity)
        yield [*lines, f"  {_explain_choice(choice, count)}"]
    if table_path is not None:
        text = "".join(f"{row}\n" for row in _format_table(selection, names))
        write_atomically(table_path, text.encode(), force=force)


def _draw_and_measure(
    model: Model, request: GenerationRequest, count: int, jobs: int | None
) -> Iterator[tuple[Tune, TuneFigures]]:
    """Yield tunes with their figures, in order, generated and measured in processes."""
    from musicgen.sampling.generate import Generated
    from musicgen.sampling.parallel import run_in_order
    from musicgen.sampling.ranking import measure_tune
    from musicgen.trained_model import count_processes, to_process_arguments

    jobs = count_processes(count, jobs)
    arguments = to_process_arguments(model, request)
    results = (
        run_in_order(_draw_batch, arguments, count, jobs)
        if jobs > 1
        else (result for _, result in sorted(_draw_batch(range(count), *arguments)))
    )
    for number, result in enumerate(results):
        generated, figures = json.loads(result)
        tune = model.make_tune(replace(request, number=number), Generated.from_json(generated))
        yield tune, measure_tune(tune.score, figures)


def _draw_batch(numbers: Iterable[int], *arguments: str) -> Iterator[tuple[int, bytes]]:
    """Yield generated and measured tunes as JSON; runs in a worker process."""
    from musicgen.trained_model import from_process_arguments

    model, request = from_process_arguments(*arguments)
    for number, generated in model.generate_many(request, numbers):
        receipt = model.make_receipt(generated.score)
        figures = {
            "bits": model.measure_surprise(generated.score).bits_per_note,
            "longest": float(receipt.longest.notes if receipt.longest else 0),
            "copied": receipt.share,
        }
        yield number, json.dumps([generated.to_json(), figures]).encode()


def _explain_choice(choice: RankedTune, count: int) -> str:
    """Explain on one line why a tune was chosen."""
    reason = "all figures are within the range of real tunes"
    if choice.outliers:
        reason = f"outside the range of real tunes: {'; '.join(choice.outliers)}"
    if choice.similarity:
        reason += f"; {choice.similarity:.0%} of its short runs are in a tune above"
    return f"number {choice.index + 1} of {count}: {reason}"


def _format_table(selection: Selection, names: Sequence[Sequence[Path]]) -> Iterator[str]:
    """Yield the lines of the tab-separated table, best tune first."""
    yield "\t".join(TABLE_COLUMNS)
    for files, choice in zip(names, selection.chosen, strict=True):
        tune, row = selection.tunes[choice.index], selection.figures[choice.index].figures
        cells = (
            files[0].name,
            str(choice.index + 1),
            str(tune.seed),
            tune.score.title,
            *(f"{row[name]:.3f}" if name in row else "" for name in FIGURE_COLUMNS),
            f"{choice.cost:.3f}",
            f"{choice.similarity:.3f}",
            _explain_choice(choice, len(selection.tunes)),
        )
        yield "\t".join(map(escape_unprintable, cells))


def _prepare_table(out: str, files: Sequence[Path], *, force: bool) -> Path | None:
    """Return the path of the table, in the output folder or beside the pattern; None for one file.

    Raises OutputExists for an existing file, with `force` only for one that is not a table.
    """
    from musicgen.files import refuse_existing, refuse_foreign

    if "{n}" in Path(out).name:
        path = Path(out.replace("{n}", "index")).with_suffix(".tsv")
    elif len(files) > 1 or is_folder(Path(out)):
        path = files[0].parent / "index.tsv"
    else:
        return None
    refuse_existing([path], force=force)
    refuse_foreign(path, "\t".join(TABLE_COLUMNS).encode(), "a table of tunes")
    return path


@click.command()
@click.option(
    "--model", default="folk", show_default=True, help="Name of a model, or folder of a run."
)
@click.option(
    "--out",
    "outs",
    type=OUT,
    metavar="FILE",
    multiple=True,
    required=True,
    help="Output file: .mid .abc .musicxml, audio (.wav), sheet music (.svg .png) or a web page"
    " (.html); with a text model, .txt or .abc. May be given several times. With --count, a folder"
    " (tunes/) or a pattern (song-{n}.mid).",
)
@click.option(
    "--count",
    type=WholeNumber(1, 1_000_000),
    default=1,
    show_default=True,
    help="Number of tunes. Tune k does not depend on it.",
)
@click.option("--seed", type=SEED, help="Random seed; the same seed gives the same tune.")
@add_sampling_options
@click.option(
    "--primer",
    type=click.Path(path_type=Path),
    help="Start with the notes of a file (.mid, .abc, .musicxml), adapted to the model; a model of"
    " performances keeps their times.",
)
@click.option(
    "--primer-part",
    metavar="NAME|N",
    help="Part of the primer to start with, by name or number; by default, its melody.",
)
@click.option(
    "--primer-bars",
    metavar="FIRST-LAST",
    help="Bars of the primer to start with, such as 1-8; by default, all.",
)
@click.option(
    "--primer-seconds",
    metavar="FIRST-LAST",
    help="With a model of performances: seconds of the primer to start with, such as 0-15; by"
    " default, all.",
)
@click.option(
    "--given",
    type=click.Path(path_type=Path),
    help="Keep the parts of a file as they are, and generate the parts named by --parts to fit.",
)
@click.option(
    "--given-parts",
    metavar="PARTS",
    help="Parts of --given to keep, and their bars, such as melody:1-8,drums; by default, all.",
)
@click.option(
    "--chords",
    metavar="TEXT|FILE",
    help='Generate a melody to chords, bar by bar, such as "D | D | G A7 | D", or a text file of'
    " them; repeated to --bars, by default to at least 16, or over the letters of --form.",
)
@click.option(
    "--candidates",
    type=WholeNumber(1, 512),
    help="With --given: candidates generated per bar that leads into given ones; by default, 1.",
)
@click.option(
    "--best",
    type=WholeNumber(1, 10_000),
    metavar="K",
    help="Of --count tunes, write the K that are most similar to real tunes and least similar to"
    " each other, and a table (index.tsv) with the reasons.",
)
@click.option("--no-primer", is_flag=True, help="Omit the primer from the output.")
@click.option(
    "--engine",
    type=click.Choice(["numpy", "torch"]),
    default="numpy",
    show_default=True,
    help="Backend for many tunes; torch uses CUDA if available, and its output may differ.",
)
@click.option(
    "--jobs",
    type=WholeNumber(1, 256),
    help="Processes for many tunes; by default, one per core.",
)
@force_option
@quiet_option
@click.option(
    "-v", "--verbose", is_flag=True, help="Also print the model, the seeds and full receipts."
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
    best: int | None,
    **options: Any,
) -> None:
    """Generate new tunes, by default 32 bars in the form AABB.

    With a primer, or a model trained without repeated parts, the default is any form of at least
    8 bars; four voices get 16 bars, bands 32.

    \b
    musicgen sample --out song.mid
    musicgen sample --out song.mid --out song.abc --key Edor --rhythm jig --form AABB --end tonic
    musicgen sample --out more.abc --primer idea.abc --bars 16
    musicgen sample --out more.mid --primer song.mid --primer-part vocal --primer-bars 1-8
    musicgen sample --model live --out more.mid --primer live.mid --primer-seconds 0-15
    musicgen sample --model lead --out song.mid --chords "D | D | G A7 | D" --bars 16
    musicgen sample --model lead --out song.abc --given melody.abc
    musicgen sample --model band --out song.mid --given melody.mid --parts bass,drums
    musicgen sample --out tunes/ --count 100 --best 5
    """  # noqa: D301 - click reads the backspace character
    from musicgen.sampling.recipe import GenerationRequest
    from musicgen.trained_model import load

    _check_options(count=count, best=best)
    primer, choice, writes_primer = _pop_primer_options(options)
    given = _pop_given_options(options)
    chords = options.pop("chords")
    loaded = load(model)
    starts_from_notes = any(value is not None for value in (primer, given, chords))
    complete_options = loaded.complete_options(
        select_given_options(options), has_primer=starts_from_notes
    )
    names = _resolve_names(outs, loaded, count=best or count, force=force)
    print_line = discard_line if quiet else partial(click.echo, err=True)
    if verbose:
        print_line(describe_model(loaded))
    chosen_seed = secrets.randbelow(2**31) if seed is None else seed
    request = GenerationRequest(
        complete_options, chosen_seed, writes_primer=writes_primer, engine=engine
    )
    request = _complete_request(loaded, request, primer, choice, print_line)
    if given is not None:
        request = loaded.add_given(request, given.path, given.parts, given.candidates)
    if chords is not None:
        from musicgen.sampling.chord_sheets import read_chord_text

        request = loaded.add_chords(request, read_chord_text(chords))
    messages = _write_all(
        loaded, request, names, outs[0], count=count, best=best, jobs=jobs, force=force,
        verbosity=select_verbosity(quiet=quiet, verbose=verbose), print_line=print_line,
    )  # fmt: skip
    for line in chain.from_iterable(messages):
        print_line(line)
    if seed is None:
        print_line(f"seed {chosen_seed}: add --seed {chosen_seed} to generate the same again")


def _write_all(
    model: Model,
    request: GenerationRequest,
    names: Sequence[tuple[Path, ...]],
    out: str,
    *,
    count: int,
    best: int | None,
    jobs: int | None,
    force: bool,
    verbosity: int,
    print_line: LinePrinter,
) -> Iterable[list[str]]:
    """Generate and write all tunes, or the best of them; return the messages about each."""
    if best is None:
        return write_tunes(model, request, names, force=force, verbosity=verbosity, jobs=jobs)
    table_path = _prepare_table(out, [files[0] for files in names], force=force)
    selection = _generate_best(model, request, best, count=count, jobs=jobs, print_line=print_line)
    return _write_best(selection, names, table_path, force=force, verbosity=verbosity)


def _pop_primer_options(options: dict[str, Any]) -> tuple[Path | None, PrimerChoice, bool]:
    """Remove the options about a primer: its path, what to take of it, whether it is written.

    Raises:
        InvalidValue: an option is about a primer, and there is none.
    """
    from musicgen.sampling.primer_choice import PrimerChoice

    path = options.pop("primer")
    names = "no_primer", "primer_part", "primer_bars", "primer_seconds"
    values = {name: options.pop(name) for name in names}
    for name, value in values.items():
        if path is None and value not in (None, False):
            flag = name.replace("_", "-")
            raise InvalidValue(f"--{flag}: there is no primer; name one with --primer")
    choice = PrimerChoice.parse(*(values[name] for name in names[1:]))
    return path, choice, not values["no_primer"]


@dataclass(frozen=True)
class GivenFile:
    """The file whose parts are given, and which of them."""

    path: Path
    parts: str | None
    candidates: int | None


def _pop_given_options(options: dict[str, Any]) -> GivenFile | None:
    """Remove the options about given parts.

    Raises:
        InvalidValue: an option is about given parts, and there are none.
    """
    path, parts, candidates = (options.pop(name) for name in ("given", "given_parts", "candidates"))
    if path is None:
        for flag, value in (("given-parts", parts), ("candidates", candidates)):
            if value is not None:
                raise InvalidValue(f"--{flag}: nothing is given; name a file with --given")
        return None
    return GivenFile(path, parts, candidates)


def _check_options(*, count: int, best: int | None) -> None:
    if best is not None and best > count:
        raise InvalidValue(f"--best {best}: exceeds --count {count}; add a larger --count")


def _resolve_names(
    outs: Sequence[str], model: Model, *, count: int, force: bool
) -> list[tuple[Path, ...]]:
    """Return the files of each tune. Raises InvalidValue or OutputExists."""
    suffix = ".mid" if model.codec.has_bars else model.writable[0]
    names = resolve_output_files(outs, model, count=count, suffix=suffix, force=force)
    return list(zip(*names, strict=True))


def _complete_request(
    model: Model,
    request: GenerationRequest,
    primer: Path | None,
    choice: PrimerChoice,
    print_line: LinePrinter,
) -> GenerationRequest:
    """Add the primer to a request; print how it was adapted, and warnings of unusual dances."""
    if primer is not None:
        request = model.add_primer(request, primer, choice)
        for change in request.primer.changes if request.primer else ():
            print_line(escape_unprintable(f"{primer}: {change}"))
    for warning in model.describe_unseen_dances(request):
        print_line(f"Warning: {escape_unprintable(warning)}")
    return request
