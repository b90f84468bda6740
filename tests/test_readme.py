"""The README's commands and its Python, run one after another in one folder, as a newcomer does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.command_runner import done

README: Final = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT: Final = ("serve", "train", "compare", "corpus")  # which wait, or take minutes


def blocks(language: str) -> Iterator[str]:
    """Yield the blocks of a language, in order."""
    return (text for name, text in BLOCK.findall(README) if name == language)


def commands() -> Iterator[list[str]]:
    """Yield the words of each `musicgen` command before the chapter on training."""
    chapter = README.index("## Train a model of your own")
    told = [text for text in blocks("sh") if README.index(text) < chapter]
    for line in "".join(told).splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            if words[:1] == ["musicgen"] and words[1] not in LEFT_OUT:
                yield words[1:]


def run_all(most: int | None) -> None:
    """Run the commands, then the Python; most: tunes that one command writes, None: as told."""
    ran = list(commands())
    for words in ran:
        if most is not None and "--count" in words:
            words[words.index("--count") + 1] = str(most)
        done(*words)
    assert [words[0] for words in ran].count("sample") >= 5
    assert {"tweak", "origin", "render"} <= {words[0] for words in ran}
    (program,) = blocks("python")
    exec(compile(program, "README.md", "exec"), {})


def test_the_readme_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_all(most=6)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "song.mid", "song.abc", "song.html", "song.wav", "song.png", "near.mid", "other.mid",
        "more.mid", "tunes", "tune.mid",
    }  # fmt: skip
    assert len(list((tmp_path / "tunes").glob("*.mid"))) == 5


@pytest.mark.promises
def test_the_readme_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_all(most=None)


def test_the_small_torch_is_told_of_before_the_line_that_installs_the_large_one() -> None:
    hint = README.index("--index-url https://download.pytorch.org/whl/cpu")
    assert hint < README.index("<!-- ci:install -->")
    assert "python3 -m venv .venv" in next(blocks("sh"))
    assert "python3.11" not in README
