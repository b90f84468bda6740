"""Compare the outputs of two installed versions of musicgen: every file must have the same bytes.

    python benchmarks/same_behaviour.py BEFORE AFTER           # two Python executables
    python benchmarks/same_behaviour.py BEFORE AFTER --only sample train
    python benchmarks/same_behaviour.py --toy                  # this version with itself; seconds

Each version runs the same commands in its own folder, one command at a time: tunes of 50 seeds over
all sampling options in every format, corpora, a small training run, variants of a tune, copy
receipts. Differing files are listed, and the exit code is then 1. Words are not compared: help,
messages, the text of pages and model cards.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

OPTIONS: Final[tuple[list[str], ...]] = (
    [], ["--key", "Edor", "--rhythm", "jig"], ["--meter", "3/4", "--bars", "16"],
    ["--form", "ABAC", "--bars", "32", "--end", "tonic"], ["--form", "through", "--bars", "12"],
    ["--form", "free", "--min-bars", "8"], ["--temperature", "1.1", "--top-k", "12"],
    ["--top-p", "0.9", "--range", "D4-B5"], ["--min-p", "0.05", "--pickup", "1/8"],
    ["--tempo", "96", "--program", "flute", "--max-copy", "10"],
)  # fmt: skip
FORMATS: Final = (".mid", ".abc", ".musicxml", ".svg", ".html")
PROBE: Final = "import musicgen; print(musicgen.__file__)"
DATA_BLOCK: Final = re.compile(rb"<script[^>]*application/json[^>]*>(.*?)</script>", re.DOTALL)
TIMES: Final = re.compile(rb'"(seconds|rate|memory|saving_seconds|date|pid)": ?[-0-9.e+"]+')
# Files of a run whose text or times differ from run to run; its weights and states must be equal.
WORDS_OR_TIMES: Final = re.compile(r"MODEL_CARD\.md|metrics\.jsonl|loss\.png|manifest\.json")
GROUPS: Final = ("sample", "many", "tweak", "origin", "render", "corpus", "train")


def sample_commands(seeds: int) -> Iterator[list[str]]:
    """Yield commands that write one tune per seed in every format, every tenth as sound too."""
    for seed in range(seeds):
        suffixes = (*FORMATS, ".wav", ".png") if seed % 10 == 0 else FORMATS
        outputs = [word for suffix in suffixes for word in ("--out", f"tune-{seed}{suffix}")]
        yield ["sample", "--seed", str(seed), *OPTIONS[seed % len(OPTIONS)], *outputs]


def commands(seeds: int) -> dict[str, list[list[str]]]:
    """Return the commands of each group, in the order in which they must run."""
    training = ["--layers", "1", "--hidden", "24", "--epochs", "0.2", "--seed", "3"]
    return {
        "sample": list(sample_commands(seeds)),
        "many": [
            ["sample", "--count", "24", "--seed", "9", "--out", "many/", "--jobs", "1"],
            ["sample", "--count", "20", "--best", "4", "--seed", "2", "--out", "best/"],
            ["sample", "--primer", "tune-1.abc", "--bars", "16", "--seed", "4", "--out", "p.abc"],
        ],
        "tweak": [
            ["tweak", f"tune-{seed}.mid", *words, "--out", f"tweak-{seed}-{number}.mid"]
            for seed in (0, 2, 3)
            for number, words in enumerate(([], ["--keep", "1-4"], ["--temperature", "0.9"]))
        ],
        "origin": [["origin", f"tune-{seed}.mid", "--json"] for seed in range(min(20, seeds))],
        "render": [
            ["render", "tune-0.mid", "--out", "r.musicxml", "--out", "r.html", "--out", "r.wav"],
            ["render", "tune-1.abc", "--out", "r.mid", "--out", "r.svg"],
            ["render", "tune-2.musicxml", "--out", "r2.abc"],
        ],
        "corpus": [
            ["corpus", "build", "ryan", "--out", "ryan"],
            ["corpus", "build", "chorales", "--out", "chorales"],
            ["corpus", "check", "ryan", "--json"],
        ],
        "train": [["train", "ryan", "--name", "small", *training]],
    }


def run_command(python: str, folder: Path, arguments: list[str]) -> None:
    """Run one command; write its exit code and its stdout to a file."""
    process = subprocess.run([python, "-m", "musicgen", *arguments], cwd=folder,
                             capture_output=True, text=True, check=False)  # fmt: skip
    name = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:12]
    result = f"{arguments}\n{process.returncode}\n{process.stdout}"
    (folder / f"stdout-{name}.txt").write_text(result)
    if process.returncode:
        print(f"  {' '.join(arguments)}: exit {process.returncode}: {process.stderr[-200:]}",
              file=sys.stderr)  # fmt: skip


def select_data(data: bytes, name: str) -> bytes:
    """Return what must be equal in a file: the data of a page, of the rest all but words, times."""
    if name.endswith(".html"):
        return b"".join(DATA_BLOCK.findall(data))
    if name == "index.tsv":  # its last column explains a choice in words
        return b"\n".join(line.rpartition(b"\t")[0] for line in data.splitlines())
    if name.endswith((".json", ".txt")):
        data = TIMES.sub(b"", data)
    return data


def hash_files(folder: Path) -> dict[str, str]:
    """Return the hash of the data of every file of a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            select_data(path.read_bytes(), path.name)
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not WORDS_OR_TIMES.fullmatch(path.name)
    }


def main() -> None:
    """Run both versions and print the files that differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", nargs="?", default=sys.executable,
                        help="Python executable of the version before")  # fmt: skip
    parser.add_argument("after", nargs="?", default=sys.executable,
                        help="Python executable of the version after")  # fmt: skip
    parser.add_argument("--toy", action="store_true", help="two seeds of sample, seconds")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--folder", type=Path, help="keep the outputs here")
    options = parser.parse_args()
    if options.toy:
        options.seeds, options.only = 2, ("sample",)
    with tempfile.TemporaryDirectory() as scratch:
        work_folder = options.folder or Path(scratch)
        contents = []
        for side in ("before", "after"):
            folder = work_folder / side
            folder.mkdir(parents=True)
            python = getattr(options, side)
            location = subprocess.run([python, "-c", PROBE], cwd=folder, capture_output=True,
                                   text=True, check=True).stdout.strip()  # fmt: skip
            print(f"{side}: {location}")
            for group in (group for group in GROUPS if group in options.only):
                for arguments in commands(options.seeds)[group]:
                    run_command(python, folder, arguments)
            contents.append(hash_files(folder))
    before, after = contents
    differing = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    for name in differing:
        print(f"differs: {name}")
    count = len(before | after)
    print(f"{count} files compared, {len(differing)} differ ({len(differing) / count:.1%})")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
