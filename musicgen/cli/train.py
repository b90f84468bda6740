"""`musicgen train`: a model of one's own."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.grouped import Grouped
from musicgen.cli.resumed import asked, is_done, resumed
from musicgen.cli.settings import config_option, is_typed, render_settings
from musicgen.cli.stopping import Stopping
from musicgen.cli.told import announce, conclude, derived, tell_all, unit_of
from musicgen.cli.tunes import DEFAULT_SOURCE, read_tunes
from musicgen.cli.types import FRACTION, POSITIVE
from musicgen.cli.watched import Seen, Watched
from musicgen.config import CELLS
from musicgen.errors import InvalidValue, NotFound
from musicgen.files import refuse_existing, write_whole

if TYPE_CHECKING:
    from musicgen.corpus.store import Dataset
    from musicgen.model.plan import Plan
    from musicgen.model.run import Run

GROUPS: Final = {
    "What is learnt from": ("codec",),
    "The model": ("cell", "layers", "hidden", "dropout"),
    "How it learns": ("epochs", "minutes", "batch", "bptt", "learning-rate", "seed"),
    "Where": ("device", "precision"),
    "The run": ("name", "resume", "force", "score-test", "config", "save-config"),
    "What is shown and kept": ("no-heard", "tensorboard", "quiet", "verbose", "help"),
}
FILE = click.Path(path_type=Path)


@click.command(cls=Grouped, groups=GROUPS)
@click.argument("sources", metavar="[SOURCE ...]", nargs=-1)
@click.option(
    "--codec",
    metavar="NAME",
    help="How tunes become ids: measures (the default), performance, frames, frames-16, text,"
    " text-words.",
)
@click.option(
    "--cell",
    type=click.Choice(CELLS),
    default="lstm",
    show_default=True,
    help="The recurrent cell.",
)
@click.option(
    "--layers",
    type=click.IntRange(1, 8),
    default=2,
    show_default=True,
    help="Recurrent layers, one upon the other.",
)
@click.option(
    "--hidden",
    type=click.IntRange(1, 4096),
    default=256,
    show_default=True,
    help="Units of a layer.",
)
@click.option("--dropout", type=click.FloatRange(0, 0.95), help="Share of units left out.")
@click.option("--epochs", type=POSITIVE, help="Times through the corpus, at the most.")
@click.option(
    "--minutes",
    type=POSITIVE,
    help="Made a number of tokens at the start, by the speed measured there.",
)
@click.option("--batch", type=click.IntRange(1, 4096), help="Lanes that are trained side by side.")
@click.option(
    "--bptt", type=click.IntRange(1, 4096), help="Ids through which a gradient goes back."
)
@click.option("--learning-rate", type=FRACTION, help="The highest; it rises to it and falls.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=1,
    show_default=True,
    help="The same seed and tunes on the same machine: the same model.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="auto takes CUDA, then MPS, then the CPU.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of products; auto takes bf16 where the device has instructions for it.",
)
@click.option("--name", default="mine", show_default=True, help="The run: checkpoints/NAME.")
@click.option("--resume", is_flag=True, help="Go on with the run of that name, as it was saved.")
@click.option("--force", is_flag=True, help="Replace an existing run of that name.")
@click.option(
    "--score-test", is_flag=True, help="At the end score the test part, once, beside a 5-gram."
)
@click.option(
    "--config",
    type=FILE,
    metavar="FILE.toml",
    is_eager=True,
    callback=config_option,
    help="Take options from a file; flags go before it.",
)
@click.option("--save-config", type=FILE, metavar="FILE.toml", help="Write the options to a file.")
@click.option("--no-heard", is_flag=True, help="Write no tune at each evaluation.")
@click.option("--tensorboard", is_flag=True, help="Write a log for TensorBoard too.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: settings, versions, more lines.")
@click.pass_context
def train(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    name: str,
    codec: str | None,
    score_test: bool,
    resume: bool,
    force: bool,
    config: Path | None,
    save_config: Path | None,
    no_heard: bool,
    tensorboard: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Train a model: on SOURCEs (files, folders, corpora by name), else on three books of dances.

    \b
    musicgen train                          dance-tunes, under 30 minutes on two cores
    musicgen train mytunes/ --name mine     your own files: .abc, .mid
    musicgen train mytunes/ --minutes 10    by the clock
    musicgen train ryan aird --hidden 512 --device cuda --save-config big.toml
    musicgen train --config big.toml --name again --seed 2
    musicgen train --name again --resume    after Ctrl-C, or after a crash
    musicgen sample --model mine --out song.mid
    """  # noqa: D301 - click wants the character itself
    from rich.console import Console

    from musicgen.model.claim import claimed
    from musicgen.tune import RUNS

    del config  # its values are the options' defaults by now
    if is_typed(ctx, "epochs") and not is_typed(ctx, "minutes"):
        options["minutes"] = ctx.params["minutes"] = None  # a flag goes before a file
    folder = _run_folder(RUNS, name)
    _refuse(tensorboard=tensorboard, save_config=save_config, resume=resume, force=force)
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    with Stopping() as stopping, claimed(folder, exists=resume or force) as claim:
        if resume and is_done(folder, score_test=score_test):
            console.print(f"{folder}: the run is finished, there is nothing left to do")
            return

        from musicgen.model.devices import choose_device
        from musicgen.model.plan import Options, plan
        from musicgen.model.record import Note, Record, observers_of
        from musicgen.model.run import Run, foreseen

        choose_device(options["device"])
        run = (
            resumed(ctx, claim, lambda at, codec: read_tunes(at, codec, console), console)
            if resume
            else None
        )
        is_new = run is None
        if run is None:
            sources = sources or (DEFAULT_SOURCE,)
            dataset = read_tunes(sources, codec, console)
            with foreseen(folder):
                found = plan(dataset, Options(**options))
            run = Run(
                dataset,
                found,
                name,
                folder,
                corpus=_cards(dataset.sources),
                asked=asked(ctx, sources),
                force=force,
                claim=claim,
            )
        settings = _settings(ctx, run.dataset, run.plan)
        if save_config:
            write_whole(save_config, settings, force=force)
        announce(run.dataset, run.plan, console)
        if verbose:
            tell_all(run.plan, console)
        observers = observers_of(run, heard=not no_heard, tensorboard=tensorboard)
        if is_new:
            observers.append(Note(folder / "config.toml", settings))
        stopping.ask = run.stop
        with (
            Watched(console, name, _seen(run), verbose=verbose) as watched,
            Record(observers, console.print) as record,
        ):
            for progress in run.train():
                watched(progress)
                record(progress)
        stopping.ask = None
        if score_test:
            run.score_test()
        conclude(run, console)


def _run_folder(runs: Path, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidValue(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    return runs / name


def _refuse(*, tensorboard: bool, save_config: Path | None, resume: bool, force: bool) -> None:
    """Refuse before any work what could only fail after it."""
    if resume and force:
        raise InvalidValue("--resume goes on, --force begins again: leave one of them out")
    if resume and save_config:
        raise InvalidValue("--save-config: a resumed run has its settings; leave it out")
    if tensorboard and find_spec("tensorboard") is None:
        raise NotFound(
            "--tensorboard: the package tensorboard is not installed;"
            " pip install 'musicgen[tensorboard]', or leave the option out"
        )
    if save_config:
        refuse_existing([save_config], force=force)


def _settings(ctx: click.Context, dataset: Dataset, found: Plan) -> bytes:
    """Return the options as a file that `--config` takes; minutes as the epochs they became."""
    values, open_ones = dict(ctx.params), derived(dataset, found)
    if values["minutes"] is not None:
        values |= {"epochs": open_ones["epochs"], "minutes": None}
    return render_settings(values, ctx.command.params, open_ones).encode()


def _cards(sources: tuple[str, ...]) -> dict[str, Any]:
    """Return what the corpus cards of the sources say, for the model card."""
    from musicgen.corpus.sources import cards_of

    return {
        "cards": [
            {
                "name": card.name,
                "title": card.title,
                "source": card.source,
                "terms": " ".join(card.terms.split()),
            }
            for card in cards_of(sources)
        ]
    }


def _seen(run: Run) -> Seen:
    """Start to count what is shown of a run."""
    from musicgen.model.devices import resident

    held = "not yet judged" if run.dataset.valid else "none"
    on_gpu = run.plan.device.startswith("cuda")
    return Seen(
        unit_of(run),
        resident=resident if on_gpu else None,
        saved=lambda: run.pace.saved if run.saved_step >= 0 else None,
        held=held,
    )
