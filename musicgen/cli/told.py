"""What is said of a run before and after it: the tunes, the plan, the settings, the scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from musicgen.cli.words import counted, span

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.cli.watched import Seen
    from musicgen.corpus.store import Dataset
    from musicgen.model.plan import Plan
    from musicgen.model.run import Run


def announce(run: Run, console: Console) -> None:
    """Say what there is to learn from, what was decided for it, and what will learn it."""
    from musicgen.corpus.store import count_tokens

    dataset, found = run.dataset, run.plan
    tokens = count_tokens(dataset.train)
    shape, settings = found.model, found.training
    grown = f"{settings.first_bptt} to " if 0 < settings.first_bptt < settings.bptt else ""
    console.print(
        f"{counted(len(dataset.train), 'tune')} ({counted(tokens, 'token')}) to learn from,"
        f" {len(dataset.valid):,} to stop by, {len(dataset.test):,} kept for a test"
    )
    for line in found.lines:
        console.print(line)
    console.print(
        f"{shape.layers} x {shape.hidden} {shape.cell} on {found.device} in {settings.precision},"
        f" {counted(settings.lanes, 'lane')} of {grown}{counted(settings.bptt, 'id')},"
        f" at most {settings.tokens:,} tokens ({settings.tokens / tokens:.1f} epochs)"
    )
    if not run.no_index and not is_text(run) and _is_own(run):
        console.print(
            "the model will hold an index of these tunes, titles and notes, to tell copies by:"
            " whoever gets the model can read them; --no-index leaves it out"
        )


def _is_own(run: Run) -> bool:
    """Tell whether some tunes are the user's own, not those of a corpus that has a card."""
    from musicgen.corpus.sources import cards

    return not set(run.dataset.sources) <= {card.name for card in cards()}


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
        "cell": found.model.cell,
        "layers": found.model.layers,
        "hidden": found.model.hidden,
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


def tell_times(seen: Seen, saving: float, keeping: float, console: Console) -> None:
    """Say what share of the time went where."""
    total = max(seen.spent, 1e-9)
    rest = max(0.0, total - seen.learnt - saving - keeping)
    shares = (
        ("updates", seen.learnt),
        ("saving", saving),
        ("tunes and pictures", keeping),
        ("evaluation and the rest", rest),
    )
    told = ", ".join(f"{what} {100 * part / total:.1f} %" for what, part in shares)
    console.print(f"time: {span(total)}, of it {told}")


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
    told = copies(run)
    if told:
        console.print(told)
    verb, suffix = ("read", ".txt") if is_text(run) else ("hear", ".mid")
    console.print(
        f"{run.folder}: done; {verb} it with musicgen sample --model {run.name} --out song{suffix}"
    )


def copies(run: Run) -> str:
    """Say how much of what the model writes stands in the tunes; "" where that was not judged."""
    judged = [line for line in run.metrics if "copied" in line]
    if not judged or run.judge is None:
        return ""
    last, human = judged[-1], run.judge.human.rate
    stopped = last["step"] > run.best_step
    return (
        f"{'stopped' if stopped else 'copies'}: {last['copied']:.1%} of the 8-note runs that it"
        f" {'wrote' if stopped else 'writes'} stand in the tunes; they share {human:.1%} of theirs"
        f" with each other{'; the weights before are kept' if stopped else ''}"
    )


def is_text(run: Run) -> bool:
    """Tell whether what it writes is text."""
    return run.dataset.codec.startswith("text")


def unit_of(run: Run) -> str:
    """Name what bits are counted by: a text has no notes."""
    return "character" if is_text(run) else "note"
