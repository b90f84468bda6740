"""Fuzz the ABC and MIDI readers with mutants of real tunes, in the sandbox that builds use.

    python benchmarks/fuzz.py --minutes 60            # prints its seed
    python benchmarks/fuzz.py --mutants 10000 --seed 7
    python benchmarks/fuzz.py --toy

A mutant is a finding if it crashes its reader, takes over 10 s or 1 GB, or is neither kept nor
refused. Each finding is minimised and written to a folder, for a regression test. The exit code is
1 if there are findings.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
from musicgen.corpus.sources import TuneFile, list_files
from musicgen.formats import abc, midi

MAX_SECONDS: Final = 10.0  # seconds
BAD_CODES: Final = ("crashed", "too-slow", "memory")
MAX_SIMILAR_FINDINGS: Final = 5  # findings of one kind that are minimised and written
MAX_SEED_BYTES: Final = 60_000
ABC_TOKENS: Final = (
    *"[1 [2 [3 :: | ( ) (3 (9 (3:2:4 { } {/ [ ] [CEG] ^ _ = ^^ __ ' , / // 0 - > <".split(),
    *"|: :| || |] & &&".split(),
    *'>>> z Z x X y $ ! !trill! + +trill+ " "Am" \\ % %% ~ . H V:1 [V:2] [K:Gmix] [L:1/0]'.split(),
    *"[M:7/8] [Q:1/4=0] w:la P:AABB K: M:999999999/4 M:none L:1/1024 U:T=!x! m:~g=gg X:1".split(),
    *("999999999", "I:linebreak", "K:Hp", "\x00", "\x1b", "é", " ", "\n", "\n\n"),
)
SPECIAL_BYTES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0xF0, 0xF7, 0x2F, 0x51, 0x58, 0x90, 0xC0, 0xE0)
Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Finding:
    """A mutant that broke a promise."""

    data: bytes
    suffix: str
    fault: str


def flip_bits(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def replace_byte(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + bytes([rng.choice(SPECIAL_BYTES)]) + data[position + 1 :]


def truncate(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data))]


def delete_piece(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 64) :]


def repeat_piece(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 64)]
    return data[:start] + piece * rng.choice((2, 3, 20, 500)) + data[start:]


def splice_file(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    other_seed = rng.choice(seeds)
    return data[: rng.randrange(len(data))] + other_seed[rng.randrange(len(other_seed)) :]


def insert_variable_length(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Insert a variable-length number, which may be read as a delta time or a length."""
    position = rng.randrange(len(data))
    number = bytes([0x80 | rng.randrange(128)] * rng.randrange(6)) + bytes([rng.randrange(128)])
    return data[:position] + number + data[position + rng.choice((0, 1, len(number))) :]


def falsify_chunk_length(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Write a false length into a chunk header."""
    position = data.find(rng.choice((b"MTrk", b"MThd")), rng.randrange(len(data)))
    size = rng.choice((0, 1, 5, 7, 2**16, 2**31, 2**32 - 1, rng.randrange(len(data) * 2)))
    return data[: position + 4] + size.to_bytes(4, "big") + data[position + 8 :]


def replace_header_byte(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    position = rng.randrange(8, 14)
    return data[:position] + bytes([rng.choice(SPECIAL_BYTES)]) + data[position + 1 :]


def insert_token(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    word = rng.choice(ABC_TOKENS).encode() * rng.choice((1, 1, 1, 2, 40, 2_000))
    position = rng.randrange(len(data))
    return data[:position] + word + data[position + rng.choice((0, len(word))) :]


def shuffle_lines(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Move, repeat or insert lines."""
    own_lines, other_lines = data.split(b"\n"), rng.choice(seeds).split(b"\n")
    position = rng.randrange(len(own_lines))
    own_lines.insert(
        rng.randrange(len(own_lines)), rng.choice((own_lines[position], rng.choice(other_lines)))
    )
    if rng.random() < 0.5:
        del own_lines[position]
    return b"\n".join(own_lines)


ANY_FORMAT: Final = (flip_bits, replace_byte, truncate, delete_piece, repeat_piece, splice_file)
MUTATIONS: Final[dict[str, tuple[Mutation, ...]]] = {
    ".abc": (
        *ANY_FORMAT,
        insert_token,
        insert_token,
        insert_token,
        shuffle_lines,
        shuffle_lines,
        shuffle_lines,
    ),
    ".mid": (
        *ANY_FORMAT,
        insert_variable_length,
        insert_variable_length,
        insert_variable_length,
        falsify_chunk_length,
        falsify_chunk_length,
        replace_header_byte,
    ),
}


def make_mutant(seeds: Sequence[bytes], suffix: str, rng: random.Random) -> bytes:
    """Mutate one of the seeds one to six times."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        data = rng.choice(MUTATIONS[suffix])(data or b"\0" * 16, rng, seeds)
    return data


def read_seeds(count: int, rng: random.Random) -> dict[str, list[bytes]]:
    """Return real tunes as ABC, and the same tunes as MIDI, by suffix."""
    files = [
        f for name in ("ryan", "aird", "essen", "josquin", "nottingham") for f in list_files(name)
    ]
    texts: list[bytes] = []
    midi_files: list[bytes] = []
    for file in rng.sample(files, min(count, len(files))):
        data = file.path.read_bytes()
        book = data.replace(b"\r", b"").split(b"\n\n")
        texts += [piece[:MAX_SEED_BYTES] for piece in rng.sample(book, min(4, len(book))) if piece]
    for text in texts:
        midi_files += [
            midi.render(score) for score in abc.parse(abc.decode_bytes(text))[0] if score.notes
        ]
    return {".abc": texts, ".mid": midi_files}


class Fuzzer:
    """Reads mutants and collects findings."""

    def __init__(self, folder: Path, out: Path = Path("fuzz-findings")) -> None:
        self.outcome_counts: Counter[str] = Counter()
        self.slowest_seconds = 0.0
        self.findings: list[Finding] = []
        self._path = folder
        self._out = out

    def read(self, reader: SandboxedReader, data: bytes, suffix: str) -> str:
        """Read a mutant; return the fault, or ""."""
        path = self._path / f"mutant{suffix}"
        path.write_bytes(data)
        start_time = time.perf_counter()
        answers = [json.loads(line) for line in reader.encode(TuneFile(path, path.name))]
        seconds = time.perf_counter() - start_time
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        codes = [line.get("refusal", {"code": "kept"})["code"] for line in answers]
        self.outcome_counts.update(codes)
        messages = [
            line["refusal"]["message"]
            for line in answers
            if line.get("refusal", {}).get("code") in BAD_CODES
        ]
        return (
            messages[0]
            if messages
            else "no answer"
            if not answers
            else "slow"
            if seconds > MAX_SECONDS
            else ""
        )

    def try_one(self, reader: SandboxedReader, data: bytes, suffix: str) -> None:
        """Read a mutant; if it is a finding, minimise and write it."""
        fault = self.read(reader, data, suffix)
        if fault and self._count_similar(suffix, fault) < MAX_SIMILAR_FINDINGS:
            smallest = self._minimise(reader, data, suffix, fault)
            self.findings.append(Finding(smallest, suffix, fault))
            print(f"finding: {fault} ({suffix}, {len(smallest)} of {len(data)} bytes)", flush=True)
            write_finding(self.findings[-1], len(self.findings), self._out)

    def _count_similar(self, suffix: str, fault: str) -> int:
        return sum((finding.suffix, finding.fault) == (suffix, fault) for finding in self.findings)

    def _minimise(self, reader: SandboxedReader, data: bytes, suffix: str, fault: str) -> bytes:
        """Remove ever smaller pieces as long as the fault stays the same."""
        stop = time.monotonic() + 60
        size = len(data) // 2
        while size and time.monotonic() < stop:
            start = 0
            while start < len(data) and time.monotonic() < stop:
                shorter = data[:start] + data[start + size :]
                if self.read(reader, shorter, suffix) == fault:
                    data = shorter
                else:
                    start += size
            size //= 2
        return data


def run_fuzzer(options: argparse.Namespace) -> Fuzzer:
    """Read mutants until the time or their number is used up."""
    rng = random.Random(options.seed)
    seeds = read_seeds(8 if options.toy else 300, rng)
    stop = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder, SandboxedReader(ReadLimits()) as reader:
        fuzzer = Fuzzer(Path(folder), options.out)
        for number in range(options.mutants or sys.maxsize):
            if time.monotonic() > stop:
                break
            suffix = (".abc", ".mid")[number % 2]
            fuzzer.try_one(reader, make_mutant(seeds[suffix], suffix, rng), suffix)
    return fuzzer


def write_finding(finding: Finding, number: int, folder: Path) -> None:
    """Write a finding as a file at once, because a long run may be interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"finding-{number:03}{finding.suffix}"
    path.write_bytes(finding.data)
    print(f"{path}: {finding.fault}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--mutants", type=int, default=0, help="number of mutants; 0: no limit")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    options.mutants = options.mutants or (100 if options.toy else 0)
    print(f"seed {options.seed}", flush=True)
    start_time = time.perf_counter()
    fuzzer = run_fuzzer(options)
    seconds = time.perf_counter() - start_time
    answers = fuzzer.outcome_counts.total()
    print(
        f"{answers:,} answers in {seconds:.0f} s, the slowest file {fuzzer.slowest_seconds:.2f} s"
    )
    print(f"share of answers that are kept: {fuzzer.outcome_counts['kept'] / max(1, answers):.2f}")
    print(", ".join(f"{count:,} {code}" for code, count in fuzzer.outcome_counts.most_common()))
    raise SystemExit(bool(fuzzer.findings))


if __name__ == "__main__":
    main()
