"""What is shown and handed out of a tune."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from musicgen import formats
from musicgen.errors import NotFound
from musicgen.formats import abc, midi
from musicgen.listen.timeline import bars_heard, timeline
from musicgen.tune import Tune

SUFFIXES: Final = ("mid", "abc", "musicxml", "wav", "svg", "png", "html")


def shown(tune: Tune) -> dict[str, Any]:
    """Return everything that a page shows of a tune."""
    score = tune.score
    sounds = timeline(score)
    surprise = tune.surprise
    return {
        "title": score.title, "rhythm": score.rhythm, "key": str(score.key),
        "meter": str(score.meter), "qpm": score.qpm,
        "seconds": max((s.start + s.length for s in sounds), default=0.0),
        "bars": tune.bars, "svg": "",
        "sounds": [[s.start, s.length, s.pitch, s.velocity, s.part, s.note, s.bar] for s in sounds],
        "heard": list(bars_heard(score)), "programs": [part.program for part in score.parts],
        "recipe": json.loads(json.dumps(tune.recipe.order.to_json())),
        "receipt": tune.receipt.to_json() if tune.receipt else None,
        "surprise": {
            "notes": [note.bits for note in surprise.notes],
            "bits_per_note": surprise.bits_per_note,
        },
        "abc": abc.render(score), "midi": base64.b64encode(midi.render(score)).decode(),
    }  # fmt: skip


def file_of(tune: Tune, suffix: str) -> bytes:
    """Return the bytes of a tune's file, with its recipe where there is room for it."""
    form = formats.BY_SUFFIX.get(f".{suffix}")
    if form is None or form.render is None:
        raise NotFound(f"a tune has no file {suffix[:20]!r}")
    return form.render(tune.score, tuple(tune.recipe.remarks()))
