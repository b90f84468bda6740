"""From the options of `musicgen train` to a run: read the tunes, plan the model, start or resume.

Under `torchrun` every process is one rank; only the main process writes files and prints.
SIGINT (Ctrl-C), SIGTERM and SIGHUP stop a run gracefully (`StopSignals`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from math import inf, nextafter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

import click

from musicgen.cli.command_options import is_on_command_line, read_settings, render_settings
from musicgen.cli.tune_sources import DEFAULT_SOURCE, load_or_build_dataset
from musicgen.config import name_context
from musicgen.errors import Mismatch, NotFound
from musicgen.folder_contents import CONFIG

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.checkpoint import Checkpoint
    from musicgen.corpus.store import Dataset
    from musicgen.training.distributed import Ranks
    from musicgen.training.plan import Plan, TrainingOptions
    from musicgen.training.run import TrainingRun
    from musicgen.training.run_folder import RunLock


SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
SIGNALS_TO_ABORT: Final = 3  # the third signal ends the program immediately


class StopSignals:
    """Context manager that calls `stop_callback` on the first SIGINT, SIGTERM or SIGHUP.

    Without a callback a signal raises KeyboardInterrupt, and so does the third signal. Two are
    tolerated because under torchrun one Ctrl-C arrives twice: from the terminal and from torchrun.

    with StopSignals() as stop_signals:
        read()                                   # a signal interrupts it
        stop_signals.stop_callback = run.stop    # from here on a signal calls run.stop
    """

    def __init__(self) -> None:
        self.stop_callback: Callable[[], None] | None = None
        self.message_callback: Callable[[str], object] = lambda _: None
        self.signal_count = 0  # signals since the callback was set
        self.previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self.previous_handlers = {
                number: signal.signal(number, self.handle_signal)
                for number in SIGNALS
                if is_handled(number)
            }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        """Call the callback on the first signal; raise KeyboardInterrupt on the third."""
        if self.stop_callback is None:
            raise KeyboardInterrupt
        self.signal_count += 1
        if self.signal_count >= SIGNALS_TO_ABORT:
            raise KeyboardInterrupt
        if self.signal_count == 1:
            self.stop_callback()
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
            self.message_callback(_STOP_MESSAGES[self.signal_count])


_STOP_MESSAGES: Final = {
    1: "stopping after this update, which is saved first",
    2: "still saving; a third signal stops immediately and loses unsaved updates",
}


def is_handled(number: signal.Signals) -> bool:
    """Return whether to handle a signal; nohup ignores SIGHUP, and that is respected."""
    hangup = getattr(signal, "SIGHUP", None)
    return number != hangup or signal.getsignal(number) is not signal.SIG_IGN


# Options that do not change the trained weights; a resumed run must agree in all others.
RESULT_NEUTRAL_OPTIONS: Final = (
    "sources",
    "name",
    "resume",
    "force",
    "score_test",
    "config",
    "save_config",
    "no_heard",
    "tensorboard",
    "quiet",
    "verbose",
)
_MAX_LISTED_RUNS: Final = 12


def is_main_process() -> bool:
    """Return whether this process prints and writes files; without torchrun it does."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[Ranks | None]:
    """Join the process group of torchrun; yield None, without importing PyTorch, if there is none.

    Args:
        device: auto, cpu, cuda or mps.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    from musicgen.training.distributed import join_process_group

    with join_process_group(device) as ranks:
        yield ranks


@contextlib.contextmanager
def lock_run_folder(folder: Path, *, exists: bool, force: bool = False) -> Iterator[RunLock]:
    """Lock the folder of a run; the main process holds the lock for all ranks.

    Args:
        folder: the run's folder.
        exists: whether the folder may hold a run.
        force: whether that run may be replaced.
    """
    from musicgen.training.run_folder import RunLock, lock_run

    if not is_main_process():
        yield RunLock(folder)
        return
    with lock_run(folder, exists=exists, force=force) as run_lock:
        yield run_lock


def start_or_resume(
    ctx: click.Context, lock: RunLock, console: Console, joined_ranks: Ranks | None = None
) -> TrainingRun:
    """Resume the run in the locked folder if --resume is given and a state was saved; else start.

    Args:
        ctx: context of the command, with its options.
        lock: the lock that holds the run's folder.
        console: where to report what was read and resumed.
        joined_ranks: the process group; None for a single process.
    """
    from musicgen.model.devices import choose_device
    from musicgen.training.distributed import SINGLE_PROCESS

    choose_device(ctx.params["device"])  # refuses a missing device before any work
    ranks = joined_ranks or SINGLE_PROCESS
    run = _resume_run(ctx, lock, console, ranks) if ctx.params["resume"] else None
    return _start_run(ctx, lock, console, ranks) if run is None else run


def is_done(folder: Path, *, score_test: bool) -> bool:
    """Return whether a run is finished, with the test part scored if `score_test` is set."""
    from musicgen.checkpoint import load_one
    from musicgen.training.resume import is_finished

    return is_finished(folder) and not (
        score_test and "test" not in load_one(folder).manifest.scores
    )


def apply_saved_config(ctx: click.Context, folder: Path) -> None:
    """Take the options from the config.toml of a run that stopped before it saved a state.

    Args:
        ctx: context of the command; its options are changed in place.
        folder: the run's folder.

    Raises:
        NotFound: if there is no such run, and no source to train on.
        Mismatch: if an option on the command line contradicts the run's.
    """
    from musicgen.checkpoint import list_numbered_folders, previous_run_path
    from musicgen.training.run_folder import PROGRESS_FOLDER, has_saved_state

    if (
        has_saved_state(folder)
        or has_saved_state(previous_run_path(folder))
        or list_numbered_folders(folder / PROGRESS_FOLDER)
    ):
        return
    config = folder / CONFIG
    if config.is_file():
        _apply_config(ctx, config)
    elif not ctx.params["sources"]:
        raise NotFound(_explain_missing_run(folder))


def render_run_settings(ctx: click.Context, run: TrainingRun) -> bytes:
    """Write the options of a run as TOML for --config; minutes become the epochs of the plan."""
    options, derived_options = dict(ctx.params), _list_derived_options(run.dataset, run.plan)
    if options["minutes"] is not None:
        options |= {"epochs": derived_options["epochs"], "minutes": None}
    return render_settings(options, ctx.command.params, derived_options).encode()


def _apply_config(ctx: click.Context, config: Path) -> None:
    from musicgen.training.resume import CHANGEABLE_FLAGS

    # The file has no minutes: they were converted to epochs.
    saved_options = {"sources": (), **read_settings(config, ctx), "minutes": None}
    saved_options["sources"] = tuple(saved_options["sources"])
    changeable = {*CHANGEABLE_FLAGS, *RESULT_NEUTRAL_OPTIONS} - {"sources"}
    for name, saved_value in saved_options.items():
        if is_on_command_line(ctx, name):
            if name in changeable:
                continue
            if ctx.params[name] != saved_value:
                raise Mismatch(_explain_other_option(name, ctx.params[name], saved_value, config))
        if name != "name":
            ctx.params[name] = saved_value


def _explain_other_option(name: str, value: Any, saved_value: Any, config: Path) -> str:
    flag = "SOURCE" if name == "sources" else f"--{name.replace('_', '-')}"
    saved_text = "a number of epochs" if name == "minutes" else _format_option_value(saved_value)
    return (
        f"{flag} {_format_option_value(value)}: the run that is resumed has {saved_text};"
        f" leave it out, or train another --name (the run's options are in {config})"
    )


def _format_option_value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "no source"
    return "none" if value is None else str(value) or "no source"


def _explain_missing_run(folder: Path) -> str:
    """Say that a run does not exist, and which runs have similar names."""
    from musicgen.folder_contents import is_run_folder

    if os.path.lexists(folder):
        return (
            f"--resume: {folder} contains no saved state and no {CONFIG}; give SOURCEs to start"
            " again, or choose another --name"
        )
    runs = sorted(path.name for path in folder.parent.glob("[!.]*") if is_run_folder(path))
    similar_names = get_close_matches(folder.name, runs, n=3)
    if similar_names:
        hint = f"did you mean {' or '.join(similar_names)}?"
    elif runs:
        hint = f"the runs are {', '.join(runs[:_MAX_LISTED_RUNS])}"
    else:
        hint = "there are no runs"
    return f"--resume: there is no run {folder.name!r} in {folder.parent}; {hint}"


def _resume_run(
    ctx: click.Context, lock: RunLock, console: Console, ranks: Ranks
) -> TrainingRun | None:
    """Resume the run in the locked folder; return None if it has no saved state.

    Raises Mismatch if options, tunes or files are not those of the run.
    """
    from musicgen.training.resume import CHANGEABLE_FLAGS, load_saved_run
    from musicgen.training.run import TrainingRun

    saved_run = load_saved_run(lock.folder)
    if saved_run is None:
        console.print(f"{lock.folder}: no saved state; the run starts from the beginning")
        return None
    given_options = {
        name: _path_to_text(value)
        for name, value in ctx.params.items()
        if is_on_command_line(ctx, name)
    }
    saved_run.refuse_other_flags(
        {name: v for name, v in given_options.items() if name not in RESULT_NEUTRAL_OPTIONS}
    )
    sources = ctx.params["sources"] or tuple(saved_run.requested_options["sources"])
    base_model = _load_base_model(saved_run.requested_options.get("from"))
    dataset = _load_split_dataset(sources, saved_run.run_record["codec"], base_model, console)
    changes = {name: given_options[name] for name in CHANGEABLE_FLAGS if name in given_options}
    run = TrainingRun.resume(
        saved_run, dataset, lock.folder, lock=lock, base=base_model, ranks=ranks, **changes
    )
    console.print(f"{lock.folder}: resumed after update {saved_run.step:,}")
    for note in run.notes:
        console.print(note)
    return run


def _start_run(ctx: click.Context, lock: RunLock, console: Console, ranks: Ranks) -> TrainingRun:
    """Read the tunes and plan a run on them."""
    from musicgen.training.plan import make_plan
    from musicgen.training.run import TrainingRun

    params = ctx.params
    sources = params["sources"] or (DEFAULT_SOURCE,)
    base_model = _load_base_model(params["from"])
    dataset = _load_split_dataset(sources, params["codec"], base_model, console)
    plan = make_plan(dataset, _collect_plan_options(ctx), base_model, ranks)
    return TrainingRun(
        dataset,
        plan,
        params["name"],
        lock.folder,
        corpus=_load_corpus_cards(dataset.sources),
        requested_options=_collect_options(ctx, sources),
        force=params["force"],
        lock=lock,
        base=base_model,
        ranks=ranks,
        no_index=params["no_index"],
    )


def _load_base_model(name: str | None) -> Checkpoint | None:
    """Load the model of --from. Raises NotFound, DamagedCheckpoint or Mismatch."""
    if name is None:
        return None
    from musicgen.trained_model import load

    return load(name).checkpoint


def _load_split_dataset(
    sources: tuple[str, ...], codec: str | None, base_model: Checkpoint | None, console: Console
) -> Dataset:
    """Load a data set in the vocabulary of the base model, with a split that fits its size."""
    from musicgen.corpus.store import is_dataset
    from musicgen.training.fine_tune import remap_dataset
    from musicgen.training.plan import MIN_GROUPS_FOR_TEST, adjust_split

    if base_model is not None:
        codec = codec or base_model.manifest.codec
    dataset = load_or_build_dataset(sources, codec, console)
    if base_model is not None:
        dataset = remap_dataset(dataset, base_model)
    adjusted = adjust_split(dataset)
    if dataset.test and not adjusted.test and is_dataset(Path(sources[0])):
        console.print(
            f"{sources[0]}: with fewer than {MIN_GROUPS_FOR_TEST} different tunes there is no test"
            " part; its test tunes are used for training and validation"
        )
    return adjusted


def _collect_plan_options(ctx: click.Context) -> TrainingOptions:
    from musicgen.training.plan import TrainingOptions

    return TrainingOptions(
        **{entry.name: ctx.params[entry.name] for entry in fields(TrainingOptions)}
    )


def _collect_options(ctx: click.Context, sources: tuple[str, ...]) -> dict[str, Any]:
    """Return the options to save with a run; files and folders as absolute paths."""
    options = {
        name: _path_to_text(value)
        for name, value in ctx.params.items()
        if name not in RESULT_NEUTRAL_OPTIONS
    }
    return options | {"sources": [_resolve_source(source) for source in sources]}


def _path_to_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _resolve_source(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _load_corpus_cards(sources: tuple[str, ...]) -> dict[str, Any]:
    """Return the corpus cards of the sources, for the model card."""
    from musicgen.corpus.sources import expand_cards

    return {
        "cards": [
            {
                "name": card.name,
                "title": card.title,
                "source": card.source,
                "terms": " ".join(card.terms.split()),
            }
            for card in expand_cards(sources)
        ]
    }


def _list_derived_options(dataset: Dataset, plan: Plan) -> dict[str, Any]:
    """Return the values that the plan chose, by the keys of the configuration file."""
    return {
        "cell": plan.model.cell,
        "layers": plan.model.layers,
        "hidden": plan.model.hidden,
        "context": name_context(plan.model.context),
        "dropout": plan.model.dropout,
        "bptt": plan.training.bptt,
        "batch": plan.training.lanes,
        "epochs": _compute_epochs(dataset, plan),
        "learning-rate": plan.training.learning_rate,
    }


def _compute_epochs(dataset: Dataset, plan: Plan) -> float:
    """Return a number of epochs that converts back to exactly the tokens of the plan."""
    from musicgen.corpus.store import count_tokens

    tokens = count_tokens(dataset.train)
    epochs = plan.training.tokens / tokens
    return epochs if int(epochs * tokens) >= plan.training.tokens else nextafter(epochs, inf)
