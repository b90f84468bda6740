"""The `musicgen` command."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # Sampling one tune is memory-bound matrix-vector products: two threads are fastest.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    from musicgen.cli import commands

    commands()


if __name__ == "__main__":
    main()
