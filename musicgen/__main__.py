"""The `musicgen` command."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # One tune is matrix times vector: a second BLAS thread costs more to wake than it saves.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from musicgen.cli import commands

    commands()


if __name__ == "__main__":
    main()
