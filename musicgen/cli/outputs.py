"""The files that `sample` and `tweak` write, and what is told of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from musicgen.cli.words import counted
from musicgen.errors import InvalidValue, printable

if TYPE_CHECKING:
    from musicgen.tune import Model, Tune

Tell = Callable[[str], object]


def silent(_: str) -> None:
    """Say nothing."""


def files_of(
    outs: Sequence[str], model: Model, *, count: int, suffix: str, force: bool
) -> list[list[Path]]:
    """Return the files that each --out stands for. Raises InvalidValue or OutputExists."""
    from musicgen.files import refuse_existing
    from musicgen.tune import check_writable

    names = [list(_names(out, count, suffix)) for out in outs]
    for files in names:
        check_writable(files, model.writable)
        refuse_existing(files, force=force)
    return names


def write_tune(
    tune: Tune, files: Sequence[Path], *, force: bool, tell: Tell, place: str = ""
) -> None:
    """Write a tune to its files, and tell what it is."""
    for file in files:
        tune.write(file, force=force)
    for line in tune.told:
        tell(printable(line))
    tell(f"{_told(tune, [str(file) for file in files])}{place}")
    if tell is not silent and tune.receipt is not None:
        tell(f"  {tune.receipt.line()}")


def model_told(model: Model) -> str:
    """Say what a model is."""
    manifest = model.checkpoint.manifest
    shape = manifest.settings
    return printable(
        f"{model.checkpoint.folder}: {manifest.name} {manifest.version},"
        f" {shape.layers} x {shape.hidden} {shape.cell}, codec {manifest.codec},"
        f" {counted(shape.vocabulary_size, 'event')}"
    )


def _names(out: str, count: int, suffix: str) -> Iterator[Path]:
    """Yield the files that one --out stands for."""
    path = Path(out)
    if out.endswith(("/", "\\")) or path.is_dir():
        path.mkdir(exist_ok=True)
        yield from (path / f"tune-{number}{suffix}" for number in range(1, count + 1))
    elif "{n}" in path.name:
        yield from (Path(out.replace("{n}", str(number))) for number in range(1, count + 1))
    elif count == 1:
        yield path
    else:
        raise InvalidValue(
            f"--out {out}: for {count} tunes name a folder ({out}/) or a pattern"
            f" ({path.stem}-{{n}}{path.suffix})"
        )


def _told(tune: Tune, files: list[str]) -> str:
    score, names = tune.score, ", ".join(files)
    if tune.text is not None:
        return f"{names}: {counted(len(tune.text), 'character')}"
    if tune.codec != "measures":
        return f"{names}: {score.title}; {counted(len(score.notes), 'note')}"
    return f"{names}: {score.title}; {score.meter}, {counted(tune.bars, 'bar')}"
