"""`sample --best`: draws many tunes, writes those that are most like real ones, and says why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from musicgen.cli.outputs import Tell, write_tune
from musicgen.errors import InvalidValue, printable
from musicgen.files import is_folder

if TYPE_CHECKING:
    from musicgen.sampling.choosing import Chosen, Measured
    from musicgen.sampling.recipe import Order
    from musicgen.tune import Model, Tune

COLUMNS = ("bits", "longest", "copied", "returning", "leap", "pace")
HEAD = ("file", "number", "seed", "title", *COLUMNS, "cost", "alike", "why")
TABLE_HEAD = "\t".join(HEAD).encode()


def write_best(
    model: Model,
    order: Order,
    names: Sequence[Sequence[Path]],
    table: Path | None,
    *,
    count: int,
    jobs: int | None,
    force: bool,
    loud: int,
    tell: Tell,
) -> None:
    """Draw so many tunes and write the best of them, as many as there are names, with a table.

    Raises InvalidValue for a model whose tunes cannot be compared with real ones.
    """
    from musicgen.files import write_whole
    from musicgen.sampling.choosing import choose, real_ranges

    if model.codec.name != "measures" or not model.has_index:
        raise InvalidValue(
            "best: the model has no index of the tunes that it learnt from, which others are"
            " compared with; train it without --no-index, or leave --best out"
        )
    bits = model.checkpoint.manifest.scores.get("valid", {}).get("middle_90")
    ranges = real_ranges(model.index.known, tuple(bits) if bits else None)
    tunes, figures = [], []
    for tune, measured in _drawn(model, order, count, jobs):
        tunes.append(tune)
        figures.append(measured)
        if len(tunes) % 50 == 0:
            tell(f"{len(tunes):,} of {count:,} tunes drawn and measured")
    chosen = list(choose(figures, len(names), ranges))
    for files, one in zip(names, chosen, strict=True):
        for line in write_tune(tunes[one.place], files, force=force, loud=loud):
            tell(line)
        tell(f"  {_why(one, count)}")
    if table is not None:
        lines = _table(tunes, figures, chosen, names)
        write_whole(table, "".join(f"{line}\n" for line in lines).encode(), force=force)


def _drawn(
    model: Model, order: Order, count: int, jobs: int | None
) -> Iterator[tuple[Tune, Measured]]:
    """Yield tunes in turn, with their figures; they are drawn and measured in processes."""
    from musicgen.sampling.choosing import measured
    from musicgen.sampling.processes import in_order
    from musicgen.sampling.writing import Written
    from musicgen.tune import processes_for, start_of

    jobs = processes_for(count, jobs)
    start = start_of(model, order)
    answers = in_order(_draw_some, start, count, jobs) if jobs > 1 else (
        answer for _, answer in sorted(_draw_some(range(count), *start))
    )  # fmt: skip
    for number, answer in enumerate(answers):
        text, figures = json.loads(answer)
        tune = model.tune(replace(order, number=number), Written.from_json(text))
        yield tune, measured(tune.score, figures)


def _draw_some(numbers: Iterable[int], *start: str) -> Iterator[tuple[int, bytes]]:
    """Draw and measure tunes in a process of its own."""
    from musicgen.tune import started

    model, order = started(*start)
    for number, found in model.carried_out_many(order, numbers):
        receipt = model.receipt(found.score)
        figures = {
            "bits": model.surprise(found.score).bits_per_note,
            "longest": float(receipt.longest.notes if receipt.longest else 0),
            "copied": receipt.share,
        }
        yield number, json.dumps([found.to_json(), figures]).encode()


def _why(one: Chosen, count: int) -> str:
    """Say in a line why a tune was chosen."""
    inside = "all its figures are those of real tunes"
    outside = f"outside of real tunes: {'; '.join(one.outside)}"
    alike = f"; {one.alike:.0%} of its short runs are in one above" if one.alike else ""
    return f"number {one.place + 1} of {count}: {outside if one.outside else inside}{alike}"


def _table(
    tunes: Sequence[Tune],
    figures: Sequence[Measured],
    chosen: Sequence[Chosen],
    names: Sequence[Sequence[Path]],
) -> Iterator[str]:
    """Yield the lines of the table: tab-separated, the best first."""
    yield "\t".join(HEAD)
    for files, one in zip(names, chosen, strict=True):
        tune, row = tunes[one.place], figures[one.place].figures
        values = [f"{row[name]:.3f}" if name in row else "" for name in COLUMNS]
        words = (files[0].name, str(one.place + 1), str(tune.seed), tune.score.title, *values,
                 f"{one.cost:.3f}", f"{one.alike:.3f}", _why(one, len(tunes)))  # fmt: skip
        yield "\t".join(map(printable, words))


def table_of(out: str, files: Sequence[Path]) -> Path | None:
    """Return where the table stands: in the folder that is filled, or beside the pattern."""
    if "{n}" in Path(out).name:
        return Path(out.replace("{n}", "index")).with_suffix(".tsv")
    return files[0].parent / "index.tsv" if len(files) > 1 or is_folder(Path(out)) else None
