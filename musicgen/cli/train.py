"""`musicgen train`: a model of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.config_file import apply_config_file, is_on_command_line
from musicgen.cli.formatting import GroupedCommand
from musicgen.cli.param_types import EPOCHS, FRACTION, MINUTES, DecimalNumber, WholeNumber
from musicgen.cli.signals import StopSignals
from musicgen.cli.train_report import (
    ProgressDisplay,
    ProgressState,
    format_best_score,
    name_unit,
    print_plan,
    print_results,
    print_settings,
    print_times,
)
from musicgen.cli.train_setup import (
    apply_saved_config,
    is_done,
    is_main_process,
    join_processes,
    lock_run_folder,
    render_run_settings,
    start_or_resume,
)
from musicgen.config import CELLS
from musicgen.errors import Interrupted, InvalidValue, NotFound
from musicgen.files import prepare_outputs, refuse_foreign, write_atomically
from musicgen.folder_contents import CONFIG_HEAD

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.training.run import TrainingRun

OPTION_GROUPS: Final = {
    "What is learnt from": ("from", "codec"),
    "The model": ("cell", "layers", "hidden", "dropout"),
    "How it learns": ("epochs", "minutes", "batch", "bptt", "learning-rate", "seed"),
    "Where": ("device", "precision"),
    "The run": ("name", "resume", "force", "score-test", "config", "save-config"),
    "What is kept": ("no-heard", "no-index", "tensorboard"),
    "What is shown": ("quiet", "verbose", "help"),
}
FILE = click.Path(path_type=Path)


@click.command(cls=GroupedCommand, groups=OPTION_GROUPS)
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
    type=WholeNumber(1, 8),
    show_default="1 or 2, by the corpus",
    help="Recurrent layers, one upon the other.",
)
@click.option(
    "--hidden",
    type=WholeNumber(1, 4096),
    show_default="256",
    help="Units of a layer.",
)
@click.option("--dropout", type=DecimalNumber(0, 0.95), help="Share of units left out.")
@click.option("--epochs", type=EPOCHS, help="Times through the corpus, at the most.")
@click.option(
    "--minutes",
    type=MINUTES,
    help="Made a number of tokens at the start, by the speed measured there.",
)
@click.option("--batch", type=WholeNumber(1, 4096), help="Lanes that are trained side by side.")
@click.option(
    "--bptt",
    type=WholeNumber(1, 4096),
    help="Ids through which a gradient goes back, in the end.",
)
@click.option("--learning-rate", type=FRACTION, help="The highest; it rises to it and falls.")
@click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
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
    callback=apply_config_file,
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

    folder = _resolve_run_folder(chosen["name"])
    if chosen["resume"]:
        apply_saved_config(ctx, folder)
    _prefer_command_line(ctx)
    chosen = dict(ctx.params)
    _check_options(chosen)
    quiet, resume = chosen["quiet"] or not is_main_process(), chosen["resume"]
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    with (
        StopSignals() as stopping,
        join_processes(chosen["device"]) as ranks,
        lock_run_folder(folder, exists=resume, force=chosen["force"]) as claim,
    ):
        if resume and is_done(folder, score_test=chosen["score_test"]):
            console.print(f"{folder}: the run is finished, there is nothing left to do")
            return
        run = start_or_resume(ctx, claim, console, ranks)
        run.notify = console.print
        run.config = render_run_settings(ctx, run)
        if chosen["save_config"] and run.is_main_process:
            write_atomically(chosen["save_config"], run.config, force=chosen["force"])
        print_plan(run, console)
        if chosen["verbose"]:
            print_settings(run.plan, console)
        stopping.stop_callback, stopping.message_callback = run.stop, console.print
        _train_and_report(run, chosen, console)
        stopping.stop_callback = None
        if chosen["score_test"]:
            run.score_test()
        print_results(run, console)


def _prefer_command_line(ctx: click.Context) -> None:
    """Let epochs that are typed go before minutes of a file."""
    if is_on_command_line(ctx, "epochs") and not is_on_command_line(ctx, "minutes"):
        ctx.params["minutes"] = None


def _resolve_run_folder(name: str) -> Path:
    from musicgen.model_folders import RUNS_FOLDER

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidValue(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    return RUNS_FOLDER / name


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse before any work what could only fail after it."""
    resume, force, save_config = (options[name] for name in ("resume", "force", "save_config"))
    if resume and force:
        raise InvalidValue("--resume goes on, --force begins again: leave one of them out")
    if resume and save_config:
        raise InvalidValue("--save-config: a resumed run has its settings; leave it out")
    if options["tensorboard"] and find_spec("tensorboard") is None:
        raise NotFound(
            "--tensorboard: the package tensorboard is not installed;"
            " pip install 'musicgen[tensorboard]', or leave the option out"
        )
    if save_config:
        prepare_outputs([save_config], force=force)
        refuse_foreign(save_config, CONFIG_HEAD.encode(), "a file of options from --save-config")


def _train_and_report(run: TrainingRun, options: Mapping[str, Any], console: Console) -> None:
    """Train, while it is shown and what can be heard and seen of it is kept."""
    from musicgen.training.observers import ObserverGroup, make_observers

    heard, tensorboard = not options["no_heard"], options["tensorboard"]
    observers = (
        make_observers(run, with_samples=heard, tensorboard=tensorboard)
        if run.is_main_process
        else []
    )
    try:
        with (
            ProgressDisplay(
                console, run.name, _make_progress_state(run), verbose=options["verbose"]
            ) as watched,
            ObserverGroup(observers, console.print) as record,
        ):
            for progress in run.train():
                watched(progress)
                record(progress)
    except KeyboardInterrupt:
        raise Interrupted(_explain_interruption(run)) from None
    if options["verbose"]:
        print_times(
            watched.state, run.save_schedule.total_save_seconds, record.seconds_spent, console
        )


def _explain_interruption(run: TrainingRun) -> str:
    """Say what is left of a run that was ended at once."""
    if run.saved_step < 0 and not run.is_resumed:
        return "interrupted; nothing was saved yet"
    step = f" at update {run.saved_step}" if run.saved_step >= 0 else ""
    return (
        f"interrupted; what was saved last{step} is whole:"
        f" musicgen train --name {run.name} --resume goes on from there"
    )


def _make_progress_state(run: TrainingRun) -> ProgressState:
    """Start to count what is shown of a run."""
    from musicgen.model.devices import get_resident_memory

    on_gpu = run.plan.device.startswith("cuda")
    return ProgressState(
        name_unit(run),
        resident_memory=get_resident_memory if on_gpu else None,
        last_save_time=lambda: run.save_schedule.saved_at if run.saved_step >= 0 else None,
        held_out_text="not yet judged" if run.dataset.valid else "none",
        best_text=_format_best_so_far(run),
    )


def _format_best_so_far(run: TrainingRun) -> str:
    """Say what a resumed run brings along."""
    valid = run.scores.to_dict().get("valid")
    epoch = run.trainer.best.tokens / run.trainer.epoch_tokens
    return format_best_score(valid["bits_per_note"], epoch) if valid else ""
