"""`musicgen train`: train a model, resume a run, or fine-tune a trained model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.command_options import (
    EPOCHS,
    FRACTION,
    MINUTES,
    DecimalNumber,
    GroupedCommand,
    WholeNumber,
    apply_config_file,
    device_option,
    is_on_command_line,
    quiet_option,
)
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
    StopSignals,
    apply_saved_config,
    is_done,
    is_main_process,
    join_processes,
    lock_run_folder,
    render_run_settings,
    start_or_resume,
)
from musicgen.config import CELLS, CONTEXTS
from musicgen.errors import Interrupted, InvalidValue, NotFound
from musicgen.files import prepare_outputs, refuse_foreign, write_atomically
from musicgen.folder_contents import CONFIG_HEAD

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.training.run import TrainingRun

OPTION_GROUPS: Final = {
    "Data": ("from", "codec"),
    "Model": ("cell", "layers", "hidden", "context", "dropout"),
    "Training": ("epochs", "minutes", "batch", "bptt", "learning-rate", "seed"),
    "Hardware": ("device", "precision"),
    "Run": ("name", "resume", "force", "score-test", "config", "save-config"),
    "Outputs": ("no-heard", "no-index", "tensorboard"),
    "Messages": ("quiet", "verbose", "help"),
}
FILE = click.Path(path_type=Path)


@click.command(cls=GroupedCommand, groups=OPTION_GROUPS)
@click.argument("sources", metavar="[SOURCE ...]", nargs=-1)
@click.option(
    "--from",
    metavar="MODEL",
    help="Fine-tune a trained model, given by name or folder; 20 tunes are enough.",
)
@click.option(
    "--codec",
    metavar="NAME",
    help="Encoding of tunes as tokens: measures (the default), performance, frames, frames-16,"
    " text, text-words.",
)
@click.option(
    "--cell",
    type=click.Choice(CELLS),
    show_default="lstm",
    help="Recurrent cell.",
)
@click.option(
    "--layers",
    type=WholeNumber(1, 8),
    show_default="1 or 2, depending on the corpus",
    help="Number of recurrent layers.",
)
@click.option(
    "--hidden",
    type=WholeNumber(1, 4096),
    show_default="256",
    help="Units per layer.",
)
@click.option(
    "--context",
    type=click.Choice(tuple(CONTEXTS)),
    show_default="all, for tunes with bars; all+vertical, for tunes of several parts or voices;"
    " time, for performances",
    help="What the model reads besides tokens: the position in bar and section, what stood 1, 2, 4"
    " and 8 bars ago (look-back), both (all), and what the parts and voices written earlier in the"
    " bar play at the same time (all+vertical); of performances, what is held, when the last notes"
    " came, and what sounded up to 4 seconds ago (time).",
)
@click.option("--dropout", type=DecimalNumber(0, 0.95), help="Dropout probability.")
@click.option("--epochs", type=EPOCHS, help="Maximum passes over the training part.")
@click.option(
    "--minutes",
    type=MINUTES,
    help="Time budget, converted to tokens from the speed measured at the start.",
)
@click.option("--batch", type=WholeNumber(1, 4096), help="Lanes (batch rows) trained in parallel.")
@click.option(
    "--bptt",
    type=WholeNumber(1, 4096),
    help="BPTT window length in tokens (final).",
)
@click.option("--learning-rate", type=FRACTION, help="Peak learning rate (warm-up, cosine decay).")
@click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
    default=1,
    show_default=True,
    help="Random seed; the same seed, tunes and machine give the same model.",
)
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Precision of matrix products; auto uses bf16 if the device supports it.",
)
@click.option(
    "--name", default="mine", show_default=True, help="Name of the run, stored in checkpoints/NAME."
)
@click.option("--resume", is_flag=True, help="Resume the run of that name from its saved state.")
@click.option("--force", is_flag=True, help="Replace an existing run of that name.")
@click.option(
    "--score-test",
    is_flag=True,
    help="Score the test part once at the end, with a 5-gram model for comparison.",
)
@click.option(
    "--config",
    type=FILE,
    metavar="FILE.toml",
    is_eager=True,
    callback=apply_config_file,
    help="Read options from a file; flags override the file.",
)
@click.option("--save-config", type=FILE, metavar="FILE.toml", help="Write the options to a file.")
@click.option("--no-heard", is_flag=True, help="Do not write an example tune at each evaluation.")
@click.option(
    "--no-index",
    is_flag=True,
    help="Do not store the similarity index, which 'musicgen origin' reads.",
)
@click.option("--tensorboard", is_flag=True, help="Also write a TensorBoard log.")
@quiet_option
@click.option(
    "-v", "--verbose", is_flag=True, help="Also print settings, versions and more progress lines."
)
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train a model on SOURCEs: files, folders or named corpora; by default, dance-tunes.

    \b
    musicgen train                          three books of dances, under 30 minutes on two cores
    musicgen train mytunes/ --name mine     your own files: .abc, .mid
    musicgen train mytunes/ --minutes 10    with a time budget
    musicgen train mytunes/ --from folk     fine-tune the model folk on your tunes
    musicgen train ryan aird --hidden 512 --device cuda --save-config big.toml
    musicgen train --config big.toml --name again --seed 2
    musicgen train --name again --resume    after Ctrl-C or a crash
    torchrun --nproc-per-node 2 -m musicgen train     on two GPUs
    musicgen sample --model mine --out song.mid
    """  # noqa: D301 - click reads the backspace character
    from rich.console import Console

    folder = _resolve_run_folder(options["name"])
    if options["resume"]:
        apply_saved_config(ctx, folder)
    _prefer_command_line(ctx)
    options = dict(ctx.params)
    _check_options(options)
    quiet, resume = options["quiet"] or not is_main_process(), options["resume"]
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    with (
        StopSignals() as stop_signals,
        join_processes(options["device"]) as ranks,
        lock_run_folder(folder, exists=resume, force=options["force"]) as run_lock,
    ):
        if resume and is_done(folder, score_test=options["score_test"]):
            console.print(f"{folder}: the run is finished; nothing to do")
            return
        run = start_or_resume(ctx, run_lock, console, ranks)
        run.notify = console.print
        run.config = render_run_settings(ctx, run)
        _announce_run(run, options, console)
        stop_signals.stop_callback, stop_signals.message_callback = run.stop, console.print
        _train_and_report(run, options, console)
        stop_signals.stop_callback = None
        if options["score_test"]:
            run.score_test()
        print_results(run, console)


def _announce_run(run: TrainingRun, options: Mapping[str, Any], console: Console) -> None:
    """Write the file of --save-config; print the plan, and with --verbose the settings."""
    if options["save_config"] and run.is_main_process:
        write_atomically(options["save_config"], run.config, force=options["force"])
    print_plan(run, console)
    if options["verbose"]:
        print_settings(run.plan, console)


def _prefer_command_line(ctx: click.Context) -> None:
    """Let --epochs on the command line override minutes from a file."""
    if is_on_command_line(ctx, "epochs") and not is_on_command_line(ctx, "minutes"):
        ctx.params["minutes"] = None


def _resolve_run_folder(name: str) -> Path:
    from musicgen.model_folders import RUNS_FOLDER

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidValue(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    return RUNS_FOLDER / name


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other, lack a package or would overwrite a file."""
    resume, force, save_config = (options[name] for name in ("resume", "force", "save_config"))
    if resume and force:
        raise InvalidValue("--resume and --force exclude each other; leave one of them out")
    if resume and save_config:
        raise InvalidValue("--save-config: a resumed run keeps its saved settings; leave it out")
    if options["tensorboard"] and find_spec("tensorboard") is None:
        raise NotFound(
            "--tensorboard: the package tensorboard is not installed;"
            " pip install 'musicgen[tensorboard]', or leave the option out"
        )
    if save_config:
        prepare_outputs([save_config], force=force)
        refuse_foreign(save_config, CONFIG_HEAD.encode(), "an options file of --save-config")


def _train_and_report(run: TrainingRun, options: Mapping[str, Any], console: Console) -> None:
    """Train, display the progress and let the observers write example tunes and plots."""
    from musicgen.training.observers import ObserverGroup, make_observers

    observers = (
        make_observers(
            run, with_samples=not options["no_heard"], tensorboard=options["tensorboard"]
        )
        if run.is_main_process
        else []
    )
    state, verbose = _make_progress_state(run), options["verbose"]
    try:
        with (
            ProgressDisplay(console, run.name, state, verbose=verbose) as display,
            ObserverGroup(observers, console.print) as observer_group,
        ):
            for progress in run.train():
                display(progress)
                observer_group(progress)
    except KeyboardInterrupt:
        raise Interrupted(_explain_interruption(run)) from None
    if verbose:
        saving_seconds = run.save_schedule.total_save_seconds
        print_times(state, saving_seconds, observer_group.seconds_spent, console)


def _explain_interruption(run: TrainingRun) -> str:
    """Say what is saved of a run that was stopped immediately."""
    if run.saved_step < 0 and not run.is_resumed:
        return "interrupted; nothing was saved yet"
    step = f" of update {run.saved_step}" if run.saved_step >= 0 else ""
    return (
        f"interrupted; the last saved state{step} is intact;"
        f" resume from it with musicgen train --name {run.name} --resume"
    )


def _make_progress_state(run: TrainingRun) -> ProgressState:
    """Return the initial values of the progress display."""
    from musicgen.model.devices import get_resident_memory

    on_gpu = run.plan.device.startswith("cuda")
    return ProgressState(
        name_unit(run),
        resident_memory=get_resident_memory if on_gpu else None,
        last_save_time=lambda: run.save_schedule.saved_at if run.saved_step >= 0 else None,
        held_out_text="not evaluated yet" if run.dataset.valid else "none",
        best_text=_format_best_so_far(run),
    )


def _format_best_so_far(run: TrainingRun) -> str:
    """Format the best score of a resumed run; "" for a new one."""
    score = run.scores.to_dict().get("valid")
    epoch = run.trainer.best.tokens / run.trainer.epoch_tokens
    return format_best_score(score["bits_per_note"], epoch) if score else ""
