"""What the commands of the published benchmarks share: their options, and one line for an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from musicgen.errors import MusicgenError

Result = TypeVar("Result")
TOY_CHANGES = {"hidden": "16", "tokens": "8000"}  # of a recipe, for --toy


def make_parser(description: str | None, file_help: str) -> argparse.ArgumentParser:
    """Make a parser of the options that all benchmarks have.

    Args:
        description: the docstring of the command's module; its first line is shown.
        file_help: what the file is.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help=file_help)
    parser.add_argument("--score", type=Path, help="score with the weights of this folder")
    parser.add_argument("--out", type=Path, help="a new folder for the weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE of the recipe to change")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--toy", action="store_true", help="made-up data and tiny sizes")
    return parser


def run_command(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], Result]
) -> tuple[argparse.Namespace, Result]:
    """Parse the arguments and run a command; exit with one line where it fails."""
    arguments = parser.parse_args()
    if not arguments.toy and arguments.file is None:
        parser.error("name a file")
    torch.set_num_threads(arguments.threads)
    try:
        return arguments, run(arguments)
    except MusicgenError as fault:
        print(fault, file=sys.stderr)
        sys.exit(fault.exit_code)


def read_changes(arguments: argparse.Namespace) -> Mapping[str, str]:
    """Return the changes of the recipe that the arguments ask for."""
    changes = dict(change.partition("=")[::2] for change in arguments.set)
    toy_changes = TOY_CHANGES if arguments.toy else {}
    return {**toy_changes, **changes, "seed": str(arguments.seed)}
