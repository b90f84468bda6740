"""How fast ABC is read: this project's reader, music21 and abc2midi on the same tunes in turn.

python benchmarks/reading.py            500 tunes of O'Neill, Ryan and Aird; some minutes
python benchmarks/reading.py --toy      a few tunes, for CI; seconds
python benchmarks/reading.py --truth    all 4,248 tunes note for note; a quarter of an hour
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from musicgen.formats import abc  # noqa: E402
from tests import oracles  # noqa: E402

BAR = 40  # times faster than music21


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a few tunes, for CI")
    parser.add_argument("--truth", action="store_true", help="compare every tune, note for note")
    options = parser.parse_args()
    tunes = oracles.corpus_tunes()
    if options.truth:
        truth(tunes[::400] if options.toy else tunes)
    else:
        speed(tunes[:: 400 if options.toy else 42], rounds=2 if options.toy else 5)


def speed(tunes: Sequence[str], rounds: int) -> None:
    """Print the medians of a few rounds, the three readers in turn."""
    readers: dict[str, Callable[[], object]] = {
        "musicgen": lambda: abc.parse("\n\n".join(tunes)),
        "abc2midi": lambda: _abc2midi(tunes),
        "music21": lambda: [oracles.by_music21(tune) for tune in tunes],
    }
    readers["musicgen"]()
    oracles.by_music21(tunes[0])  # its import is not its speed
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            seconds[name].append(_timed(reader))
    rates = {name: len(tunes) / median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:10} {rate:10.1f} tunes a second (median of {rounds})")
    print(f"ratio musicgen : music21 = {rates['musicgen'] / rates['music21']:.1f} (at least {BAR})")
    print(f"ratio musicgen : abc2midi = {rates['musicgen'] / rates['abc2midi']:.2f}")


def _timed(reader: Callable[[], object]) -> float:
    start = time.perf_counter()
    reader()
    return time.perf_counter() - start


def _abc2midi(tunes: Sequence[str]) -> None:
    """Let abc2midi check the tunes without writing files."""
    assert oracles.ABC2MIDI is not None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.abc").write_text("\n\n".join(tunes))
        command = [oracles.ABC2MIDI, "t.abc", "-c", "-silent"]
        subprocess.run(command, cwd=folder, capture_output=True, check=False)


def truth(tunes: Sequence[str]) -> None:
    """Print how many tunes are read, and how many of them as an oracle reads them."""
    heard = [
        notes
        for at in range(0, len(tunes), 50)
        for notes in oracles.by_abc2midi(tunes[at : at + 50])
    ]
    outcomes: Counter[str] = Counter()
    for tune, theirs in zip(tunes, heard, strict=True):
        scores, refusals = abc.parse(tune)
        if not scores:
            outcomes["refused: " + ", ".join(refusal.code for refusal in refusals)] += 1
            continue
        score = scores[0].canonical()
        named = [("abc2midi", theirs), ("music21", oracles.by_music21(tune))]
        agreeing = [name for name, notes in named if oracles.agree(score, notes)]
        outcomes["agrees with " + (" and ".join(agreeing) or "neither")] += 1
        if not agreeing:
            print(f"{tune.splitlines()[0]} {score.title}")
            for name, notes in named:
                print(f"    {name}: {oracles.first_difference(score, notes) if notes else 'fails'}")
    for outcome, count in outcomes.most_common():
        print(f"{count:6} {outcome}")


if __name__ == "__main__":
    main()
