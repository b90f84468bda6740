"""Variants of tune files: the work of `musicgen tweak`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from musicgen import formats
from musicgen.errors import InvalidValue
from musicgen.files import read_regular_file
from musicgen.music.roles import has_described_parts
from musicgen.music.score import Score
from musicgen.render import export
from musicgen.sampling.given_parts import GivenParts
from musicgen.sampling.kept_bars import KeepRequest, KeepText
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.primer import Primer
from musicgen.sampling.recipe import GenerationRequest, Recipe, hash_notes, hash_text
from musicgen.trained_model import Model, load, load_named, read_first_tune
from musicgen.tune import Tune, read_recipe_text, sidecar_path

_MAX_TEXT: Final = 2**24  # bytes of a text model's file
_SHAPE_OPTIONS: Final = ("form", "pickup", "bars", "min_bars", "range", "meter", "key")


def tweak(
    file: str | Path,
    model: str | Path | None = None,
    *,
    keep: KeepText | None = None,
    candidates: int | None = None,
    **changes: Any,
) -> Tune:
    """Generate a variant of a file that musicgen wrote; without changes, the same tune.

    The notes of an edited file become a primer; so do those of any file where bars are kept.

    Args:
        file: the file.
        model: name or folder of the model; None loads the one that the recipe names.
        keep: bars to keep as they are written, such as "1-8,13-16", and parts, such as
            "melody:1-8,drums"; all else is drawn again.
        candidates: number of candidates for each stretch that is drawn again; None: 24 for a tune
            of one part, else 1.
        changes: sampling options by name, and `seed`.

    Raises:
        InvalidValue: the file has no recipe, or an option is not valid.
        Mismatch: another model generated the file.
    """
    path = Path(file)
    text = read_recipe_text(path)
    if text is None and keep is None:
        raise InvalidValue(
            f"{path}: it has no recipe, so musicgen did not write it; start from its notes with"
            " musicgen sample --primer, or keep some of its bars with --keep"
        )
    recipe = None if text is None else Recipe.from_text(text)
    loaded = load_named(recipe.model.name) if recipe and not model else load(model or "folk")
    if recipe is not None:
        recipe.check(loaded.name, str(path))
        if not _is_edited(path, recipe):
            return loaded.make_variant(recipe.request, keep=keep, candidates=candidates, **changes)
    return _tweak_from_notes(loaded, path, recipe, keep, candidates, changes)


def _tweak_from_notes(
    model: Model,
    path: Path,
    recipe: Recipe | None,
    keep: KeepText | None,
    candidates: int | None,
    changes: dict[str, Any],
) -> Tune:
    """Generate a variant of a file's notes, regardless of the shape in its recipe."""
    request = recipe.request if recipe else GenerationRequest(SamplingOptions(), 0)
    unset: dict[str, Any] = dict.fromkeys(_SHAPE_OPTIONS)
    free_options = replace(request.options, **unset)
    free_request = replace(request, options=free_options, drawn=None, keep=None, given=None)
    reason = "its notes were edited since it was written" if recipe else "musicgen did not write it"
    score = read_first_tune(path)
    if keep is not None and has_described_parts(score.parts) and len(score.parts) > 1:
        return _tweak_parts(
            model, free_request, score, f"{path}: {reason}", keep, candidates, changes
        )
    primed = model.add_primer(free_request, path)
    primer_changes = primed.primer.changes if primed.primer else ()
    if isinstance(primed.primer, Primer):
        bars = max(primed.primer.bar_count, request.options.heard_bars or 0)
        primed = replace(primed, options=replace(free_options, bars=bars))
    tune = model.make_variant(primed, keep=keep, candidates=candidates, **changes)
    message = f"{path}: {reason}; its notes are taken as a primer"
    return replace(tune, messages=(message, *primer_changes, *tune.messages))


def _tweak_parts(
    model: Model,
    request: GenerationRequest,
    score: Score,
    message: str,
    keep: KeepText,
    candidates: int | None,
    changes: dict[str, Any],
) -> Tune:
    """Generate a variant of a file of several parts, of which some bars stay."""
    given = GivenParts.of_whole_score(score, KeepRequest.parse(keep), "the file")
    given = given if candidates is None else replace(given, candidates=candidates)
    options = replace(request.options, parts=None, parts_from=None, program=0)
    tune = model.make_variant(replace(request, options=options, given=given), **changes)
    return replace(tune, messages=(f"{message}; its notes are taken", *tune.messages))


def _is_edited(path: Path, recipe: Recipe) -> bool:
    """Return whether a file's notes differ from those that its recipe generated."""
    suffix = path.suffix.lower()
    if suffix in export.RENDERERS:
        return False  # sound and pictures are not edited
    if suffix not in formats.READABLE_SUFFIXES or _is_model_text(suffix, path):
        text = read_regular_file(path, limit=_MAX_TEXT).decode("utf-8", "replace")
        return hash_text(text.removesuffix("\n")) != recipe.notes_hash
    return hash_notes(read_first_tune(path)) != recipe.notes_hash


def _is_model_text(suffix: str, path: Path) -> bool:
    """Return whether a text model wrote a file: only then does an .abc file have a sidecar."""
    return formats.supports_remarks(suffix) and sidecar_path(path).is_file()
