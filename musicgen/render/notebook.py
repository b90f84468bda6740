"""A tune as a notebook shows it: the page of one file in a frame, or sound where there are no bars.

The frame has an origin of its own (`sandbox`), so that what it runs reaches nothing of the
notebook; all that a tune says of itself is escaped twice, in the page and in the frame's attribute.
"""

from __future__ import annotations

import base64
from html import escape
from typing import Final

from musicgen.errors import escape_unprintable
from musicgen.music.score import Score
from musicgen.render.synth import render_wav

HEIGHT: Final = 640  # pixels of the frame
SANDBOX: Final = "allow-scripts allow-downloads"


def frame_page(title: str, page_html: str) -> str:
    """Put a page of one file into a frame."""
    return (
        f'<iframe title="{escape(escape_unprintable(title))}" srcdoc="{escape(page_html)}"'
        f' sandbox="{SANDBOX}" style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
    )


def embed_sound(summary: str, score: Score) -> str:
    """Return a player of a score's sound, under a line of text."""
    sound = base64.b64encode(render_wav(score)).decode()
    words = escape(escape_unprintable(summary))
    return f'<p>{words}</p><audio controls src="data:audio/wav;base64,{sound}"></audio>'


def quote_text(text: str) -> str:
    """Return a text as it is written, line by line."""
    return f"<pre>{escape(chr(10).join(map(escape_unprintable, text.splitlines())))}</pre>"
