"""Names of 300 and 10,000 letters are refused in one line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from musicgen.cli import commands
from musicgen.errors import MusicgenError, OutputExists
from musicgen.files import MAX_NAME_BYTES, is_file, is_folder, refuse_existing
from musicgen.trained_model import load

LENGTHS = (300, 10_000)
COMMAND_LINES = (
    "sample --out a.mid --model {}",
    "sample --out {}.mid",
    "sample --out {}/",
    "sample --out {}/a.mid",
    "sample --out a.mid --primer {}.mid",
    "tweak {}.mid --out a.mid",
    "tweak a.mid --out a.mid --model {}",
    "render {}.mid --out a.wav",
    "origin {}.mid",
    "train aird --name {}",
    "train aird --config {}.toml",
    "train aird --save-config {}.toml",
    "corpus check {}",
    "corpus build aird --out {}",
)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("line", COMMAND_LINES)
def test_long_name_is_refused_in_one_line(
    line: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = line.format("a" * length).split()
    result = CliRunner().invoke(commands, args)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 1_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 300, "a" * 10_000, "a\x00b", "\x00"])
def test_name_invalid_on_every_system_is_refused(name: str, tmp_path: Path) -> None:
    assert not is_file(tmp_path / name)
    assert not is_folder(tmp_path / name)
    with pytest.raises(MusicgenError, match="choose another name") as refusal:
        refuse_existing([tmp_path / name])
    assert not isinstance(refusal.value, OutputExists)
    with pytest.raises(MusicgenError, match="is unknown"):
        load(name)


def test_too_long_name_of_a_recipe_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the audio file is valid, but that of its recipe file is too long."""
    monkeypatch.chdir(tmp_path)
    name = "a" * (MAX_NAME_BYTES - 5) + ".wav"
    result = CliRunner().invoke(commands, ["sample", "--out", name])
    assert result.exit_code == 2
    assert "choose another name" in result.stderr
    assert list(tmp_path.iterdir()) == []
