"""How fast a model learns, against the plain loop that everybody writes first.

    python benchmarks/training.py            three sizes, some minutes
    python benchmarks/training.py --toy      seconds, for continuous integration

The rival: `torch.nn.LSTM` in fp32, 8 lanes of one endless stream of ids in windows of 100, Adam,
all cores. Ours: the trainer as it stands, with its resets, dropout, clipping and schedule. Both
have the same model size and the same tunes, and take turns; medians of tokens a second are printed,
their ratio, and what share of the measured matrix-multiply peak each model's arithmetic comes to.
Then the rival learns until its held-out loss falls no more, and ours gets half of the minutes that
the rival's best took.

The tunes are drawn from a small grammar of bars and repeats; with --data they are those of a data
set, learnt from in its training part and scored on its validation part.
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
from musicgen.model.crew import count_cores
from musicgen.model.network import LanguageModel
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training.heldout_loss import evaluate
from musicgen.training.plan import FRESH_PRESETS
from musicgen.training.trainer import Trainer, equalize_window_lengths

VOCABULARY = len(MEASURES)
OFTEN = 150  # ids that do occur
RECIPE = FRESH_PRESETS[-1]  # of a large corpus: what plain `musicgen train` does
RIVAL_LANES, RIVAL_WINDOW, RIVAL_RATE = 8, 100, 2e-3
UPDATES = 6  # of ours in a round
RIVAL_PATIENCE = 4  # evaluations without a better held-out loss


def draw_tunes(count: int, seed: int) -> list[np.ndarray]:
    """Draw tunes of about 370 ids: phrases of a few motifs, repeated and varied."""
    motifs = np.random.default_rng(0).integers(2, OFTEN, (80, 12))
    generator = np.random.default_rng(seed)
    return [draw_tune(motifs, generator) for _ in range(count)]


def draw_tune(motifs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw one tune: eight motifs of neighbouring numbers, each played twice, the last id 1."""
    first = int(generator.integers(len(motifs)))
    chosen = [(first + int(step)) % len(motifs) for step in generator.integers(0, 6, 16)]
    half = [varied(motifs[number], generator) for number in chosen]
    return np.concatenate([*half[:8], *half[:8], *half[8:], *half[8:], [1]]).astype(np.int16)


def varied(motif: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a motif with one id in twenty drawn anew."""
    fresh = generator.integers(2, OFTEN, len(motif))
    return np.where(generator.random(len(motif)) < 0.05, fresh, motif)


class Rival:
    """The plain loop: one stream, eight lanes, nothing reset, Adam."""

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
        self.optimizer = torch.optim.Adam(self.modules.parameters(), RIVAL_RATE)
        stream = np.concatenate([np.append(BEGIN_ID, tune) for tune in tunes]).astype(np.int64)
        length = len(stream) // RIVAL_LANES
        self.stream = torch.from_numpy(stream[: length * RIVAL_LANES].reshape(RIVAL_LANES, -1).T)
        self.at = 0
        self.state: tuple[Tensor, Tensor] | None = None

    def update(self) -> int:
        """Learn from one window; return how many ids it held."""
        if self.at + RIVAL_WINDOW + 1 > len(self.stream):
            self.at, self.state = 0, None
        inputs = self.stream[self.at : self.at + RIVAL_WINDOW].contiguous()
        targets = self.stream[self.at + 1 : self.at + RIVAL_WINDOW + 1]
        outputs, state = self.lstm(self.embedding(inputs), self.state)
        loss = functional.cross_entropy(self.head(outputs).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.state = (state[0].detach(), state[1].detach())
        self.at += RIVAL_WINDOW
        return RIVAL_LANES * RIVAL_WINDOW

    def as_model(self) -> LanguageModel:
        """Return the same weights in our model, to be scored by the same code."""
        settings = ModelSettings(
            VOCABULARY, hidden=self.lstm.hidden_size, embedding=self.lstm.hidden_size
        )
        model = LanguageModel(settings)
        arrays = model.arrays()
        for name, weight in self.lstm.named_parameters():
            layer = name[-1]
            arrays[f"layers.{layer}.{name[:-1]}0"] = weight.detach().numpy()
        arrays["embedding.weight"] = self.embedding.weight.detach().numpy()
        arrays["head.bias"] = self.head.bias.detach().numpy()
        model.put(arrays)
        return model


def make_trainer(
    tunes: list[np.ndarray],
    hidden: int,
    tokens: int,
    held: Sequence[np.ndarray] = (),
    every: int = 0,
    lanes: int = RECIPE.lanes,
    bptt: int = RECIPE.bptt,
    first: int = RECIPE.first_bptt,
) -> Trainer:
    shape = ModelSettings(
        VOCABULARY,
        hidden=hidden,
        embedding=hidden,
        dropout=RECIPE.dropout,
        embedding_dropout=RECIPE.embedding_dropout,
    )
    model = LanguageModel(shape, torch.Generator().manual_seed(1))
    settings = TrainingSettings(
        tokens=tokens,
        lanes=lanes,
        bptt=bptt,
        first_bptt=min(first, bptt),
        learning_rate=RECIPE.learning_rate,
        evaluate_every=every,
        patience=10**6,
    )
    return Trainer(model, tunes, held, settings)


def flops(hidden: int) -> float:
    """Return the arithmetic of one id, forward and backward: six for each weight it multiplies."""
    return 6.0 * (2 * 8 * hidden * hidden + hidden * VOCABULARY)


def measure_peak(size: int = 1536, times: int = 5) -> float:
    """Return the best measured fp32 matrix product, in operations a second, on all cores."""
    torch.set_num_threads(count_cores())
    a, b = torch.ones(size, size), torch.ones(size, size)
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b)) for _ in range(times))


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Round:
    """Tokens a second of both, and the peak, one right after the other."""

    ours: float
    rival: float
    peak: float  # operations a second


def rounds_of(trainer: Trainer, rival: Rival, rounds: int) -> list[Round]:
    """Let both and the peak take turns; the first round warms up."""
    found = []
    for _ in range(rounds + 1):
        torch.set_num_threads(1)
        tokens = UPDATES * trainer.settings.lanes * trainer.settings.bptt
        mine = tokens / timed(our_updates(trainer, UPDATES))
        torch.set_num_threads(count_cores())
        updates = max(1, round(tokens / (RIVAL_LANES * RIVAL_WINDOW)))
        theirs = updates * RIVAL_LANES * RIVAL_WINDOW / timed(rival_updates(rival, updates))
        found.append(Round(mine, theirs, measure_peak(times=3)))
    return found[1:]


def our_updates(trainer: Trainer, count: int) -> Callable[[], object]:
    return lambda: [trainer.update(trainer.next()) for _ in range(count)]


def rival_updates(rival: Rival, count: int) -> Callable[[], object]:
    return lambda: [rival.update() for _ in range(count)]


def report_speed(
    hidden: int, tunes: list[np.ndarray], rounds: int, lanes: int, bptt: int, first: int
) -> None:
    """Print medians over rounds: of what each did, and of its ratios within a round."""
    growing = make_trainer(tunes, hidden, 10**9, lanes=lanes, bptt=bptt, first=first)
    even = Trainer(growing.model, tunes, (), equalize_window_lengths(growing.settings))
    found = rounds_of(even, Rival(tunes, hidden), rounds)

    def middle(value: Callable[[Round], float]) -> float:
        return statistics.median(map(value, found))

    print(
        f"2 x {hidden}, {lanes} lanes x {even.settings.bptt} ids:"
        f" ours {middle(lambda r: r.ours):8.0f} tokens/s, rival"
        f" {middle(lambda r: r.rival):8.0f}, ratio {middle(lambda r: r.ours / r.rival):.2f}; of the"
        f" peak {middle(lambda r: r.peak) / 1e9:.0f} GFLOP/s: ours"
        f" {middle(lambda r: r.ours * flops(hidden) / r.peak):.0%}, rival"
        f" {middle(lambda r: r.rival * flops(hidden) / r.peak):.0%}"
    )


@dataclass(frozen=True)
class Reached:
    """A held-out loss, and the seconds of training that it took."""

    loss: float
    seconds: float
    tokens: int


def train_rival(
    hidden: int, tunes: list[np.ndarray], held: list[np.ndarray], every: int, most: int
) -> Reached:
    """Let the rival learn until its held-out loss falls no more; return its best."""
    torch.set_num_threads(count_cores())
    rival, best = Rival(tunes, hidden), Reached(float("inf"), 0.0, 0)
    seconds, tokens, stale = 0.0, 0, 0
    while stale < RIVAL_PATIENCE and tokens < most:
        updates = -(-every // (RIVAL_LANES * RIVAL_WINDOW))
        seconds += timed(rival_updates(rival, updates))
        tokens += updates * RIVAL_LANES * RIVAL_WINDOW
        loss = evaluate(rival.as_model(), held).loss
        stale += 1
        if loss < best.loss:
            best, stale = Reached(loss, seconds, tokens), 0
    return best


def train_ours(
    hidden: int, tunes: list[np.ndarray], held: list[np.ndarray], seconds: float, goal: float
) -> tuple[Reached, Reached | None]:
    """Let ours learn for so many seconds; return its best, and where it first passed the goal."""
    growing = make_trainer(tunes, hidden, 10**9)
    trainer = Trainer(growing.model, tunes, (), equalize_window_lengths(growing.settings))
    rates = [trainer.update(trainer.next()).rate for _ in range(12)]
    tokens = int(seconds * statistics.median(rates[2:]))
    trainer = make_trainer(tunes, hidden, tokens, held=held, every=tokens // 20)
    spent, passed = 0.0, None
    best = Reached(float("inf"), 0.0, 0)
    began = time.perf_counter()
    for progress in trainer.run():
        spent = time.perf_counter() - began  # evaluations included
        if progress.held and progress.held.loss < best.loss:
            best = Reached(progress.held.loss, spent, progress.tokens)
            passed = passed or (best if best.loss <= goal else None)
    return best, passed


def report_race(
    hidden: int, tunes: list[np.ndarray], held: list[np.ndarray], every: int, most: int
) -> None:
    """Let the rival reach its best held-out loss; give ours half of its time."""
    theirs = train_rival(hidden, tunes, held, every, most)
    ours, passed = train_ours(hidden, tunes, held, theirs.seconds / 2, theirs.loss)
    print(
        f"2 x {hidden}: the rival's best held-out loss {theirs.loss:.4f} nats a token after"
        f" {theirs.seconds / 60:.2f} min, {theirs.tokens:,} tokens; ours in half of the time"
        f" {ours.loss:.4f}, {ours.tokens:,} tokens"
    )
    if passed:
        print(
            f"2 x {hidden}: ours passed it after {passed.seconds / 60:.2f} min, ratio"
            f" {passed.seconds / theirs.seconds:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 384, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--every", type=int, default=150_000, help="tokens between evaluations")
    parser.add_argument("--lanes", type=int, default=RECIPE.lanes)
    parser.add_argument("--bptt", type=int, default=RECIPE.bptt)
    parser.add_argument("--first-bptt", type=int, default=RECIPE.first_bptt, help="0: no growth")
    parser.add_argument("--no-race", action="store_true", help="speed alone")
    parser.add_argument("--data", type=Path, help="a folder of musicgen corpus build")
    arguments = parser.parse_args()
    if arguments.toy:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that wait are slow
    sizes = [32] if arguments.toy else arguments.hidden
    rounds, every = (2, 5_000) if arguments.toy else (arguments.rounds, arguments.every)
    if arguments.data:
        dataset = load(arguments.data)
        tunes, held = [tune.ids for tune in dataset.train], [tune.ids for tune in dataset.valid]
    else:
        tunes, held = (
            draw_tunes(40 if arguments.toy else 1500, 1),
            draw_tunes(10 if arguments.toy else 60, 2),
        )
    print(f"torch {torch.__version__}, {count_cores()} cores, fp32, vocabulary {VOCABULARY}")
    for hidden in sizes:
        report_speed(hidden, tunes, rounds, arguments.lanes, arguments.bptt, arguments.first_bptt)
    if not arguments.no_race:
        report_race(sizes[0], tunes, held, every, 2 * every if arguments.toy else 10**9)


if __name__ == "__main__":
    main()
