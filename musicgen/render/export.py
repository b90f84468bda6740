"""Write a score to a file of any kind, chosen by its suffix.

RENDERERS is the table of the suffixes that this package adds to those of `formats`: sound,
pictures and the HTML page. Their modules are slow to import, so each is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from musicgen import formats
from musicgen.errors import InvalidValue
from musicgen.files import refuse_existing, write_atomically
from musicgen.music.accompaniment import split_accompaniment
from musicgen.music.score import Score
from musicgen.render.timeline import with_program

if TYPE_CHECKING:
    from musicgen.sampling.recipe import Recipe
    from musicgen.sampling.surprisal import Surprise
    from musicgen.similarity.overlap_report import Receipt

View = Literal["score", "roll"]


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What to render; each kind of file uses the options that apply to it."""

    view: View = "score"
    count_in: bool = False
    recipe: Recipe | None = None
    receipt: Receipt | None = None
    surprise: Surprise | None = None


def _render_wav(score: Score, options: RenderOptions) -> bytes:
    from musicgen.render.synth import render_wav

    return render_wav(score, count_in=options.count_in)


def _render_svg(score: Score, options: RenderOptions) -> bytes:
    if options.view == "roll":
        from musicgen.render.piano_roll import draw_pianoroll_svg

        return draw_pianoroll_svg(score).encode()
    from musicgen.notation.score_images import engrave

    return engrave(score).encode()


def _render_png(score: Score, options: RenderOptions) -> bytes:
    if options.view == "roll":
        from musicgen.render.piano_roll import draw_pianoroll_png

        return draw_pianoroll_png(score)
    from musicgen.notation.score_images import engrave_png

    return engrave_png(score)


def _render_html(score: Score, options: RenderOptions) -> bytes:
    from musicgen.render.html_page import render_page

    return render_page(
        score, recipe=options.recipe, receipt=options.receipt, surprise=options.surprise
    ).encode()


RENDERERS: Final[Mapping[str, Callable[[Score, RenderOptions], bytes]]] = {
    ".wav": _render_wav,
    ".svg": _render_svg,
    ".png": _render_png,
    ".html": _render_html,
}
PICTURE_SUFFIXES: Final = (".svg", ".png")  # take `view`
NOTATION_SUFFIXES: Final = (".abc", ".musicxml", ".xml")  # need bars, as pictures of the score do
SOUND_SUFFIXES: Final = (".wav",)  # take `count_in`
PAGE_SUFFIXES: Final = (".html",)  # take `recipe`, `receipt` and `surprise`
PLAYED_SUFFIXES: Final = (".mid", ".midi", *SOUND_SUFFIXES, *PAGE_SUFFIXES)  # have accompaniment
WRITABLE: Final = (*formats.WRITABLE_SUFFIXES, *RENDERERS)


def write(
    score: Score,
    path: str | Path,
    *,
    view: View = "score",
    program: int | None = None,
    count_in: bool = False,
    force: bool = False,
    remarks: Sequence[str] = (),
    recipe: Recipe | None = None,
    receipt: Receipt | None = None,
    surprise: Surprise | None = None,
) -> None:
    """Write a score atomically, in the format that the suffix names.

    Args:
        score: the music; notation and pictures leave out its accompaniment.
        path: the file; its suffix is one of WRITABLE.
        view: what pictures show, the engraved score or the piano roll.
        program: one General MIDI program, 0..127, for all parts except drums.
        count_in: start sound with clicks.
        force: overwrite an existing file.
        remarks: texts stored with the notes, in formats that support them.
        recipe: shown and stored in a page.
        receipt: shown in a page.
        surprise: shown in a page.

    Raises:
        InvalidValue: the suffix is unknown.
        Refusal: the score cannot be played or drawn.
        OutputExists, NotFound, WriteFailed: as `files.write_atomically` raises them.
    """
    path = Path(path)
    check_suffix(path)
    score = score if program is None else with_program(score, program)
    if path.suffix.lower() not in PLAYED_SUFFIXES:
        score, _ = split_accompaniment(score)
    render = RENDERERS.get(path.suffix.lower())
    if render is None:
        formats.write(score, path, force=force, remarks=remarks)
        return
    refuse_existing([path], force=force)
    options = RenderOptions(view, count_in, recipe, receipt, surprise)
    write_atomically(path, render(score, options), force=force)


def check_has_bars(score: Score, path: Path, view: View = "score") -> None:
    """Check that a score has the bars that a file would show.

    Raises:
        InvalidValue: the score has no bars, or bars that cannot be engraved.
    """
    from musicgen.notation.engraving import check_bars, check_engravable

    suffix = path.suffix.lower()
    if suffix in NOTATION_SUFFIXES or (suffix in PICTURE_SUFFIXES and view == "score"):
        try:
            (check_engravable if suffix in PICTURE_SUFFIXES else check_bars)(score)
        except InvalidValue as fault:
            raise InvalidValue(f"{path}: {fault}") from fault


def check_suffix(path: Path, suffixes: Iterable[str] = WRITABLE) -> None:
    """Check that a file has one of the suffixes.

    Raises:
        InvalidValue: it has another suffix.
    """
    allowed = tuple(suffixes)
    if path.suffix.lower() not in allowed:
        raise InvalidValue(f"{path}: write one of {', '.join(allowed)}")
