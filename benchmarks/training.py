"""Measure training speed against torch's own LSTM in a plain training loop.

    python benchmarks/training.py            two sizes; several minutes
    python benchmarks/training.py --toy      seconds, for continuous integration

Plain loop: embedding, `torch.nn.LSTM`, head and AdamW on one endless stream of ids, without state
resets, dropout or clipping; the lecture's 8 lanes of 100 ids, and 64 lanes of 32, in fp32 and,
where the processor has instructions for it, in bf16. Trainer: musicgen's, with padded windows,
dropout, clipping, schedule and measurements; its tokens/s do not count padding. All run in turn on
the same tunes with models of the same size. Printed are median tokens/s, and the ratio of the
trainer to the fastest plain loop. Then the plain loop, with dropout, trains until its held-out loss
stops falling, with each number of lanes, and the trainer gets 0.6 of the time of the best loss.

The tunes are drawn from a small grammar of bars and repeats; with --data they are the training and
validation parts of a data set, and the trainer of the race has the model of plain `musicgen train`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN_ID, ModelSettings, TrainingSettings
from musicgen.corpus.store import load
from musicgen.model.devices import autocast, has_bf16
from musicgen.model.network import LanguageModel
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training.heldout_loss import evaluate
from musicgen.training.plan import FRESH_PRESETS, TrainingOptions, make_plan
from musicgen.training.trainer import Trainer, equalize_window_lengths

VOCABULARY = len(MEASURES)
FREQUENT_IDS = 150  # ids that occur in the synthetic tunes
SHORTEST_TUNE, LONGEST_TUNE = 120, 380  # ids of the synthetic tunes, as of dance tunes
PRESET = FRESH_PRESETS[-1]  # of a large corpus, as plain `musicgen train` uses
PLAIN_SHAPES = ((8, 100), (64, 32))  # lanes, window length in ids
PLAIN_LEARNING_RATES = {8: 2e-3, 64: 5e-3}  # by lanes
PLAIN_DROPOUT = 0.2  # in the race
PLAIN_PATIENCE = 4  # evaluations without a better held-out loss
TIME_SHARE = 0.6  # of the plain loop's time that the trainer gets
TOKENS_PER_ROUND = 12_000
CPU = torch.device("cpu")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PROCESSOR_FILE = Path("/proc/cpuinfo")


def draw_tunes(count: int, seed: int) -> list[np.ndarray]:
    """Draw tunes of 120 to 380 ids: phrases of a few motifs, repeated and varied."""
    motifs = np.random.default_rng(0).integers(2, FREQUENT_IDS, (80, 12))
    generator = np.random.default_rng(seed)
    return [draw_tune(motifs, generator) for _ in range(count)]


def draw_tune(motifs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw one tune: motifs of neighbouring numbers in two repeated halves; the last id is 1.

    Its length is drawn too: how much of the windows is padding depends on the lengths of tunes.
    """
    first_motif = int(generator.integers(len(motifs)))
    motif_numbers = [
        (first_motif + int(step)) % len(motifs) for step in generator.integers(0, 6, 16)
    ]
    phrases = [vary_motif(motifs[number], generator) for number in motif_numbers]
    ids = np.concatenate([*phrases[:8], *phrases[:8], *phrases[8:], *phrases[8:]])
    length = int(generator.integers(SHORTEST_TUNE, LONGEST_TUNE))
    return np.append(ids[:length], 1).astype(np.int16)


def vary_motif(motif: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a motif with one id in twenty replaced."""
    new_ids = generator.integers(2, FREQUENT_IDS, len(motif))
    return np.where(generator.random(len(motif)) < 0.05, new_ids, motif)


class PlainLoop:
    """A plain training loop: one stream cut into lanes, no state resets, AdamW."""

    def __init__(
        self,
        tunes: Sequence[np.ndarray],
        hidden: int,
        lanes: int,
        window: int,
        precision: str,
        dropout: float = 0.0,
    ) -> None:
        torch.manual_seed(1)
        self.window, self.precision = window, precision
        self.name = f"{lanes} x {window} {precision}"
        self.embedding = nn.Embedding(VOCABULARY, hidden)
        self.lstm = nn.LSTM(hidden, hidden, 2, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, VOCABULARY)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, 0, hidden**-0.5)
        self.modules = nn.ModuleList([self.embedding, self.lstm, self.head])
        self.optimizer = torch.optim.AdamW(
            self.modules.parameters(), PLAIN_LEARNING_RATES[lanes], fused=True
        )
        stream = np.concatenate([np.append(BEGIN_ID, tune) for tune in tunes]).astype(np.int64)
        length = len(stream) // lanes
        self.stream = torch.from_numpy(stream[: length * lanes].reshape(lanes, -1).T.copy())
        self.position = 0
        self.state: tuple[Tensor, Tensor] | None = None

    def update(self) -> int:
        """Train on one window; return its number of ids."""
        if self.position + self.window + 1 > len(self.stream):
            self.position, self.state = 0, None
        inputs = self.stream[self.position : self.position + self.window]
        targets = self.stream[self.position + 1 : self.position + self.window + 1]
        with autocast(CPU, self.precision):
            outputs, state = self.lstm(self.embedding(inputs), self.state)
            logits = self.head(self.dropout(outputs))
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.state = (state[0].detach(), state[1].detach())
        self.position += self.window
        return targets.numel()

    def train(self, tokens: int) -> int:
        """Train on at least some tokens; return their number."""
        trained = 0
        while trained < tokens:
            trained += self.update()
        return trained

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
    tunes: Sequence[np.ndarray],
    hidden: int,
    tokens: int,
    held_out: Sequence[np.ndarray] = (),
    evaluate_every: int = 0,
    precision: str = "fp32",
    shape: ModelSettings | None = None,
) -> Trainer:
    shape = shape or ModelSettings(
        VOCABULARY,
        hidden=hidden,
        embedding=hidden,
        dropout=PRESET.dropout,
        embedding_dropout=PRESET.embedding_dropout,
    )
    model = LanguageModel(shape, torch.Generator().manual_seed(1))
    settings = TrainingSettings(
        tokens=tokens,
        lanes=PRESET.lanes,
        bptt=PRESET.bptt,
        first_bptt=PRESET.first_bptt,
        precision=precision,
        learning_rate=PRESET.learning_rate,
        evaluate_every=evaluate_every,
        patience=10**6,
    )
    return Trainer(model, tunes, held_out, settings)


def list_precisions() -> list[str]:
    """Return the precisions that the processor has instructions for."""
    return ["fp32", "bf16"] if has_bf16(CPU) else ["fp32"]


def describe_processor() -> str:
    """Return the name of the processor, and those of its instructions that matter here."""
    if not PROCESSOR_FILE.exists():
        return platform.processor()
    lines = dict(
        (part.strip() for part in line.split(":", 1))
        for line in PROCESSOR_FILE.read_text().splitlines()
        if ":" in line
    )
    flags = lines.get("flags", "").split()
    return f"{lines.get('model name', '?')} ({' '.join(i for i in INSTRUCTIONS if i in flags)})"


def measure_rate(train: Callable[[], int]) -> float:
    """Return the tokens/s of a function that trains and returns its number of tokens."""
    start_time = time.perf_counter()
    tokens = train()
    return tokens / (time.perf_counter() - start_time)


def train_tokens(trainer: Trainer, tokens: int) -> int:
    """Train on at least some tokens; return their number, without padding."""
    start = trainer.tokens
    while trainer.tokens < start + tokens:
        trainer.train_on_window(trainer.next_window())
    return trainer.tokens - start


def report_speed(hidden: int, tunes: Sequence[np.ndarray], rounds: int, tokens: int) -> None:
    """Print median speeds over rounds, and the ratio to the fastest plain loop with a range."""
    runs: dict[str, Callable[[], int]] = {}
    for precision in list_precisions():
        trainer = make_trainer(tunes, hidden, 10**9, precision=precision)
        even = Trainer(trainer.model, tunes, (), equalize_window_lengths(trainer.settings))
        runs[f"trainer {precision}"] = partial(train_tokens, even, tokens)
        for lanes, window in PLAIN_SHAPES:
            plain_loop = PlainLoop(tunes, hidden, lanes, window, precision)
            runs[plain_loop.name] = partial(plain_loop.train, tokens)
    rates = [{name: measure_rate(run) for name, run in runs.items()} for _ in range(rounds + 1)][1:]
    medians = {name: statistics.median(rate[name] for rate in rates) for name in runs}
    ours = max((name for name in runs if name.startswith("trainer")), key=medians.__getitem__)
    best = max((name for name in runs if not name.startswith("trainer")), key=medians.__getitem__)
    ratios = sorted(rate[ours] / rate[best] for rate in rates)
    print(f"2 x {hidden}: " + ", ".join(f"{name} {rate:.0f}" for name, rate in medians.items()))
    print(
        f"2 x {hidden}: {ours} to {best}: ratio {statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


@dataclass(frozen=True)
class LossReached:
    """A held-out loss, and the seconds and tokens of training up to it."""

    loss: float
    seconds: float
    tokens: int


def train_plain_loop(
    plain_loop: PlainLoop, held_out: Sequence[np.ndarray], evaluate_every: int, max_tokens: int
) -> LossReached:
    """Train a plain loop until its held-out loss stops falling; return its best."""
    best = LossReached(float("inf"), 0.0, 0)
    seconds, tokens, evaluations_without_gain = 0.0, 0, 0
    while evaluations_without_gain < PLAIN_PATIENCE and tokens < max_tokens:
        plain_loop.modules.train()
        start_time = time.perf_counter()
        tokens += plain_loop.train(evaluate_every)
        seconds += time.perf_counter() - start_time
        loss = evaluate(plain_loop.as_model(), held_out).loss
        evaluations_without_gain += 1
        if loss < best.loss:
            best, evaluations_without_gain = LossReached(loss, seconds, tokens), 0
    print(
        f"plain loop {plain_loop.name}: best held-out loss {best.loss:.4f} nats per token after"
        f" {best.seconds / 60:.2f} min, {best.tokens:,} tokens"
    )
    return best


def train_with_trainer(
    hidden: int,
    tunes: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    seconds: float,
    target_loss: float,
    shape: ModelSettings | None,
) -> tuple[LossReached, LossReached | None]:
    """Train for some seconds; return the best loss, and where the target was first reached."""
    precision = list_precisions()[-1]
    growing = make_trainer(tunes, hidden, 10**9, precision=precision, shape=shape)
    trainer = Trainer(growing.model, tunes, (), equalize_window_lengths(growing.settings))
    rates = [trainer.train_on_window(trainer.next_window()).tokens_per_second for _ in range(12)]
    tokens = int(seconds * statistics.median(rates[2:]))
    trainer = make_trainer(
        tunes,
        hidden,
        tokens,
        precision=precision,
        held_out=held_out,
        evaluate_every=tokens // 20,
        shape=shape,
    )
    passed_target, best = None, LossReached(float("inf"), 0.0, 0)
    start_time = time.perf_counter()
    for progress in trainer.run():
        elapsed = time.perf_counter() - start_time  # with evaluations
        if progress.held_out_score and progress.held_out_score.loss < best.loss:
            best = LossReached(progress.held_out_score.loss, elapsed, progress.tokens)
            passed_target = passed_target or (best if best.loss <= target_loss else None)
    return best, passed_target


def report_race(
    hidden: int,
    tunes: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    evaluate_every: int,
    max_tokens: int,
    shape: ModelSettings | None,
) -> None:
    """Train plain loops to their best held-out loss; give the trainer a share of that time."""
    precision = list_precisions()[-1]
    results = [
        train_plain_loop(
            PlainLoop(tunes, hidden, lanes, window, precision, PLAIN_DROPOUT),
            held_out,
            evaluate_every,
            max_tokens,
        )
        for lanes, window in PLAIN_SHAPES
    ]
    target = min(results, key=lambda result: result.loss)
    best, passed_target = train_with_trainer(
        hidden, tunes, held_out, TIME_SHARE * target.seconds, target.loss, shape
    )
    print(
        f"2 x {hidden}: the trainer in {TIME_SHARE} of the time of the best plain loop:"
        f" {best.loss:.4f} against {target.loss:.4f}, {best.tokens:,} tokens"
    )
    if passed_target:
        print(
            f"2 x {hidden}: the trainer reached it after {passed_target.seconds / 60:.2f} min,"
            f" ratio {passed_target.seconds / target.seconds:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of minutes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--every", type=int, default=150_000, help="tokens between evaluations")
    parser.add_argument("--no-race", action="store_true", help="measure only the speed")
    parser.add_argument("--data", type=Path, help="a folder of musicgen corpus build")
    arguments = parser.parse_args()
    sizes = [32] if arguments.toy else arguments.hidden
    rounds, evaluate_every = (2, 5_000) if arguments.toy else (arguments.rounds, arguments.every)
    if arguments.data:
        dataset = load(arguments.data)
        tunes, held_out = [tune.ids for tune in dataset.train], [tune.ids for tune in dataset.valid]
        shape = make_plan(dataset, TrainingOptions()).model
    else:
        shape = None
        tunes = draw_tunes(80 if arguments.toy else 1500, 1)
        held_out = draw_tunes(10 if arguments.toy else 60, 2)
    print(
        f"{describe_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" vocabulary {VOCABULARY}"
    )
    for hidden in sizes:
        report_speed(hidden, tunes, rounds, 1_000 if arguments.toy else TOKENS_PER_ROUND)
    if not arguments.no_race:
        max_tokens = 2 * evaluate_every if arguments.toy else 10**9
        report_race(sizes[0], tunes, held_out, evaluate_every, max_tokens, shape)


if __name__ == "__main__":
    main()
