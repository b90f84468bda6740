"""Make the source distribution of what git tracks: nothing else of a working tree is published."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ALWAYS = ("pyproject.toml",)  # which the builder itself takes


class TrackedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Name the tracked files to the builder, which takes none by itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add each tracked file under its own name."""
        del version
        for name in tracked_files(Path(self.root)):
            build_data["force_include"][str(Path(self.root, name))] = name


def tracked_files(root: Path) -> list[str]:
    """Return the names of the tracked files that are there, relative to the root."""
    words = ["git", "-c", f"safe.directory={root}", "ls-files", "-z"]
    try:
        names = subprocess.run(words, cwd=root, capture_output=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as fault:
        raise RuntimeError(
            "a source distribution is made in a clone, of what git tracks"
        ) from fault
    files = (name for name in names.decode().split("\0") if name and name not in ALWAYS)
    return [name for name in files if (root / name).is_file()]
