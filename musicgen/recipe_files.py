"""Recipes of tune files: inside the file, or in a sidecar file where its format has no room.

`song.txt` has its recipe in `song.txt.recipe.json`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from musicgen import formats
from musicgen.errors import MusicgenError, OutputExists
from musicgen.files import is_file, read_regular_file
from musicgen.render import export
from musicgen.sampling.recipe import Recipe, join_recipe_remarks

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
