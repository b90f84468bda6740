"""Mutants of real tunes through both readers, in the child that builds use.

    python benchmarks/fuzz.py --minutes 60            # prints its seed; 10,000 mutants in a night
    python benchmarks/fuzz.py --mutants 10000 --seed 7
    python benchmarks/fuzz.py --toy

A mutant that crashes its reader, takes over 10 s or 1 GB, or is neither kept nor refused is written
to a folder, cut down to what still does it, for a regression test. Exit code 1 if there is one.
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

SLOW: Final = 10.0  # seconds
BAD: Final = ("crashed", "too-slow", "memory")
MOST_ALIKE: Final = 5  # findings of one kind that are cut down and kept
MOST: Final = 60_000  # bytes of a mutant's parent
ABC_TOKENS: Final = (
    *"[1 [2 [3 :: | ( ) (3 (9 (3:2:4 { } {/ [ ] [CEG] ^ _ = ^^ __ ' , / // 0 - > <".split(),
    *"|: :| || |] & &&".split(),
    *'>>> z Z x X y $ ! !trill! + +trill+ " "Am" \\ % %% ~ . H V:1 [V:2] [K:Gmix] [L:1/0]'.split(),
    *"[M:7/8] [Q:1/4=0] w:la P:AABB K: M:999999999/4 M:none L:1/1024 U:T=!x! m:~g=gg X:1".split(),
    *("999999999", "I:linebreak", "K:Hp", "\x00", "\x1b", "é", " ", "\n", "\n\n"),
)
BYTES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0xF0, 0xF7, 0x2F, 0x51, 0x58, 0x90, 0xC0, 0xE0)
Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Finding:
    """A mutant that did what none may."""

    data: bytes
    suffix: str
    what: str


def flip(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def poke(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([chance.choice(BYTES)]) + data[place + 1 :]


def cut(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data))]


def drop(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randrange(1, 64) :]


def repeat(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randrange(1, 64)]
    return data[:start] + piece * chance.choice((2, 3, 20, 500)) + data[start:]


def splice(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def varlen(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """Put a number of MIDI's kind where it may be a delta or a length."""
    place = chance.randrange(len(data))
    many = bytes([0x80 | chance.randrange(128)] * chance.randrange(6)) + bytes(
        [chance.randrange(128)]
    )
    return data[:place] + many + data[place + chance.choice((0, 1, len(many))) :]


def length(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """Let a chunk lie about how long it is."""
    place = data.find(chance.choice((b"MTrk", b"MThd")), chance.randrange(len(data)))
    size = chance.choice((0, 1, 5, 7, 2**16, 2**31, 2**32 - 1, chance.randrange(len(data) * 2)))
    return data[: place + 4] + size.to_bytes(4, "big") + data[place + 8 :]


def header(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    place = chance.randrange(8, 14)
    return data[:place] + bytes([chance.choice(BYTES)]) + data[place + 1 :]


def token(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    word = chance.choice(ABC_TOKENS).encode() * chance.choice((1, 1, 1, 2, 40, 2_000))
    place = chance.randrange(len(data))
    return data[:place] + word + data[place + chance.choice((0, len(word))) :]


def lines(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Swap, double or take over lines."""
    own, other = data.split(b"\n"), chance.choice(others).split(b"\n")
    place = chance.randrange(len(own))
    own.insert(chance.randrange(len(own)), chance.choice((own[place], chance.choice(other))))
    if chance.random() < 0.5:
        del own[place]
    return b"\n".join(own)


ANY: Final = (flip, poke, cut, drop, repeat, splice)
MUTATIONS: Final[dict[str, tuple[Mutation, ...]]] = {
    ".abc": (*ANY, token, token, token, lines, lines, lines),
    ".mid": (*ANY, varlen, varlen, varlen, length, length, header),
}


def mutant(seeds: Sequence[bytes], suffix: str, chance: random.Random) -> bytes:
    """Change one of the seeds a few times."""
    data = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = chance.choice(MUTATIONS[suffix])(data or b"\0" * 16, chance, seeds)
    return data


def seeds(count: int, chance: random.Random) -> dict[str, list[bytes]]:
    """Take real tunes, and write the same as MIDI."""
    found = [
        f for name in ("ryan", "aird", "essen", "josquin", "nottingham") for f in list_files(name)
    ]
    texts: list[bytes] = []
    written: list[bytes] = []
    for file in chance.sample(found, min(count, len(found))):
        data = file.path.read_bytes()
        book = data.replace(b"\r", b"").split(b"\n\n")
        texts += [piece[:MOST] for piece in chance.sample(book, min(4, len(book))) if piece]
    for text in texts:
        written += [
            midi.render(score) for score in abc.parse(abc.decode_bytes(text))[0] if score.notes
        ]
    return {".abc": texts, ".mid": written}


class Fuzzer:
    """Reads mutants and keeps what is wrong with them."""

    def __init__(self, folder: Path, out: Path = Path("fuzz-findings")) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.findings: list[Finding] = []
        self._path = folder
        self._out = out

    def read(self, reader: SandboxedReader, data: bytes, suffix: str) -> str:
        """Return what is wrong with the reading of a mutant, "" if nothing."""
        path = self._path / f"mutant{suffix}"
        path.write_bytes(data)
        began = time.perf_counter()
        told = [json.loads(line) for line in reader.encode(TuneFile(path, path.name))]
        took = time.perf_counter() - began
        self.slowest = max(self.slowest, took)
        codes = [line.get("refusal", {"code": "kept"})["code"] for line in told]
        self.counts.update(codes)
        bad = [
            line["refusal"]["message"]
            for line in told
            if line.get("refusal", {}).get("code") in BAD
        ]
        return bad[0] if bad else "no answer" if not told else "slow" if took > SLOW else ""

    def try_one(self, reader: SandboxedReader, data: bytes, suffix: str) -> None:
        """Read a mutant; keep the least of it that still does what it does."""
        what = self.read(reader, data, suffix)
        if what and self._alike(suffix, what) < MOST_ALIKE:
            least = self._least(reader, data, suffix, what)
            self.findings.append(Finding(least, suffix, what))
            print(f"found: {what} ({suffix}, {len(least)} of {len(data)} bytes)", flush=True)
            keep(self.findings[-1], len(self.findings), self._out)

    def _alike(self, suffix: str, what: str) -> int:
        return sum((known.suffix, known.what) == (suffix, what) for known in self.findings)

    def _least(self, reader: SandboxedReader, data: bytes, suffix: str, what: str) -> bytes:
        """Leave out piece after piece, each time a smaller one."""
        stop = time.monotonic() + 60
        size = len(data) // 2
        while size and time.monotonic() < stop:
            start = 0
            while start < len(data) and time.monotonic() < stop:
                shorter = data[:start] + data[start + size :]
                if self.read(reader, shorter, suffix) == what:
                    data = shorter
                else:
                    start += size
            size //= 2
        return data


def run(options: argparse.Namespace) -> Fuzzer:
    """Read mutants until time or their number is over."""
    chance = random.Random(options.seed)
    parents = seeds(8 if options.toy else 300, chance)
    stop = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder, SandboxedReader(ReadLimits()) as reader:
        fuzzer = Fuzzer(Path(folder), options.out)
        for number in range(options.mutants or sys.maxsize):
            if time.monotonic() > stop:
                break
            suffix = (".abc", ".mid")[number % 2]
            fuzzer.try_one(reader, mutant(parents[suffix], suffix, chance), suffix)
    return fuzzer


def keep(finding: Finding, number: int, folder: Path) -> None:
    """Write what was found as a file, at once: a long run may be cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"found-{number:03}{finding.suffix}"
    path.write_bytes(finding.data)
    print(f"{path}: {finding.what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--mutants", type=int, default=0, help="stop after so many; 0: never")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    options.mutants = options.mutants or (100 if options.toy else 0)
    print(f"seed {options.seed}", flush=True)
    began = time.perf_counter()
    fuzzer = run(options)
    took = time.perf_counter() - began
    answers = fuzzer.counts.total()
    print(f"{answers:,} answers in {took:.0f} s, the slowest file {fuzzer.slowest:.2f} s")
    print(f"ratio of answers that are kept: {fuzzer.counts['kept'] / max(1, answers):.2f}")
    print(", ".join(f"{count:,} {code}" for code, count in fuzzer.counts.most_common()))
    raise SystemExit(bool(fuzzer.findings))


if __name__ == "__main__":
    main()
