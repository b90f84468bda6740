"""Measure accuracy and speed of the ABC reader, compared with other readers on the same tunes.

python benchmarks/reading.py            whole books: music21, pyabc2, abc2midi in turn; minutes
python benchmarks/reading.py --toy      a few tunes; seconds, for continuous integration
python benchmarks/reading.py --truth --cache FOLDER
    compare all 12,978 tunes of music21's corpus, note by note, with music21 and abc2midi; the
    folder caches their answers: one hour the first time, half a minute after that

pyabc2 is not a dependency: python -m venv RIVALS && RIVALS/bin/pip install pyabc2, then
--rivals RIVALS/bin/python. Readers that are not installed are named and skipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from musicgen.formats import abc  # noqa: E402
from tests import oracles  # noqa: E402

TARGET_RATIOS = {"music21": 60, "pyabc2": 3}  # times faster
BOOKS = ("0001-0050.abc", "book2.abc", "altdeu10.abc", "northumbrianminstrelsyopus.abc")
PYABC2 = """
import sys, time
import pyabc2
tunes = sys.stdin.read().split("\\0")
start = time.perf_counter()
for tune in tunes:
    try:
        pyabc2.Tune(tune)
    except Exception:
        pass
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a few tunes")
    parser.add_argument("--truth", action="store_true", help="compare every tune, note by note")
    parser.add_argument(
        "--cache", type=Path, help="a folder that caches the answers of the oracles"
    )
    parser.add_argument("--rivals", default="", help="a Python with pyabc2")
    options = parser.parse_args()
    if options.truth:
        with tempfile.TemporaryDirectory() as folder:
            tunes = oracles.all_tunes()
            compare_notes(tunes[::1200] if options.toy else tunes, options.cache or Path(folder))
    else:
        books = [file for file in oracles.all_files() if file.name in BOOKS]
        tunes = [tune for book in books for tune in oracles.tune_texts(oracles.decoded(book))]
        measure_speed(
            tunes[::60] if options.toy else tunes, options.rivals, 2 if options.toy else 5
        )


# Speed


def measure_speed(tunes: Sequence[str], rivals: str, rounds: int) -> None:
    """Print medians over rounds, the readers in turn; music21 reads every tenth tune."""
    seconds: dict[str, list[float]] = {}
    music21_tunes = tunes[::10]
    book = "\n\n".join(tunes)
    readers: dict[str, tuple[int, Callable[[], float | None]]] = {
        "musicgen": (len(tunes), lambda: _measure_seconds(lambda: abc.parse(book))),
        "music21": (
            len(music21_tunes),
            lambda: _measure_seconds(lambda: [oracles.by_music21(tune) for tune in music21_tunes]),
        ),
        "pyabc2": (len(tunes), lambda: _pyabc2(tunes, rivals)),
        "abc2midi": (len(tunes), lambda: _abc2midi(book)),
    }
    abc.parse(book)
    oracles.by_music21(tunes[0])  # so that its import is not timed
    for _ in range(rounds):
        for name, (_, reader) in readers.items():
            elapsed = reader()
            if elapsed is not None:
                seconds.setdefault(name, []).append(elapsed)
    rates = {name: readers[name][0] / median(times) for name, times in seconds.items()}
    for name in readers:
        rate = f"{rates[name]:10.1f} tunes/s" if name in rates else "not installed"
        print(f"{name:10} {rate} (median of {rounds})")
    for name in [name for name in rates if name != "musicgen"]:
        target = f" (at least {TARGET_RATIOS[name]})" if name in TARGET_RATIOS else ""
        print(f"ratio musicgen : {name} = {rates['musicgen'] / rates[name]:.2f}{target}")


def _measure_seconds(reader: Callable[[], object]) -> float:
    start_time = time.perf_counter()
    reader()
    return time.perf_counter() - start_time


def _pyabc2(tunes: Sequence[str], rivals: str) -> float | None:
    """Let pyabc2 read the tunes in its own environment; its start-up is not timed."""
    if not rivals:
        return None
    process = subprocess.run(
        [rivals, "-c", PYABC2], input="\0".join(tunes), capture_output=True, text=True, check=False
    )
    return float(process.stdout) if process.returncode == 0 else None


def _abc2midi(book: str) -> float | None:
    """Let abc2midi check the tunes, without writing files."""
    if oracles.ABC2MIDI is None:
        return None
    command = [oracles.ABC2MIDI, "t.abc", "-c", "-silent"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.abc").write_text(book)
        return _measure_seconds(
            lambda: subprocess.run(command, cwd=folder, capture_output=True, check=False)
        )


# Accuracy


def compare_notes(tunes: Sequence[str], cache: Path) -> None:
    """Print how many tunes are read, how many agree with an oracle, and the differences."""
    midi, music21 = query_oracles(tunes, cache)
    outcomes: Counter[str] = Counter()
    for tune in tunes:
        scores, refusals = abc.parse(tune)
        outcome = f"refused: {refusals[0].code}" if refusals else ""
        if scores:
            score = scores[0].canonical()
            oracle_notes = {
                "abc2midi": midi[oracles.for_abc2midi(tune)],
                "music21": music21[oracles.for_music21(tune)],
            }
            agreeing_oracles = [
                name for name, notes in oracle_notes.items() if oracles.agree(score, notes)
            ]
            outcome = "agrees with " + (" and ".join(agreeing_oracles) or "neither")
            if not agreeing_oracles:
                _print_differences(tune, score, oracle_notes)
        elif refusals:
            print(f"{_label(tune)}: {refusals[0]}")
        outcomes[outcome] += 1
    for outcome, count in outcomes.most_common():
        print(f"{count:6} {outcome}")
    read = sum(count for outcome, count in outcomes.items() if outcome.startswith("agrees"))
    agreed = read - outcomes["agrees with neither"]
    print(f"share read {read / len(tunes):.2%} (at least 99.5 %)")
    print(f"share agreeing {agreed / max(read, 1):.2%} (at least 99 %)")


def _print_differences(tune: str, score: object, oracle_notes: Mapping[str, object]) -> None:
    print(_label(tune))
    for name, notes in oracle_notes.items():
        difference = oracles.first_difference(score, notes) if notes else "fails"  # type: ignore[arg-type]
        print(f"    {name}: {difference}")


def _label(tune: str) -> str:
    lines = tune.splitlines()
    title = next((line[2:].strip() for line in lines if line.startswith("T:")), "")
    return f"{lines[0]} {title}"


def query_oracles(
    tunes: Sequence[str], cache: Path
) -> tuple[oracles.Remembered, oracles.Remembered]:
    """Query the oracles about tunes that are not in the cache."""
    midi = oracles.Remembered(cache, "abc2midi")
    music21 = oracles.Remembered(cache, "music21")
    unanswered = iter([tune for tune in tunes if oracles.for_abc2midi(tune) not in midi])
    for batch in _batches(unanswered, 50):
        for tune, oracle_notes in zip(batch, oracles.by_abc2midi(batch), strict=True):
            midi.add(oracles.for_abc2midi(tune), oracle_notes)
    for tune in tunes:
        if oracles.for_music21(tune) not in music21:
            music21.add(oracles.for_music21(tune), oracles.by_music21(tune))
    return midi, music21


def _batches(tunes: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(tunes, size)):
        yield batch


if __name__ == "__main__":
    main()
