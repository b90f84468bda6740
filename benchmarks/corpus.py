"""Measure a corpus build: memory by corpus size, speed-up by cores, and loss of a cluster worker.

    python benchmarks/corpus.py            about twenty minutes
    python benchmarks/corpus.py --toy      seconds, for continuous integration
    python benchmarks/corpus.py --only memory|cores|cluster

The files are real tunes of the dance books, one tune per MIDI or ABC file. Their pitches are
shifted while the key stays, so that the codec sees different tunes.

memory   builds of 1,000 and of 20,000 files, each in its own process: peak memory of the process
         and of its reading children. Target: ratios under 1.15.
cores    the same build with --jobs 1 and --jobs 2 in turn: medians and their ratio. Target: at
         least 1.8 on a machine with two idle cores. Both data sets must have the same bytes.
cluster  the same build by one process, and by three Dask workers of which one is killed halfway.
         Both data sets must have the same bytes; the ratio of the times is printed.
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

def child_peak():  # rusage of children would include the parent that they were forked from
    peak = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            status = Path("/proc", child, "status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
    return peak

def watch():
    global max_child_peak
    while not is_over.wait(0.2):
        try:
            max_child_peak = max(max_child_peak, child_peak())
        except (OSError, IndexError):  # a child has just ended
            pass

max_child_peak, is_over = 0, threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
start_time = time.perf_counter()
try:
    build([sys.argv[1]], Path(sys.argv[2]), jobs=int(sys.argv[3]))
finally:
    is_over.set()
    watcher.join()
seconds = time.perf_counter() - start_time
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, max_child_peak)
"""


def transpose_endlessly(scores: list[Score]) -> Iterator[Score]:
    """Yield all tunes, then all of them transposed by growing intervals, without end."""
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
    """Write `count` files, half of them MIDI."""
    folder.mkdir()
    scores = [score for score, _ in iter_tunes(source) if isinstance(score, Score)]
    for number, score in zip(range(count), transpose_endlessly(scores), strict=False):
        formats.write(score, folder / f"{number:05d}{'.mid' if number % 2 else '.abc'}")


def build_in_process(folder: Path, out: Path, jobs: int) -> tuple[float, int, int]:
    """Build in its own process; return seconds, and peak KiB of the process and of a child."""
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", BUILD, str(folder), str(out), str(jobs)]
    env = os.environ | {"PYTHONPATH": root}
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    seconds, own_kib, child_kib = process.stdout.split()
    return float(seconds), int(own_kib), int(child_kib)


def read_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a data set except its manifest."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"
    }


def measure_memory(work_folder: Path, sizes: tuple[int, int]) -> None:
    peaks = []
    for size in sizes:
        make_files(work_folder / f"files-{size}", size)
        seconds, own_kib, child_kib = build_in_process(
            work_folder / f"files-{size}", work_folder / f"data-{size}", 2
        )
        peaks.append((own_kib, child_kib))
        print(f"memory: {size:,} files in {seconds:.1f} s: {own_kib / 1024:.1f} MiB,"
              f" a child {child_kib / 1024:.1f} MiB")  # fmt: skip
    for name, small, large in zip(("process", "child"), *peaks, strict=True):
        print(f"memory: {name}, ratio {large / small:.3f}, limit {MEMORY_LIMIT}")


def measure_cores(work_folder: Path, size: int, rounds: int) -> None:
    make_files(work_folder / "files-cores", size)
    seconds_by_jobs: dict[int, list[float]] = {1: [], 2: []}
    for round_number in range(rounds):
        for jobs, seconds in seconds_by_jobs.items():
            out = work_folder / f"cores-{round_number}-{jobs}"
            seconds.append(build_in_process(work_folder / "files-cores", out, jobs)[0])
    is_equal = read_contents(work_folder / "cores-0-1") == read_contents(work_folder / "cores-0-2")
    one_job, two_jobs = (statistics.median(seconds) for seconds in seconds_by_jobs.values())
    print(f"cores: {size:,} files, 1 job {one_job:.2f} s, 2 jobs {two_jobs:.2f} s (medians of"
          f" {rounds}), ratio {one_job / two_jobs:.2f}, limit {CORES_LIMIT},"
          f" equal bytes: {is_equal}")  # fmt: skip


def measure_cluster(work_folder: Path, size: int) -> None:
    from distributed import LocalCluster

    from musicgen.corpus.build import BuildProgress, build
    from musicgen.corpus.dispatch import connect_dask

    make_files(work_folder / "files-cluster", size)
    one_process, _, _ = build_in_process(work_folder / "files-cluster", work_folder / "one", 1)
    with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as workers:
        killed_pid = next(iter(workers.workers.values())).pid
        is_killed = False

        def kill_worker(progress: BuildProgress) -> None:
            nonlocal is_killed
            if not is_killed and progress.files >= size // 3:
                is_killed = True
                os.kill(killed_pid, signal.SIGKILL)

        with connect_dask(workers.scheduler_address) as executor:
            start_time = time.perf_counter()
            build(
                [work_folder / "files-cluster"],
                work_folder / "three",
                executor=executor,
                progress=kill_worker,
            )
            three_workers = time.perf_counter() - start_time
    is_equal = read_contents(work_folder / "one") == read_contents(work_folder / "three")
    print(f"cluster: {size:,} files, one process {one_process:.2f} s, three workers, one of them"
          f" killed {three_workers:.2f} s, ratio {one_process / three_workers:.2f},"
          f" equal bytes: {is_equal}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--only", choices=("memory", "cores", "cluster"))
    arguments = parser.parse_args()
    is_toy = arguments.toy
    with tempfile.TemporaryDirectory() as folder:
        work_folder = Path(folder)
        if arguments.only in (None, "memory"):
            measure_memory(work_folder, (10, 40) if is_toy else (1_000, 20_000))
        if arguments.only in (None, "cores"):
            measure_cores(work_folder, 20 if is_toy else 2_000, 1 if is_toy else 5)
        if arguments.only in (None, "cluster"):
            measure_cluster(work_folder, 20 if is_toy else 1_000)


if __name__ == "__main__":
    main()
