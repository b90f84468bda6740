"""How fast tunes are written, one and many, against stepping torch's own LSTM.

    python benchmarks/sampling.py            2 x 256, 2 x 384 and 2 x 512; 1,000 tunes
    python benchmarks/sampling.py --toy      seconds, for continuous integration

The rival: `torch.nn.LSTM` of the same size, one id at a time under inference_mode, with whichever
number of threads is faster. Both feed the same ids and make no logits and no draws: the step alone.
They take turns; medians, their ratio, and the bound: the time to read the weights that a token
needs once, at the measured speed of reading as many bytes in matrix-vector products. Beside it the
same engine with logits, grammar and draws, as `musicgen sample` runs it once it has met what the
grammar offers (18 tunes; the first tune's speed stands beside it); the model is folk, widened with
cells that stay zero, so that its tunes are folk's and its cost is that of the size; and the whole
command, from start to file, against `python -c "import torch"`, in turn.

Many tunes: `musicgen sample --count 1000`, from start to the last file, in a process for each core,
with both engines, against a loop that steps `torch.nn.LSTM` with 64 lanes: embedding, layers, head
and a draw from the softmax (the likeliest id is fed, where that is faster), without grammar, files
or start, with whichever number of threads is faster.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from musicgen.checkpoint import load as load_checkpoint
from musicgen.checkpoint import save, weight_shapes
from musicgen.config import ModelSettings
from musicgen.model_folders import find_model_folder
from musicgen.music.theory import Meter
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import load

VOCABULARY = len(MEASURES)


def widened(hidden: int) -> tuple[ModelSettings, dict[str, np.ndarray]]:
    """Return folk with cells that are always zero beside its own: a larger model, the same tunes.

    The added rows and columns are zero, so that an added cell has tanh(0) to take in, for ever.
    """
    folk = load_checkpoint(find_model_folder("folk"))
    settings = replace(folk.settings, hidden=hidden, tied=False)
    weights = {}
    for name, shape in weight_shapes(settings).items():
        known = np.asarray(folk.weights.get(name, folk.weights["embedding.weight"]), np.float32)
        if not name.startswith("layers"):
            weights[name] = _filled(known, shape)
            continue
        gates = known.reshape(4, -1, *known.shape[1:])
        weights[name] = _filled(gates, (4, hidden, *shape[1:])).reshape(shape)
    return settings, weights


def _filled(known: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of a shape that begins as a known one and is zero beyond it."""
    out = np.zeros(shape, np.float32)
    out[tuple(map(slice, known.shape))] = known
    return out


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


def read_speed(hidden: int, times: int = 60) -> float:
    """Return the bytes a second at which a token's three matrices are read, one after the other.

    So they come from the cache, or the memory, that holds them while a tune is drawn.
    """
    matrices = [np.ones((4 * hidden, hidden), np.float32) for _ in range(3)]
    vector, out = np.ones(hidden, np.float32), np.empty(4 * hidden, np.float32)
    best = min(_timed_products(matrices, vector, out) for _ in range(times))
    return sum(matrix.nbytes for matrix in matrices) / best


def _timed_products(matrices: list[np.ndarray], vector: np.ndarray, out: np.ndarray) -> float:
    started = time.perf_counter()
    for matrix in matrices:
        np.dot(matrix, vector, out=out)
    return time.perf_counter() - started


def report(hidden: int, rounds: int, length: int) -> None:
    engine = NumpyEngine(*widened(hidden))
    lstm, table = nn.LSTM(hidden, hidden, 2), nn.Embedding(VOCABULARY, hidden)
    ids = np.random.default_rng(2).integers(1, 150, length).tolist()
    sampler = replace(load("folk").sampler, engine=engine)
    first = drawn_rate(sampler, 0)
    for number in range(1, 2 * rounds + 1):
        drawn_rate(sampler, number)
    our_rate(engine, ids)
    rival_rate(lstm, table, ids, 1)
    ours, theirs, whole = [], [], []
    for number in range(rounds):
        ours.append(our_rate(engine, ids))
        whole.append(drawn_rate(sampler, 1000 + number))
        theirs.append(max(rival_rate(lstm, table, ids, threads) for threads in (1, 2)))
    mine, naive, drawn = (statistics.median(rates) for rates in (ours, theirs, whole))
    speed = read_speed(hidden)
    bound = speed / (4 * 3 * 4 * hidden * hidden)  # three matrices: the first input's is a table
    print(
        f"2 x {hidden}: ours {mine:.0f} tokens/s, torch.nn.LSTM {naive:.0f}, "
        f"ratio {mine / naive:.1f}; weights read at {speed / 1e9:.1f} GB/s: at most {bound:.0f}; "
        f"with logits, grammar and draw {drawn:.0f}, {drawn / naive:.1f} times torch.nn.LSTM, "
        f"{drawn / bound:.2f} of the bound; the very first tune {first:.0f}"
    )


def drawn_rate(sampler: Sampler, number: int) -> float:
    """Return tokens a second of a whole tune: step, logits, grammar and draw."""
    wishes = SamplingOptions(meter=Meter(6, 8), bars=32)
    started = time.perf_counter()
    count = len(sampler.draw_ids(wishes, Noise(1, number)))
    return count / (time.perf_counter() - started)


@torch.inference_mode()
def batched_rate(hidden: int, threads: int, steps: int, lanes: int = 64) -> float:
    """Return tokens a second of torch's layers over lanes, the likeliest id fed, or a drawn one."""
    torch.set_num_threads(threads)
    lstm, table = nn.LSTM(hidden, hidden, 2), nn.Embedding(VOCABULARY, hidden)
    head = nn.Linear(hidden, VOCABULARY)
    rates = []
    for draw in (_likeliest, _drawn):
        state, ids = None, torch.zeros(1, lanes, dtype=torch.long)
        started = time.perf_counter()
        for _ in range(steps):
            outputs, state = lstm(table(ids), state)
            ids = draw(head(outputs[0]))[None]
        rates.append(steps * lanes / (time.perf_counter() - started))
    return max(rates)


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def _drawn(logits: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(torch.softmax(logits / 0.8, -1), 1)[:, 0]


def many(hidden: int, count: int, rounds: int) -> None:
    """Compare the whole command for many tunes with the loop, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", hidden)
        rates: dict[str, list[float]] = {"numpy": [], "torch": [], "torch.nn.LSTM": []}
        tokens = tokens_of(model, count)
        for number in range(rounds):
            for engine in ("numpy", "torch"):
                out = Path(folder) / f"{engine}-{number}"
                out.mkdir()
                words = ["-m", "musicgen", "sample", "--model", str(model), "--out", f"{out}/"]
                options = ["--count", str(count), "--seed", "1", "--engine", engine, "-q"]
                rates[engine].append(tokens / seconds([*words, *options]))
            loops = (batched_rate(hidden, threads, 100 if count > 100 else 5) for threads in (1, 2))
            rates["torch.nn.LSTM"].append(max(loops))
    numpy, by_torch, naive = (statistics.median(found) for found in rates.values())
    print(
        f"{count} tunes of 2 x {hidden}, {tokens / count:.0f} tokens each, whole program: "
        f"in processes {numpy:.0f} tokens/s, --engine torch {by_torch:.0f}, batched torch.nn.LSTM "
        f"{naive:.0f}; ratios {numpy / naive:.2f} and {by_torch / naive:.2f}"
    )


def write_model(folder: Path, hidden: int) -> Path:
    """Return the folder of a model of that size: folk itself, or folk widened."""
    folk = load_checkpoint(find_model_folder("folk"))
    if folk.settings.hidden == hidden:
        return folk.folder
    settings, weights = widened(hidden)
    extra = {"receipt.bin": folk.extra("receipt.bin")}
    save(folder, weights, replace(folk.manifest, name=folder.name, settings=settings), extra)
    return folder


def tokens_of(folder: Path, count: int) -> int:
    """Return the number of tokens in the tunes that the command will draw."""
    order = GenerationRequest(SamplingOptions(), 1)
    found = load(folder).carried_out_many(order, range(count))
    return sum(len(written.encoded.ids) for _, written in found)


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
    parser.add_argument("--tunes", type=int, default=1000)
    parser.add_argument("--many", type=int, nargs="*", default=[256, 512], help="sizes for many")
    parser.add_argument("--rounds", type=int, default=3, help="of many tunes")
    arguments = parser.parse_args()
    sizes, rounds, length = ([256], 1, 20) if arguments.toy else (arguments.hidden, 9, 200)
    for hidden in sizes:
        report(hidden, rounds, length)
    for hidden in (256,) if arguments.toy else arguments.many:
        many(hidden, 9 if arguments.toy else arguments.tunes,
             1 if arguments.toy else arguments.rounds)  # fmt: skip
    cold_start(1 if arguments.toy else 7)


if __name__ == "__main__":
    main()
