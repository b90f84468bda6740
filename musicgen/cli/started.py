"""From the words of `musicgen train` to a run: tunes read, sizes planned, what is decided told."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli.resumed import Read, asked, origin_of, resumed
from musicgen.cli.settings import render_settings
from musicgen.cli.told import derived
from musicgen.cli.tunes import DEFAULT_SOURCE, read_tunes

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.checkpoint import Checkpoint
    from musicgen.corpus.store import Dataset
    from musicgen.model.claim import Claim
    from musicgen.model.distributed import Ranks
    from musicgen.model.plan import Options
    from musicgen.model.run import Run


def start(ctx: click.Context, claim: Claim, console: Console, several: Ranks | None = None) -> Run:
    """Go on with the run in a folder if that is asked for, else begin one."""
    from musicgen.model.distributed import ALONE

    ranks = several or ALONE
    from musicgen.model.devices import choose_device

    def read(sources: tuple[str, ...], codec: str | None, origin: Checkpoint | None) -> Dataset:
        return suited(read_tunes(sources, codec or codec_of(origin), console), origin)

    choose_device(ctx.params["device"])  # before anything is read
    run = resumed(ctx, claim, read, console, ranks) if ctx.params["resume"] else None
    return begun(ctx, claim, read, ranks) if run is None else run


def begun(ctx: click.Context, claim: Claim, read: Read, ranks: Ranks) -> Run:
    """Read the tunes and plan a run on them."""
    from musicgen.model.plan import plan
    from musicgen.model.run import Run

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
    from musicgen.model.adapt import fitted
    from musicgen.model.plan import divided

    return divided(dataset if origin is None else fitted(dataset, origin))


def codec_of(origin: Checkpoint | None) -> str | None:
    """Return the codec that tunes are to be encoded with for a model."""
    return None if origin is None else origin.manifest.codec


def options_of(ctx: click.Context) -> Options:
    """Return what a user chose of a plan."""
    from musicgen.model.plan import Options

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
