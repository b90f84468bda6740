"""The `musicgen` command."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # One tune is matrix times vector, which is as fast as memory is read: two threads read it best.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    from musicgen.cli import commands

    commands()


if __name__ == "__main__":
    main()
