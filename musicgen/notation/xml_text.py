"""Texts of a tune in XML, which no text of a tune may write."""

from __future__ import annotations

from typing import Final

MAX_SHOWN_TEXT: Final = 200  # characters of a title or a name that are shown
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_ESCAPES: Final = str.maketrans(_ENTITIES)


def escape_xml(text: str, max_length: int = MAX_SHOWN_TEXT) -> str:
    """Return what is visible of a text, on one line: no control byte, no markup."""
    spaced = (" " if char.isspace() else char for char in text[: 4 * max_length])
    visible = "".join(char for char in spaced if char.isprintable()).strip()
    return visible[:max_length].translate(_ESCAPES)


def unescape_xml(text: str) -> str:
    """Return the text that was escaped."""
    for char, entity in reversed(_ENTITIES.items()):
        text = text.replace(entity, char)
    return text
