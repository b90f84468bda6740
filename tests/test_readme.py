"""Run the commands and the Python of the README in order, in one folder, as a newcomer would."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.command_runner import run_ok

README: Final = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SKIPPED_COMMANDS: Final = (
    "serve",
    "train",
    "compare",
    "corpus",
    "evaluate",
)  # run for minutes or until stopped


def iter_blocks(language: str) -> Iterator[str]:
    """Yield the code blocks of a language, in order."""
    return (text for name, text in BLOCK.findall(README) if name == language)


def iter_commands() -> Iterator[list[str]]:
    """Yield the arguments of each `musicgen` command before the chapter on training."""
    chapter = README.index("## Train a model of your own")
    shell_blocks = [text for text in iter_blocks("sh") if README.index(text) < chapter]
    for line in "".join(shell_blocks).splitlines():
        for part in line.split(" && "):
            arguments = shlex.split(part, comments=True)
            if arguments[:1] == ["musicgen"] and arguments[1] not in SKIPPED_COMMANDS:
                yield arguments[1:]


def run_all(max_count: int | None) -> None:
    """Run the commands, then the Python; `max_count` limits --count, None leaves it."""
    commands = list(iter_commands())
    for arguments in commands:
        if max_count is not None and "--count" in arguments:
            arguments[arguments.index("--count") + 1] = str(max_count)
        run_ok(*arguments)
    assert [arguments[0] for arguments in commands].count("sample") >= 5
    assert {"tweak", "origin", "render"} <= {arguments[0] for arguments in commands}
    (program,) = iter_blocks("python")
    exec(compile(program, "README.md", "exec"), {})


def test_readme_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_all(max_count=6)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "song.mid", "song.abc", "song.html", "song.wav", "song.png", "near.mid", "other.mid",
        "more.mid", "tunes", "tune.mid",
    }  # fmt: skip
    assert len(list((tmp_path / "tunes").glob("*.mid"))) == 5


@pytest.mark.promises
def test_readme_commands_run_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_all(max_count=None)


def test_readme_offers_cpu_torch_before_installation() -> None:
    hint = README.index("--index-url https://download.pytorch.org/whl/cpu")
    assert hint < README.index("<!-- ci:install -->")
    assert "python3 -m venv .venv" in next(iter_blocks("sh"))
    assert "python3.11" not in README
