"""Build the source distribution from the files that git tracks, and no others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ALWAYS = ("pyproject.toml",)  # the builder includes it by itself


class TrackedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Hatch build hook that adds the tracked files; the builder includes no others."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Include each tracked file under its own name."""
        del version
        for name in list_tracked_files(Path(self.root)):
            build_data["force_include"][str(Path(self.root, name))] = name


def list_tracked_files(root: Path) -> list[str]:
    """Return the existing tracked files, relative to the root."""
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z"]
    try:
        output = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as fault:
        raise RuntimeError(
            "a source distribution can only be built in a git clone: it holds what git tracks"
        ) from fault
    names = (name for name in output.decode().split("\0") if name and name not in ALWAYS)
    return [name for name in names if (root / name).is_file()]
