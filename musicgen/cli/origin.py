"""`musicgen origin`: what a tune shares with the tunes that a model learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli.write_outputs import describe_model
from musicgen.errors import InvalidValue, NotFound, Refusal, escape_unprintable

if TYPE_CHECKING:
    from musicgen.music.score import Score
    from musicgen.trained_model import Model


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="folk",
    show_default=True,
    help="A model's name, or the folder of a run: whose training tunes are asked.",
)
@click.option(
    "--surprise", is_flag=True, help="Tell the bits of each note under the model too, bar by bar."
)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors, and the JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Tell the model, and every copied run.")
def origin(
    file: Path, model: str, surprise: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Say what the tunes of a file share with those that a model learnt from.

    \b
    musicgen origin song.mid                   a tune of any make: .mid .abc .musicxml .krn
    musicgen origin book.abc --model mine      each tune of a book
    musicgen origin song.abc --surprise        and how surprising each note is
    musicgen origin song.mid --json            keys: longest_run, tune, bars, ...
    """  # noqa: D301 - click wants the character itself
    from musicgen.trained_model import load

    loaded = load(model)
    found = _read_pieces(file, loaded)
    if verbose:
        click.echo(describe_model(loaded), err=True)
    told = [_compare_piece(piece, loaded, surprise=surprise, lists_runs=verbose) for piece in found]
    good = [one for one in told if not isinstance(one, Refusal)]
    if not good:
        raise next(one for one in told if isinstance(one, Refusal))
    for one in told:
        if isinstance(one, Refusal):
            click.echo(str(one), err=True)
    if as_json:
        rows = [one[0] for one in good]
        click.echo(json.dumps(rows[0] if len(told) == 1 else rows, ensure_ascii=False))
        return
    for number, (row, lines) in enumerate([] if quiet else good, 1):
        place = f"{file}: " if len(told) == 1 else f"{number}. {row['title']}: "
        click.echo(escape_unprintable(f"{place}{lines[0]}"))
        for line in lines[1:]:
            click.echo(escape_unprintable(f"  {line}"))


def _read_pieces(file: Path, model: Model) -> list[Score | str | Refusal]:
    """Read a file as the model's codec does. Raises NotFound or InvalidValue."""
    from musicgen.files import read_regular_file
    from musicgen.formats import max_bytes_of

    suffix, known = file.suffix.lower(), model.codec.suffixes
    if suffix not in known:
        raise InvalidValue(
            f"{file}: a file with the suffix {file.suffix or '(none)'!r} cannot be read;"
            f" known are {', '.join(known)}"
        )
    try:
        data = read_regular_file(file, limit=max_bytes_of(suffix))
        found: list[Score | str | Refusal] = list(model.codec.iter_pieces(data, suffix, str(file)))
    except Refusal as refusal:
        return [refusal.with_source(str(file))]
    return found or [Refusal("it holds no tune; name a file that does", source=str(file))]


def _compare_piece(
    piece: Score | str | Refusal, model: Model, *, surprise: bool, lists_runs: bool
) -> tuple[dict[str, Any], list[str]] | Refusal:
    """Return what is told of a piece, as JSON and as lines; a refusal where it cannot be."""
    if isinstance(piece, Refusal):
        return piece
    row: dict[str, Any] = {"title": "" if isinstance(piece, str) else piece.title}
    lines = []
    try:
        if not isinstance(piece, str):
            receipt = model.make_receipt(piece)
            row |= receipt.to_json()
            lines += [receipt.format_line(), *(map(str, receipt.runs) if lists_runs else ())]
        elif not surprise:
            raise NotFound(
                f"{model.checkpoint.folder}: a model of text keeps no notes to compare with; ask"
                " for --surprise, or another --model"
            )
        if surprise:
            bits = model.measure_surprise(piece)
            row["surprise"] = bits.to_json()
            lines += bits.format_lines()
    except Refusal as refusal:
        return refusal
    return row, lines
