"""What a build costs: memory against size, cores, and a cluster that loses a worker.

    python benchmarks/corpus.py            some twenty minutes
    python benchmarks/corpus.py --toy      seconds, for continuous integration
    python benchmarks/corpus.py --only memory|cores|cluster

The files are real tunes of the dance books, each as a MIDI file or an ABC file of its own, moved up
and down without a change of their key, so that each is another tune to the codec.

memory   the same build of 1,000 and of 20,000 files, each in a process of its own: the most that
         the process held, and the most that a child of it held. The ratios are to be under 1.15.
cores    the same build with --jobs 1 and --jobs 2 in turn: medians, and their ratio, which is to
         be at least 1.8 on a machine with two idle cores. The data sets are equal, byte for byte.
cluster  the same build by three Dask workers, one of them killed midway, and by one process. The
         data sets are equal, byte for byte; the ratio of their times is printed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from musicgen import formats
from musicgen.corpus.sources import iter_tunes
from musicgen.music.score import Score

MEMORY_LIMIT, CORES_LIMIT = 1.15, 1.8
BUILD = """
import resource, sys, threading, time
from pathlib import Path
from musicgen.corpus.build import build

def peaks():  # of the children; what rusage says of them counts the parent that they sprang from
    found = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            status = Path("/proc", child, "status").read_text()
            found = max(found, int(status.partition("VmHWM:")[2].split()[0]))
    return found

def watch():
    global most
    while not over.wait(0.2):
        try:
            most = max(most, peaks())
        except (OSError, IndexError):  # one of them has just ended
            pass

most, over = 0, threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
try:
    build([sys.argv[1]], Path(sys.argv[2]), jobs=int(sys.argv[3]))
finally:
    over.set()
    watcher.join()
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, most)
"""


def moved(scores: list[Score]) -> Iterator[Score]:
    """Yield tunes without end: all of them, then all of them moved, further each time."""
    shift = 0
    while True:
        for score in scores:
            try:
                notes = tuple(replace(note, pitch=note.pitch + shift) for note in score.notes)
            except ValueError:
                continue
            yield replace(score, notes=notes)
        shift = -shift if shift > 0 else 1 - shift


def make_files(folder: Path, count: int, source: str = "ryan") -> None:
    """Write so many files, half of them MIDI."""
    folder.mkdir()
    scores = [score for score, _ in iter_tunes(source) if isinstance(score, Score)]
    for number, score in zip(range(count), moved(scores), strict=False):
        formats.write(score, folder / f"{number:05d}{'.mid' if number % 2 else '.abc'}")


def built(folder: Path, out: Path, jobs: int) -> tuple[float, int, int]:
    """Build in a process of its own; return seconds, and KiB of the process and of a child."""
    root = str(Path(__file__).parents[1])
    words = [sys.executable, "-c", BUILD, str(folder), str(out), str(jobs)]
    env = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    seconds, own, child = done.stdout.split()
    return float(seconds), int(own), int(child)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a data set but the manifest, which vouches for them."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def memory(here: Path, sizes: tuple[int, int]) -> None:
    found = []
    for size in sizes:
        make_files(here / f"files-{size}", size)
        seconds, own, child = built(here / f"files-{size}", here / f"data-{size}", 2)
        found.append((own, child))
        print(f"memory: {size:,} files in {seconds:.1f} s: {own / 1024:.1f} MiB,"
              f" a child {child / 1024:.1f} MiB")  # fmt: skip
    for name, small, large in zip(("process", "child"), *found, strict=True):
        print(f"memory: {name}, ratio {large / small:.3f}, limit {MEMORY_LIMIT}")


def cores(here: Path, size: int, times: int) -> None:
    make_files(here / "files-cores", size)
    spent: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(times):
        for jobs, seconds in spent.items():
            out = here / f"cores-{turn}-{jobs}"
            seconds.append(built(here / "files-cores", out, jobs)[0])
    equal = contents(here / "cores-0-1") == contents(here / "cores-0-2")
    one, two = (statistics.median(seconds) for seconds in spent.values())
    print(f"cores: {size:,} files, 1 job {one:.2f} s, 2 jobs {two:.2f} s (medians of {times}),"
          f" ratio {one / two:.2f}, limit {CORES_LIMIT}, equal bytes: {equal}")  # fmt: skip


def cluster(here: Path, size: int) -> None:
    from distributed import LocalCluster

    from musicgen.corpus.build import BuildProgress, build
    from musicgen.corpus.dispatch import connect_dask

    make_files(here / "files-cluster", size)
    one, _, _ = built(here / "files-cluster", here / "one", 1)
    with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as workers:
        doomed = next(iter(workers.workers.values())).pid
        gone = False

        def killing(now: BuildProgress) -> None:
            nonlocal gone
            if not gone and now.files >= size // 3:
                gone = True
                os.kill(doomed, signal.SIGKILL)

        with connect_dask(workers.scheduler_address) as executor:
            began = time.perf_counter()
            build([here / "files-cluster"], here / "three", executor=executor, progress=killing)
            three = time.perf_counter() - began
    equal = contents(here / "one") == contents(here / "three")
    print(f"cluster: {size:,} files, one process {one:.2f} s, three workers of which one was"
          f" killed {three:.2f} s, ratio {one / three:.2f}, equal bytes: {equal}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--only", choices=("memory", "cores", "cluster"))
    arguments = parser.parse_args()
    toy = arguments.toy
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        if arguments.only in (None, "memory"):
            memory(here, (10, 40) if toy else (1_000, 20_000))
        if arguments.only in (None, "cores"):
            cores(here, 20 if toy else 2_000, 1 if toy else 5)
        if arguments.only in (None, "cluster"):
            cluster(here, 20 if toy else 1_000)


if __name__ == "__main__":
    main()
