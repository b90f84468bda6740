"""Escaping of the texts of a tune, which are untrusted, in XML."""

from __future__ import annotations

from typing import Final

MAX_SHOWN_TEXT: Final = 200  # characters of a title or name
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_ESCAPES: Final = str.maketrans(_ENTITIES)


def escape_xml(text: str, max_length: int = MAX_SHOWN_TEXT) -> str:
    """Escape markup, drop control characters and line breaks, and cut at max_length characters."""
    spaced = (" " if char.isspace() else char for char in text[: 4 * max_length])
    visible = "".join(char for char in spaced if char.isprintable()).strip()
    return visible[:max_length].translate(_ESCAPES)


def unescape_xml(text: str) -> str:
    """Undo `escape_xml` of a printable text."""
    for char, entity in reversed(_ENTITIES.items()):
        text = text.replace(entity, char)
    return text
