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
from musicgen.files import refuse_existing, write_whole
from musicgen.music.score import Score
from musicgen.render.timeline import with_program

if TYPE_CHECKING:
    from musicgen.sampling.recipe import Recipe
    from musicgen.sampling.surprisal import Surprise
    from musicgen.similarity.overlap_report import Receipt

View = Literal["score", "roll"]
VIEWS: Final[tuple[View, ...]] = ("score", "roll")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a score is to be shown or heard; each kind of file takes what it can show."""

    view: View = "score"
    count_in: bool = False
    recipe: Recipe | None = None
    receipt: Receipt | None = None
    surprise: Surprise | None = None


def _wav(score: Score, wanted: Wanted) -> bytes:
    from musicgen.render.synth import wav

    return wav(score, count_in=wanted.count_in)


def _svg(score: Score, wanted: Wanted) -> bytes:
    if wanted.view == "roll":
        from musicgen.render.piano_roll import pianoroll_svg

        return pianoroll_svg(score).encode()
    from musicgen.notation.score_images import engrave

    return engrave(score).encode()


def _png(score: Score, wanted: Wanted) -> bytes:
    if wanted.view == "roll":
        from musicgen.render.piano_roll import pianoroll_png

        return pianoroll_png(score)
    from musicgen.notation.score_images import engrave_png

    return engrave_png(score)


def _html(score: Score, wanted: Wanted) -> bytes:
    from musicgen.render.html_page import page

    return page(
        score, recipe=wanted.recipe, receipt=wanted.receipt, surprise=wanted.surprise
    ).encode()


RENDERED: Final[Mapping[str, Callable[[Score, Wanted], bytes]]] = {
    ".wav": _wav,
    ".svg": _svg,
    ".png": _png,
    ".html": _html,
}
PICTURES: Final = (".svg", ".png")  # which have views
NOTATION: Final = (".abc", ".musicxml", ".xml")  # which need bars; pictures of the score do too
SOUNDS: Final = (".wav",)  # which have a count-in
PAGES: Final = (".html",)  # which show a recipe, a receipt, a surprise
WRITABLE: Final = (*formats.WRITABLE, *RENDERED)


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
    render = RENDERED.get(path.suffix.lower())
    if render is None:
        formats.write(score, path, force=force, remarks=remarks)
        return
    refuse_existing([path], force=force)
    wanted = Wanted(view, count_in, recipe, receipt, surprise)
    write_whole(path, render(score, wanted), force=force)


def check_has_bars(score: Score, path: Path, view: View = "score") -> None:
    """Raise InvalidValue where a file would show bars that a score does not have."""
    from musicgen.notation.engraving import check_bars, check_engravable

    suffix = path.suffix.lower()
    if suffix in NOTATION or (suffix in PICTURES and view == "score"):
        try:
            (check_engravable if suffix in PICTURES else check_bars)(score)
        except InvalidValue as fault:
            raise InvalidValue(f"{path}: {fault}") from fault


def check_suffix(path: Path, suffixes: Iterable[str] = WRITABLE) -> None:
    """Raise InvalidValue where a name has none of the suffixes."""
    known = tuple(suffixes)
    if path.suffix.lower() not in known:
        raise InvalidValue(f"{path}: write one of {', '.join(known)}")
