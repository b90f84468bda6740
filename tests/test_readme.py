"""Run the README's commands and its Python, one after another in one folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.command_runner import done

README: Final = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
CODE_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SKIPPED_COMMANDS: Final = ("serve", "train", "compare", "corpus")  # they wait, or take minutes


def code_blocks(language: str) -> Iterator[str]:
    """Yield the code blocks of a language, in order."""
    return (text for name, text in CODE_BLOCK.findall(README) if name == language)


def sampling_commands() -> Iterator[list[str]]:
    """Yield the arguments of each `musicgen` command before the chapter on training."""
    chapter_start = README.index("## Train a model of your own")
    blocks = [text for text in code_blocks("sh") if README.index(text) < chapter_start]
    for line in "".join(blocks).splitlines():
        for command in line.split(" && "):
            words = shlex.split(command, comments=True)
            if words[:1] == ["musicgen"] and words[1] not in SKIPPED_COMMANDS:
                yield words[1:]


def run_readme(max_count: int | None) -> None:
    """Run the commands, then the Python block; max_count replaces the number of tunes."""
    commands = list(sampling_commands())
    for arguments in commands:
        if max_count is not None and "--count" in arguments:
            arguments[arguments.index("--count") + 1] = str(max_count)
        done(*arguments)
    names = [arguments[0] for arguments in commands]
    assert names.count("sample") >= 5
    assert {"tweak", "origin", "render"} <= set(names)
    (program,) = code_blocks("python")
    exec(compile(program, "README.md", "exec"), {})


def test_readme_commands_and_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_readme(max_count=6)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "song.mid", "song.abc", "song.html", "song.wav", "song.png", "near.mid", "other.mid",
        "more.mid", "tunes", "tune.mid",
    }  # fmt: skip
    assert len(list((tmp_path / "tunes").glob("*.mid"))) == 5


@pytest.mark.promises
def test_readme_runs_with_its_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_readme(max_count=None)


def test_cpu_version_of_torch_is_mentioned_before_the_install_command() -> None:
    hint = README.index("--index-url https://download.pytorch.org/whl/cpu")
    assert hint < README.index("<!-- ci:install -->")
    assert "python3 -m venv .venv" in next(code_blocks("sh"))
    assert "python3.11" not in README
