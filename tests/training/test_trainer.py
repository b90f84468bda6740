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
from musicgen.model.network import LanguageModel
from musicgen.training.batches import IGNORE_INDEX, Window, WindowStream
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


def make_trainer(
    tunes: Sequence[np.ndarray], settings: TrainingSettings, valid: Sequence[np.ndarray] = ()
) -> Trainer:
    shape = ModelSettings(12, layers=1, hidden=24, embedding=24, dropout=0, embedding_dropout=0)
    model = LanguageModel(shape, torch.Generator().manual_seed(2))
    return Trainer(model, tunes, valid, settings)


def draw_tunes(count: int, length: int = 20) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(1, 12, length).astype(np.int16) for _ in range(count)]


def test_model_memorises_a_loop_of_eight_ids() -> None:
    tune = np.tile(np.array([3, 5, 4, 7, 3, 9, 8, 2], np.int16), 8)
    settings = TrainingSettings(tokens=20_000, lanes=4, bptt=16, learning_rate=0.01)
    trainer = make_trainer([tune], settings, [tune])
    assert list(trainer.run())[-1].is_last
    assert trainer.best.loss < 0.05


def test_state_is_carried_across_windows() -> None:
    """The first id of eight is repeated as the last; windows of 10 split most tunes."""
    tunes = [np.array([first, 6, 7, 8, 9, 6, 7, first], np.int16) for first in (2, 3, 4, 5)]
    settings = TrainingSettings(tokens=40_000, lanes=8, bptt=10, learning_rate=0.01)
    losses = [progress.loss for progress in make_trainer(tunes, settings).run()]
    optimal_loss = np.log(4) / 8  # only the first id of a tune is unpredictable
    assert (
        np.mean(losses[-20:]) < optimal_loss + 0.04
    )  # without the state, it is higher for split tunes


def test_evaluation_in_windows_equals_one_pass() -> None:
    tune = draw_tunes(1, 300)[0]
    model = make_trainer([tune], TrainingSettings(tokens=1)).model
    logits, _ = model(torch.from_numpy(np.r_[0, tune[:-1]].astype(np.int64))[None])
    loss = functional.cross_entropy(logits[0], torch.from_numpy(tune.astype(np.int64)))
    assert evaluate(model, [tune]).loss == pytest.approx(float(loss.detach()), abs=1e-6)


def test_carried_state_has_no_gradient() -> None:
    trainer = make_trainer(draw_tunes(4), TrainingSettings(tokens=1000, lanes=2, bptt=8))
    trainer.train_on_window(trainer.next_window())
    state = trainer.state
    assert state is not None
    assert not any(part.requires_grad for layer in state for part in layer)
    assert all(part.abs().sum() > 0 for layer in state for part in layer)


def test_nan_loss_stops_with_one_line_and_keeps_the_weights() -> None:
    trainer = make_trainer(
        draw_tunes(4), TrainingSettings(tokens=10_000, lanes=2, bptt=8), draw_tunes(2)
    )
    run = trainer.run()
    list(itertools.islice(run, 12))
    best_weights = {name: weight.copy() for name, weight in trainer.best.weights.items()}
    weights = trainer.model.copy_weights()
    state = trainer.state or ()
    trainer.state = tuple(tuple(part * np.nan for part in layer) for layer in state)
    poison = Window(np.full((2, 8), 3), np.full((2, 8), 3), np.zeros(2, bool))
    with pytest.raises(
        Diverged, match=r"update 13, after 160 tokens: loss nan.*learning rate"
    ) as summarise:
        trainer.train_on_window(poison)
    assert "\n" not in str(summarise.value)
    assert all(
        np.array_equal(weights[name], current)
        for name, current in trainer.model.copy_weights().items()
    )
    assert all(
        np.array_equal(best_weights[name], current)
        for name, current in trainer.best.weights.items()
    )
    assert all(np.isfinite(weight).all() for weight in best_weights.values())


def test_infinite_gradient_stops() -> None:
    trainer = make_trainer(draw_tunes(4), TrainingSettings(tokens=10_000, lanes=2, bptt=8))
    trainer.parameters[-1].register_hook(lambda grad: grad * np.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(Diverged, match=r"gradient norm (nan|inf)"):
        trainer.train_on_window(trainer.next_window())


def test_early_stopping_keeps_the_best_weights() -> None:
    tunes = draw_tunes(6)
    settings = TrainingSettings(
        tokens=10**7, lanes=4, bptt=10, learning_rate=0.03, evaluate_every=400, patience=3
    )
    trainer = make_trainer(tunes, settings, draw_tunes(9)[6:])
    steps = list(trainer.run())
    evaluated = [step for step in steps if step.held_out_score]
    assert steps[-1].is_last
    assert steps[-1].tokens < 10**6
    assert [step.is_best for step in evaluated[-3:]] == [False] * 3
    best = min(step.held_out_score.loss for step in evaluated if step.held_out_score)
    assert trainer.best.loss == best
    trainer.model.load_weights(trainer.best.weights)
    assert evaluate(trainer.model, trainer.valid).loss == pytest.approx(best, abs=1e-6)


def test_same_seed_gives_the_same_run() -> None:
    def losses(seed: int) -> list[Progress | float]:
        trainer = make_trainer(
            draw_tunes(8), TrainingSettings(tokens=1000, lanes=4, bptt=8, seed=seed)
        )
        return [progress.loss for progress in trainer.run()]

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)


def test_every_id_is_a_target_once_per_epoch() -> None:
    tunes = [np.full(5 + number, number, np.int16) for number in range(1, 12)]
    stream = WindowStream(tunes, 1, np.random.default_rng(0))
    windows = [stream.next_window(4) for _ in range(sum(-(-len(tune) // 4) for tune in tunes))]
    targets = np.concatenate([window.targets[0] for window in windows])
    counts = np.bincount(targets[targets != IGNORE_INDEX])
    assert np.array_equal(counts[1:], [len(tune) for tune in tunes])
    assert sum(window.starts[0] for window in windows) == len(tunes)


def test_window_has_one_tune_per_lane_and_is_padded_at_its_end() -> None:
    tunes = [np.arange(1, 8), np.arange(11, 30)]
    stream = WindowStream(tunes, 2, np.random.default_rng(0))
    windows = [stream.next_window(5) for _ in range(2)]
    rows = sorted(windows[1].targets.tolist())
    assert rows == [[6, 7, *[IGNORE_INDEX] * 3], [16, 17, 18, 19, 20]]
    assert windows[0].starts.all()
    assert not windows[1].starts.any()
    assert windows[1].token_count == 7
    third = stream.next_window(5)  # the short tune has ended; the next one starts with a window
    assert third.inputs[third.starts][0, 0] == 0
    assert np.count_nonzero(third.starts) == 1


def test_inputs_are_the_targets_shifted_by_one() -> None:
    stream = WindowStream(draw_tunes(5), 3, np.random.default_rng(0))
    previous = stream.next_window(7)
    for _ in range(9):
        window = stream.next_window(7)
        lanes = ~window.starts
        assert np.array_equal(window.inputs[lanes, 0], previous.targets[lanes, -1])
        is_padding = window.targets[:, :-1] == IGNORE_INDEX
        expected = np.where(is_padding, window.inputs[:, 1:], window.targets[:, :-1])
        assert np.array_equal(window.inputs[:, 1:], expected)
        assert (window.inputs[window.starts, 0] == 0).all()
        previous = window


def test_whole_tunes_in_a_window_give_the_gradient_of_the_tunes() -> None:
    """Cut into windows, the loss is the same and the gradient differs: it ends at each window."""
    tunes = [ids[: 9 + 5 * index] for index, ids in enumerate(draw_tunes(3, 30))]
    settings = TrainingSettings(tokens=1000, lanes=3, bptt=40)
    whole = make_trainer(tunes, settings)
    whole.backward(whole.next_window())
    model = make_trainer(tunes, settings).model
    total = torch.zeros(())
    for ids in tunes:
        targets = torch.from_numpy(ids.astype(np.int64))
        logits, _ = model(torch.cat([torch.zeros(1, dtype=torch.int64), targets[:-1]])[None])
        total = total + functional.cross_entropy(logits[0], targets, reduction="sum")
    (total / sum(map(len, tunes))).backward()  # type: ignore[no-untyped-call]
    for actual, expected in zip(whole.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_seek_restores_the_position_of_the_stream() -> None:
    stream, restored = (
        WindowStream(draw_tunes(5), 3, np.random.default_rng(seed)) for seed in (0, 1)
    )
    for _ in range(4):
        stream.next_window(7)
    restored.seek(stream.get_position())
    for _ in range(20):
        expected, actual = stream.next_window(7), restored.next_window(7)
        assert np.array_equal(expected.inputs, actual.inputs)
        assert np.array_equal(expected.targets, actual.targets)


def test_learning_rate_rises_then_falls() -> None:
    settings = TrainingSettings(tokens=100, warmup=0.1, final_rate=0.1)
    rates = [
        learning_rate_factor(progress_share, settings) for progress_share in (0, 0.05, 0.1, 0.55, 1)
    ]
    assert rates == pytest.approx([0.01, 0.5, 1, 0.55, 0.1])


def test_windows_grow_linearly_to_their_full_length() -> None:
    settings = TrainingSettings(tokens=100, bptt=64, first_bptt=8)
    lengths = [
        window_length(progress_share, settings) for progress_share in (0, 0.25, 0.5, 0.999, 1.2)
    ]
    assert lengths == [8, 22, 36, 64, 64]
    assert window_length(0, replace(settings, first_bptt=0)) == 64


def test_equal_window_lengths_give_the_same_number_of_updates() -> None:
    settings = TrainingSettings(tokens=20_000, lanes=4, bptt=48, first_bptt=6)
    growing, even = (
        make_trainer(draw_tunes(9, 2_000), settings),
        make_trainer(draw_tunes(9, 2_000), equalize_window_lengths(settings)),
    )
    updates = [sum(1 for _ in trainer.run()) for trainer in (growing, even)]
    assert updates[1] == pytest.approx(updates[0], rel=0.05)
    assert equalize_window_lengths(replace(settings, first_bptt=0)).bptt == 48


def test_growing_windows_skip_no_id() -> None:
    tunes = [np.array([tune * 20 + position for position in range(1, 18)]) for tune in range(1, 6)]
    settings = TrainingSettings(tokens=17 * 5, lanes=1, bptt=12, first_bptt=2)
    trainer = Trainer(LanguageModel(ModelSettings(200, hidden=8, embedding=8)), tunes, [], settings)
    targets: list[int] = []
    while trainer.tokens < 17 * 5:
        window = trainer.next_window()
        targets += window.targets[0][window.targets[0] != IGNORE_INDEX].tolist()
        trainer.update_weights(window)
    assert sorted(targets) == sorted(np.concatenate(tunes).tolist())


def round_trip(state: TrainerState) -> TrainerState:
    """Copy the arrays of a state, and pass its values through JSON."""
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    return TrainerState(arrays, json.loads(json.dumps(state.values)))


def make_network_trainer() -> Trainer:
    settings = TrainingSettings(
        tokens=1_000, lanes=4, bptt=12, first_bptt=4, evaluate_every=160, transposed=True
    )
    shape = ModelSettings(12, layers=2, hidden=16, embedding=16)
    model = LanguageModel(shape, torch.Generator().manual_seed(2))
    return Trainer(model, draw_tunes(9), draw_tunes(3), settings, pitch_ranges=[range(4, 11)])


@pytest.fixture(scope="module")
def uninterrupted_run() -> tuple[list[Progress], TrainerState]:
    """Return what a whole run measures, and its last state."""
    trainer = make_network_trainer()
    return list(trainer.run()), trainer.copy_state()


@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_restored_state_continues_bit_for_bit(
    at: int, uninterrupted_run: tuple[list[Progress], TrainerState]
) -> None:
    expected, last_state = uninterrupted_run
    interrupted, resumed = make_network_trainer(), make_network_trainer()
    list(itertools.islice(interrupted.run(), at))
    resumed.restore(round_trip(interrupted.copy_state()))
    rest = list(resumed.run())
    assert rest
    assert [summarise(p) for p in rest] == [summarise(p) for p in expected[at:]]
    assert_same(resumed.copy_state(), last_state)


def summarise(progress: Progress) -> tuple[float, ...]:
    held = progress.held_out_score.loss if progress.held_out_score else 0.0
    return (
        progress.step,
        progress.loss,
        progress.gradient_norm,
        progress.clipped_share,
        held,
        progress.is_best,
    )


def assert_same(actual: TrainerState, expected: TrainerState) -> None:
    assert actual.values == expected.values
    assert actual.arrays.keys() == expected.arrays.keys()
    assert all(np.array_equal(actual.arrays[name], expected.arrays[name]) for name in actual.arrays)


def test_bf16_training_is_close_to_fp32() -> None:
    settings = TrainingSettings(tokens=2_000, lanes=8, bptt=16)
    full, half = (
        make_trainer(draw_tunes(9), settings),
        make_trainer(draw_tunes(9), replace(settings, precision="bf16")),
    )
    for _ in range(5):
        fp32, bf16 = (
            full.train_on_window(full.next_window()),
            half.train_on_window(half.next_window()),
        )
        assert bf16.loss != fp32.loss
        assert bf16.loss == pytest.approx(fp32.loss, rel=0.01)
        assert bf16.gradient_norm == pytest.approx(fp32.gradient_norm, rel=0.05)
    assert all(weight.dtype == np.float32 for weight in half.model.copy_weights().values())


def test_held_out_loss_in_bf16_is_close_to_fp32() -> None:
    trainer = make_trainer(draw_tunes(9), TrainingSettings(tokens=2_000, lanes=8, bptt=16))
    for _ in range(5):
        trainer.train_on_window(trainer.next_window())
    tunes = draw_tunes(5)
    fp32, bf16 = (evaluate(trainer.model, tunes, precision=name).loss for name in ("fp32", "bf16"))
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=2e-3)
