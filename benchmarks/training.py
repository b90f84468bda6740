"""Measure training speed against a plain training loop.

    python benchmarks/training.py            three sizes; several minutes
    python benchmarks/training.py --toy      seconds, for continuous integration

Plain loop: `torch.nn.LSTM` in fp32, 8 lanes of one endless stream of ids in windows of 100, Adam,
all cores. Trainer: musicgen's trainer with state resets, dropout, clipping and schedule. Both have
the same model size and the same tunes, and run in turn. Printed are median tokens/s, their ratio,
and each model's arithmetic as a share of the measured matrix-multiply peak. Then the plain loop
trains until its held-out loss stops falling, and the trainer gets half of the time that the plain
loop's best loss took.

The tunes are drawn from a small grammar of bars and repeats; with --data they are the training and
validation parts of a data set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN_ID, ModelSettings, TrainingSettings
from musicgen.corpus.store import load
from musicgen.model.network import LanguageModel
from musicgen.process_limits import count_cores
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training.heldout_loss import evaluate
from musicgen.training.plan import FRESH_PRESETS
from musicgen.training.trainer import Trainer, equalize_window_lengths

VOCABULARY = len(MEASURES)
FREQUENT_IDS = 150  # ids that occur in the synthetic tunes
PRESET = FRESH_PRESETS[-1]  # of a large corpus, as plain `musicgen train` uses
PLAIN_LANES, PLAIN_WINDOW, PLAIN_LEARNING_RATE = 8, 100, 2e-3
UPDATES_PER_ROUND = 6  # of the trainer
PLAIN_PATIENCE = 4  # evaluations without a better held-out loss


def draw_tunes(count: int, seed: int) -> list[np.ndarray]:
    """Draw tunes of about 370 ids: phrases of a few motifs, repeated and varied."""
    motifs = np.random.default_rng(0).integers(2, FREQUENT_IDS, (80, 12))
    generator = np.random.default_rng(seed)
    return [draw_tune(motifs, generator) for _ in range(count)]


def draw_tune(motifs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw one tune: 16 motifs of neighbouring numbers in two repeated halves; the last id is 1."""
    first_motif = int(generator.integers(len(motifs)))
    motif_numbers = [
        (first_motif + int(step)) % len(motifs) for step in generator.integers(0, 6, 16)
    ]
    phrases = [vary_motif(motifs[number], generator) for number in motif_numbers]
    return np.concatenate([*phrases[:8], *phrases[:8], *phrases[8:], *phrases[8:], [1]]).astype(
        np.int16
    )


def vary_motif(motif: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a motif with one id in twenty replaced."""
    new_ids = generator.integers(2, FREQUENT_IDS, len(motif))
    return np.where(generator.random(len(motif)) < 0.05, new_ids, motif)


class PlainLoop:
    """A plain training loop: one stream, eight lanes, no state resets, Adam."""

    def __init__(self, tunes: list[np.ndarray], hidden: int) -> None:
        settings = ModelSettings(
            VOCABULARY, hidden=hidden, embedding=hidden, dropout=0, embedding_dropout=0
        )
        torch.manual_seed(1)
        self.embedding = nn.Embedding(VOCABULARY, hidden)
        self.lstm = nn.LSTM(hidden, hidden, settings.layers)
        self.head = nn.Linear(hidden, VOCABULARY)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, 0, hidden**-0.5)
        self.modules = nn.ModuleList([self.embedding, self.lstm, self.head])
        self.optimizer = torch.optim.Adam(self.modules.parameters(), PLAIN_LEARNING_RATE)
        stream = np.concatenate([np.append(BEGIN_ID, tune) for tune in tunes]).astype(np.int64)
        length = len(stream) // PLAIN_LANES
        self.stream = torch.from_numpy(stream[: length * PLAIN_LANES].reshape(PLAIN_LANES, -1).T)
        self.position = 0
        self.state: tuple[Tensor, Tensor] | None = None

    def update(self) -> int:
        """Train on one window; return its number of ids."""
        if self.position + PLAIN_WINDOW + 1 > len(self.stream):
            self.position, self.state = 0, None
        inputs = self.stream[self.position : self.position + PLAIN_WINDOW].contiguous()
        targets = self.stream[self.position + 1 : self.position + PLAIN_WINDOW + 1]
        outputs, state = self.lstm(self.embedding(inputs), self.state)
        loss = functional.cross_entropy(self.head(outputs).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.state = (state[0].detach(), state[1].detach())
        self.position += PLAIN_WINDOW
        return PLAIN_LANES * PLAIN_WINDOW

    def as_model(self) -> LanguageModel:
        """Return the weights as a LanguageModel, so that the same code evaluates both."""
        settings = ModelSettings(
            VOCABULARY, hidden=self.lstm.hidden_size, embedding=self.lstm.hidden_size
        )
        model = LanguageModel(settings)
        arrays = model.copy_weights()
        for name, weight in self.lstm.named_parameters():
            layer = name[-1]
            arrays[f"layers.{layer}.{name[:-1]}0"] = weight.detach().numpy()
        arrays["embedding.weight"] = self.embedding.weight.detach().numpy()
        arrays["head.bias"] = self.head.bias.detach().numpy()
        model.load_weights(arrays)
        return model


def make_trainer(
    tunes: list[np.ndarray],
    hidden: int,
    tokens: int,
    held_out: Sequence[np.ndarray] = (),
    evaluate_every: int = 0,
    lanes: int = PRESET.lanes,
    bptt: int = PRESET.bptt,
    first_bptt: int = PRESET.first_bptt,
) -> Trainer:
    shape = ModelSettings(
        VOCABULARY,
        hidden=hidden,
        embedding=hidden,
        dropout=PRESET.dropout,
        embedding_dropout=PRESET.embedding_dropout,
    )
    model = LanguageModel(shape, torch.Generator().manual_seed(1))
    settings = TrainingSettings(
        tokens=tokens,
        lanes=lanes,
        bptt=bptt,
        first_bptt=min(first_bptt, bptt),
        learning_rate=PRESET.learning_rate,
        evaluate_every=evaluate_every,
        patience=10**6,
    )
    return Trainer(model, tunes, held_out, settings)


def compute_flops(hidden: int) -> float:
    """Return the floating-point operations per id, forward and backward: 6 per weight."""
    return 6.0 * (2 * 8 * hidden * hidden + hidden * VOCABULARY)


def measure_peak(size: int = 1536, repetitions: int = 5) -> float:
    """Return the peak speed of fp32 matrix products on all cores, in operations/s."""
    torch.set_num_threads(count_cores())
    left, right = torch.ones(size, size), torch.ones(size, size)
    return (
        2
        * size**3
        / min(measure_seconds(lambda: torch.mm(left, right)) for _ in range(repetitions))
    )


def measure_seconds(work: Callable[[], object]) -> float:
    start_time = time.perf_counter()
    work()
    return time.perf_counter() - start_time


@dataclass(frozen=True)
class RoundRates:
    """Tokens/s of both, and the peak, measured one right after another."""

    trainer: float
    plain_loop: float
    peak: float  # operations/s


def measure_rounds(trainer: Trainer, plain_loop: PlainLoop, rounds: int) -> list[RoundRates]:
    """Measure both and the peak in turn; the first round is a warm-up."""
    rates = []
    for _ in range(rounds + 1):
        torch.set_num_threads(1)
        tokens = UPDATES_PER_ROUND * trainer.settings.lanes * trainer.settings.bptt
        trainer_rate = tokens / measure_seconds(trainer_updates(trainer, UPDATES_PER_ROUND))
        torch.set_num_threads(count_cores())
        updates = max(1, round(tokens / (PLAIN_LANES * PLAIN_WINDOW)))
        plain_rate = (
            updates
            * PLAIN_LANES
            * PLAIN_WINDOW
            / measure_seconds(plain_updates(plain_loop, updates))
        )
        rates.append(RoundRates(trainer_rate, plain_rate, measure_peak(repetitions=3)))
    return rates[1:]


def trainer_updates(trainer: Trainer, count: int) -> Callable[[], object]:
    return lambda: [trainer.train_on_window(trainer.next_window()) for _ in range(count)]


def plain_updates(plain_loop: PlainLoop, count: int) -> Callable[[], object]:
    return lambda: [plain_loop.update() for _ in range(count)]


def report_speed(
    hidden: int, tunes: list[np.ndarray], rounds: int, lanes: int, bptt: int, first_bptt: int
) -> None:
    """Print medians over rounds: speeds, and ratios within a round."""
    growing = make_trainer(tunes, hidden, 10**9, lanes=lanes, bptt=bptt, first_bptt=first_bptt)
    constant = Trainer(growing.model, tunes, (), equalize_window_lengths(growing.settings))
    rates = measure_rounds(constant, PlainLoop(tunes, hidden), rounds)
    flops = compute_flops(hidden)

    def median_of(value: Callable[[RoundRates], float]) -> float:
        return statistics.median(map(value, rates))

    print(
        f"2 x {hidden}, {lanes} lanes x {constant.settings.bptt} ids:"
        f" trainer {median_of(lambda rate: rate.trainer):8.0f} tokens/s, plain loop"
        f" {median_of(lambda rate: rate.plain_loop):8.0f}, ratio"
        f" {median_of(lambda rate: rate.trainer / rate.plain_loop):.2f}; of the peak"
        f" {median_of(lambda rate: rate.peak) / 1e9:.0f} GFLOP/s: trainer"
        f" {median_of(lambda rate: flops * rate.trainer / rate.peak):.0%}, plain loop"
        f" {median_of(lambda rate: flops * rate.plain_loop / rate.peak):.0%}"
    )


@dataclass(frozen=True)
class LossReached:
    """A held-out loss, and the seconds and tokens of training up to it."""

    loss: float
    seconds: float
    tokens: int


def train_plain_loop(
    hidden: int,
    tunes: list[np.ndarray],
    held_out: list[np.ndarray],
    evaluate_every: int,
    max_tokens: int,
) -> LossReached:
    """Train the plain loop until its held-out loss stops falling; return its best."""
    torch.set_num_threads(count_cores())
    plain_loop, best = PlainLoop(tunes, hidden), LossReached(float("inf"), 0.0, 0)
    seconds, tokens, evaluations_without_gain = 0.0, 0, 0
    while evaluations_without_gain < PLAIN_PATIENCE and tokens < max_tokens:
        updates = -(-evaluate_every // (PLAIN_LANES * PLAIN_WINDOW))
        seconds += measure_seconds(plain_updates(plain_loop, updates))
        tokens += updates * PLAIN_LANES * PLAIN_WINDOW
        loss = evaluate(plain_loop.as_model(), held_out).loss
        evaluations_without_gain += 1
        if loss < best.loss:
            best, evaluations_without_gain = LossReached(loss, seconds, tokens), 0
    return best


def train_with_trainer(
    hidden: int,
    tunes: list[np.ndarray],
    held_out: list[np.ndarray],
    seconds: float,
    target_loss: float,
) -> tuple[LossReached, LossReached | None]:
    """Train for some seconds; return the best loss, and where the target was first reached."""
    growing = make_trainer(tunes, hidden, 10**9)
    trainer = Trainer(growing.model, tunes, (), equalize_window_lengths(growing.settings))
    rates = [trainer.train_on_window(trainer.next_window()).tokens_per_second for _ in range(12)]
    tokens = int(seconds * statistics.median(rates[2:]))
    trainer = make_trainer(tunes, hidden, tokens, held_out=held_out, evaluate_every=tokens // 20)
    elapsed, passed_target = 0.0, None
    best = LossReached(float("inf"), 0.0, 0)
    start_time = time.perf_counter()
    for progress in trainer.run():
        elapsed = time.perf_counter() - start_time  # with evaluations
        if progress.held_out_score and progress.held_out_score.loss < best.loss:
            best = LossReached(progress.held_out_score.loss, elapsed, progress.tokens)
            passed_target = passed_target or (best if best.loss <= target_loss else None)
    return best, passed_target


def report_race(
    hidden: int,
    tunes: list[np.ndarray],
    held_out: list[np.ndarray],
    evaluate_every: int,
    max_tokens: int,
) -> None:
    """Train the plain loop to its best held-out loss; give the trainer half of that time."""
    plain_result = train_plain_loop(hidden, tunes, held_out, evaluate_every, max_tokens)
    trainer_result, passed_target = train_with_trainer(
        hidden, tunes, held_out, plain_result.seconds / 2, plain_result.loss
    )
    print(
        f"2 x {hidden}: the plain loop's best held-out loss {plain_result.loss:.4f} nats per token"
        f" after {plain_result.seconds / 60:.2f} min, {plain_result.tokens:,} tokens;"
        " the trainer in half of the time"
        f" {trainer_result.loss:.4f}, {trainer_result.tokens:,} tokens"
    )
    if passed_target:
        print(
            f"2 x {hidden}: the trainer reached it after {passed_target.seconds / 60:.2f} min,"
            f" ratio {passed_target.seconds / plain_result.seconds:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of minutes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 384, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--every", type=int, default=150_000, help="tokens between evaluations")
    parser.add_argument("--lanes", type=int, default=PRESET.lanes)
    parser.add_argument("--bptt", type=int, default=PRESET.bptt)
    parser.add_argument(
        "--first-bptt", type=int, default=PRESET.first_bptt, help="0: constant windows"
    )
    parser.add_argument("--no-race", action="store_true", help="measure only the speed")
    parser.add_argument("--data", type=Path, help="a folder of musicgen corpus build")
    arguments = parser.parse_args()
    if arguments.toy:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # waiting threads are slow
    sizes = [32] if arguments.toy else arguments.hidden
    rounds, evaluate_every = (2, 5_000) if arguments.toy else (arguments.rounds, arguments.every)
    if arguments.data:
        dataset = load(arguments.data)
        tunes, held_out = [tune.ids for tune in dataset.train], [tune.ids for tune in dataset.valid]
    else:
        tunes, held_out = (
            draw_tunes(40 if arguments.toy else 1500, 1),
            draw_tunes(10 if arguments.toy else 60, 2),
        )
    print(f"torch {torch.__version__}, {count_cores()} cores, fp32, vocabulary {VOCABULARY}")
    for hidden in sizes:
        report_speed(hidden, tunes, rounds, arguments.lanes, arguments.bptt, arguments.first_bptt)
    if not arguments.no_race:
        report_race(
            sizes[0],
            tunes,
            held_out,
            evaluate_every,
            2 * evaluate_every if arguments.toy else 10**9,
        )


if __name__ == "__main__":
    main()
