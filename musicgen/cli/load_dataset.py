"""The tunes that a command learns from, read as the user named them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from musicgen.cli.formatting import counted
from musicgen.errors import Mismatch, printable
from musicgen.files import is_file

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from musicgen.corpus.store import Dataset

DEFAULT_SOURCE: Final = "dance-tunes"


def read_tunes(sources: tuple[str, ...], codec: str | None, console: Console) -> Dataset:
    """Build the data set of the sources, or load the one that is named."""
    from musicgen.tokens.registry import DEFAULT, find

    found = find(codec or DEFAULT)
    if len(sources) == 1 and is_file(Path(sources[0]) / "manifest.json"):
        return _load(Path(sources[0]), codec)
    from musicgen.corpus.build import build

    with console.status(_told(sources)):
        dataset, report = build(sources, codec=found, jobs=os.cpu_count() or 1)
    codes = ", ".join(f"{count} {code}" for code, count in report.codes.items())
    console.print(
        f"kept {report.kept:,} of {counted(report.found, 'tune')}"
        + (f"; left out: {codes}" if codes else "")
    )
    return dataset


def _told(sources: tuple[str, ...]) -> Text:
    """Say what is read; a name is no markup, and steers no terminal."""
    from rich.text import Text

    return Text(printable(f"reading {', '.join(sources)}"))


def _load(folder: Path, codec: str | None) -> Dataset:
    """Open a data set that was built. Raises Mismatch for another codec, or an older table."""
    from musicgen.corpus import store
    from musicgen.tokens.registry import restored

    dataset = store.load(folder)
    if codec not in (None, dataset.codec):
        raise Mismatch(
            f"{folder}: built with --codec {dataset.codec}, not {codec}; leave --codec out, or"
            " build it again with musicgen corpus build"
        )
    restored(dataset.codec, dataset.vocabulary, str(folder))
    return dataset
