"""The command line: one file a command; each parses, makes one call and prints.

A command's file is imported when it is used, so that `--help` and `sample` start at once.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final

import click

from musicgen.errors import MusicgenError

# command -> what it does, in one line; its file and function have its name
COMMANDS: Final = {
    "sample": "Write new tunes.",
    "tweak": "Write a near variant of a tune that it wrote.",
    "render": "Turn a tune into sound, sheet music, a piano roll, a page or another file.",
    "serve": "Open the playground in a browser.",
    "origin": "Say what a tune shares with the tunes that a model learnt from.",
    "train": "Train a model on your tunes, or on the tunes that come with music21.",
    "compare": "Measure the ladder of sequence models, from a fixed window to the LSTM.",
    "corpus": "Look at corpora, and build data sets from them.",
}
INTERRUPTED_EXIT_CODE: Final = 130


class Failure(click.ClickException):
    """One of our own errors, as click prints it: one line, and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn whatever is refused, or fails as foreseen, into one line and its exit code."""
    try:
        yield
    except MusicgenError as error:
        raise Failure(str(error), error.exit_code) from error
    except click.exceptions.NoArgsIsHelpError:
        raise  # it is the help itself
    except click.UsageError as error:
        raise Failure(_format_usage_error(error), error.exit_code) from error
    except KeyboardInterrupt as error:
        raise Failure("interrupted", INTERRUPTED_EXIT_CODE) from error
    except MemoryError as error:
        raise Failure("not enough memory; nothing was half-written", 1) from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # nobody reads on: click ends in silence
        fault = MusicgenError(f"{error.filename or 'system'}: {error.strerror or error}")
        raise Failure(str(fault), 1) from error


def _format_usage_error(error: click.UsageError) -> str:
    """Say in one line what is wrong with the words that were typed, and where the right ones are.

    Words come from scripts and file names too: what could steer a terminal is written out.
    """
    fault = " ".join(error.format_message().split()).removesuffix(".").replace(". (", " (")
    command = error.ctx.command_path if error.ctx else "musicgen"
    return str(MusicgenError(f"{fault}; see {command} --help"))


class SuggestingGroup(click.Group):
    """Name the nearest command where one is misspelt, whichever version of click this is."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names."""
        name = args[0]
        nearest = get_close_matches(name[:40], self.list_commands(ctx), n=1)
        if nearest and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            raise click.UsageError(f"No such command {name!r} (did you mean {nearest[0]!r}?)", ctx)
        return super().resolve_command(ctx, args)


class LazyCommandGroup(SuggestingGroup):
    """Import commands when they are used; turn errors into one line and their exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name the commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"musicgen.cli.{cmd_name}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the words before the command's name."""
        with _translate_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command line."""
        with _translate_errors():
            return super().invoke(ctx)


@click.group(cls=LazyCommandGroup)
@click.version_option(package_name="musicgen", prog_name="musicgen")
def commands() -> None:
    """Learn from a folder of tunes and write new ones.

    \b
    musicgen sample --out song.mid          a new tune, at once
    musicgen train mytunes/ --name mine     a model of your own tunes
    musicgen sample --model mine --out song.abc
    """  # noqa: D301 - click wants the character itself
