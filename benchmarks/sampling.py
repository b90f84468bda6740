"""How fast one tune is written, a token at a time, against stepping torch's own LSTM.

    python benchmarks/sampling.py            2 x 512, as in the design
    python benchmarks/sampling.py --toy      seconds, for continuous integration

The rival: `torch.nn.LSTM` of the same size, one id at a time under inference_mode, with whichever
number of threads is faster. Both feed the same ids and make no logits and no draws: the step alone.
They take turns; medians, their ratio, and the bound: the time to read the weights that a token
needs once, at the measured speed of reading them in a matrix-vector product. Beside it the same
engine with logits, grammar and draws, as `musicgen sample` runs it; and the whole command, from
start to file, against `python -c "import torch"`, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from musicgen.checkpoint import shapes
from musicgen.config import ModelSettings
from musicgen.music.theory import Meter
from musicgen.sampling.draw import Noise
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.sampler import Sampler
from musicgen.sampling.wishes import Wishes
from musicgen.tokens.vocabulary import MEASURES

VOCABULARY = len(MEASURES)


def make_engine(hidden: int) -> NumpyEngine:
    settings = ModelSettings(VOCABULARY, hidden=hidden, embedding=hidden)
    generator = np.random.default_rng(1)
    weights = {
        name: generator.uniform(-0.05, 0.05, shape).astype(np.float32)
        for name, shape in shapes(settings).items()
    }
    return NumpyEngine(settings, weights)


def our_rate(engine: NumpyEngine, ids: list[int]) -> float:
    """Return tokens a second of the recurrent layers."""
    state = engine.start()
    started = time.perf_counter()
    for number in ids:
        engine.advance(number, state)
    return len(ids) / (time.perf_counter() - started)


@torch.inference_mode()
def rival_rate(lstm: nn.LSTM, table: nn.Embedding, ids: list[int], threads: int) -> float:
    """Return tokens a second of torch's layers."""
    torch.set_num_threads(threads)
    state = None
    started = time.perf_counter()
    for number in ids:
        _, state = lstm(table(torch.tensor([[number]])), state)
    return len(ids) / (time.perf_counter() - started)


def read_speed(size: int = 2048, times: int = 30) -> float:
    """Return the bytes a second at which a matrix is read in a matrix-vector product."""
    matrix, vector = np.ones((4 * size, size), np.float32), np.ones(size, np.float32)
    out = np.empty(4 * size, np.float32)
    best = min(_timed_product(matrix, vector, out) for _ in range(times))
    return matrix.nbytes / best


def _timed_product(matrix: np.ndarray, vector: np.ndarray, out: np.ndarray) -> float:
    started = time.perf_counter()
    np.dot(matrix, vector, out=out)
    return time.perf_counter() - started


def report(hidden: int, rounds: int, length: int) -> None:
    engine = make_engine(hidden)
    lstm, table = nn.LSTM(hidden, hidden, 2), nn.Embedding(VOCABULARY, hidden)
    ids = np.random.default_rng(2).integers(1, 150, length).tolist()
    our_rate(engine, ids)
    rival_rate(lstm, table, ids, 1)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(our_rate(engine, ids))
        theirs.append(max(rival_rate(lstm, table, ids, threads) for threads in (1, 2)))
    mine, naive = statistics.median(ours), statistics.median(theirs)
    speed = read_speed()
    bound = speed / (4 * 3 * 4 * hidden * hidden)  # three matrices: the first input's is a table
    print(
        f"2 x {hidden}: ours {mine:.0f} tokens/s, torch.nn.LSTM {naive:.0f}, "
        f"ratio {mine / naive:.1f}; weights read at {speed / 1e9:.1f} GB/s: at most {bound:.0f}; "
        f"with logits, grammar and draw {drawn_rate(engine, rounds):.0f}"
    )


def drawn_rate(engine: NumpyEngine, tunes: int) -> float:
    """Return tokens a second of whole tunes: step, logits, grammar and draw."""
    single = {"part", "voice", "drum", "chord", "bass", "no_chord"}
    seen = frozenset(i for i, e in enumerate(MEASURES.events) if e.kind not in single)
    sampler, wishes = Sampler(engine, seen), Wishes(meter=Meter(6, 8), bars=32)
    sampler.draw_ids(wishes, Noise(0))
    started = time.perf_counter()
    count = sum(len(sampler.draw_ids(wishes, Noise(1, number))) for number in range(tunes))
    return count / (time.perf_counter() - started)


def seconds(words: list[str]) -> float:
    """Return the seconds that a command takes in a process of its own."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def cold_start(rounds: int) -> None:
    """Compare the whole command with one import of torch, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "song.mid")
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(seconds(["-m", "musicgen", "sample", "--out", out, "--force"]))
            theirs.append(seconds(["-c", "import torch"]))
    mine, torchs = statistics.median(ours), statistics.median(theirs)
    print(f"musicgen sample: {mine:.2f} s; import torch: {torchs:.2f} s; ratio {mine / torchs:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 384, 512])
    arguments = parser.parse_args()
    sizes, rounds, length = ([64], 3, 50) if arguments.toy else (arguments.hidden, 9, 200)
    for hidden in sizes:
        report(hidden, rounds, length)
    cold_start(1 if arguments.toy else 7)


if __name__ == "__main__":
    main()
