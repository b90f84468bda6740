"""What is said of a run before and after it: the tunes, the plan, the settings, the scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from musicgen.cli.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.corpus.store import Dataset
    from musicgen.model.plan import Plan
    from musicgen.model.run import Run


def announce(dataset: Dataset, found: Plan, console: Console) -> None:
    """Say what there is to learn from, and what will learn it."""
    from musicgen.corpus.store import count_tokens

    tokens = count_tokens(dataset.train)
    shape, settings = found.model, found.training
    console.print(
        f"{counted(len(dataset.train), 'tune')} ({counted(tokens, 'token')}) to learn from,"
        f" {len(dataset.valid):,} to stop by, {len(dataset.test):,} kept for a test"
    )
    if not dataset.valid:
        console.print("too few tunes to hold any out: trained to the end of the plan, unjudged")
    console.print(
        f"{shape.layers} x {shape.hidden} {shape.cell} on {found.device} in {settings.precision},"
        f" {counted(settings.lanes, 'lane')} of {counted(settings.bptt, 'id')},"
        f" at most {settings.tokens:,} tokens ({settings.tokens / tokens:.1f} epochs)"
    )


def tell_all(found: Plan, console: Console) -> None:
    """Say every setting, and the versions of the packages that decide the numbers."""
    from musicgen.checkpoint import versions

    for what, table in (
        ("model", asdict(found.model)),
        ("training", asdict(found.training)),
        ("versions", versions()),
    ):
        told = ", ".join(f"{name} {value}" for name, value in table.items())
        console.print(f"{what}: {told}")


def derived(dataset: Dataset, found: Plan) -> dict[str, Any]:
    """Return what the plan made of the options that were left open, by their keys in a file."""
    return {
        "dropout": found.model.dropout,
        "bptt": found.training.bptt,
        "batch": found.training.lanes,
        "epochs": epochs_of(dataset, found),
        "learning-rate": found.training.learning_rate,
    }


def epochs_of(dataset: Dataset, found: Plan) -> float:
    """Return a number of epochs that comes to just as many tokens as the plan has."""
    from math import inf, nextafter

    from musicgen.corpus.store import count_tokens

    tokens = count_tokens(dataset.train)
    epochs = found.training.tokens / tokens
    return epochs if int(epochs * tokens) >= found.training.tokens else nextafter(epochs, inf)


def conclude(run: Run, console: Console) -> None:
    """Say how good the model is, and how to hear it."""
    table = run.scores.as_table()
    for part in ("valid", "test", "test_5gram"):
        if part in table:
            row = table[part]
            low, high = row["interval_95"]
            console.print(
                f"{part}: {row['bits_per_note']:.3f} bits a {unit_of(run)}"
                f" (95 % interval {low:.3f} to {high:.3f}, {counted(row['tunes'], 'tune')})"
            )
    verb, suffix = ("read", ".txt") if is_text(run) else ("hear", ".mid")
    console.print(
        f"{run.folder}: done; {verb} it with musicgen sample --model {run.name} --out song{suffix}"
    )


def is_text(run: Run) -> bool:
    """Tell whether what it writes is text."""
    return run.dataset.codec.startswith("text")


def unit_of(run: Run) -> str:
    """Name what bits are counted by: a text has no notes."""
    return "character" if is_text(run) else "note"
