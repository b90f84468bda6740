"""`musicgen render`: a tune as audio, sheet music, piano roll, web page or another format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.command_options import (
    OUT_PATH,
    POSITIVE,
    PROGRAM,
    WholeNumber,
    force_option,
    quiet_option,
)
from musicgen.cli.output import LinePrinter, discard_line, format_count, format_duration
from musicgen.errors import InvalidValue, MusicgenError, Refusal, escape_unprintable
from musicgen.music.accompaniment import (
    ACCOMPANIMENTS,
    AUTO,
    PATTERNS,
    accompany,
    has_chord_symbols,
    split_accompaniment,
)

if TYPE_CHECKING:
    from musicgen.music.score import Score
    from musicgen.sampling.recipe import Recipe
    from musicgen.trained_model import Model

_MAX_LISTED_TUNES: Final = 12  # of a book, in a message
_MAX_TITLE_LENGTH: Final = 80  # characters of a title in a message


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "outs",
    type=OUT_PATH,
    metavar="FILE",
    multiple=True,
    required=True,
    help="Output file: .wav .svg .png .html .musicxml .mid or .abc. May be given several times.",
)
@click.option(
    "--view",
    type=click.Choice(["score", "roll"]),
    help="Content of .svg and .png: sheet music or a piano roll.  [default: score]",
)
@click.option("--program", type=PROGRAM, help="Instrument: MIDI program 0..127, or a name (flute).")
@click.option("--tempo", type=POSITIVE, metavar="QPM", help="Quarter notes per minute.")
@click.option(
    "--accompaniment",
    type=click.Choice(ACCOMPANIMENTS),
    help="How chord symbols are played, in .wav, .mid and .html; auto chooses by the meter."
    "  [default: as in the file, else auto]",
)
@click.option(
    "--chords",
    is_flag=True,
    help="Recognise chord symbols from the notes, in place of those of the file.",
)
@click.option("--count-in", is_flag=True, help="Start .wav files with a bar of clicks.")
@click.option(
    "--tune",
    "number",
    type=WholeNumber(1, 10**9),
    metavar="N",
    help="Number of the tune in a book, from 1.",
)
@force_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Also print which tunes could not be read.")
def render(
    file: Path,
    outs: tuple[Path, ...],
    view: str | None,
    program: int | None,
    tempo: float | None,
    accompaniment: str | None,
    chords: bool,
    count_in: bool,
    number: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Convert a tune (.mid .abc .musicxml .krn) to audio, sheet music, a page or another format.

    \b
    musicgen render song.mid --out song.wav --program violin
    musicgen render song.abc --out song.svg --out song.png --out song.html
    musicgen render song.mid --out roll.png --view roll
    musicgen render book.abc --tune 3 --out third.wav --count-in
    musicgen render tune.abc --out tune.mid --accompaniment waltz
    musicgen render song.mid --out song.abc --chords
    """  # noqa: D301 - click reads the backspace character
    from musicgen.render.timeline import at_tempo

    _prepare_outputs(outs, view=view, count_in=count_in, force=force)
    print_line = discard_line if quiet else partial(click.echo, err=True)
    played, refusals = _read_tune(file, number)
    for refusal in refusals if verbose else ():
        print_line(str(refusal))
    recipe = _load_recipe(file) if number is None else None
    score, added = split_accompaniment(played)
    if chords:
        score = _recognise(file, score, played, print_line)
    elif recipe is not None:
        score = _restore_written_score(file, score, recipe)
    _check_score(file, score, outs, view=view, tempo=tempo, count_in=count_in)
    page_data = _collect_page_data(file, score, recipe, outs)
    if accompaniment is None and added is not None and not chords:
        score = played  # as it is in the file
    else:
        score = _accompany(file, score, accompaniment, recipe)
    score = score if tempo is None else at_tempo(score, tempo)
    settings = {"view": view or "score", "program": program, "count_in": count_in, **page_data}
    _write_outputs(score, outs, recipe, settings, force=force)
    print_line(escape_unprintable(f"{', '.join(map(str, outs))}: {_summarize(score)}"))


def _recognise(file: Path, score: Score, played: Score, print_line: LinePrinter) -> Score:
    """Return a score with the chord symbols that are recognised in it and its accompaniment.

    Raises InvalidValue for music without bars.
    """
    from musicgen.music.chord_recognition import add_chord_symbols, recognise_chords
    from musicgen.music.milliseconds import is_performance

    if is_performance(played):
        raise InvalidValue(f"--chords: {file} has no bars and beats; leave the option out")
    recognised = recognise_chords(played)
    confidence = sum(chord.confidence for chord in recognised) / max(1, len(recognised))
    print_line(
        f"{escape_unprintable(str(file))}: {format_count(len(recognised), 'chord symbol')}"
        f" recognised, mean confidence {confidence:.0%}"
    )
    return add_chord_symbols(score, recognised)


def _accompany(file: Path, score: Score, name: str | None, recipe: Recipe | None) -> Score:
    """Return a score with its accompaniment: as asked, else as in its recipe, else "auto".

    Raises InvalidValue if a pattern is asked for and there are no chord symbols.
    """
    if name in PATTERNS and not has_chord_symbols(score):
        raise InvalidValue(
            f"--accompaniment {name}: {file} has no chord symbols; add --chords to recognise some"
        )
    if name is None:
        name = AUTO if recipe is None else recipe.request.options.accompaniment
    return accompany(score, name)


def _prepare_outputs(
    outs: Sequence[Path], *, view: str | None, count_in: bool, force: bool
) -> None:
    """Raise InvalidValue or OutputExists for a file that cannot be written, or a useless option."""
    from musicgen.files import prepare_outputs
    from musicgen.render.export import PICTURE_SUFFIXES, SOUND_SUFFIXES, check_suffix

    for out in outs:
        check_suffix(out)
    suffixes = {out.suffix.lower() for out in outs}
    if view is not None and not suffixes & set(PICTURE_SUFFIXES):
        raise InvalidValue(
            f"--view {view}: applies only to images; add --out FILE{PICTURE_SUFFIXES[0]}"
        )
    if count_in and not suffixes & set(SOUND_SUFFIXES):
        raise InvalidValue(f"--count-in: applies only to audio; add --out FILE{SOUND_SUFFIXES[0]}")
    prepare_outputs(outs, force=force)


def _check_score(
    file: Path,
    score: Score,
    outs: Sequence[Path],
    *,
    view: str | None,
    tempo: float | None,
    count_in: bool,
) -> None:
    """Raise InvalidValue if an option or a format needs bars and the tune has none."""
    from musicgen.music.milliseconds import is_performance
    from musicgen.render.export import check_has_bars

    if (tempo is not None or count_in) and is_performance(score):
        option = "--count-in" if count_in else f"--tempo {tempo:g}"
        raise InvalidValue(f"{option}: {file} has no bars and beats; leave the option out")
    for out in outs:
        check_has_bars(score, out, "roll" if view == "roll" else "score")


def _write_outputs(
    score: Score,
    outs: Sequence[Path],
    recipe: Recipe | None,
    settings: Mapping[str, Any],
    *,
    force: bool,
) -> None:
    """Write the files, and remove the recipe file of a file that was replaced."""
    from musicgen.render.export import write
    from musicgen.tune import is_recipe, sidecar_path, supports_metadata

    remarks = () if recipe is None else tuple(recipe.remarks())
    for out in outs:
        write(score, out, force=force, remarks=remarks, **settings)
        if force and not supports_metadata(out.suffix) and is_recipe(sidecar_path(out)):
            sidecar_path(out).unlink()


def _read_tune(file: Path, number: int | None) -> tuple[Score, Sequence[Refusal]]:
    """Return a tune of a file by its number from 1, and the refusals of other tunes.

    Raises InvalidValue if there is no such tune, or several tunes and no number.
    """
    from musicgen.formats import read

    scores, refusals = read(file, needs_bars=False)
    if not scores:
        raise refusals[0] if refusals else InvalidValue(f"{file}: the file has no tune")
    if number is None and len(scores) > 1:
        raise InvalidValue(
            f"{file}: the file has {len(scores):,} tunes; choose one with --tune N:"
            f" {_list_titles(scores)}"
        )
    if number is not None and number > len(scores):
        raise InvalidValue(f"--tune {number}: {file} has {format_count(len(scores), 'tune')}")
    return scores[(number or 1) - 1], refusals


def _list_titles(scores: Sequence[Score]) -> str:
    titles = ", ".join(
        f"{number} {_format_title(score)}"
        for number, score in enumerate(scores[:_MAX_LISTED_TUNES], 1)
    )
    unlisted = len(scores) - _MAX_LISTED_TUNES
    return f"{titles} and {unlisted:,} more" if unlisted > 0 else titles


def _load_recipe(file: Path) -> Recipe | None:
    """Return the recipe in a file; None if it has none or a damaged one."""
    from musicgen.sampling.recipe import Recipe
    from musicgen.tune import read_recipe_text

    try:
        text = read_recipe_text(file)
        return None if text is None else Recipe.from_text(text)
    except MusicgenError:
        return None  # the tune can be rendered without its recipe


def _restore_written_score(file: Path, score: Score, recipe: Recipe) -> Score:
    """Generate the tune again if its file, such as MIDI, does not store repeats and pickups.

    Returns the score of the file if its notes were edited or its model is not available.
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
    """Load the model of a recipe by its name; a path from a file is never followed.

    Raises NotFound or DamagedCheckpoint, and Mismatch if another model has that name.
    """
    from musicgen.trained_model import load_named

    model = load_named(recipe.model.name)
    recipe.check(model.name, str(file))
    return model


def _collect_page_data(
    file: Path, score: Score, recipe: Recipe | None, outs: Sequence[Path]
) -> dict[str, Any]:
    """Return the recipe, and for a web page the copy receipt and surprisal; empty without one."""
    from musicgen.render.export import PAGE_SUFFIXES

    if recipe is None:
        return {}
    is_page = any(out.suffix.lower() in PAGE_SUFFIXES for out in outs)
    return {"recipe": recipe, **(_analyse_tune(file, score, recipe) if is_page else {})}


def _analyse_tune(file: Path, score: Score, recipe: Recipe) -> dict[str, Any]:
    """Return the copy receipt and surprisal of a tune; empty if its model is not available."""
    try:
        model = _load_recipe_model(file, recipe)
        receipt = model.make_receipt(score) if model.has_index else None
        return {"receipt": receipt, "surprise": model.measure_surprise(score)}
    except MusicgenError:
        return {}


def _format_title(score: Score) -> str:
    return score.title[:_MAX_TITLE_LENGTH] or "untitled"


def _summarize(score: Score) -> str:
    """Describe a tune on one line: title, meter, length."""
    from musicgen.music.bars import count_heard_bars
    from musicgen.music.milliseconds import is_performance
    from musicgen.render.timeline import duration

    if is_performance(score):
        size = f"{format_count(len(score.notes), 'note')} without bars"
    else:
        size = f"{score.meter}, {format_count(count_heard_bars(score), 'bar')}"
    return f"{_format_title(score)}; {size}, {format_duration(duration(score))}"
