"""The command group: turns errors and Ctrl-C into one line and an exit code.

Each command is a module, which parses options, makes one call and prints.

A command's module is imported only when the command is used, so `--help` and `sample` start fast.
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

# Command -> one-line summary. The command's module and function have the same name.
COMMANDS: Final = {
    "sample": "Generate new tunes.",
    "tweak": "Write a variant of a generated tune.",
    "render": "Convert a tune to audio, sheet music, a piano roll, a web page or another format.",
    "serve": "Open the playground in a browser.",
    "origin": "Compare a tune with the training tunes of a model.",
    "train": "Train a model on your tunes, or on the tunes included in music21.",
    "evaluate": "Compare the tunes of a model or a folder with real ones.",
    "compare": "Compare sequence models, from a fixed window to the LSTM.",
    "corpus": "List and check corpora, and build data sets from them.",
}
INTERRUPTED_EXIT_CODE: Final = 130


class Failure(click.ClickException):
    """An error that click prints on one line before it exits with the error's code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Convert usage errors, our own errors and system errors to `Failure`."""
    try:
        yield
    except MusicgenError as error:
        raise Failure(str(error), error.exit_code) from error
    except click.exceptions.NoArgsIsHelpError:
        raise  # carries the help text
    except click.UsageError as error:
        raise Failure(_format_usage_error(error), error.exit_code) from error
    except KeyboardInterrupt as error:
        raise Failure("interrupted", INTERRUPTED_EXIT_CODE) from error
    except MemoryError as error:
        raise Failure("out of memory; no partial file was left", 1) from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # the reader of the pipe is gone: click exits silently
        message = MusicgenError(f"{error.filename or 'system'}: {error.strerror or error}")
        raise Failure(str(message), 1) from error


def _format_usage_error(error: click.UsageError) -> str:
    """Format a usage error as one line that names the command whose help to read.

    Control characters of the arguments are escaped.
    """
    message = " ".join(error.format_message().split()).removesuffix(".").replace(". (", " (")
    command = error.ctx.command_path if error.ctx else "musicgen"
    return str(MusicgenError(f"{message}; see {command} --help"))


class SuggestingGroup(click.Group):
    """A group that suggests the nearest command for a misspelt one, with any version of click."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names, or suggest the nearest one."""
        name = args[0]
        nearest = get_close_matches(name[:40], self.list_commands(ctx), n=1)
        if nearest and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            raise click.UsageError(f"No such command {name!r} (did you mean {nearest[0]!r}?)", ctx)
        return super().resolve_command(ctx, args)


class LazyCommandGroup(SuggestingGroup):
    """A group that imports commands when they are used and prints errors on one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"musicgen.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options before the command's name."""
        with _translate_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command line."""
        with _translate_errors():
            return super().invoke(ctx)


@click.group(cls=LazyCommandGroup)
@click.version_option(package_name="musicgen", prog_name="musicgen")
def commands() -> None:
    """Train models on folders of tunes and generate new tunes.

    \b
    musicgen sample --out song.mid          generate a tune with the included model
    musicgen train mytunes/ --name mine     train a model on your own tunes
    musicgen sample --model mine --out song.abc
    """  # noqa: D301 - click reads the backspace character
