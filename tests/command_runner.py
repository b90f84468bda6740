"""Run commands in this process and check their results."""

from __future__ import annotations

from click.testing import CliRunner, Result

from musicgen.cli import commands


def run(*args: str) -> Result:
    """Run `musicgen` with arguments."""
    return CliRunner().invoke(commands, list(args))


def run_ok(*args: str) -> str:
    """Run a command that must succeed and return its output."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def assert_refused(result: Result, code: int, message: str) -> None:
    """Check that a command failed with an exit code and one line that contains a message."""
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1
