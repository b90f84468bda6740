"""Measure sampling speed, for one tune and for many, against stepping torch.nn.LSTM.

    python benchmarks/sampling.py            2 x 400 and 2 x 512; 1,000 tunes
    python benchmarks/sampling.py --toy      seconds, for continuous integration

One tune: `torch.nn.LSTM` of the same size steps one id at a time under inference_mode, with 1 or 2
threads (the faster counts). Both sides get the same ids and compute no logits: only the recurrent
step is timed, in turn, ours with the score context. Printed are medians, their ratio, and the
bound: the time to read once the weights that a token needs, at the measured speed of matrix-vector
products of that size. The same engine is also timed with logits, grammar and drawing, as `musicgen
sample` runs it, after 18 warm-up tunes (the speed of the first tune is printed too). The model is
folk, padded with cells that stay zero: it writes folk's tunes at the cost of the larger size. Last,
the whole command from start to file is compared with `python -c "import torch"`.

Many tunes: `musicgen sample --count 1000` from start to the last file, one process per core, with
both engines, against a loop that steps `torch.nn.LSTM` with 64 lanes: embedding, layers, head and
sampling from the softmax or argmax (the faster counts), without grammar, files or start-up, with 1
or 2 threads (the faster counts).
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


def widen_folk(hidden: int) -> tuple[ModelSettings, dict[str, np.ndarray]]:
    """Return settings and weights of folk, padded with cells whose state stays zero.

    The added rows and columns are zero, so the input of an added cell is always tanh(0) = 0.
    """
    folk = load_checkpoint(find_model_folder("folk"))
    settings = replace(folk.settings, hidden=hidden)
    weights = {}
    for name, shape in weight_shapes(settings).items():
        folk_array = np.asarray(folk.weights[name], np.float32)
        if not name.startswith("layers"):
            weights[name] = _pad_with_zeros(folk_array, shape)
            continue
        gates = folk_array.reshape(4, -1, *folk_array.shape[1:])
        weights[name] = _pad_with_zeros(gates, (4, hidden, *shape[1:])).reshape(shape)
    return settings, weights


def _pad_with_zeros(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pad an array with zeros to a shape."""
    padded = np.zeros(shape, np.float32)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def measure_engine(engine: NumpyEngine, ids: list[int]) -> float:
    """Return tokens/s of the recurrent layers, with the score context that they read."""
    layers, context = engine.start()
    fields: tuple[int, ...] = ()
    start_time = time.perf_counter()
    for number in ids:
        if context is not None:
            context = context.take(number)
            fields = context.compute_fields()
        engine.advance(number, layers, fields)
    return len(ids) / (time.perf_counter() - start_time)


@torch.inference_mode()
def measure_nn_lstm(lstm: nn.LSTM, embedding: nn.Embedding, ids: list[int], threads: int) -> float:
    """Return tokens/s of torch.nn.LSTM."""
    torch.set_num_threads(threads)
    state = None
    start_time = time.perf_counter()
    for number in ids:
        _, state = lstm(embedding(torch.tensor([[number]])), state)
    return len(ids) / (time.perf_counter() - start_time)


def measure_read_speed(hidden: int, rounds: int = 60) -> float:
    """Return the bytes/s at which a token's three matrices are read, one after another.

    They come from the same cache or memory as during sampling.
    """
    matrices = [np.ones((4 * hidden, hidden), np.float32) for _ in range(3)]
    vector, out = np.ones(hidden, np.float32), np.empty(4 * hidden, np.float32)
    best_seconds = min(_timed_products(matrices, vector, out) for _ in range(rounds))
    return sum(matrix.nbytes for matrix in matrices) / best_seconds


def _timed_products(matrices: list[np.ndarray], vector: np.ndarray, out: np.ndarray) -> float:
    start_time = time.perf_counter()
    for matrix in matrices:
        np.dot(matrix, vector, out=out)
    return time.perf_counter() - start_time


def report_one_tune(hidden: int, rounds: int, length: int) -> None:
    engine = NumpyEngine(*widen_folk(hidden))
    lstm, embedding = nn.LSTM(hidden, hidden, 2), nn.Embedding(VOCABULARY, hidden)
    tune = load("folk").generate(GenerationRequest(SamplingOptions(), 1))
    ids = list(tune.encoded.ids)[:length]
    sampler = replace(load("folk").sampler, engine=engine)
    first_rate = measure_sampler(sampler, 0)
    for number in range(1, 2 * rounds + 1):
        measure_sampler(sampler, number)
    measure_engine(engine, ids)
    measure_nn_lstm(lstm, embedding, ids, 1)
    own_rates, nn_lstm_rates, sampler_rates = [], [], []
    for number in range(rounds):
        own_rates.append(measure_engine(engine, ids))
        sampler_rates.append(measure_sampler(sampler, 1000 + number))
        nn_lstm_rates.append(
            max(measure_nn_lstm(lstm, embedding, ids, threads) for threads in (1, 2))
        )
    own_rate, nn_lstm_rate, sampler_rate = (
        statistics.median(rates) for rates in (own_rates, nn_lstm_rates, sampler_rates)
    )
    bytes_per_second = measure_read_speed(hidden)
    bound = bytes_per_second / (
        4 * 3 * 4 * hidden * hidden
    )  # three matrices; the first input is a table look-up
    print(
        f"2 x {hidden}: ours {own_rate:.0f} tokens/s, torch.nn.LSTM {nn_lstm_rate:.0f}, "
        f"ratio {own_rate / nn_lstm_rate:.1f}; weights read at {bytes_per_second / 1e9:.1f} GB/s:"
        f" at most {bound:.0f}; with logits, grammar and drawing {sampler_rate:.0f},"
        f" {sampler_rate / nn_lstm_rate:.1f} times torch.nn.LSTM,"
        f" {sampler_rate / bound:.2f} of the bound; the first tune {first_rate:.0f}"
    )


def measure_sampler(sampler: Sampler, number: int) -> float:
    """Return tokens/s of a whole tune: step, logits, grammar and drawing."""
    options = SamplingOptions(meter=Meter(6, 8), bars=32)
    start_time = time.perf_counter()
    count = len(sampler.draw_ids(options, Noise(1, number)))
    return count / (time.perf_counter() - start_time)


@torch.inference_mode()
def measure_batched_nn_lstm(hidden: int, threads: int, steps: int, lanes: int = 64) -> float:
    """Return tokens/s of torch.nn.LSTM over lanes, fed by argmax or by sampling."""
    torch.set_num_threads(threads)
    lstm, embedding = nn.LSTM(hidden, hidden, 2), nn.Embedding(VOCABULARY, hidden)
    head = nn.Linear(hidden, VOCABULARY)
    rates = []
    for draw in (_argmax, _sample_softmax):
        state, ids = None, torch.zeros(1, lanes, dtype=torch.long)
        start_time = time.perf_counter()
        for _ in range(steps):
            outputs, state = lstm(embedding(ids), state)
            ids = draw(head(outputs[0]))[None]
        rates.append(steps * lanes / (time.perf_counter() - start_time))
    return max(rates)


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def _sample_softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(torch.softmax(logits / 0.8, -1), 1)[:, 0]


def report_many_tunes(hidden: int, count: int, rounds: int) -> None:
    """Compare the whole command for many tunes with the torch loop, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", hidden)
        rates: dict[str, list[float]] = {"numpy": [], "torch": [], "torch.nn.LSTM": []}
        tokens = count_tokens(model, count)
        for number in range(rounds):
            for engine in ("numpy", "torch"):
                out_folder = Path(folder) / f"{engine}-{number}"
                out_folder.mkdir()
                command = [
                    "-m",
                    "musicgen",
                    "sample",
                    "--model",
                    str(model),
                    "--out",
                    f"{out_folder}/",
                ]
                options = ["--count", str(count), "--seed", "1", "--engine", engine, "-q"]
                rates[engine].append(tokens / run_seconds([*command, *options]))
            loops = (
                measure_batched_nn_lstm(hidden, threads, 100 if count > 100 else 5)
                for threads in (1, 2)
            )
            rates["torch.nn.LSTM"].append(max(loops))
    numpy_rate, torch_rate, nn_lstm_rate = (
        statistics.median(rates_of_engine) for rates_of_engine in rates.values()
    )
    print(
        f"{count} tunes of 2 x {hidden}, {tokens / count:.0f} tokens each, whole program: "
        f"in processes {numpy_rate:.0f} tokens/s, --engine torch {torch_rate:.0f},"
        f" batched torch.nn.LSTM {nn_lstm_rate:.0f};"
        f" ratios {numpy_rate / nn_lstm_rate:.2f} and {torch_rate / nn_lstm_rate:.2f}"
    )


def write_model(folder: Path, hidden: int) -> Path:
    """Return the folder of a model of that size: folk itself, or folk padded."""
    folk = load_checkpoint(find_model_folder("folk"))
    if folk.settings.hidden == hidden:
        return folk.folder
    settings, weights = widen_folk(hidden)
    extra = {"receipt.bin": folk.read_extra_file("receipt.bin")}
    save(folder, weights, replace(folk.manifest, name=folder.name, settings=settings), extra)
    return folder


def count_tokens(folder: Path, count: int) -> int:
    """Return the number of tokens in the tunes that the command will write."""
    request = GenerationRequest(SamplingOptions(), 1)
    generated = load(folder).generate_many(request, range(count))
    return sum(len(tune.encoded.ids) for _, tune in generated)


def run_seconds(command: list[str]) -> float:
    """Run Python with arguments in a new process; return the seconds."""
    start_time = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start_time


def report_cold_start(rounds: int) -> None:
    """Compare the whole command with importing torch, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "song.mid")
        own_seconds, import_seconds = [], []
        for _ in range(rounds):
            own_seconds.append(run_seconds(["-m", "musicgen", "sample", "--out", out, "--force"]))
            import_seconds.append(run_seconds(["-c", "import torch"]))
    own_median, torch_seconds = statistics.median(own_seconds), statistics.median(import_seconds)
    print(
        f"musicgen sample: {own_median:.2f} s; import torch: {torch_seconds:.2f} s;"
        f" ratio {own_median / torch_seconds:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of minutes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[400, 512])
    parser.add_argument("--tunes", type=int, default=1000)
    parser.add_argument(
        "--many", type=int, nargs="*", default=[400, 512], help="hidden sizes for many tunes"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds for many tunes")
    arguments = parser.parse_args()
    sizes, rounds, length = ([400], 1, 20) if arguments.toy else (arguments.hidden, 9, 200)
    for hidden in sizes:
        report_one_tune(hidden, rounds, length)
    for hidden in (400,) if arguments.toy else arguments.many:
        report_many_tunes(hidden, 9 if arguments.toy else arguments.tunes,
             1 if arguments.toy else arguments.rounds)  # fmt: skip
    report_cold_start(1 if arguments.toy else 7)


if __name__ == "__main__":
    main()
