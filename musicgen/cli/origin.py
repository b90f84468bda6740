"""`musicgen origin`: what a tune shares with the training tunes of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli.output import describe_model
from musicgen.errors import InvalidValue, NotFound, Refusal, escape_unprintable

if TYPE_CHECKING:
    from musicgen.music.score import Score
    from musicgen.sampling.surprisal import Surprise
    from musicgen.trained_model import Model


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="folk",
    show_default=True,
    help="Name of a model, or folder of a run, whose training tunes to search.",
)
@click.option(
    "--surprise",
    is_flag=True,
    help="Also print the bits of each note under the model, by bar, and"
    " those of phrases that return.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only errors, and the JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Also print the model and all copied runs.")
def origin(
    file: Path, model: str, surprise: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Show what the tunes of a file share with the training tunes of a model.

    \b
    musicgen origin song.mid                   any tune: .mid .abc .musicxml .krn
    musicgen origin book.abc --model mine      each tune of a book
    musicgen origin song.abc --surprise        and how surprising each note is
    musicgen origin song.mid --json            keys: longest_run, tune, bars, ...
    """  # noqa: D301 - click reads the backspace character
    from musicgen.trained_model import load

    loaded = load(model)
    pieces = _read_pieces(file, loaded)
    if verbose:
        click.echo(describe_model(loaded), err=True)
    results = [
        _compare_piece(piece, loaded, surprise=surprise, lists_runs=verbose) for piece in pieces
    ]
    refusals = [result for result in results if isinstance(result, Refusal)]
    comparisons = [result for result in results if not isinstance(result, Refusal)]
    if not comparisons:
        raise refusals[0]
    for refusal in refusals:
        click.echo(str(refusal), err=True)
    is_single = len(results) == 1
    if as_json:
        rows = [row for row, _ in comparisons]
        click.echo(json.dumps(rows[0] if is_single else rows, ensure_ascii=False))
    elif not quiet:
        for number, (row, lines) in enumerate(comparisons, 1):
            label = str(file) if is_single else f"{number}. {row['title']}"
            click.echo(escape_unprintable(f"{label}: {lines[0]}"))
            for line in lines[1:]:
                click.echo(escape_unprintable(f"  {line}"))


def _read_pieces(file: Path, model: Model) -> list[Score | str | Refusal]:
    """Read the tunes or texts of a file for the model's codec. Raises NotFound or InvalidValue."""
    from musicgen.files import read_regular_file
    from musicgen.formats import max_bytes_of

    suffix = file.suffix.lower()
    if suffix not in model.codec.suffixes:
        raise InvalidValue(
            f"{file}: cannot read the suffix {file.suffix or '(none)'!r};"
            f" choose a file of type {', '.join(model.codec.suffixes)}"
        )
    try:
        data = read_regular_file(file, limit=max_bytes_of(suffix))
        pieces: list[Score | str | Refusal] = list(model.codec.iter_pieces(data, suffix, str(file)))
    except Refusal as refusal:
        return [refusal.with_source(str(file))]
    return pieces or [Refusal("the file has no tune; choose another file", source=str(file))]


def _compare_piece(
    piece: Score | str | Refusal, model: Model, *, surprise: bool, lists_runs: bool
) -> tuple[dict[str, Any], list[str]] | Refusal:
    """Compare a tune or text with the training tunes.

    Args:
        piece: a tune, a text, or the refusal of one.
        model: the model with the index of its training tunes.
        surprise: whether to measure the bits of each note.
        lists_runs: whether to list each copied run.

    Returns:
        The JSON object and the lines to print, or a refusal.
    """
    if isinstance(piece, Refusal):
        return piece
    row: dict[str, Any] = {"title": "" if isinstance(piece, str) else piece.title}
    lines: list[str] = []
    try:
        if not isinstance(piece, str):
            receipt = model.make_receipt(piece)
            row |= receipt.to_json()
            lines += [receipt.format_line(), *(map(str, receipt.runs) if lists_runs else ())]
        elif not surprise:
            raise NotFound(
                f"{model.checkpoint.folder}: a text model has no notes to compare with; add"
                " --surprise, or choose another --model"
            )
        if surprise:
            surprisal = model.measure_surprise(piece)
            row["surprise"] = surprisal.to_json()
            lines += surprisal.format_lines()
            lines += [] if isinstance(piece, str) else _compare_returns(piece, surprisal)
    except Refusal as refusal:
        return refusal
    return row, lines


def _compare_returns(score: Score, surprise: Surprise) -> Iterator[str]:
    """Yield a line per phrase that returns: its bits per note, and those of the first time."""
    from musicgen.render.tune_json import phrases_to_json

    phrases = phrases_to_json(score)
    means = [surprise.average_bits(*phrase["bars"]) for phrase in phrases]
    for phrase, mean in zip(phrases, means, strict=True):
        if phrase["source"] is not None:
            first = means[phrase["source"]]
            yield f"{phrase['words']}: {mean:.2f} bits per note, {first:.2f} the first time"
