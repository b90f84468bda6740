"""Commands, run as a user types them."""

from __future__ import annotations

from click.testing import CliRunner, Result

from musicgen.cli import commands


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, list(words))


def done(*words: str) -> str:
    """Run a command that must succeed; return what it told."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.output


def refused(result: Result, code: int, words: str) -> None:
    """Check that a command failed with a code and one line that holds the words."""
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1
