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

from musicgen.cli.config_file import is_typed, read_settings, render_settings
from musicgen.cli.load_dataset import DEFAULT_SOURCE, read_tunes
from musicgen.cli.train_report import derived
from musicgen.errors import Mismatch, NotFound
from musicgen.folder_contents import CONFIG

if TYPE_CHECKING:
    from musicgen.training.distributed import Ranks
    from musicgen.training.run_folder import Claim
if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.checkpoint import Checkpoint
    from musicgen.corpus.store import Dataset
    from musicgen.training.distributed import Ranks
    from musicgen.training.run import Run
    from musicgen.training.run_folder import Claim
if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.checkpoint import Checkpoint
    from musicgen.corpus.store import Dataset
    from musicgen.training.distributed import Ranks
    from musicgen.training.plan import Options
    from musicgen.training.run import Run
    from musicgen.training.run_folder import Claim


def is_first() -> bool:
    """Tell whether this process speaks; alone, it does."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def several(device: str) -> Iterator[Ranks | None]:
    """Join the processes that torchrun started; None, without PyTorch, where this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    from musicgen.training.distributed import joined

    with joined(device) as ranks:
        yield ranks


@contextlib.contextmanager
def held(folder: Path, *, exists: bool, force: bool = False) -> Iterator[Claim]:
    """Hold a run's folder; of several processes the first holds it for all."""
    from musicgen.training.run_folder import Claim, claimed

    if not is_first():
        yield Claim(folder)
        return
    with claimed(folder, exists=exists, force=force) as claim:
        yield claim


# What decides no number of a run; all else must be as it was.
BESIDE: Final = ("sources", "name", "resume", "force", "score_test", "config", "save_config",
                 "no_heard", "tensorboard", "quiet", "verbose")  # fmt: skip

_MOST_NAMED: Final = 12

Read = Callable[[tuple[str, ...], str | None, "Checkpoint | None"], "Dataset"]


def take_config(ctx: click.Context, folder: Path) -> None:
    """Take the options of a run that was begun and saved nothing from its config.toml.

    Raises NotFound where there is no run and nothing says what to train on, Mismatch for a flag
    that contradicts the run's own.
    """
    from musicgen.checkpoint import aside, numbered
    from musicgen.training.run_folder import PROGRESS, has_saved

    if has_saved(folder) or has_saved(aside(folder)) or numbered(folder / PROGRESS):
        return
    config = folder / CONFIG
    if config.is_file():
        _take(ctx, config)
    elif not ctx.params["sources"]:
        raise NotFound(_no_run(folder))


def _take(ctx: click.Context, config: Path) -> None:
    from musicgen.training.resume import MAY_CHANGE

    values = {"sources": (), **read_settings(config, ctx), "minutes": None}  # made epochs there
    values["sources"] = tuple(values["sources"])
    for name, value in values.items():
        stays = name in MAY_CHANGE or (name in BESIDE and name != "sources")
        if is_typed(ctx, name) and stays:
            continue
        if is_typed(ctx, name) and ctx.params[name] != value:
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


def _no_run(folder: Path) -> str:
    """Say that there is no such run, and which has a name like it."""
    from musicgen.folder_contents import is_run

    if os.path.lexists(folder):
        return (
            f"--resume: {folder} holds no saved state and no {CONFIG}; name the SOURCEs to begin"
            " again, or choose another --name"
        )
    runs = sorted(path.name for path in folder.parent.glob("[!.]*") if is_run(path))
    near = get_close_matches(folder.name, runs, n=3)
    listed = f"did you mean {' or '.join(near)}?" if near else (
        f"there are {', '.join(runs[:_MOST_NAMED])}" if runs else "there is none at all"
    )  # fmt: skip
    return f"--resume: there is no run {folder.name!r} in {folder.parent}; {listed}"


def asked(ctx: click.Context, sources: tuple[str, ...]) -> dict[str, Any]:
    """Return what was asked of a run, to be saved with it; files and folders by their full names.

    Args:
        ctx: of the command.
        sources: where the tunes are, a default included.
    """
    options = {name: _plain(value) for name, value in ctx.params.items() if name not in BESIDE}
    return options | {"sources": [_full(source) for source in sources]}


def resumed(
    ctx: click.Context, claim: Claim, read: Read, console: Console, ranks: Ranks
) -> Run | None:
    """Go on with the run in a folder; None where nothing of it was saved.

    Raises Mismatch for flags, tunes or files that are not those of the run.
    """
    from musicgen.training.resume import MAY_CHANGE, find

    found = find(claim.folder)
    if found is None:
        console.print(f"{claim.folder}: nothing was saved here yet; the run starts")
        return None
    given = {name: _plain(v) for name, v in ctx.params.items() if is_typed(ctx, name)}
    found.refuse_other_flags({name: v for name, v in given.items() if name not in BESIDE})
    sources = ctx.params["sources"] or tuple(found.asked["sources"])
    origin = origin_of(found.asked.get("from"))
    dataset = read(sources, found.run["codec"], origin)
    from musicgen.training.run import Run

    changes = {name: given[name] for name in MAY_CHANGE if name in given}
    run = Run.resume(
        found, dataset, claim.folder, claim=claim, start=origin, ranks=ranks, **changes
    )
    console.print(f"{claim.folder}: goes on after update {found.step:,}")
    for note in run.notes:
        console.print(note)
    return run


def origin_of(name: str | None) -> Checkpoint | None:
    """Load the model that a run goes on from. Raises NotFound, DamagedCheckpoint or Mismatch."""
    if name is None:
        return None
    from musicgen.tune import load

    return load(name).checkpoint


def is_done(folder: Path, *, score_test: bool) -> bool:
    """Tell whether a run has come to its end, its test part scored if that is asked for."""
    from musicgen.checkpoint import load_one
    from musicgen.training.resume import is_finished

    return is_finished(folder) and not (
        score_test and "test" not in load_one(folder).manifest.scores
    )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _full(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def start(ctx: click.Context, claim: Claim, console: Console, several: Ranks | None = None) -> Run:
    """Go on with the run in a folder if that is asked for, else begin one."""
    from musicgen.training.distributed import ALONE

    ranks = several or ALONE
    from musicgen.model.devices import choose_device

    def read(sources: tuple[str, ...], codec: str | None, origin: Checkpoint | None) -> Dataset:
        return suited(read_tunes(sources, codec or codec_of(origin), console), origin)

    choose_device(ctx.params["device"])  # before anything is read
    run = resumed(ctx, claim, read, console, ranks) if ctx.params["resume"] else None
    return begun(ctx, claim, read, ranks) if run is None else run


def begun(ctx: click.Context, claim: Claim, read: Read, ranks: Ranks) -> Run:
    """Read the tunes and plan a run on them."""
    from musicgen.training.plan import plan
    from musicgen.training.run import Run

    params = ctx.params
    sources = params["sources"] or (DEFAULT_SOURCE,)
    origin = origin_of(params["from"])
    dataset = read(sources, params["codec"], origin)
    found = plan(dataset, options_of(ctx), origin, ranks)
    return Run(
        dataset,
        found,
        params["name"],
        claim.folder,
        corpus=cards(dataset.sources),
        asked=asked(ctx, sources),
        force=params["force"],
        claim=claim,
        start=origin,
        ranks=ranks,
        no_index=params["no_index"],
    )


def suited(dataset: Dataset, origin: Checkpoint | None) -> Dataset:
    """Hold out what the size allows, in the events of the model that is gone on from."""
    from musicgen.training.fine_tune import fitted
    from musicgen.training.plan import divided

    return divided(dataset if origin is None else fitted(dataset, origin))


def codec_of(origin: Checkpoint | None) -> str | None:
    """Return the codec that tunes are to be encoded with for a model."""
    return None if origin is None else origin.manifest.codec


def options_of(ctx: click.Context) -> Options:
    """Return what a user chose of a plan."""
    from musicgen.training.plan import Options

    return Options(**{entry.name: ctx.params[entry.name] for entry in fields(Options)})


def settings_of_run(ctx: click.Context, run: Run) -> bytes:
    """Return the options as a file that `--config` takes; minutes as the epochs they became."""
    values, open_ones = dict(ctx.params), derived(run.dataset, run.plan)
    if values["minutes"] is not None:
        values |= {"epochs": open_ones["epochs"], "minutes": None}
    return render_settings(values, ctx.command.params, open_ones).encode()


def cards(sources: tuple[str, ...]) -> dict[str, Any]:
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
