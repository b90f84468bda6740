"""What training costs as the corpus grows: time a token, and memory.

    python benchmarks/growth.py            some five minutes
    python benchmarks/growth.py --toy      seconds, for continuous integration

One corpus, repeated 1, 10 and 100 times under other titles, is written as a data set and learnt
from by the default model for as many updates, each size in a process of its own and in turns. The
medians of tokens a second, the private memory at the end (what is mapped from the data set's files
is the system's to drop) and their ratios to the smallest corpus are printed; both are to be within
5 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.training import draw_tunes
from musicgen.config import TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune, load, save
from musicgen.tokens.vocabulary import MEASURES

WARM = 8  # updates before the clock runs


class Repeated:
    """Tunes again and again; a sequence that holds them once."""

    def __init__(self, tunes: list[EncodedTune], times: int) -> None:
        self.tunes, self.times = tunes, times

    def __len__(self) -> int:
        return len(self.tunes) * self.times

    def __iter__(self) -> Iterator[EncodedTune]:
        for time in range(self.times):
            for tune in self.tunes:
                yield replace(tune, title=f"{tune.title} {time}")


def write(tunes: list[EncodedTune], times: int, folder: Path) -> None:
    """Write a data set of repeated tunes."""
    held = tunes[:1]
    vocabulary = tuple(MEASURES.names)
    found = Dataset(Repeated(tunes, times), held, held, "measures", vocabulary, {})  # type: ignore[arg-type]
    save(found, folder)


def base(data: Path | None, count: int) -> list[EncodedTune]:
    if data is not None:
        return list(load(data).train)[:count]
    return [
        EncodedTune(
            ids.astype(np.int16), len(ids), f"Tune {n}", "", str(n), "C major", "4/4", "", ""
        )
        for n, ids in enumerate(draw_tunes(count, 1))
    ]


def child(folder: Path, updates: int, hidden: int) -> None:
    """Train for some updates; print tokens a second and private bytes."""
    from musicgen.training.plan import FRESH_PRESETS, TrainingOptions, make_plan, make_trainer
    from musicgen.training.trainer import equalize_window_lengths

    dataset = load(folder)
    found = make_plan(dataset, TrainingOptions(hidden=hidden, layers=2))
    large = TrainingSettings(tokens=10**12, first_bptt=FRESH_PRESETS[-1].first_bptt)
    found = replace(found, training=equalize_window_lengths(large))
    trainer = make_trainer(dataset, found)
    rates = [trainer.update(trainer.next()).rate for _ in range(updates + WARM)]
    print(json.dumps([statistics.median(rates[WARM:]), private_bytes()]))


def private_bytes() -> int:
    """Return the memory that is this process's own, as Linux counts it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--data", type=Path, help="a folder of musicgen corpus build")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.toy:
        arguments.rounds, arguments.updates, arguments.hidden = 1, 2, 16
    if arguments.child:
        child(arguments.child, arguments.updates, arguments.hidden)
        return
    tunes = base(arguments.data, 6 if arguments.toy else 1000)
    with tempfile.TemporaryDirectory() as place:
        measure(tunes, Path(place), arguments)


def measure(tunes: list[EncodedTune], place: Path, arguments: argparse.Namespace) -> None:
    """Let each size learn in turns; print the medians and their ratios."""
    sizes = (1, 10, 100)
    for times in sizes:
        write(tunes, times, place / str(times))
    found: dict[int, list[tuple[float, float]]] = {times: [] for times in sizes}
    for _ in range(arguments.rounds):
        for times in sizes:
            words = [sys.executable, __file__, "--child", str(place / str(times))]
            words += ["--updates", str(arguments.updates), "--hidden", str(arguments.hidden)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found[times].append(tuple(json.loads(done.stdout)))
    rates = {times: statistics.median(rate for rate, _ in rows) for times, rows in found.items()}
    bytes_ = {times: statistics.median(size for _, size in rows) for times, rows in found.items()}
    for times in sizes:
        print(
            f"{times * len(tunes):8,} tunes: {rates[times]:8,.0f} tokens/s, time a token"
            f" {rates[1] / rates[times]:.3f} times; {bytes_[times] / 2**20:6.0f} MiB,"
            f" {bytes_[times] / bytes_[1]:.3f} times"
        )


if __name__ == "__main__":
    main()
