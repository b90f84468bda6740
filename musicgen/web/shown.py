"""What is shown and handed out of a tune."""

from __future__ import annotations

from typing import Any

from musicgen import formats
from musicgen.errors import NotFound
from musicgen.listen.view import view
from musicgen.listen.writing import RENDERED, Wanted
from musicgen.tune import Tune


def shown(tune: Tune) -> dict[str, Any]:
    """Return everything that a page shows of a tune."""
    return view(tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)


def file_of(tune: Tune, suffix: str) -> bytes:
    """Return the bytes of a tune's file, with its recipe where there is room for it."""
    if render := RENDERED.get(f".{suffix}"):
        wanted = Wanted(recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)
        return render(tune.score, wanted)
    form = formats.BY_SUFFIX.get(f".{suffix}")
    if form is None or form.render is None:
        raise NotFound(f"a tune has no file of the kind {suffix[:20]!r}")
    return form.render(tune.score, tuple(tune.recipe.remarks()))
