"""The benchmarks of piano rolls: exact likelihoods, repeatable figures, refusals."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from benchmarks.polyphonic import draw_toy_parts, make_benchmark
from benchmarks.published.frame_model import FrameModel, TransposedMixture, list_legal_ids
from benchmarks.published.recipes import RECIPES
from benchmarks.published.rolls import PITCHES, count_frames, read_parts
from benchmarks.published.training_run import load_model, measure, save_run, train
from musicgen.checkpoint import load
from musicgen.config import BEGIN_ID, FRAME_FIELDS, ModelSettings
from musicgen.errors import InvalidValue, Mismatch, NotFound, Refusal
from musicgen.music.arrays import TokenIds
from musicgen.tokens.frame_context import FrameContexts
from musicgen.tokens.frames import FRAME, FRAMES, PITCH, encode_frames
from musicgen.trained_model import load as load_trained_model
from musicgen.training.batches import shift_right, transpose_ids
from musicgen.training.heldout_loss import evaluate

TINY = ModelSettings(
    len(FRAMES), hidden=12, embedding=8, tied=False, context=" ".join(FRAME_FIELDS)
)
TOY_PITCHES = range(PITCH[60], PITCH[66])  # six keys: 64 frames
RECIPE = replace(
    RECIPES["JSB_Chorales"].change({"hidden": "12", "tokens": "1500", "lanes": "4"}),
    transpositions=(0, 3),
)


def make_model(pitches: range = PITCHES) -> FrameModel:
    """Make a model whose gates are open: trained models have other gates than new ones."""
    model = FrameModel(TINY, torch.Generator().manual_seed(3), pitches)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("gates", "motions")):
                weight.normal_(0, 1, generator=generator)
    return model


def encode(*frames: set[int]) -> TokenIds:
    return np.array(encode_frames(frames)[:-1], np.int16)


def compute_step_nats(model: FrameModel, ids: TokenIds) -> list[float]:
    """Return the nats of each id, from the ids before it alone and one softmax per id."""
    nats = []
    for place, id_ in enumerate(ids.tolist()):
        inputs = torch.tensor([[BEGIN_ID, *ids[:place].tolist()]])
        # the id that is predicted must not matter for its own context: FRAME stands for it
        context = FrameContexts().compute([np.array([*ids[:place], FRAME], np.int16)])[0]
        with torch.no_grad():
            logits, _ = model(inputs, context=torch.from_numpy(context[None].astype(np.int64)))
        nats.append(-float(logits[0, -1].double().log_softmax(0)[id_]))
    return nats


def test_probabilities_of_all_frames_sum_to_one() -> None:
    model = make_model(TOY_PITCHES)
    earlier = [{60, 64}, {61}, {60, 62, 65}]
    pieces = [
        encode(*earlier, set(chosen))
        for size in range(7)
        for chosen in itertools.combinations(range(60, 66), size)
    ]
    assert len(pieces) == 64
    given = evaluate(model, [encode(*earlier)]).nats[0]
    assert math.isclose(np.exp(given - evaluate(model, pieces).nats).sum(), 1, abs_tol=1e-5)


def test_probabilities_of_a_mixture_of_transpositions_sum_to_one() -> None:
    weights = make_model().copy_weights()
    earlier = [{60, 64}, {61}, {60, 62, 65}]
    pieces = [
        encode(*earlier, set(chosen))
        for size in range(7)
        for chosen in itertools.combinations(range(60, 66), size)
    ]
    mixture = TransposedMixture(TINY, weights, (-5, 0, 2), TOY_PITCHES)
    given = evaluate(mixture, [encode(*earlier)]).nats[0]
    nats = evaluate(mixture, pieces).nats
    assert math.isclose(np.exp(given - nats).sum(), 1, abs_tol=1e-5)
    alone = TransposedMixture(TINY, weights, (0,), TOY_PITCHES)
    assert np.allclose(evaluate(alone, pieces).nats, evaluate(make_model(TOY_PITCHES), pieces).nats)


def test_mixture_averages_what_the_model_says_of_transposed_pieces() -> None:
    model = make_model()
    weights, piece = model.copy_weights(), encode({60, 64, 67}, {59, 65}, {60, 64, 67})
    views = []
    for semitones in (-5, 0, 2):
        within = range(PITCHES.start + max(0, semitones), PITCHES.stop + min(0, semitones))
        view = FrameModel(TINY, pitches=within)
        view.load_weights(weights)
        moved = transpose_ids(piece, (PITCHES,), semitones)
        context = FrameContexts().compute([moved])[0].astype(np.int64)
        context[:, FRAME_FIELDS.index("key")] += semitones
        inputs = torch.from_numpy(shift_right(moved)[None])
        with torch.no_grad():
            logits, _ = view(inputs, context=torch.from_numpy(context[None]))
        rows = torch.arange(len(moved))
        views.append(logits[0].double().softmax(-1)[rows, torch.from_numpy(moved).long()])
    expected = -torch.stack(views).mean(0).log().sum().item()
    mixture = TransposedMixture(TINY, weights, (-5, 0, 2))
    assert math.isclose(evaluate(mixture, [piece]).nats[0], expected, rel_tol=1e-5)


def test_likelihood_of_a_piece_is_the_product_over_its_ids() -> None:
    model = make_model()
    piece = encode({60, 64, 67}, set(), {60, 64, 67}, {48, 65, 69, 108}, {21}, {60, 64, 67})
    total = evaluate(model, [piece], [count_frames(piece)])
    assert total.notes.tolist() == [6]
    assert math.isclose(total.nats[0], sum(compute_step_nats(model, piece)), rel_tol=1e-5)


def test_only_lower_pitches_and_the_end_of_the_frame_have_probability() -> None:
    model = make_model()
    fed = torch.tensor([[BEGIN_ID, PITCH[60], FRAME]])
    logits, _ = model(fed, context=torch.zeros(1, 3, len(FRAME_FIELDS), dtype=torch.int64))
    for row, id_ in zip(logits[0].softmax(1), fed[0].tolist(), strict=True):
        assert torch.nonzero(row)[:, 0].tolist() == list_legal_ids(id_)


def test_same_seed_gives_same_figure_and_saved_weights_give_it_again(tmp_path: Path) -> None:
    benchmark = make_benchmark(draw_toy_parts())
    runs = [train(benchmark, RECIPE) for _ in range(2)]
    other = train(benchmark, replace(RECIPE, training=replace(RECIPE.training, seed=2)))
    figures = [
        measure(benchmark.score(benchmark.restore(run.weights, RECIPE.model, (0, 3)), "test"))
        for run in (*runs, other)
    ]
    assert figures[0] == figures[1]
    assert figures[0] != figures[2]
    command = "python benchmarks/polyphonic.py toy.mat"
    save_run(tmp_path / "toy", benchmark, runs[0], {"test": figures[0]}, command)
    assert load(tmp_path / "toy").manifest.training["nats"] == {"test": figures[0]}
    assert measure(benchmark.score(load_model(benchmark, tmp_path / "toy"), "test")) == figures[0]
    with pytest.raises(Mismatch, match="model toy: it reads a score context that the codec frames"):
        load_trained_model(tmp_path / "toy").sample()


def test_recipe_changes_known_settings_only() -> None:
    changed = RECIPE.change({"dropout": "0.25", "lanes": "9", "cell": "gru"})
    assert (changed.model.dropout, changed.training.lanes, changed.model.cell) == (0.25, 9, "gru")
    with pytest.raises(InvalidValue, match="--set size: choose one of"):
        RECIPE.change({"size": "3"})
    assert "ago_echo" not in RECIPE.drop_fields(["ago_echo"]).model.context
    with pytest.raises(InvalidValue, match="--without echo: choose some of of12"):
        RECIPE.drop_fields(["echo"])


def write_rolls(path: Path, **parts: list[list[set[int]]]) -> Path:
    matrices = {}
    for name, pieces in parts.items():
        rolls = np.empty(len(pieces), object)
        for number, frames in enumerate(pieces):
            rolls[number] = np.array(
                [[pitch in frame for pitch in range(21, 109)] for frame in frames], np.uint8
            ).reshape(-1, 88)
        matrices[f"{name}data"] = rolls
    scipy.io.savemat(path, matrices)
    return path


def test_reads_both_kinds_of_files(tmp_path: Path) -> None:
    pieces = [[{60, 64}, {108}], [set(), {21, 60}]]
    matrices = write_rolls(tmp_path / "a.mat", train=pieces, test=pieces[:1])
    voices = [[[64, 60, -1, 60], [-1, -1, 108, -1]], [[-1] * 4, [60, 21, 21, -1]]]
    chorales = tmp_path / "a.json"
    chorales.write_text(json.dumps({"train": voices, "test": voices[:1]}), encoding="utf-8")
    for path in (matrices, chorales):
        parts = read_parts(path)
        assert [*parts] == ["train", "test"]
        assert [ids.tolist() for ids in parts["train"]] == [encode(*p).tolist() for p in pieces]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"60 64", "not a file of piano rolls"),
        ("a.mat", b"nothing", "not a MATLAB file"),
        ("a.json", b"{", "not a file of chorales"),
        ("a.json", b'{"valid": []}', "not a file of chorales"),
        ("a.json", b'{"train": [[[60, 300]]]}', "not a file of chorales"),
        ("a.json", b'{"train": [[]]}', "train, piece 1: it has no frame"),
        ("a.json", b'{"train": []}', "it has no training part"),
    ],
)
def test_refuses_other_files(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(Refusal, match=words) as refusal:
        read_parts(path)
    assert str(path) in str(refusal.value)


def test_refuses_rolls_of_other_shapes_and_missing_files(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"traindata": np.ones((1, 3, 40))})
    with pytest.raises(Refusal, match=r"train, piece 1: not an array \(frame, 88\)"):
        read_parts(tmp_path / "a.mat")
    with pytest.raises(NotFound, match="missing"):
        read_parts(tmp_path / "missing.mat")
