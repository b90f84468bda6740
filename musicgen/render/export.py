"""A score to a file of any kind, by its suffix: what `formats` writes, and sound, pictures, a page.

One table says what each suffix is. What draws and plays is slow to import, so that each is imported
when a file of its kind is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from musicgen import formats
from musicgen.errors import InvalidValue
from musicgen.files import refuse_existing, write_atomically
from musicgen.music.score import Score
from musicgen.render.timeline import with_program

if TYPE_CHECKING:
    from musicgen.sampling.recipe import Recipe
    from musicgen.sampling.surprisal import Surprise
    from musicgen.similarity.overlap_report import Receipt

View = Literal["score", "roll"]
VIEWS: Final[tuple[View, ...]] = ("score", "roll")


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a score is to be shown or heard; each kind of file takes what it can show."""

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
PICTURE_SUFFIXES: Final = (".svg", ".png")  # which have views
NOTATION_SUFFIXES: Final = (
    ".abc",
    ".musicxml",
    ".xml",
)  # which need bars; pictures of the score do too
SOUND_SUFFIXES: Final = (".wav",)  # which have a count-in
PAGE_SUFFIXES: Final = (".html",)  # which show a recipe, a receipt, a surprise
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
    """Write a score as what the suffix says, whole or not at all.

    program: the instrument of all parts but drums. remarks: texts that travel with the notes where
    the format has room. Raises InvalidValue for a suffix that is unknown, Refusal for a score that
    cannot be heard or drawn, and what `files.write_whole` raises.
    """
    path = Path(path)
    check_suffix(path)
    score = score if program is None else with_program(score, program)
    render = RENDERERS.get(path.suffix.lower())
    if render is None:
        formats.write(score, path, force=force, remarks=remarks)
        return
    refuse_existing([path], force=force)
    wanted = RenderOptions(view, count_in, recipe, receipt, surprise)
    write_atomically(path, render(score, wanted), force=force)


def check_has_bars(score: Score, path: Path, view: View = "score") -> None:
    """Raise InvalidValue where a file would show bars that a score does not have."""
    from musicgen.notation.engraving import check_bars, check_engravable

    suffix = path.suffix.lower()
    if suffix in NOTATION_SUFFIXES or (suffix in PICTURE_SUFFIXES and view == "score"):
        try:
            (check_engravable if suffix in PICTURE_SUFFIXES else check_bars)(score)
        except InvalidValue as fault:
            raise InvalidValue(f"{path}: {fault}") from fault


def check_suffix(path: Path, suffixes: Iterable[str] = WRITABLE) -> None:
    """Raise InvalidValue where a name has none of the suffixes."""
    known = tuple(suffixes)
    if path.suffix.lower() not in known:
        raise InvalidValue(f"{path}: write one of {', '.join(known)}")
