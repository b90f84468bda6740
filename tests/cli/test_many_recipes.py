"""Many files, each of which holds all that it takes to write it again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from musicgen import checkpoint
from musicgen.model_folders import find_model_folder
from tests.cli.test_tweak import IDEA
from tests.command_runner import done

ORDERS = (
    (),
    ("--key", "Dmix", "--bars", "16", "--temperature", "1.1"),
    ("--rhythm", "jig", "--form", "AABB", "--bars", "16", "--end", "tonic"),
    ("--meter", "4/4", "--form", "ABAC", "--bars", "16", "--top-p", "0.9"),
    ("--range", "D4-B5", "--bars", "12", "--pickup", "none", "--min-p", "0.05", "--tempo", "90"),
    ("--max-copy", "8", "--bars", "8", "--program", "flute"),
    ("--primer", "idea.abc", "--bars", "12"),
    ("--primer", "idea.abc", "--bars", "12", "--no-primer", "--top-k", "9"),
)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def sampled(here: Path, number: int, count: int, jobs: int) -> dict[str, str]:
    """Write so many tunes of an order in so many processes; return the hashes of their files."""
    folder = here / f"{count}-{jobs}"
    folder.mkdir()
    outs = [f"{folder}/t{{n}}{suffix}" for suffix in (".mid", ".abc")]
    done("sample", "--seed", str(number), *ORDERS[number], "--count", str(count),
         "--jobs", str(jobs), "--out", outs[0], "--out", outs[1], "-q")  # fmt: skip
    return hashes(folder)


def check_order(here: Path, number: int, count: int) -> int:
    """Check the tunes of an order: in two processes, in one, alone, and from their files."""
    wanted = sampled(here, number, count, 1)
    assert len(wanted) == 2 * count
    assert sampled(here, number, count, 2) == wanted
    assert sampled(here, number, 1, 1).items() <= wanted.items()
    again = here / "again"
    again.mkdir()
    for n in range(1, count + 1):
        source = str(here / f"{count}-1" / f"t{n}{('.mid', '.abc')[n % 2]}")
        outs = [str(again / f"t{n}{suffix}") for suffix in (".mid", ".abc")]
        done("tweak", source, "--model", "copy", "--out", outs[0], "--out", outs[1], "-q")
    assert hashes(again) == wanted
    return len(wanted)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a primer, and `folk` saved anew."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "idea.abc").write_text(IDEA)
    folk = checkpoint.load(find_model_folder("folk"))
    extra = {"receipt.bin": folk.read_extra_file("receipt.bin")}
    checkpoint.save(tmp_path / "copy", folk.weights, folk.manifest, extra)
    return tmp_path


def test_a_few_files_are_written_again(here: Path) -> None:
    assert check_order(here, 7, 9) == 18


@pytest.mark.promises
@pytest.mark.parametrize("number", range(len(ORDERS)))
def test_512_tunes_in_two_formats_are_written_again(here: Path, number: int) -> None:
    assert check_order(here, number, 64) == 128
