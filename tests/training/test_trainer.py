from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from musicgen.config import ModelSettings, TrainingSettings
from musicgen.model.crew import Crew, choose_workers
from musicgen.model.network import LanguageModel
from musicgen.training.batches import Window, WindowStream
from musicgen.training.heldout_loss import evaluate
from musicgen.training.trainer import (
    Diverged,
    Progress,
    Trainer,
    TrainerState,
    equalize_window_lengths,
    learning_rate_factor,
    window_length,
)


def make(
    tunes: Sequence[np.ndarray], settings: TrainingSettings, valid: Sequence[np.ndarray] = ()
) -> Trainer:
    shape = ModelSettings(12, layers=1, hidden=24, embedding=24, dropout=0, embedding_dropout=0)
    model = LanguageModel(shape, torch.Generator().manual_seed(2))
    return Trainer(model, tunes, valid, settings)


def drawn(count: int, length: int = 20) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(1, 12, length).astype(np.int16) for _ in range(count)]


def test_memorises_a_loop_of_eight_ids() -> None:
    tune = np.tile(np.array([3, 5, 4, 7, 3, 9, 8, 2], np.int16), 8)
    settings = TrainingSettings(tokens=20_000, lanes=4, bptt=16, learning_rate=0.01)
    trainer = make([tune], settings, [tune])
    assert list(trainer.run())[-1].is_last
    assert trainer.best.loss < 0.05


def test_remembers_across_the_edges_of_windows() -> None:
    """The first id of eight comes back as the last; windows of 10 cut most tunes in two."""
    tunes = [np.array([first, 6, 7, 8, 9, 6, 7, first], np.int16) for first in (2, 3, 4, 5)]
    settings = TrainingSettings(tokens=40_000, lanes=8, bptt=10, learning_rate=0.01)
    losses = [progress.loss for progress in make(tunes, settings).run()]
    free = np.log(4) / 8  # a tune pays for its first id only
    assert np.mean(losses[-20:]) < free + 0.04  # without the state, each cut tune pays twice


def test_loss_over_windows_is_the_loss_in_one_pass() -> None:
    tune = drawn(1, 300)[0]
    model = make([tune], TrainingSettings(tokens=1)).model
    logits, _ = model(torch.from_numpy(np.r_[0, tune[:-1]].astype(np.int64))[None])
    whole = functional.cross_entropy(logits[0], torch.from_numpy(tune.astype(np.int64)))
    assert evaluate(model, [tune]).loss == pytest.approx(float(whole.detach()), abs=1e-6)


def test_the_gradient_stops_at_the_edge_and_the_state_does_not() -> None:
    trainer = make(drawn(4), TrainingSettings(tokens=1000, lanes=2, bptt=8))
    trainer.train_on_window(trainer.next_window())
    state = trainer.states[0]
    assert state is not None
    assert not any(part.requires_grad for layer in state for part in layer)
    assert all(part.abs().sum() > 0 for layer in state for part in layer)


def test_a_loss_that_is_no_number_stops_with_one_line_and_leaves_the_weights() -> None:
    trainer = make(drawn(4), TrainingSettings(tokens=10_000, lanes=2, bptt=8), drawn(2))
    run = trainer.run()
    list(itertools.islice(run, 12))
    kept = {name: weight.copy() for name, weight in trainer.best.weights.items()}
    before = trainer.model.copy_weights()
    state = trainer.states[0] or ()
    trainer.states = [tuple(tuple(part * np.nan for part in layer) for layer in state)]
    poison = Window(np.full((2, 8), 3, np.int64), np.full((2, 8), 3, np.int64))
    with pytest.raises(
        Diverged, match=r"update 13, after 192 tokens: loss nan.*learning rate"
    ) as told:
        trainer.train_on_window(poison)
    assert "\n" not in str(told.value)
    assert all(
        np.array_equal(before[name], now) for name, now in trainer.model.copy_weights().items()
    )
    assert all(np.array_equal(kept[name], now) for name, now in trainer.best.weights.items())
    assert all(np.isfinite(weight).all() for weight in kept.values())


def test_a_gradient_that_is_no_number_stops_too() -> None:
    trainer = make(drawn(4), TrainingSettings(tokens=10_000, lanes=2, bptt=8))
    trainer.parameters[-1].register_hook(lambda grad: grad * np.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(Diverged, match=r"gradient norm (nan|inf)"):
        trainer.train_on_window(trainer.next_window())


def test_stops_early_and_keeps_the_best() -> None:
    tunes = drawn(6)
    settings = TrainingSettings(
        tokens=10**7, lanes=4, bptt=10, learning_rate=0.03, evaluate_every=400, patience=3
    )
    trainer = make(tunes, settings, drawn(9)[6:])
    steps = list(trainer.run())
    judged = [step for step in steps if step.held_out_score]
    assert steps[-1].is_last
    assert steps[-1].tokens < 10**6
    assert [step.is_best for step in judged[-3:]] == [False] * 3
    best = min(step.held_out_score.loss for step in judged if step.held_out_score)
    assert trainer.best.loss == best
    trainer.model.load_weights(trainer.best.weights)
    assert evaluate(trainer.model, trainer.valid).loss == pytest.approx(best, abs=1e-6)


def test_the_same_seed_gives_the_same_run() -> None:
    def losses(seed: int) -> list[Progress | float]:
        trainer = make(drawn(8), TrainingSettings(tokens=1000, lanes=4, bptt=8, seed=seed))
        return [progress.loss for progress in trainer.run()]

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)


def test_shares_of_the_lanes_make_the_same_update() -> None:
    settings = TrainingSettings(tokens=1000, lanes=6, bptt=8)
    one, three = make(drawn(9), settings), make(drawn(9), settings)
    three.assign_crew(Crew(3))
    for _ in range(4):
        mine, theirs = (
            one.train_on_window(one.next_window()),
            three.train_on_window(three.next_window()),
        )
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, abs=1e-5)


@pytest.mark.parametrize(
    ("device", "lanes", "hidden", "workers"),
    [("cuda", 64, 512, 1), ("cpu", 4, 24, 1), ("cpu", 8, 512, 1), ("cpu", 16, 512, 2)],
)
def test_small_work_is_not_shared(
    device: str, lanes: int, hidden: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicgen.model.crew.count_cores", lambda: 4)
    assert choose_workers(torch.device(device), lanes, hidden) == workers


def test_every_id_of_every_tune_is_a_target_once_an_epoch() -> None:
    tunes = [np.full(5 + number, number, np.int16) for number in range(1, 12)]
    lanes = WindowStream(tunes, 1, np.random.default_rng(0))
    total = sum(len(tune) for tune in tunes)
    windows = [lanes.next_window(11) for _ in range(-(-total // 11))]
    targets = np.concatenate([window.targets[0] for window in windows])[:total]
    assert np.array_equal(np.bincount(targets)[1:], [len(tune) for tune in tunes])
    inputs = np.concatenate([window.inputs[0] for window in windows])[:total]
    assert np.count_nonzero(inputs == 0) == len(tunes)


def test_inputs_are_the_targets_one_step_late() -> None:
    lanes = WindowStream(drawn(5), 3, np.random.default_rng(0))
    windows = [lanes.next_window(7) for _ in range(9)]
    inputs = np.concatenate([window.inputs for window in windows], 1)
    targets = np.concatenate([window.targets for window in windows], 1)
    begins = inputs[:, 1:] == 0
    assert np.array_equal(inputs[:, 1:][~begins], targets[:, :-1][~begins])


def test_the_stream_goes_on_from_a_position() -> None:
    lanes, other = (WindowStream(drawn(5), 3, np.random.default_rng(seed)) for seed in (0, 1))
    for _ in range(4):
        lanes.next_window(7)
    other.seek(lanes.get_position())
    for _ in range(20):
        mine, theirs = lanes.next_window(7), other.next_window(7)
        assert np.array_equal(mine.inputs, theirs.inputs)
        assert np.array_equal(mine.targets, theirs.targets)


def test_the_rate_rises_then_falls() -> None:
    settings = TrainingSettings(tokens=100, warmup=0.1, final_rate=0.1)
    rates = [learning_rate_factor(done, settings) for done in (0, 0.05, 0.1, 0.55, 1)]
    assert rates == pytest.approx([0.01, 0.5, 1, 0.55, 0.1])


def test_windows_grow_evenly_to_their_full_length() -> None:
    settings = TrainingSettings(tokens=100, bptt=64, first_bptt=8)
    lengths = [window_length(done, settings) for done in (0, 0.25, 0.5, 0.999, 1.2)]
    assert lengths == [8, 22, 36, 64, 64]
    assert window_length(0, replace(settings, first_bptt=0)) == 64


def test_a_run_costs_what_its_typical_windows_cost() -> None:
    settings = TrainingSettings(tokens=40_000, lanes=4, bptt=48, first_bptt=6)
    growing, even = make(drawn(9), settings), make(drawn(9), equalize_window_lengths(settings))
    updates = [sum(1 for _ in trainer.run()) for trainer in (growing, even)]
    assert updates[1] == pytest.approx(updates[0], rel=0.05)
    assert equalize_window_lengths(replace(settings, first_bptt=0)).bptt == 48


def test_growing_windows_miss_no_id() -> None:
    tunes = [np.array([tune * 20 + place for place in range(1, 18)]) for tune in range(1, 6)]
    settings = TrainingSettings(tokens=17 * 5, lanes=1, bptt=12, first_bptt=2)
    trainer = Trainer(LanguageModel(ModelSettings(200, hidden=8, embedding=8)), tunes, [], settings)
    seen: list[int] = []
    while trainer.tokens < 17 * 5:
        window = trainer.next_window()
        seen += window.targets[0].tolist()
        trainer.update_weights(window)
    assert sorted(seen[: 17 * 5]) == sorted(np.concatenate(tunes).tolist())


def remade(state: TrainerState) -> TrainerState:
    """Return a state as a disk gives it back: arrays, and values that went through JSON."""
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    return TrainerState(arrays, json.loads(json.dumps(state.values)))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_goes_on_from_a_state_bit_for_bit(at: int, workers: int) -> None:
    settings = TrainingSettings(
        tokens=2_000, lanes=4, bptt=12, first_bptt=4, evaluate_every=160, transposed=True
    )

    def trainer() -> Trainer:
        shape = ModelSettings(12, layers=2, hidden=16, embedding=16, weight_dropout=0.2)
        model = LanguageModel(shape, torch.Generator().manual_seed(2))
        trainer = Trainer(model, drawn(9), drawn(3), settings, pitch_ranges=[range(4, 11)])
        trainer.assign_crew(Crew(workers))
        return trainer

    whole, cut, other = trainer(), trainer(), trainer()
    expected = list(whole.run())
    list(itertools.islice(cut.run(), at))
    other.restore(remade(cut.copy_state()))
    rest = list(other.run())
    assert [told(p) for p in rest] == [told(p) for p in expected[at:]]
    assert_same(other.copy_state(), whole.copy_state())


def told(progress: Progress) -> tuple[float, ...]:
    held = progress.held_out_score.loss if progress.held_out_score else 0.0
    return (
        progress.step,
        progress.loss,
        progress.gradient_norm,
        progress.clipped_share,
        held,
        progress.is_best,
    )


def assert_same(one: TrainerState, other: TrainerState) -> None:
    assert one.values == other.values
    assert one.arrays.keys() == other.arrays.keys()
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_products_in_bf16_learn_nearly_the_same() -> None:
    settings = TrainingSettings(tokens=2_000, lanes=8, bptt=16)
    full, half = make(drawn(9), settings), make(drawn(9), replace(settings, precision="bf16"))
    for _ in range(5):
        one, other = (
            full.train_on_window(full.next_window()),
            half.train_on_window(half.next_window()),
        )
        assert other.loss != one.loss
        assert other.loss == pytest.approx(one.loss, rel=0.01)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=0.05)
    assert all(weight.dtype == np.float32 for weight in half.model.copy_weights().values())


def test_a_crew_scores_as_one_does() -> None:
    tunes = [ids[: 3 + 7 * place % 40] for place, ids in enumerate(drawn(90))]
    trainer = make(drawn(4), TrainingSettings(tokens=100, lanes=4, bptt=8))
    one, three = (evaluate(trainer.model, tunes, crew=crew) for crew in (None, Crew(3)))
    assert (one.nats > 0).all()
    assert np.array_equal(one.nats, three.nats)
