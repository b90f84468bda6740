"""`musicgen render`: a tune of any make as sound, sheet music, piano roll, page or another file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.formatting import format_count, format_duration
from musicgen.cli.param_types import OUT_PATH, POSITIVE, PROGRAM, WholeNumber
from musicgen.cli.write_outputs import discard_line
from musicgen.errors import InvalidValue, MusicgenError, Refusal, escape_unprintable

if TYPE_CHECKING:
    from musicgen.music.score import Score
    from musicgen.sampling.recipe import Recipe
    from musicgen.trained_model import Model

_MAX_LISTED_TUNES: Final = 12  # tunes of a book that are named
_MAX_TITLE_LENGTH: Final = 80  # characters of a title that are told


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "outs",
    type=OUT_PATH,
    metavar="FILE",
    multiple=True,
    required=True,
    help="Where to write; .wav .svg .png .html .musicxml .mid or .abc. May be given several times.",
)
@click.option(
    "--view",
    type=click.Choice(["score", "roll"]),
    help="What .svg and .png show: sheet music, or a piano roll.  [default: score]",
)
@click.option("--program", type=PROGRAM, help="The instrument: 0..127, or a name (flute).")
@click.option("--tempo", type=POSITIVE, metavar="QPM", help="Quarters a minute.")
@click.option("--count-in", is_flag=True, help="A bar of clicks first, in .wav.")
@click.option(
    "--tune",
    "number",
    type=WholeNumber(1, 10**9),
    metavar="N",
    help="Which tune of a book: 1, 2, ...",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell what was read and what was left out too.")
def render(
    file: Path,
    outs: tuple[Path, ...],
    view: str | None,
    program: int | None,
    tempo: float | None,
    count_in: bool,
    number: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Turn a tune (.mid .abc .musicxml .krn) into sound, sheet music, a page, or another file.

    \b
    musicgen render song.mid --out song.wav --program violin
    musicgen render song.abc --out song.svg --out song.png --out song.html
    musicgen render song.mid --out roll.png --view roll
    musicgen render book.abc --tune 3 --out third.wav --count-in
    """  # noqa: D301 - click wants the character itself
    from musicgen.files import prepare_outputs
    from musicgen.recipe_files import is_recipe, sidecar_path, supports_metadata
    from musicgen.render.export import check_has_bars, check_suffix, write
    from musicgen.render.timeline import at_tempo, duration

    for out in outs:
        check_suffix(out)
    _check_options(outs, view=view, count_in=count_in)
    prepare_outputs(outs, force=force)
    tell = discard_line if quiet else partial(click.echo, err=True)
    score, refusals = _read_tune(file, number)
    for refusal in refusals if verbose else ():
        tell(str(refusal))
    recipe = _load_recipe(file) if number is None else None
    if recipe is not None:
        score = _restore_written_score(file, score, recipe)
    _check_beats(file, score, tempo=tempo, count_in=count_in)
    for out in outs:
        check_has_bars(score, out, "roll" if view == "roll" else "score")
    shown = _collect_page_data(file, score, recipe, outs)
    remarks = () if recipe is None else tuple(recipe.remarks())
    score = score if tempo is None else at_tempo(score, tempo)
    wished: dict[str, Any] = {"view": view or "score", "program": program, "count_in": count_in}
    for out in outs:
        write(score, out, force=force, remarks=remarks, **wished, **shown)
        if force and not supports_metadata(out.suffix) and is_recipe(sidecar_path(out)):
            sidecar_path(out).unlink()  # it was of what stood there before
    names = ", ".join(map(str, outs))
    tell(
        escape_unprintable(
            f"{names}: {_format_title(score)}; {_format_size(score)},"
            f" {format_duration(duration(score))}"
        )
    )


def _check_options(outs: Sequence[Path], *, view: str | None, count_in: bool) -> None:
    """Raise InvalidValue for an option that none of the files can show."""
    from musicgen.render.export import PICTURE_SUFFIXES, SOUND_SUFFIXES

    suffixes = {out.suffix.lower() for out in outs}
    if view is not None and not suffixes & set(PICTURE_SUFFIXES):
        raise InvalidValue(f"--view {view}: it is of pictures; add --out FILE{PICTURE_SUFFIXES[0]}")
    if count_in and not suffixes & set(SOUND_SUFFIXES):
        raise InvalidValue(f"--count-in: it is of sound; add --out FILE{SOUND_SUFFIXES[0]}")


def _check_beats(file: Path, score: Score, *, tempo: float | None, count_in: bool) -> None:
    """Raise InvalidValue for an option of beats where a file keeps to none."""
    from musicgen.music.performance import is_performance

    if (tempo is not None or count_in) and is_performance(score):
        option = "--count-in" if count_in else f"--tempo {tempo:g}"
        raise InvalidValue(f"{option}: {file} keeps to no bars and beats; leave it out")


def _read_tune(file: Path, number: int | None) -> tuple[Score, Sequence[Refusal]]:
    """Read the tune that is asked for, and what was refused of its file."""
    from musicgen.formats import read

    scores, refusals = read(file, needs_bars=False)
    if not scores:
        raise refusals[0] if refusals else InvalidValue(f"{file}: it holds no tune")
    if number is None and len(scores) > 1:
        listed = [
            f"{place} {_format_title(score)}"
            for place, score in enumerate(scores[:_MAX_LISTED_TUNES], 1)
        ]
        more = (
            f" and {len(scores) - _MAX_LISTED_TUNES:,} more"
            if len(scores) > _MAX_LISTED_TUNES
            else ""
        )
        raise InvalidValue(
            f"{file}: it holds {len(scores):,} tunes; choose one with --tune N:"
            f" {', '.join(listed)}{more}"
        )
    if number is not None and number > len(scores):
        raise InvalidValue(f"--tune {number}: {file} holds {format_count(len(scores), 'tune')}")
    return scores[(number or 1) - 1], refusals


def _load_recipe(file: Path) -> Recipe | None:
    """Return the recipe of a file; None where it has none, or one that is damaged."""
    from musicgen.recipe_files import read_recipe_text
    from musicgen.sampling.recipe import Recipe

    try:
        text = read_recipe_text(file)
        return None if text is None else Recipe.from_text(text)
    except MusicgenError:
        return None  # a tune with a damaged recipe is a tune


def _restore_written_score(file: Path, score: Score, recipe: Recipe) -> Score:
    """Return a tune as its model wrote it, where the file only says how it is played.

    So repeats and pickups stay what they are. Notes that were edited since, or whose model is not
    here, are shown as the file has them.
    """
    from musicgen.formats import FORMAT_BY_SUFFIX
    from musicgen.render.timeline import at_tempo
    from musicgen.sampling.recipe import hash_notes

    is_played = FORMAT_BY_SUFFIX[file.suffix.lower()].parse_performance is not None
    if not is_played or hash_notes(score) != recipe.notes_hash:
        return score
    try:
        model = _load_recipe_model(file, recipe)
        written = model.sample_request(recipe.request).score
    except MusicgenError:
        return score
    if written.unfolded().notes != score.notes or len(written.parts) != len(score.parts):
        return score
    written = replace(written, parts=score.parts, title=score.title)
    return written if written.qpm == score.qpm else at_tempo(written, score.qpm)


def _load_recipe_model(file: Path, recipe: Recipe) -> Model:
    """Load the model that a recipe names, by a name and never by a path.

    Raises NotFound, DamagedCheckpoint, or Mismatch for another model of that name.
    """
    from musicgen.trained_model import load_named

    model = load_named(recipe.model.name)
    recipe.check(model.name, str(file))
    return model


def _collect_page_data(
    file: Path, score: Score, recipe: Recipe | None, outs: Sequence[Path]
) -> dict[str, Any]:
    """Return what a page shows of a tune: its recipe, and what the model knows of it."""
    from musicgen.render.export import PAGE_SUFFIXES

    if recipe is None:
        return {}
    is_page = any(out.suffix.lower() in PAGE_SUFFIXES for out in outs)
    return {"recipe": recipe, **(_analyse_tune(file, score, recipe) if is_page else {})}


def _analyse_tune(file: Path, score: Score, recipe: Recipe) -> dict[str, Any]:
    """Return what the model of a recipe knows of its tune; nothing where it is not here."""
    try:
        model = _load_recipe_model(file, recipe)
        receipt = model.make_receipt(score) if model.has_index else None
        return {"receipt": receipt, "surprise": model.measure_surprise(score)}
    except MusicgenError:
        return {}


def _format_title(score: Score) -> str:
    return score.title[:_MAX_TITLE_LENGTH] or "untitled"


def _format_size(score: Score) -> str:
    from musicgen.music.bars import count_heard_bars
    from musicgen.music.performance import is_performance

    if is_performance(score):
        return f"{format_count(len(score.notes), 'note')} without bars"
    return f"{score.meter}, {format_count(count_heard_bars(score), 'bar')}"
