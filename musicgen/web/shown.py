"""What is shown and handed out of a tune."""

from __future__ import annotations

import re
from typing import Any, Final

from musicgen import formats
from musicgen.errors import InvalidValue, NotFound
from musicgen.listen.timeline import duration
from musicgen.listen.view import view
from musicgen.listen.writing import RENDERED, Wanted
from musicgen.tune import Tune

MOST_SECONDS: Final = 600  # of sound that is handed out
_NO_NAME: Final = re.compile(r"[^a-z0-9]+")


def shown(tune: Tune) -> dict[str, Any]:
    """Return everything that a page shows of a tune."""
    return view(tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)


def file_of(tune: Tune, suffix: str) -> bytes:
    """Return the bytes of a tune's file, with its recipe where there is room for it."""
    if suffix == "wav" and duration(tune.score) > MOST_SECONDS:
        raise InvalidValue(f"wav: it lasts over {MOST_SECONDS // 60} minutes; write it with"
                           " musicgen render")  # fmt: skip
    if render := RENDERED.get(f".{suffix}"):
        wanted = Wanted(recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)
        return render(tune.score, wanted)
    form = formats.BY_SUFFIX.get(f".{suffix}")
    if form is None or form.render is None:
        raise NotFound(f"a tune has no file of the kind {suffix[:20]!r}")
    return form.render(tune.score, tuple(tune.recipe.remarks()))


def file_name(title: str) -> str:
    """Return a name for a download: letters, digits and hyphens of the title, "" without any."""
    return _NO_NAME.sub("-", title.lower())[:60].strip("-")
