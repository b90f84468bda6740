"""A generated tune: its notes, its recipe, and how it is written to a file.

model = musicgen.load("folk")
tune = model.sample(key="Dmix", bars=32, seed=7)
tune.write("song.mid")

A recipe is inside the file, or in a sidecar file where the format has no room for it:
`song.txt` has its recipe in `song.txt.recipe.json`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from musicgen import formats
from musicgen.checkpoint import Checkpoint
from musicgen.errors import InvalidValue, MusicgenError, OutputExists, escape_unprintable
from musicgen.files import is_file, read_regular_file, refuse_existing, write_atomically
from musicgen.music.accompaniment import accompany
from musicgen.music.bars import count_heard_bars
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import Part, Score
from musicgen.render import export
from musicgen.sampling.kept_bars import KeepText
from musicgen.sampling.recipe import GenerationRequest, Recipe, join_recipe_remarks
from musicgen.sampling.surprisal import Surprise
from musicgen.similarity.overlap_report import Receipt
from musicgen.tokens.codec import AnyCodec

if TYPE_CHECKING:
    import pretty_midi


_MAX_RECIPE: Final = 2**21  # bytes of a sidecar file


def supports_metadata(suffix: str) -> bool:
    """Return whether files of a suffix contain their recipe."""
    return formats.supports_remarks(suffix) or suffix.lower() in export.PAGE_SUFFIXES


def sidecar_path(path: Path) -> Path:
    """Return the path of a tune file's sidecar file."""
    return path.with_name(f"{path.name}.recipe.json")


def is_recipe(path: Path) -> bool:
    """Return whether a regular file, not a link to one, contains nothing but a recipe."""
    try:
        text = read_regular_file(path, limit=_MAX_RECIPE, follow=False).decode().strip()
        Recipe.from_text(text)
    except (MusicgenError, UnicodeDecodeError):
        return False
    return True


def refuse_non_recipe(path: Path) -> None:
    """Check that a sidecar path is free or holds a recipe, which may be replaced.

    Raises:
        OutputExists: the file is something else.
    """
    if os.path.lexists(path) and not is_recipe(path):
        raise OutputExists(
            f"{path} exists and is not a recipe; move it away or choose another name"
        )


def read_recipe_text(path: Path) -> str | None:
    """Read the recipe of a tune file, as text that is not yet parsed; None without one."""
    sidecar = sidecar_path(path)
    if is_file(sidecar):
        return read_regular_file(sidecar, limit=_MAX_RECIPE).decode("utf-8", "replace").strip()
    if path.suffix.lower() in export.PAGE_SUFFIXES:
        from musicgen.render.html_page import read_page_recipe  # slow to import

        return read_page_recipe(read_regular_file(path))
    return join_recipe_remarks(formats.read_remarks(path))


_MAX_TITLE_LENGTH: Final = 80  # characters of a title in a line


class TuneModel(Protocol):
    """What a tune uses of the model that generated it; `Model` of musicgen.trained_model has it."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Weights, settings and manifest."""

    @property
    def codec(self) -> AnyCodec:
        """The codec of its token ids."""

    @property
    def has_index(self) -> bool:
        """Whether it has an index of its training tunes."""

    @property
    def writable(self) -> tuple[str, ...]:
        """The suffixes of the files that its tunes can be written to."""

    def make_receipt(self, score: Score) -> Receipt:
        """Compare a score with the training tunes."""

    def measure_surprise(self, piece: Score | str) -> Surprise:
        """Measure the bits of each note."""

    def make_variant(
        self,
        request: GenerationRequest,
        *,
        keep: KeepText | None = None,
        candidates: int | None = None,
        **changes: Any,
    ) -> Tune:
        """Generate a variant of the tune of a request."""


@dataclass(frozen=True, repr=False)
class Tune:
    """A tune that a model generated, with the recipe that generates it again."""

    score: Score
    recipe: Recipe
    model: TuneModel = field(repr=False, compare=False)
    text: str | None = None  # the output of a text model; its score is empty
    messages: tuple[str, ...] = ()  # for the user: changes of a primer, weights of candidates

    def __repr__(self) -> str:
        """Return title, size, model and seed in one line."""
        model_name = self.recipe.model
        model = f"{model_name.name[:_MAX_TITLE_LENGTH]} {model_name.version}"
        return escape_unprintable(
            f"<Tune {self.summary}; {model}, seed {self.seed}, number {self.number + 1}>"
        )

    def _repr_html_(self) -> str:
        """Return score and player for a notebook; the player alone for a codec without bars."""
        from musicgen.render import html_page  # slow to import

        if self.text is not None:
            return html_page.quote_text(self.text)
        if not self.model.codec.has_bars:
            return html_page.embed_sound(self.summary, self.score)
        page = html_page.render_page(
            self.played_score, recipe=self.recipe, receipt=self.receipt, surprise=self.surprise
        )
        return html_page.frame_page(self.score.title, page)

    @property
    def summary(self) -> str:
        """Title and size: meter and bars, or the number of notes or characters."""
        if self.text is not None:
            return _format_count(len(self.text), "character")
        title = self.score.title[:_MAX_TITLE_LENGTH]
        if not self.model.codec.has_bars:
            return f"{title}; {_format_count(len(self.score.notes), 'note')}"
        return f"{title}; {self.score.meter}, {_format_count(self.bars, 'bar')}"

    @property
    def seed(self) -> int:
        """The random seed."""
        return self.recipe.request.seed

    @property
    def number(self) -> int:
        """Index among the tunes of the same seed, from 0."""
        return self.recipe.request.number

    @property
    def codec(self) -> str:
        """Name of the model's codec."""
        return self.model.codec.name

    @property
    def bars(self) -> int:
        """Number of bars as heard, repeats included."""
        return count_heard_bars(self.score)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts: their names, instruments and roles."""
        return self.score.parts

    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Write the tune and its recipe, in the format of the suffix.

        A format without room for the recipe gets a sidecar file, `PATH.recipe.json`. A page (.html)
        shows the receipt and the surprise of each note as well. A picture of a performance, which
        has no bars, is its piano roll.

        Args:
            path: the file; its suffix chooses the format.
            force: replace existing files.

        Raises:
            OutputExists: the file exists, or a sidecar file that is not a recipe.
            NotFound: the folder does not exist.
            InvalidValue: no format has the suffix.
            Refusal: the format cannot express the tune.
            WriteFailed: the file system reports an error.
        """
        path = Path(path)
        sidecars = () if supports_metadata(path.suffix) else (sidecar_path(path),)
        refuse_existing([path, *sidecars], force=force)
        for sidecar in sidecars:
            refuse_non_recipe(sidecar)
        if self.text is None:
            is_page = path.suffix.lower() in export.PAGE_SUFFIXES
            export.write(
                self.played_score,
                path,
                view="roll" if is_performance(self.score) else "score",
                force=force,
                remarks=tuple(self.recipe.remarks()),
                recipe=self.recipe,
                receipt=self.receipt if is_page else None,
                surprise=self.surprise if is_page else None,
            )
        else:
            write_atomically(path, f"{self.text}\n".encode(), force=force)
        for sidecar in sidecars:
            write_atomically(sidecar, f"{self.recipe.to_text()}\n".encode(), force=force)

    @cached_property
    def played_score(self) -> Score:
        """The score with the accompaniment of its recipe, as sound, MIDI and the page have it."""
        return accompany(self.score, self.recipe.request.options.accompaniment)

    @cached_property
    def receipt(self) -> Receipt | None:
        """The overlap with the training tunes; None for text, or a model without an index."""
        if self.text is not None or not self.model.has_index:
            return None
        return self.model.make_receipt(self.score)

    @cached_property
    def surprise(self) -> Surprise:
        """The bits of each note under the model."""
        return self.model.measure_surprise(self.score if self.text is None else self.text)

    def check_copies(self) -> None:
        """Check that kept bars or a primer do not copy more than the option max_copy allows.

        Raises:
            InvalidValue: the longest run shared with a training tune is longer.
        """
        limit = self.recipe.request.options.max_copy
        if limit is None or self.receipt is None:
            return
        longest = self.receipt.longest
        if longest is not None and longest.notes > limit:
            raise InvalidValue(
                f"max-copy {limit}: what is kept of a tune, or its primer, shares {longest.notes}"
                f" notes with {longest.label}; ask for as many, or keep less"
            )

    def tweak(
        self, *, keep: KeepText | None = None, candidates: int | None = None, **changes: Any
    ) -> Tune:
        """Generate a variant: what is not changed stays, and no change gives the same tune.

        Args:
            keep: bars to keep as they are written, such as "1-8,13-16", and parts, such as
                "melody:1-8,drums" or {"melody": "1-8", "drums": "all"}; all else is drawn again.
            candidates: number of candidates for each stretch that is drawn again; None: 24 for a
                tune of one part, else 1.
            changes: sampling options by name, and `seed`.

        Raises:
            InvalidValue: an option is unknown or not valid, or cannot change here.
        """
        return self.model.make_variant(
            self.recipe.request, keep=keep, candidates=candidates, **changes
        )

    def to_pretty_midi(self) -> pretty_midi.PrettyMIDI:
        """Return the sounding notes as a `pretty_midi` object."""
        return formats.midi.to_pretty_midi(self.played_score)


def _format_count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
