from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from musicgen.config import (
    BEGIN_ID,
    CELLS,
    CONTEXT_WIDTHS,
    FRAME_FIELDS,
    MOTION_OFFSETS,
    ModelSettings,
)
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel, reset_lanes
from musicgen.tokens.frames import FRAME, FRAMES, PITCH
from musicgen.tokens.score_context import FIELDS

SMALL = ModelSettings(vocabulary_size=11, hidden=6, embedding=6, dropout=0.5)


def make_model(settings: ModelSettings = SMALL) -> LanguageModel:
    return LanguageModel(settings, torch.Generator().manual_seed(5)).double()


def draw_ids(lanes: int, window: int, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(1, 11, (lanes, window))
    drawn[:, 0] = BEGIN_ID
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [True, False])
def test_steps_of_one_id_equal_one_pass(cell: str, tied: bool) -> None:
    model = make_model(replace(SMALL, cell=cell, tied=tied, embedding=4))
    all_ids = draw_ids(3, 9)
    expected, _ = model(all_ids)
    state, steps = None, []
    for step in all_ids.unbind(1):
        logits, state = model(step.unsqueeze(1), state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_tune_does_not_depend_on_previous_tunes_of_its_lane(cell: str) -> None:
    model = make_model(replace(SMALL, cell=cell))
    alone, _ = model(draw_ids(1, 5, seed=1))
    _, state = model(draw_ids(2, 4, seed=2))
    state = reset_lanes(state, torch.tensor([True, False]))
    logits, _ = model(torch.cat([draw_ids(1, 5, seed=1), draw_ids(1, 5, seed=5)]), state)
    torch.testing.assert_close(logits[:1], alone, rtol=0, atol=1e-12)
    without_state, _ = model(draw_ids(1, 5, seed=5))
    assert not torch.allclose(logits[1:], without_state)


def test_state_is_carried_within_a_tune() -> None:
    model = make_model()
    window = draw_ids(1, 4)
    window[0, 0] = 3
    _, state = model(draw_ids(1, 4, seed=9))
    with_state, _ = model(window, state)
    without, _ = model(window)
    assert not torch.allclose(with_state, without)


def test_dropout_masks_depend_on_the_generator_only() -> None:
    model = make_model(replace(SMALL, embedding_dropout=0.2))
    first, second, different = (
        model.draw_masks(2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first is not None
    assert second is not None
    assert different is not None
    assert torch.equal(first.outputs[0], second.outputs[0])
    assert not torch.equal(first.outputs[0], different.outputs[0])
    assert set(first.outputs[0].flatten().tolist()) <= {0.0, 2.0}
    changed, _ = model(draw_ids(2, 5), None, first)
    assert not torch.allclose(changed, model(draw_ids(2, 5))[0])


def test_no_dropout_draws_no_masks() -> None:
    assert make_model(replace(SMALL, dropout=0, embedding_dropout=0)).draw_masks(2) is None


def test_loading_copied_weights_gives_the_same_model() -> None:
    model, copy = make_model(), LanguageModel(SMALL, torch.Generator().manual_seed(6)).double()
    copy.load_weights(model.copy_weights())
    torch.testing.assert_close(model(draw_ids(2, 5))[0], copy(draw_ids(2, 5))[0], rtol=0, atol=1e-6)


def test_same_generator_gives_the_same_weights() -> None:
    first, second = make_model().copy_weights(), make_model().copy_weights()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_irnn_is_initialised_with_the_identity() -> None:
    weight = make_model(replace(SMALL, cell="irnn")).copy_weights()["layers.0.weight_hh_l0"]
    assert np.array_equal(weight, np.eye(6))


def test_embedding_dropout_drops_whole_events() -> None:
    model = make_model(replace(SMALL, embedding_dropout=0.5))
    masks = model.draw_masks(3, torch.Generator().manual_seed(3))
    assert masks is not None
    assert masks.embedding is not None
    ids = torch.tensor([[5, 0, 5, 2], [7, 7, 1, 3]])
    rows = model.look_up_embeddings(ids, masks)
    dropped = masks.embedding[ids].squeeze(2) == 0
    assert dropped.any()
    assert not dropped.all()
    assert torch.equal((rows == 0).all(2), dropped)
    assert torch.equal(rows[~dropped], 2 * model.embedding.weight[ids][~dropped])


@pytest.mark.parametrize("cell", CELLS)
def test_weight_dropout_drops_recurrent_weights(cell: str) -> None:
    settings = replace(SMALL, cell=cell, dropout=0, embedding_dropout=0, weight_dropout=0.5)
    model, scaled = make_model(settings), make_model(settings)
    masks = model.draw_masks(3, torch.Generator().manual_seed(3))
    assert masks is not None
    with torch.no_grad():
        for layer, mask in zip(scaled.layers, masks.recurrent, strict=True):
            assert set(mask.flatten().tolist()) == {0.0, 2.0}
            layer.get_parameter("weight_hh_l0").mul_(mask)
    dropped, _ = model(draw_ids(3, 5), None, masks)
    torch.testing.assert_close(dropped, scaled(draw_ids(3, 5))[0], rtol=0, atol=1e-12)
    dropped.sum().backward()
    for layer, mask in zip(model.layers, masks.recurrent, strict=True):
        gradient = layer.get_parameter("weight_hh_l0").grad
        assert gradient is not None
        assert not gradient[mask == 0].any()


def test_sets_enter_as_their_bits() -> None:
    model = make_model(replace(SMALL, context="drums lowest"))
    assert set(model.context) == {"lowest"}
    context = torch.zeros(1, 1, len(FIELDS), dtype=torch.int64)
    context[..., FIELDS.index("drums")] = 0b1000000101
    bits, lowest = model.look_up_context(context)
    assert bits.tolist() == [[[1, 0, 1, 0, 0, 0, 0, 0, 0, 1]]]
    assert lowest.shape[-1] == CONTEXT_WIDTHS["lowest"]


FRAME_SETTINGS = ModelSettings(len(FRAMES), hidden=6, embedding=6, context="ago1 ago2 above run2")


def test_fields_without_width_are_read_by_gates_alone() -> None:
    model = make_model(FRAME_SETTINGS)
    assert set(model.context) == {"ago1", "run2"}
    assert FRAME_SETTINGS.input_size == 6 + CONTEXT_WIDTHS["ago1"] + CONTEXT_WIDTHS["run2"]
    context = torch.zeros(1, 1, len(FRAME_FIELDS), dtype=torch.int64)
    before, _ = model(draw_ids(1, 1), context=context)
    context[..., FRAME_FIELDS.index("ago2")] = PITCH[60] + 1
    assert model.gates is not None
    torch.nn.init.ones_(model.gates.bias)
    change = model(draw_ids(1, 1), context=context)[0] - before
    assert torch.nonzero(change).tolist() == [[0, 0, PITCH[60]]]


def test_motion_gates_add_to_the_pitches_at_each_interval() -> None:
    model = make_model(FRAME_SETTINGS)
    assert model.motions is not None
    values = torch.arange(1, len(model.intervals) + 1)
    with torch.no_grad():
        model.motions.bias.copy_(values)
    seen = torch.tensor([PITCH[127] + 1] * len(MOTION_OFFSETS["ago1"]))
    seen = torch.cat([seen, torch.tensor([FRAME + 1] * len(MOTION_OFFSETS["above"]))])
    logits, outputs = torch.zeros(1, 1, len(FRAMES)).double(), torch.zeros(1, 1, 6).double()
    added = model.add_motions(logits, outputs, seen.expand(1, 1, -1))[0, 0]
    assert added[PITCH[115] :].tolist() == list(range(1, 14))  # twelve lower, up to the pitch
    assert not added[: PITCH[115]].any()  # none above it, and none from the end of a frame


def test_contexts_of_frames_and_bars_are_not_mixed() -> None:
    with pytest.raises(InvalidValue, match="context mixes fields of frames with those of bars"):
        replace(FRAME_SETTINGS, context="ago1 position")


def test_input_dropout_drops_the_same_inputs_at_each_step() -> None:
    settings = replace(SMALL, dropout=0, embedding_dropout=0, input_dropout=0.5, layers=1)
    model = make_model(settings)
    masks = model.draw_masks(3, torch.Generator().manual_seed(3))
    assert masks is not None
    assert masks.inputs is not None
    assert masks.inputs.shape == (3, 6)
    assert set(masks.inputs.flatten().tolist()) == {0, 2}
    model(draw_ids(3, 5), None, masks)[0][1].sum().backward()
    gradient = model.layers[0].get_parameter("weight_ih_l0").grad
    assert gradient is not None
    assert torch.equal((gradient == 0).all(0), masks.inputs[1] == 0)
    chosen = masks.select_lanes(slice(1, None, 2)).inputs
    assert chosen is not None
    assert torch.equal(chosen, masks.inputs[1:2])


def test_context_dropout_drops_values_of_the_look_back_fields() -> None:
    fields = "position bar lag4 match4"
    settings = replace(SMALL, dropout=0, embedding_dropout=0, context_dropout=0.5, context=fields)
    model = make_model(settings)
    masks = model.draw_masks(3, torch.Generator().manual_seed(3))
    assert masks is not None
    assert set(masks.context) == {"lag4", "match4"}
    context = torch.from_numpy(np.random.default_rng(1).integers(0, 9, (3, 5, len(FIELDS))))
    kept, seen = model.look_up_context(context), model.look_up_context(context, masks)
    for name, values, dropped in zip(fields.split(), kept, seen, strict=True):
        factor = masks.context.get(name, torch.ones(12, 1))[context[..., FIELDS.index(name)]]
        assert torch.equal(dropped, values * factor)
        assert (factor == 0).any() == (name in masks.context)
