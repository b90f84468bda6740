"""Promises 12, 14, 16 to 18 and 20: a run goes on bit for bit and refuses what is not its own."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen import checkpoint
from musicgen.errors import (
    DamagedCheckpoint,
    Interrupted,
    InUse,
    Mismatch,
    MusicgenError,
    OutputExists,
    WriteFailed,
    is_short_of_memory,
)
from musicgen.files import sha256_hex
from musicgen.training import run_folder
from musicgen.training.batches import Window
from musicgen.training.resume import SavedRun, is_finished, load_saved_run
from musicgen.training.run import SaveSchedule, TrainingRun, read_metrics_until
from musicgen.training.run_folder import SavedProgress, lock_run
from musicgen.training.trainer import Diverged, Progress
from musicgen.tune import find_model_folder as find_model
from tests.small_runs import names, small_dataset, small_plan, small_run, steps, weights_of

NEVER = 1e9  # seconds: nothing is saved but the end
CUTS = 20


def found_in(folder: Path) -> SavedRun:
    found = load_saved_run(folder)
    assert found is not None
    return found


def resumed(folder: Path, **more: Any) -> TrainingRun:
    more.setdefault("pace", SaveSchedule(NEVER))
    return TrainingRun.resume(found_in(folder), small_dataset(), folder, **more)


def stop_after(run: TrainingRun, step: int) -> None:
    """Train to an update, and stop there as a signal asks."""
    words = rf"stopped after update {step}, all saved; .*--resume"
    with pytest.raises(Interrupted, match=words) as told:
        list(met(run, step, run.stop))
    assert told.value.exit_code == 130


def met(run: TrainingRun, step: int, act: Callable[[], object]) -> Iterator[int]:
    """Train, and do something after an update."""
    for number in steps(run):
        yield number
        if number == step:
            act()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """Return a run that nothing disturbed."""
    run = small_run(tmp_path_factory.mktemp("runs") / "whole", every=NEVER)
    assert len(list(steps(run))) == 40
    return run


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return what a run saved at each of twenty updates in a row, in mid-epoch too."""
    run = small_run(tmp_path_factory.mktemp("cuts") / "run")
    kept = []
    for step in itertools.islice(steps(run), 5 + CUTS):
        if step > 5:
            kept.append(run.folder.parent / f"cut-{step}")
            shutil.copytree(run.folder, kept[-1])
    return kept


def test_a_run_leaves_a_checkpoint_and_what_it_is_made_of(whole: TrainingRun) -> None:
    assert names(whole.folder) == [
        "MODEL_CARD.md", "best", "manifest.json", "metrics.jsonl", "progress",
        "weights.safetensors",
    ]  # fmt: skip
    assert names(whole.folder / "progress") == ["00000040"]
    best = names(whole.folder / "best")
    assert best == [f"{whole.best_step:08d}"]
    kept = checkpoint.load_one(whole.folder / "best" / best[0])
    final = checkpoint.load(whole.folder)
    assert final.folder == whole.folder
    for name, array in final.weights.items():
        assert array.tobytes() == kept.weights[name].tobytes()
    assert final.manifest.scores["valid"]["tunes"] == 4
    assert [path.name for path in whole.folder.parent.iterdir()] == ["whole"]


def test_resumed_at_each_of_twenty_updates_it_ends_in_the_same_bits(
    whole: TrainingRun, cuts: list[Path]
) -> None:
    assert len(cuts) == CUTS
    for folder in cuts:
        run = resumed(folder)
        assert run.notes == []
        list(run.trainer.run())
        assert weights_of(run) == weights_of(whole)
        assert run.trainer.copy_state().values == whole.trainer.copy_state().values


def losses(folder: Path) -> list[tuple[Any, ...]]:
    lines = read_metrics_until(folder, 10**9)
    return [tuple(line.get(name) for name in ("step", "loss", "norm", "held_loss"))
            for line in lines]  # fmt: skip


def without(found: SavedRun, *prefixes: str) -> SavedRun:
    arrays = {n: a for n, a in found.progress.arrays.items() if not n.startswith(prefixes)}
    return SavedRun(SavedProgress(arrays, found.progress.values, found.progress.folder))


def valued(found: SavedRun, **values: Any) -> SavedRun:
    trainer = found.progress.values["trainer"] | values
    kept = found.progress.values | {"trainer": trainer}
    return SavedRun(SavedProgress(found.progress.arrays, kept, found.progress.folder))


def fresh_position(found: SavedRun) -> SavedRun:
    run = TrainingRun(small_dataset(), found.read_plan(), "new", Path("new"))
    return valued(found, lanes=run.trainer.window_stream.get_position())


def fresh_order(found: SavedRun) -> SavedRun:
    """Leave out the generator that shuffles the tunes, not where it stands among them."""
    lanes = dict(found.progress.values["trainer"]["lanes"])
    lanes["generator"] = np.random.default_rng(1).bit_generator.state
    return valued(found, lanes=lanes)


def fresh_masks(found: SavedRun) -> SavedRun:
    state = torch.Generator().manual_seed(1).get_state().numpy()
    arrays = found.progress.arrays | {"generator": state}
    return SavedRun(SavedProgress(arrays, found.progress.values, found.progress.folder))


LEFT_OUT: dict[str, Callable[[SavedRun], SavedRun]] = {
    "hidden state": lambda found: without(found, "state/"),
    "generator of the masks": fresh_masks,
    "generator of the order": fresh_order,
    "optimiser": lambda found: without(found, "optimizer/"),
    "schedule": lambda found: valued(found, tokens=0),
    "position": fresh_position,
}


def after(found: SavedRun, folder: Path, updates: int) -> dict[str, bytes]:
    """Go on for some updates, and return the weights."""
    run = TrainingRun.resume(found, small_dataset(), folder, pace=SaveSchedule(NEVER))
    taken = itertools.islice(run.trainer.run(), updates)
    assert len(list(taken)) == updates
    return {name: array.tobytes() for name, array in run.trainer.model.copy_weights().items()}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_whatever_is_left_out_of_what_is_saved_is_noticed(cuts: list[Path], what: str) -> None:
    found = found_in(cuts[2])
    whole = after(found, cuts[2], 20)
    assert after(found, cuts[2], 20) == whole
    assert after(LEFT_OUT[what](found), cuts[2], 20) != whole


def test_progress_is_saved_by_the_clock_and_by_what_it_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("musicgen.training.run.time.monotonic", lambda: now[0])
    pace = SaveSchedule(saved_at=now[0])
    assert pace.is_due(is_evaluated=True)  # what it costs is not known yet
    assert not pace.is_due(is_evaluated=False)
    with pace.time_save():
        now[0] += 1.0
    assert (pace.last_save_seconds, pace.total_save_seconds) == (1.0, 1.0)
    for after, judged, due in (
        (49, True, False), (51, True, True), (51, False, False), (179, False, False),
        (181, False, True),
    ):  # fmt: skip
        assert replace(pace, saved_at=now[0] - after).is_due(is_evaluated=judged) == due
    dear = replace(pace, last_save_seconds=60.0)  # even then, ten minutes are the most that is lost
    assert not replace(dear, saved_at=now[0] - 530).is_due(is_evaluated=False)
    assert replace(dear, saved_at=now[0] - 541).is_due(is_evaluated=False)


def test_the_cost_of_saving_is_in_the_metrics(tmp_path: Path) -> None:
    list(small_run(tmp_path / "mine", plan={"updates": 16}).train())
    spent = [line["saving_seconds"] for line in read_metrics_until(tmp_path / "mine", 99)]
    assert spent == sorted(spent)
    assert 0 < spent[-1] <= read_metrics_until(tmp_path / "mine", 99)[-1]["seconds"]


def test_a_run_under_way_can_be_sampled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    run = small_run(tmp_path / "checkpoints" / "mine", plan={"updates": 20})
    seen = set()
    for step in steps(run):
        if names(run.folder / "best"):
            loaded = checkpoint.load(find_model("mine"))
            assert loaded.manifest.name == "mine"
            seen.add(loaded.folder.parent.name)
        else:
            with pytest.raises(MusicgenError, match="mine: the run has no checkpoint yet"):
                find_model("mine")
            assert step < 8
    assert seen == {"best", "checkpoints"}


def test_a_stopped_run_saves_and_goes_on(tmp_path: Path, whole: TrainingRun) -> None:
    run = small_run(tmp_path / "whole", every=NEVER)
    stop_after(run, 13)
    assert names(run.folder / "progress") == ["00000013"]
    assert names(run.folder / "best") == ["00000008"]
    again = resumed(run.folder)
    assert list(steps(again)) == list(range(14, 41))
    assert weights_of(again) == weights_of(whole)
    assert losses(run.folder) == losses(whole.folder)
    for name in ("weights.safetensors", "MODEL_CARD.md"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_metrics_after_the_resumed_update_are_cut_off(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine", every=NEVER)
    stop_after(run, 20)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss": 1.0}\nno line\n{"step": 4')
    resumed(run.folder)
    list(itertools.islice(resumed(run.folder).train(), 1))
    assert [line["step"] for line in read_metrics_until(run.folder, 99)] == [8, 10, 16, 20]
    assert len((run.folder / "metrics.jsonl").read_bytes().splitlines()) == 4


def test_a_finished_run_is_known(whole: TrainingRun, cuts: list[Path], tmp_path: Path) -> None:
    assert is_finished(whole.folder)
    assert not is_finished(cuts[0])
    assert not is_finished(tmp_path)
    assert found_in(whole.folder).is_over
    assert not found_in(cuts[0]).is_over


def test_the_checkpoint_of_a_finished_run_is_made_again(whole: TrainingRun, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    (folder / "weights.safetensors").write_bytes(b"cut")
    assert not is_finished(folder)
    assert list(resumed(folder).train()) == []
    assert is_finished(folder)
    kept = (folder / "weights.safetensors").read_bytes()
    assert kept == (whole.folder / "weights.safetensors").read_bytes()


def test_a_test_score_is_added(whole: TrainingRun, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    run = resumed(folder)
    list(run.train())
    run.score_test()
    assert "test_5gram" in checkpoint.load(folder).manifest.scores


def test_a_damaged_state_gives_way_to_the_one_before_and_is_spoken_of(
    cuts: list[Path], tmp_path: Path, whole: TrainingRun
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cuts[-1], folder)
    newest = folder / "progress" / "00000025" / "arrays.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    run = resumed(folder)
    assert run.trainer.step == 24
    (note,) = run.notes
    assert "00000025/arrays.safetensors: its bytes changed" in note
    assert note.endswith("the one before it is taken")
    list(run.train())
    assert weights_of(run) == weights_of(whole)


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "corpus": (lambda: small_dataset(seed=5), r"its corpus was [0-9a-f]{16}, now it is [0-9a-f]"),
    "codec": (
        lambda: replace(small_dataset(), codec="text-words"),
        "its codec was text, now it is text-words",
    ),
    "vocabulary": (
        lambda: replace(small_dataset(), vocabulary=(*small_dataset().vocabulary, "token=z")),
        r"its vocabulary was 11 events \([0-9a-f]{16}\), now it is 12 events",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_corpus_is_refused_with_both_named(cuts: list[Path], what: str) -> None:
    dataset, words = OTHERS[what]
    with pytest.raises(Mismatch, match=words) as told:
        TrainingRun.resume(found_in(cuts[0]), dataset(), cuts[0])
    assert told.value.exit_code == 2


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("hidden", 64, "--hidden 64: the run that is resumed has 12"),
        ("cell", "gru", "--cell gru: the run that is resumed has lstm"),
        ("seed", 7, "--seed 7: the run that is resumed has 1"),
        ("batch", 4, "--batch 4: the run that is resumed has 3"),
        ("bptt", 64, "--bptt 64: the run that is resumed has 7"),
        ("minutes", 5.0, "--minutes 5.0: the run that is resumed has none"),
        ("codec", "measures", "--codec measures: the run that is resumed has text"),
    ],
)
def test_a_flag_that_contradicts_the_run_is_refused_by_name(
    cuts: list[Path], flag: str, value: object, words: str
) -> None:
    with pytest.raises(Mismatch, match=words) as told:
        found_in(cuts[0]).refuse_other_flags({flag: value})
    assert told.value.exit_code == 2


def test_flags_that_agree_or_may_change_are_taken(cuts: list[Path]) -> None:
    same = {"hidden": 12, "cell": "lstm", "batch": 3, "codec": "text", "epochs": None}
    found_in(cuts[0]).refuse_other_flags(same | {"learning_rate": 1.0, "device": "cuda"})
    run = resumed(cuts[0], learning_rate=1e-4)
    assert run.plan.training.learning_rate == 1e-4
    assert run.notes == ["learning rate: 0.007 so far, 0.0001 from here on"]


def test_other_versions_and_threads_are_spoken_of(cuts: list[Path]) -> None:
    found = found_in(cuts[0])
    assert found.list_differences(resumed(cuts[0]).machine) == []
    lines = found.list_differences(resumed(cuts[0]).machine | {"torch": "9.9", "threads": 2})
    assert [line.split(" was ")[0] for line in lines] == ["torch", "threads"]
    assert lines[1] == "threads was 1, now it is 2: the last bits may differ"


def rewrite(folder: Path, **changes: Any) -> None:
    """Change a manifest as another version would have written it."""
    body = json.loads((folder / "manifest.json").read_bytes()) | changes
    (folder / "manifest.json").write_bytes(checkpoint.render_manifest(body))


def test_a_newer_format_is_refused_and_so_is_a_newer_plan(cuts: list[Path], tmp_path: Path) -> None:
    shutil.copytree(cuts[0], tmp_path / "run")
    rewrite(tmp_path / "run" / "progress" / "00000006", format=3)
    with pytest.raises(Mismatch, match="its format is 3, this musicgen reads format 2"):
        load_saved_run(tmp_path / "run")
    found = found_in(cuts[1])
    plan = found.run_record["plan"] | {"attention": 4}
    newer = SavedRun(replace_run(found.progress, plan=plan))
    with pytest.raises(Mismatch, match=r"its plan is another version's .*attention.*update"):
        newer.read_plan()


def replace_run(saved: SavedProgress, **changes: Any) -> SavedProgress:
    values = saved.values | {"run": saved.values["run"] | changes}
    return SavedProgress(saved.arrays, values, saved.folder)


@pytest.mark.parametrize(
    ("table", "name", "value", "words"),
    [
        ("model", "hidden", 65_536, "do not fit the plan"),
        ("model", "layers", 10**9, "layers is 1000000000"),
        ("training", "lanes", 4_096, "lanes is 4096, and the state has"),
    ],
)
def test_sizes_are_checked_before_anything_is_allocated(
    cuts: list[Path], table: str, name: str, value: int, words: str
) -> None:
    found = found_in(cuts[0])
    plan = found.run_record["plan"] | {table: found.run_record["plan"][table] | {name: value}}
    odd = SavedRun(replace_run(found.progress, plan=plan))
    with pytest.raises((DamagedCheckpoint, Mismatch), match=words):
        TrainingRun.resume(odd, small_dataset(), cuts[0])


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("trainer.step", "6", "its values, trainer.step: expected int, got str"),
        ("trainer.lanes.at", [[0, 0]], r"trainer.lanes.at\[0\]: expected array of length 3"),
        ("trainer.best", [], "trainer.best: expected array of length 3"),
        ("run.name", ["a"], "its values, run.name: expected str, got array"),
        ("run.asked", {"from": 5}, "run.asked.from: expected str . null, got int"),
        ("run.seen", [-1], r"run.seen\[0\]: expected int >= 0"),
        ("run.over", 1, "run.over: expected bool, got int"),
        ("run.plan", None, "run.plan: expected object, got null"),
        ("run", [], "its values, run: expected object, got array"),
    ],
)
def test_an_edited_state_is_refused_with_the_place(
    cuts: list[Path], tmp_path: Path, place: str, value: Any, words: str
) -> None:
    shutil.copytree(cuts[0], tmp_path / "run")
    for state in (tmp_path / "run" / "progress").iterdir():
        path = state / "values.json"
        values = json.loads(path.read_bytes())
        *folders, name = place.split(".")
        inner = values
        for folder in folders:
            inner = inner[folder]
        inner[name] = value
        path.write_bytes(json.dumps(values).encode())
        hashes = json.loads((state / "manifest.json").read_bytes())["sha256"]
        rewrite(state, sha256=hashes | {path.name: sha256_hex(path.read_bytes())})
    with pytest.raises(DamagedCheckpoint, match=words):
        load_saved_run(tmp_path / "run")


@pytest.mark.parametrize("lanes", [{"queue": [10**6]}, {"at": [[10**6, 0, 0]] * 99}])
def test_lanes_at_tunes_that_there_are_none_of_are_no_state(
    cuts: list[Path], lanes: dict[str, Any]
) -> None:
    found = found_in(cuts[0])
    trainer = found.progress.values["trainer"]
    values = found.progress.values | {"trainer": trainer | {"lanes": trainer["lanes"] | lanes}}
    odd = SavedRun(SavedProgress(found.progress.arrays, values, found.progress.folder))
    with pytest.raises(DamagedCheckpoint, match="its contents do not fit the plan"):
        TrainingRun.resume(odd, small_dataset(), cuts[0])


def test_arrays_of_another_shape_are_no_state(cuts: list[Path]) -> None:
    found = found_in(cuts[0])
    arrays = found.progress.arrays | {"model/head.bias": np.zeros(3, np.float32)}
    odd = SavedRun(SavedProgress(arrays, found.progress.values, found.progress.folder))
    with pytest.raises(DamagedCheckpoint, match="its contents do not fit the plan"):
        TrainingRun.resume(odd, small_dataset(), cuts[0])


# What goes wrong while it trains


def poisoned(run: TrainingRun, at: int) -> Iterator[Progress]:
    """Train, and put what is no number into the state before an update."""
    for progress in run.train():
        yield progress
        if progress.step == at - 1:
            state = run.trainer.states[0] or ()
            odd = tuple(tuple(part * np.nan for part in layer) for layer in state)
            run.trainer.states = [odd]


def spoilt(run: TrainingRun, at: int) -> Iterator[Progress]:
    """Train, and make one gradient infinite from an update on."""
    for progress in run.train():
        yield progress
        if progress.step == at - 1:
            bias = dict(run.trainer.model.named_parameters())["head.bias"]
            bias.register_hook(lambda grad: grad * np.inf)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("fault", [poisoned, spoilt])
def test_what_is_no_number_stops_in_one_line_and_never_reaches_the_disk(
    tmp_path: Path, whole: TrainingRun, fault: Callable[[TrainingRun, int], Iterator[Progress]]
) -> None:
    run = small_run(tmp_path / "whole")
    with pytest.raises(Diverged, match=r"update 12.*--resume --learning-rate 0\.0035") as told:
        list(fault(run, 12))
    assert (told.value.exit_code, "\n" in str(told.value)) == (1, False)
    assert all_finite(run.folder)
    again = resumed(run.folder)
    assert again.trainer.step == 11
    list(again.train())
    assert weights_of(again) == weights_of(whole)


def all_finite(folder: Path) -> bool:
    saved = [run_folder.load_progress(path) for path in sorted((folder / "progress").iterdir())]
    kept = [checkpoint.load_one(path).weights for path in sorted((folder / "best").iterdir())]
    arrays = [a for table in (*(s.arrays for s in saved), *kept) for a in table.values()]
    assert len(arrays) > 20
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def test_a_weight_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine")

    def spoil() -> None:
        dict(run.trainer.model.named_parameters())["head.bias"].data[0] = np.inf
        run.trainer.check_finite_loss = lambda loss_and_norm: None  # type: ignore[method-assign]

    with pytest.raises(MusicgenError, match=r"update 12: model/\S+ is no longer finite"):
        list(met(run, 11, spoil))
    assert all_finite(run.folder)
    assert found_in(run.folder).step == 11


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("can't allocate memory: you tried")])
def test_short_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, whole: TrainingRun
) -> None:
    run = small_run(tmp_path / "whole")
    learn = run.trainer.update_weights

    def short(window: Window) -> torch.Tensor:
        if run.trainer.step == 9:
            raise fault
        return learn(window)

    monkeypatch.setattr(run.trainer, "update_weights", short)
    with pytest.raises(MusicgenError, match=r"whole: not enough memory; .*--resume, or .*--batch"):
        list(run.train())
    again = resumed(run.folder)
    list(again.train())
    assert weights_of(again) == weights_of(whole)


def test_other_faults_are_not_called_short_memory() -> None:
    assert not is_short_of_memory(RuntimeError("shapes do not match"))


def test_what_was_saved_before_a_write_failed_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: TrainingRun
) -> None:
    run = small_run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(WriteFailed, match=r"No space left.*free"):
        list(met(run, 9, lambda: patch.setattr("musicgen.files.os.write", full)))
    assert found_in(run.folder).step == 9
    again = resumed(run.folder)
    list(again.train())
    assert weights_of(again) == weights_of(whole)


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


# Whose folder it is


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine", plan={"updates": 8})
    for step in steps(run):
        if step == 3:
            with pytest.raises(InUse, match="another run is at work here") as told:
                next(iter(small_run(tmp_path / "mine", force=True).train()))
            assert told.value.exit_code == 2
    assert is_finished(run.folder)


def test_an_existing_run_is_kept_unless_forced(tmp_path: Path, whole: TrainingRun) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(OutputExists, match="--resume"):
        list(small_run(folder).train())
    assert (folder / "manifest.json").read_bytes() == before
    list(small_run(folder, plan={"updates": 8}, force=True).train())
    assert checkpoint.load(folder).manifest.training["tokens"] == 8 * 21
    assert names(tmp_path) == ["whole"]


def test_a_forced_run_that_fails_first_leaves_the_old_one(
    tmp_path: Path, whole: TrainingRun
) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    before = (folder / "manifest.json").read_bytes()
    run = small_run(folder, every=NEVER, force=True)
    with pytest.raises(Diverged):
        list(poisoned(run, 5))
    assert (folder / "manifest.json").read_bytes() == before
    assert names(tmp_path) == ["whole"]


def test_while_a_forced_run_has_nothing_the_old_one_is_the_model(
    tmp_path: Path, whole: TrainingRun
) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(whole.folder, folder)
    run = small_run(folder, every=NEVER, force=True, plan={"updates": 8})
    for step in steps(run):
        old = checkpoint.load(folder).manifest.training["tokens"]
        assert old == (8 * 21 if step == 8 else 40 * 21)
    assert names(tmp_path) == ["whole"]


def test_a_run_that_fails_before_it_saved_leaves_nothing(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine", every=NEVER)
    with pytest.raises(Diverged):
        list(poisoned(run, 5))
    assert names(tmp_path) == []


def test_a_resumed_run_that_saved_nothing_is_begun(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert load_saved_run(tmp_path / "mine") is None
    with lock_run(tmp_path / "mine", exists=True) as claim:
        list(small_run(tmp_path / "mine", claim=claim, plan={"updates": 8}).train())
    assert is_finished(tmp_path / "mine")


def test_the_plan_that_is_saved_is_the_plan(cuts: list[Path]) -> None:
    assert found_in(cuts[0]).read_plan() == small_plan(small_dataset())


@pytest.mark.cuda
def test_a_state_moves_to_a_gpu_and_back_with_equal_weights(cuts: list[Path]) -> None:
    there = resumed(cuts[0], device="cuda")
    assert there.trainer.model.device.type == "cuda"
    expected = resumed(cuts[0]).trainer.copy_state()
    state = there.trainer.copy_state()
    for name, array in expected.arrays.items():
        assert state.arrays[name].tobytes() == array.tobytes(), name
    assert any(line.startswith("device was cpu, now it is cuda") for line in there.notes)
