"""`musicgen train`: a model of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.config_file import config_option, is_typed
from musicgen.cli.formatting import Grouped
from musicgen.cli.param_types import EPOCHS, FRACTION, MINUTES, Decimal, Whole
from musicgen.cli.signals import Stopping
from musicgen.cli.train_report import (
    Seen,
    Watched,
    announce,
    best_told,
    conclude,
    tell_all,
    tell_times,
    unit_of,
)
from musicgen.cli.train_setup import (
    held,
    is_done,
    is_first,
    settings_of_run,
    several,
    start,
    take_config,
)
from musicgen.config import CELLS
from musicgen.errors import Interrupted, InvalidValue, NotFound
from musicgen.files import prepare_outputs, refuse_foreign, write_whole
from musicgen.folder_contents import CONFIG_HEAD

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.training.run import Run

GROUPS: Final = {
    "What is learnt from": ("from", "codec"),
    "The model": ("cell", "layers", "hidden", "dropout"),
    "How it learns": ("epochs", "minutes", "batch", "bptt", "learning-rate", "seed"),
    "Where": ("device", "precision"),
    "The run": ("name", "resume", "force", "score-test", "config", "save-config"),
    "What is kept": ("no-heard", "no-index", "tensorboard"),
    "What is shown": ("quiet", "verbose", "help"),
}
FILE = click.Path(path_type=Path)


@click.command(cls=Grouped, groups=GROUPS)
@click.argument("sources", metavar="[SOURCE ...]", nargs=-1)
@click.option(
    "--from",
    metavar="MODEL",
    help="Go on from a trained model, by its name or folder: twenty tunes are enough.",
)
@click.option(
    "--codec",
    metavar="NAME",
    help="How tunes become ids: measures (the default), performance, frames, frames-16, text,"
    " text-words.",
)
@click.option(
    "--cell",
    type=click.Choice(CELLS),
    show_default="lstm",
    help="The recurrent cell.",
)
@click.option(
    "--layers",
    type=Whole(1, 8),
    show_default="1 or 2, by the corpus",
    help="Recurrent layers, one upon the other.",
)
@click.option(
    "--hidden",
    type=Whole(1, 4096),
    show_default="256",
    help="Units of a layer.",
)
@click.option("--dropout", type=Decimal(0, 0.95), help="Share of units left out.")
@click.option("--epochs", type=EPOCHS, help="Times through the corpus, at the most.")
@click.option(
    "--minutes",
    type=MINUTES,
    help="Made a number of tokens at the start, by the speed measured there.",
)
@click.option("--batch", type=Whole(1, 4096), help="Lanes that are trained side by side.")
@click.option(
    "--bptt",
    type=Whole(1, 4096),
    help="Ids through which a gradient goes back, in the end.",
)
@click.option("--learning-rate", type=FRACTION, help="The highest; it rises to it and falls.")
@click.option(
    "--seed",
    type=Whole(0, 2**31 - 1),
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
@click.option(
    "--no-index", is_flag=True, help="Keep no index of the tunes, which 'musicgen origin' asks."
)
@click.option("--tensorboard", is_flag=True, help="Write a log for TensorBoard too.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: settings, versions, more lines.")
@click.pass_context
def train(ctx: click.Context, /, **chosen: Any) -> None:
    """Train a model: on SOURCEs (files, folders, corpora by name), else on three books of dances.

    \b
    musicgen train                          dance-tunes, under 30 minutes on two cores
    musicgen train mytunes/ --name mine     your own files: .abc, .mid
    musicgen train mytunes/ --minutes 10    by the clock
    musicgen train mytunes/ --from folk     what folk knows, in the style of yours
    musicgen train ryan aird --hidden 512 --device cuda --save-config big.toml
    musicgen train --config big.toml --name again --seed 2
    musicgen train --name again --resume    after Ctrl-C, or after a crash
    torchrun --nproc-per-node 2 -m musicgen train     on two GPUs
    musicgen sample --model mine --out song.mid
    """  # noqa: D301 - click wants the character itself
    from rich.console import Console

    folder = _run_folder(chosen["name"])
    if chosen["resume"]:
        take_config(ctx, folder)
    _prefer_typed(ctx)
    chosen = dict(ctx.params)
    _refuse(chosen)
    quiet, resume = chosen["quiet"] or not is_first(), chosen["resume"]
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    with (
        Stopping() as stopping,
        several(chosen["device"]) as ranks,
        held(folder, exists=resume, force=chosen["force"]) as claim,
    ):
        if resume and is_done(folder, score_test=chosen["score_test"]):
            console.print(f"{folder}: the run is finished, there is nothing left to do")
            return
        run = start(ctx, claim, console, ranks)
        run.tell = console.print
        run.config = settings_of_run(ctx, run)
        if chosen["save_config"] and run.writes:
            write_whole(chosen["save_config"], run.config, force=chosen["force"])
        announce(run, console)
        if chosen["verbose"]:
            tell_all(run.plan, console)
        stopping.ask, stopping.tell = run.stop, console.print
        _follow(run, chosen, console)
        stopping.ask = None
        if chosen["score_test"]:
            run.score_test()
        conclude(run, console)


def _prefer_typed(ctx: click.Context) -> None:
    """Let epochs that are typed go before minutes of a file."""
    if is_typed(ctx, "epochs") and not is_typed(ctx, "minutes"):
        ctx.params["minutes"] = None


def _run_folder(name: str) -> Path:
    from musicgen.tune import RUNS

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidValue(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    return RUNS / name


def _refuse(chosen: Mapping[str, Any]) -> None:
    """Refuse before any work what could only fail after it."""
    resume, force, save_config = (chosen[name] for name in ("resume", "force", "save_config"))
    if resume and force:
        raise InvalidValue("--resume goes on, --force begins again: leave one of them out")
    if resume and save_config:
        raise InvalidValue("--save-config: a resumed run has its settings; leave it out")
    if chosen["tensorboard"] and find_spec("tensorboard") is None:
        raise NotFound(
            "--tensorboard: the package tensorboard is not installed;"
            " pip install 'musicgen[tensorboard]', or leave the option out"
        )
    if save_config:
        prepare_outputs([save_config], force=force)
        refuse_foreign(save_config, CONFIG_HEAD.encode(), "a file of options from --save-config")


def _follow(run: Run, chosen: Mapping[str, Any], console: Console) -> None:
    """Train, while it is shown and what can be heard and seen of it is kept."""
    from musicgen.training.observers import Record, observers_of

    heard, tensorboard = not chosen["no_heard"], chosen["tensorboard"]
    observers = observers_of(run, heard=heard, tensorboard=tensorboard) if run.writes else []
    try:
        with (
            Watched(console, run.name, _seen(run), verbose=chosen["verbose"]) as watched,
            Record(observers, console.print) as record,
        ):
            for progress in run.train():
                watched(progress)
                record(progress)
    except KeyboardInterrupt:
        raise Interrupted(_cut_off(run)) from None
    if chosen["verbose"]:
        tell_times(watched.seen, run.pace.spent, record.spent, console)


def _cut_off(run: Run) -> str:
    """Say what is left of a run that was ended at once."""
    if run.saved_step < 0 and not run.resumed:
        return "interrupted; nothing was saved yet"
    step = f" at update {run.saved_step}" if run.saved_step >= 0 else ""
    return (
        f"interrupted; what was saved last{step} is whole:"
        f" musicgen train --name {run.name} --resume goes on from there"
    )


def _seen(run: Run) -> Seen:
    """Start to count what is shown of a run."""
    from musicgen.model.devices import resident

    on_gpu = run.plan.device.startswith("cuda")
    return Seen(
        unit_of(run),
        resident=resident if on_gpu else None,
        saved=lambda: run.pace.saved if run.saved_step >= 0 else None,
        held="not yet judged" if run.dataset.valid else "none",
        best=_best_so_far(run),
    )


def _best_so_far(run: Run) -> str:
    """Say what a resumed run brings along."""
    valid = run.scores.as_table().get("valid")
    epoch = run.trainer.best.tokens / run.trainer.epoch_tokens
    return best_told(valid["bits_per_note"], epoch) if valid else ""
