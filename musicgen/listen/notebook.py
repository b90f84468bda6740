"""A tune as a notebook shows it: the page of one file in a frame, or sound where there are no bars.

The frame has an origin of its own (`sandbox`), so that what it runs reaches nothing of the
notebook; all that a tune says of itself is escaped twice, in the page and in the frame's attribute.
"""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Final

from musicgen.errors import printable
from musicgen.listen.audio import wav
from musicgen.listen.page import page

if TYPE_CHECKING:
    from musicgen.tune import Tune

HEIGHT: Final = 640  # pixels of the frame
SANDBOX: Final = "allow-scripts allow-downloads"


def render_tune(tune: Tune) -> str:
    """Return a tune as HTML that needs nothing from outside."""
    if tune.text is not None:
        lines = (escape(printable(line)) for line in tune.text.splitlines())
        return f"<pre>{chr(10).join(lines)}</pre>"
    if tune.codec != "measures":
        return render_sound(tune)
    whole = page(tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)
    return (
        f'<iframe title="{escape(printable(tune.score.title))}" srcdoc="{escape(whole)}"'
        f' sandbox="{SANDBOX}" style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
    )


def render_sound(tune: Tune) -> str:
    """Return a tune without bars as a player of its sound."""
    sound = base64.b64encode(wav(tune.score)).decode()
    words = escape(printable(tune.summary))
    return f'<p>{words}</p><audio controls src="data:audio/wav;base64,{sound}"></audio>'
