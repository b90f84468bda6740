"""From the options of `musicgen train` to a run: read tunes, plan the model, resume, join ranks.

Under `torchrun` every process is one rank; only the first writes and prints.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.config_file import is_on_command_line, read_settings, render_settings
from musicgen.cli.load_dataset import DEFAULT_SOURCE, load_or_build_dataset
from musicgen.cli.train_report import list_derived_options
from musicgen.errors import Mismatch, NotFound
from musicgen.folder_contents import CONFIG

if TYPE_CHECKING:
    from musicgen.training.distributed import Ranks
    from musicgen.training.run_folder import RunLock
if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.checkpoint import Checkpoint
    from musicgen.corpus.store import Dataset
    from musicgen.training.distributed import Ranks
    from musicgen.training.run import TrainingRun
    from musicgen.training.run_folder import RunLock
if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.checkpoint import Checkpoint
    from musicgen.corpus.store import Dataset
    from musicgen.training.distributed import Ranks
    from musicgen.training.plan import TrainingOptions
    from musicgen.training.run import TrainingRun
    from musicgen.training.run_folder import RunLock


def is_main_process() -> bool:
    """Tell whether this process speaks; alone, it does."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[Ranks | None]:
    """Join the processes that torchrun started; None, without PyTorch, where this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    from musicgen.training.distributed import join_process_group

    with join_process_group(device) as ranks:
        yield ranks


@contextlib.contextmanager
def lock_run_folder(folder: Path, *, exists: bool, force: bool = False) -> Iterator[RunLock]:
    """Hold a run's folder; of several processes the first holds it for all."""
    from musicgen.training.run_folder import RunLock, lock_run

    if not is_main_process():
        yield RunLock(folder)
        return
    with lock_run(folder, exists=exists, force=force) as claim:
        yield claim


# What decides no number of a run; all else must be as it was.
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

DatasetReader = Callable[[tuple[str, ...], str | None, "Checkpoint | None"], "Dataset"]


def apply_saved_config(ctx: click.Context, folder: Path) -> None:
    """Take the options of a run that was begun and saved nothing from its config.toml.

    Raises NotFound where there is no run and nothing says what to train on, Mismatch for a flag
    that contradicts the run's own.
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


def _apply_config(ctx: click.Context, config: Path) -> None:
    from musicgen.training.resume import CHANGEABLE_FLAGS

    values = {"sources": (), **read_settings(config, ctx), "minutes": None}  # made epochs there
    values["sources"] = tuple(values["sources"])
    for name, value in values.items():
        stays = name in CHANGEABLE_FLAGS or (name in RESULT_NEUTRAL_OPTIONS and name != "sources")
        if is_on_command_line(ctx, name) and stays:
            continue
        if is_on_command_line(ctx, name) and ctx.params[name] != value:
            flag = "SOURCE" if name == "sources" else f"--{name.replace('_', '-')}"
            has = "a number of epochs" if name == "minutes" else _shown(value)
            raise Mismatch(
                f"{flag} {_shown(ctx.params[name])}: the run that is resumed has {has};"
                f" leave it out, or train another --name (its options are in {config})"
            )
        if name != "name":
            ctx.params[name] = value


def _shown(value: Any) -> str:
    shown = " ".join(value) if isinstance(value, tuple) else "none" if value is None else str(value)
    return shown or "no source"


def _explain_missing_run(folder: Path) -> str:
    """Say that there is no such run, and which has a name like it."""
    from musicgen.folder_contents import is_run_folder

    if os.path.lexists(folder):
        return (
            f"--resume: {folder} holds no saved state and no {CONFIG}; name the SOURCEs to begin"
            " again, or choose another --name"
        )
    runs = sorted(path.name for path in folder.parent.glob("[!.]*") if is_run_folder(path))
    near = get_close_matches(folder.name, runs, n=3)
    listed = f"did you mean {' or '.join(near)}?" if near else (
        f"there are {', '.join(runs[:_MAX_LISTED_RUNS])}" if runs else "there is none at all"
    )  # fmt: skip
    return f"--resume: there is no run {folder.name!r} in {folder.parent}; {listed}"


def collect_options(ctx: click.Context, sources: tuple[str, ...]) -> dict[str, Any]:
    """Return what was asked of a run, to be saved with it; files and folders by their full names.

    Args:
        ctx: of the command.
        sources: where the tunes are, a default included.
    """
    options = {
        name: _path_to_text(value)
        for name, value in ctx.params.items()
        if name not in RESULT_NEUTRAL_OPTIONS
    }
    return options | {"sources": [_resolve_source(source) for source in sources]}


def resume_run(
    ctx: click.Context, lock: RunLock, read: DatasetReader, console: Console, ranks: Ranks
) -> TrainingRun | None:
    """Go on with the run in a folder; None where nothing of it was saved.

    Raises Mismatch for flags, tunes or files that are not those of the run.
    """
    from musicgen.training.resume import CHANGEABLE_FLAGS, load_saved_run

    found = load_saved_run(lock.folder)
    if found is None:
        console.print(f"{lock.folder}: nothing was saved here yet; the run starts")
        return None
    given = {
        name: _path_to_text(v) for name, v in ctx.params.items() if is_on_command_line(ctx, name)
    }
    found.refuse_other_flags(
        {name: v for name, v in given.items() if name not in RESULT_NEUTRAL_OPTIONS}
    )
    sources = ctx.params["sources"] or tuple(found.requested_options["sources"])
    origin = load_base_model(found.requested_options.get("from"))
    dataset = read(sources, found.run_record["codec"], origin)
    from musicgen.training.run import TrainingRun

    changes = {name: given[name] for name in CHANGEABLE_FLAGS if name in given}
    run = TrainingRun.resume(
        found, dataset, lock.folder, lock=lock, base=origin, ranks=ranks, **changes
    )
    console.print(f"{lock.folder}: goes on after update {found.step:,}")
    for note in run.notes:
        console.print(note)
    return run


def load_base_model(name: str | None) -> Checkpoint | None:
    """Load the model that a run goes on from. Raises NotFound, DamagedCheckpoint or Mismatch."""
    if name is None:
        return None
    from musicgen.trained_model import load

    return load(name).checkpoint


def is_done(folder: Path, *, score_test: bool) -> bool:
    """Tell whether a run has come to its end, its test part scored if that is asked for."""
    from musicgen.checkpoint import load_one
    from musicgen.training.resume import is_finished

    return is_finished(folder) and not (
        score_test and "test" not in load_one(folder).manifest.scores
    )


def _path_to_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _resolve_source(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def start_or_resume(
    ctx: click.Context, lock: RunLock, console: Console, joined_ranks: Ranks | None = None
) -> TrainingRun:
    """Go on with the run in a folder if that is asked for, else begin one."""
    from musicgen.training.distributed import SINGLE_PROCESS

    ranks = joined_ranks or SINGLE_PROCESS
    from musicgen.model.devices import choose_device

    def read(sources: tuple[str, ...], codec: str | None, origin: Checkpoint | None) -> Dataset:
        return prepare_dataset(
            load_or_build_dataset(sources, codec or select_codec(origin), console), origin
        )

    choose_device(ctx.params["device"])  # before anything is read
    run = resume_run(ctx, lock, read, console, ranks) if ctx.params["resume"] else None
    return start_new_run(ctx, lock, read, ranks) if run is None else run


def start_new_run(
    ctx: click.Context, lock: RunLock, read: DatasetReader, ranks: Ranks
) -> TrainingRun:
    """Read the tunes and plan a run on them."""
    from musicgen.training.plan import make_plan
    from musicgen.training.run import TrainingRun

    params = ctx.params
    sources = params["sources"] or (DEFAULT_SOURCE,)
    origin = load_base_model(params["from"])
    dataset = read(sources, params["codec"], origin)
    found = make_plan(dataset, collect_plan_options(ctx), origin, ranks)
    return TrainingRun(
        dataset,
        found,
        params["name"],
        lock.folder,
        corpus=load_corpus_cards(dataset.sources),
        requested_options=collect_options(ctx, sources),
        force=params["force"],
        lock=lock,
        base=origin,
        ranks=ranks,
        no_index=params["no_index"],
    )


def prepare_dataset(dataset: Dataset, base_model: Checkpoint | None) -> Dataset:
    """Hold out what the size allows, in the events of the model that is gone on from."""
    from musicgen.training.fine_tune import remap_dataset
    from musicgen.training.plan import adjust_split

    return adjust_split(dataset if base_model is None else remap_dataset(dataset, base_model))


def select_codec(base_model: Checkpoint | None) -> str | None:
    """Return the codec that tunes are to be encoded with for a model."""
    return None if base_model is None else base_model.manifest.codec


def collect_plan_options(ctx: click.Context) -> TrainingOptions:
    """Return what a user chose of a plan."""
    from musicgen.training.plan import TrainingOptions

    return TrainingOptions(
        **{entry.name: ctx.params[entry.name] for entry in fields(TrainingOptions)}
    )


def render_run_settings(ctx: click.Context, run: TrainingRun) -> bytes:
    """Return the options as a file that `--config` takes; minutes as the epochs they became."""
    values, open_ones = dict(ctx.params), list_derived_options(run.dataset, run.plan)
    if values["minutes"] is not None:
        values |= {"epochs": open_ones["epochs"], "minutes": None}
    return render_settings(values, ctx.command.params, open_ones).encode()


def load_corpus_cards(sources: tuple[str, ...]) -> dict[str, Any]:
    """Return what the corpus cards of the sources say, for the model card."""
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
