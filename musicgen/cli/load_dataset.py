"""Data sets for the commands that train: built from sources, or loaded from a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from musicgen.cli.formatting import format_count
from musicgen.errors import Mismatch, escape_unprintable
from musicgen.files import is_file

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from musicgen.corpus.store import Dataset

DEFAULT_SOURCE: Final = "dance-tunes"
READERS = os.cpu_count() or 1  # child processes that read the files


def load_or_build_dataset(sources: tuple[str, ...], codec: str | None, console: Console) -> Dataset:
    """Build a data set from sources, or load the one in the folder that is the only source.

    Args:
        sources: files, folders, archives, names of corpora; or one folder of a built data set.
        codec: name of the codec; None for the default, or that of the built data set.
        console: shows the sources while they are read, then the number of tunes kept.

    Raises:
        Mismatch: if the data set was built with another codec or vocabulary.
    """
    from musicgen.tokens.registry import DEFAULT_CODEC, find_codec

    chosen_codec = find_codec(codec or DEFAULT_CODEC)
    if len(sources) == 1 and is_file(Path(sources[0]) / "manifest.json"):
        return _load_built_dataset(Path(sources[0]), codec)
    from musicgen.corpus.build import build

    with console.status(_format_status(sources)):
        dataset, report = build(sources, codec=chosen_codec, jobs=READERS)
    codes = ", ".join(f"{count} {code}" for code, count in report.codes.items())
    console.print(
        f"kept {report.kept:,} of {format_count(report.found, 'tune')}"
        + (f"; left out: {codes}" if codes else "")
    )
    return dataset


def _format_status(sources: tuple[str, ...]) -> Text:
    """Format the sources as plain text, without markup or control characters."""
    from rich.text import Text

    return Text(escape_unprintable(f"reading {', '.join(sources)}"))


def _load_built_dataset(folder: Path, codec: str | None) -> Dataset:
    """Load a built data set. Raises Mismatch for another codec or an older vocabulary."""
    from musicgen.corpus import store
    from musicgen.tokens.registry import restore_codec

    dataset = store.load(folder)
    if codec not in (None, dataset.codec):
        raise Mismatch(
            f"{folder}: built with --codec {dataset.codec}, not {codec}; leave --codec out, or"
            " build it again with musicgen corpus build"
        )
    restore_codec(dataset.codec, dataset.vocabulary, str(folder))
    return dataset
