"""Measure how training cost grows with the corpus: time per token, and memory.

    python benchmarks/growth.py            about five minutes
    python benchmarks/growth.py --toy      seconds, for continuous integration

A corpus is repeated 1, 10 and 100 times under different titles and written as a data set. The
default model trains on each size for the same number of updates, in its own process, in turn. The
script prints median tokens/s, the private memory at the end (without the pages that are mapped from
the data set, which the system may drop) and their ratios to the smallest corpus. Target: both
within 5 %.
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
from typing import Any

import numpy as np

from benchmarks.training import draw_tunes
from musicgen.config import TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune, load, save
from musicgen.tokens.vocabulary import MEASURES

WARM_UP_UPDATES = 8  # updates that are not timed


class RepeatedTunes:
    """A sequence that repeats tunes but stores them once."""

    def __init__(self, tunes: list[EncodedTune], repetitions: int) -> None:
        self.tunes, self.repetitions = tunes, repetitions

    def __len__(self) -> int:
        return len(self.tunes) * self.repetitions

    def __iter__(self) -> Iterator[EncodedTune]:
        for copy in range(self.repetitions):
            for tune in self.tunes:
                yield replace(tune, title=f"{tune.title} {copy}")


def write_dataset(tunes: list[EncodedTune], repetitions: int, folder: Path) -> None:
    """Write a data set of repeated tunes."""
    held_out = tunes[:1]
    vocabulary = tuple(MEASURES.names)
    training_tunes: Any = RepeatedTunes(tunes, repetitions)
    dataset = Dataset(training_tunes, held_out, held_out, "measures", vocabulary, {})
    save(dataset, folder)


def read_tunes(data: Path | None, count: int) -> list[EncodedTune]:
    if data is not None:
        return list(load(data).train)[:count]
    return [
        EncodedTune(
            ids.astype(np.int16),
            len(ids),
            f"Tune {number}",
            "",
            str(number),
            "C major",
            "4/4",
            "",
            "",
        )
        for number, ids in enumerate(draw_tunes(count, 1))
    ]


def run_child(folder: Path, updates: int, hidden: int) -> None:
    """Train for some updates; print tokens/s and private bytes as JSON."""
    from musicgen.training.plan import FRESH_PRESETS, TrainingOptions, make_plan, make_trainer
    from musicgen.training.trainer import equalize_window_lengths

    dataset = load(folder)
    plan = make_plan(dataset, TrainingOptions(hidden=hidden, layers=2))
    long_run = TrainingSettings(tokens=10**12, first_bptt=FRESH_PRESETS[-1].first_bptt)
    plan = replace(plan, training=equalize_window_lengths(long_run))
    trainer = make_trainer(dataset, plan)
    rates = [
        trainer.train_on_window(trainer.next_window()).tokens_per_second
        for _ in range(updates + WARM_UP_UPDATES)
    ]
    print(json.dumps([statistics.median(rates[WARM_UP_UPDATES:]), private_bytes()]))


def private_bytes() -> int:
    """Return the private memory of this process, as Linux counts it (RssAnon)."""
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
        run_child(arguments.child, arguments.updates, arguments.hidden)
        return
    tunes = read_tunes(arguments.data, 6 if arguments.toy else 1000)
    with tempfile.TemporaryDirectory() as work_folder:
        measure(tunes, Path(work_folder), arguments)


def measure(tunes: list[EncodedTune], work_folder: Path, arguments: argparse.Namespace) -> None:
    """Train on each size in turn; print the medians and their ratios."""
    sizes = (1, 10, 100)
    for repetitions in sizes:
        write_dataset(tunes, repetitions, work_folder / str(repetitions))
    results: dict[int, list[tuple[float, float]]] = {repetitions: [] for repetitions in sizes}
    for _ in range(arguments.rounds):
        for repetitions in sizes:
            command = [sys.executable, __file__, "--child", str(work_folder / str(repetitions))]
            command += ["--updates", str(arguments.updates), "--hidden", str(arguments.hidden)]
            process = subprocess.run(command, check=True, capture_output=True, text=True)
            results[repetitions].append(tuple(json.loads(process.stdout)))
    rates = {
        repetitions: statistics.median(rate for rate, _ in rows)
        for repetitions, rows in results.items()
    }
    memory_bytes = {
        repetitions: statistics.median(size for _, size in rows)
        for repetitions, rows in results.items()
    }
    for repetitions in sizes:
        print(
            f"{repetitions * len(tunes):8,} tunes: {rates[repetitions]:8,.0f} tokens/s,"
            f" time per token {rates[1] / rates[repetitions]:.3f} times;"
            f" {memory_bytes[repetitions] / 2**20:6.0f} MiB,"
            f" {memory_bytes[repetitions] / memory_bytes[1]:.3f} times"
        )


if __name__ == "__main__":
    main()
