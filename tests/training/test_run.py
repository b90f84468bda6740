"""Promises 12, 14, 16 to 18 and 20: runs resume bit for bit, and refuse other data and flags."""

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
from musicgen.model_folders import find_model_folder
from musicgen.training import run_folder
from musicgen.training.batches import Window
from musicgen.training.resume import SavedRun, is_finished, load_saved_run
from musicgen.training.run import SaveSchedule, TrainingRun
from musicgen.training.run_folder import (
    SavedProgress,
    lock_run,
    read_metrics,
)
from musicgen.training.trainer import Diverged, Progress
from tests.small_runs import names, small_dataset, small_plan, small_run, steps, weights_of

NEVER = 1e9  # seconds: only the end is saved
SAVED_UPDATES = 20


def load_run(folder: Path) -> SavedRun:
    saved = load_saved_run(folder)
    assert saved is not None
    return saved


def resume_run(
    folder: Path, *, device: str | None = None, learning_rate: float | None = None
) -> TrainingRun:
    return TrainingRun.resume(
        load_run(folder),
        small_dataset(),
        folder,
        device=device,
        learning_rate=learning_rate,
        save_schedule=SaveSchedule(NEVER),
    )


def stop_after(run: TrainingRun, step: int) -> None:
    """Train to an update, and stop there as after a signal."""
    message = rf"stopped after update {step}, all saved; .*--resume"
    with pytest.raises(Interrupted, match=message) as caught:
        list(act_after(run, step, run.stop))
    assert caught.value.exit_code == 130


def act_after(run: TrainingRun, step: int, act: Callable[[], object]) -> Iterator[int]:
    """Train, and call `act` after an update."""
    for number in steps(run):
        yield number
        if number == step:
            act()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """Return a finished run that was not interrupted."""
    run = small_run(tmp_path_factory.mktemp("runs") / "uninterrupted", every=NEVER)
    assert len(list(steps(run))) == 40
    return run


@pytest.fixture(scope="module")
def saved_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return copies of a run folder after each of twenty consecutive updates."""
    run = small_run(tmp_path_factory.mktemp("saved_folders") / "run")
    folders = []
    for step in itertools.islice(steps(run), 5 + SAVED_UPDATES):
        if step > 5:
            folders.append(run.folder.parent / f"cut-{step}")
            shutil.copytree(run.folder, folders[-1])
    return folders


def test_run_writes_a_checkpoint_and_its_sources(uninterrupted: TrainingRun) -> None:
    assert names(uninterrupted.folder) == [
        "MODEL_CARD.md", "best", "manifest.json", "metrics.jsonl", "progress",
        "weights.safetensors",
    ]  # fmt: skip
    assert names(uninterrupted.folder / "progress") == ["00000040"]
    best = names(uninterrupted.folder / "best")
    assert best == [f"{uninterrupted.best_step:08d}"]
    best_checkpoint = checkpoint.load_one(uninterrupted.folder / "best" / best[0])
    final = checkpoint.load(uninterrupted.folder)
    assert final.folder == uninterrupted.folder
    for name, array in final.weights.items():
        assert array.tobytes() == best_checkpoint.weights[name].tobytes()
    assert final.manifest.scores["valid"]["tunes"] == 4
    assert [path.name for path in uninterrupted.folder.parent.iterdir()] == ["uninterrupted"]


def test_run_resumed_at_any_update_ends_bit_identical(
    uninterrupted: TrainingRun, saved_folders: list[Path]
) -> None:
    assert len(saved_folders) == SAVED_UPDATES
    for folder in saved_folders:
        run = resume_run(folder)
        assert run.notes == []
        list(run.trainer.run())
        assert weights_of(run) == weights_of(uninterrupted)
        assert run.trainer.copy_state().values == uninterrupted.trainer.copy_state().values


def losses(folder: Path) -> list[tuple[Any, ...]]:
    lines = read_metrics(folder)
    return [tuple(line.get(name) for name in ("step", "loss", "norm", "held_loss"))
            for line in lines]  # fmt: skip


def without_arrays(saved: SavedRun, *prefixes: str) -> SavedRun:
    arrays = {n: a for n, a in saved.progress.arrays.items() if not n.startswith(prefixes)}
    return SavedRun(SavedProgress(arrays, saved.progress.values, saved.progress.folder))


def with_trainer_values(saved: SavedRun, **values: Any) -> SavedRun:
    trainer = saved.progress.values["trainer"] | values
    run_values = saved.progress.values | {"trainer": trainer}
    return SavedRun(SavedProgress(saved.progress.arrays, run_values, saved.progress.folder))


def with_new_position(saved: SavedRun) -> SavedRun:
    run = TrainingRun(small_dataset(), saved.read_plan(), "new", Path("new"))
    return with_trainer_values(saved, lanes=run.trainer.window_stream.get_position())


def with_new_order(saved: SavedRun) -> SavedRun:
    """Replace the generator that shuffles the tunes, but not the positions."""
    lanes = dict(saved.progress.values["trainer"]["lanes"])
    lanes["generator"] = np.random.default_rng(1).bit_generator.state
    return with_trainer_values(saved, lanes=lanes)


def with_new_masks(saved: SavedRun) -> SavedRun:
    state = torch.Generator().manual_seed(1).get_state().numpy()
    arrays = saved.progress.arrays | {"generator": state}
    return SavedRun(SavedProgress(arrays, saved.progress.values, saved.progress.folder))


INCOMPLETE_STATES: dict[str, Callable[[SavedRun], SavedRun]] = {
    "hidden state": lambda found: without_arrays(found, "state/"),
    "generator of the masks": with_new_masks,
    "generator of the order": with_new_order,
    "optimiser": lambda found: without_arrays(found, "optimizer/"),
    "schedule": lambda found: with_trainer_values(found, tokens=0),
    "position": with_new_position,
}


def train_on(saved: SavedRun, folder: Path, updates: int) -> dict[str, bytes]:
    """Resume for some updates, and return the weights."""
    run = TrainingRun.resume(saved, small_dataset(), folder, save_schedule=SaveSchedule(NEVER))
    progress = itertools.islice(run.trainer.run(), updates)
    assert len(list(progress)) == updates
    return {name: array.tobytes() for name, array in run.trainer.model.copy_weights().items()}


@pytest.mark.parametrize("part", INCOMPLETE_STATES)
def test_each_part_of_the_saved_state_matters(saved_folders: list[Path], part: str) -> None:
    saved = load_run(saved_folders[2])
    expected = train_on(saved, saved_folders[2], 20)
    assert train_on(saved, saved_folders[2], 20) == expected
    assert train_on(INCOMPLETE_STATES[part](saved), saved_folders[2], 20) != expected


def test_save_schedule_depends_on_time_and_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("musicgen.training.run.time.monotonic", lambda: clock[0])
    schedule = SaveSchedule(saved_at=clock[0])
    assert schedule.is_due(is_evaluated=True)  # the cost is not known yet
    assert not schedule.is_due(is_evaluated=False)
    with schedule.time_save():
        clock[0] += 1.0
    assert (schedule.last_save_seconds, schedule.total_save_seconds) == (1.0, 1.0)
    for elapsed, is_evaluated, is_due in (
        (149, True, False), (151, True, True), (151, False, False), (179, False, False),
        (181, False, True),
    ):  # fmt: skip
        assert (
            replace(schedule, saved_at=clock[0] - elapsed).is_due(is_evaluated=is_evaluated)
            == is_due
        )
    slow = replace(schedule, last_save_seconds=60.0)  # even then, at most ten minutes are lost
    assert not replace(slow, saved_at=clock[0] - 530).is_due(is_evaluated=False)
    assert replace(slow, saved_at=clock[0] - 541).is_due(is_evaluated=False)


def test_metrics_include_the_time_of_saving(tmp_path: Path) -> None:
    list(small_run(tmp_path / "mine", plan={"updates": 16}).train())
    seconds = [line["saving_seconds"] for line in read_metrics(tmp_path / "mine")]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= read_metrics(tmp_path / "mine")[-1]["seconds"]


def test_unfinished_run_has_a_usable_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    run = small_run(tmp_path / "checkpoints" / "mine", plan={"updates": 20})
    folder_names = set()
    for step in steps(run):
        if names(run.folder / "best"):
            loaded = checkpoint.load(find_model_folder("mine"))
            assert loaded.manifest.name == "mine"
            folder_names.add(loaded.folder.parent.name)
        else:
            with pytest.raises(MusicgenError, match="mine: the run has no checkpoint yet"):
                find_model_folder("mine")
            assert step < 8
    assert folder_names == {"best", "checkpoints"}


def test_stopped_run_saves_and_resumes(tmp_path: Path, uninterrupted: TrainingRun) -> None:
    run = small_run(tmp_path / "uninterrupted", every=NEVER)
    stop_after(run, 13)
    assert names(run.folder / "progress") == ["00000013"]
    assert names(run.folder / "best") == ["00000008"]
    resumed = resume_run(run.folder)
    assert list(steps(resumed)) == list(range(14, 41))
    assert weights_of(resumed) == weights_of(uninterrupted)
    assert losses(run.folder) == losses(uninterrupted.folder)
    for name in ("weights.safetensors", "MODEL_CARD.md"):
        assert (run.folder / name).read_bytes() == (uninterrupted.folder / name).read_bytes()


def test_metrics_after_the_resumed_update_are_discarded(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine", every=NEVER)
    stop_after(run, 20)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss": 1.0}\nno line\n{"step": 4')
    resume_run(run.folder)
    list(itertools.islice(resume_run(run.folder).train(), 1))
    assert [line["step"] for line in read_metrics(run.folder)] == [8, 10, 16, 20]
    assert len((run.folder / "metrics.jsonl").read_bytes().splitlines()) == 4


def test_is_finished(uninterrupted: TrainingRun, saved_folders: list[Path], tmp_path: Path) -> None:
    assert is_finished(uninterrupted.folder)
    assert not is_finished(saved_folders[0])
    assert not is_finished(tmp_path)
    assert load_run(uninterrupted.folder).is_over
    assert not load_run(saved_folders[0]).is_over


def test_damaged_checkpoint_of_a_finished_run_is_rewritten(
    uninterrupted: TrainingRun, tmp_path: Path
) -> None:
    folder = tmp_path / "uninterrupted"
    shutil.copytree(uninterrupted.folder, folder)
    (folder / "weights.safetensors").write_bytes(b"cut")
    assert not is_finished(folder)
    assert list(resume_run(folder).train()) == []
    assert is_finished(folder)
    weights = (folder / "weights.safetensors").read_bytes()
    assert weights == (uninterrupted.folder / "weights.safetensors").read_bytes()


def test_test_score_is_added(uninterrupted: TrainingRun, tmp_path: Path) -> None:
    folder = tmp_path / "uninterrupted"
    shutil.copytree(uninterrupted.folder, folder)
    run = resume_run(folder)
    list(run.train())
    run.score_test()
    assert "test_5gram" in checkpoint.load(folder).manifest.scores


def test_damaged_state_is_reported_and_the_previous_one_used(
    saved_folders: list[Path], tmp_path: Path, uninterrupted: TrainingRun
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved_folders[-1], folder)
    newest = folder / "progress" / "00000025" / "arrays.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    run = resume_run(folder)
    assert run.trainer.step == 24
    (note,) = run.notes
    assert "00000025/arrays.safetensors: its bytes changed" in note
    assert note.endswith("using the previous one")
    list(run.train())
    assert weights_of(run) == weights_of(uninterrupted)


OTHER_DATASETS: dict[str, tuple[Callable[[], Any], str]] = {
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


@pytest.mark.parametrize("part", OTHER_DATASETS)
def test_other_corpus_is_refused(saved_folders: list[Path], part: str) -> None:
    dataset, message = OTHER_DATASETS[part]
    with pytest.raises(Mismatch, match=message) as caught:
        TrainingRun.resume(load_run(saved_folders[0]), dataset(), saved_folders[0])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("flag", "value", "message"),
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
def test_contradicting_flag_is_refused(
    saved_folders: list[Path], flag: str, value: object, message: str
) -> None:
    with pytest.raises(Mismatch, match=message) as caught:
        load_run(saved_folders[0]).refuse_other_flags({flag: value})
    assert caught.value.exit_code == 2


def test_matching_and_changeable_flags_are_accepted(saved_folders: list[Path]) -> None:
    same = {"hidden": 12, "cell": "lstm", "batch": 3, "codec": "text", "epochs": None}
    load_run(saved_folders[0]).refuse_other_flags(same | {"learning_rate": 1.0, "device": "cuda"})
    run = resume_run(saved_folders[0], learning_rate=1e-4)
    assert run.plan.training.learning_rate == 1e-4
    assert run.notes == ["learning rate: 0.007 so far, 0.0001 from here on"]


def test_other_versions_and_threads_are_reported(saved_folders: list[Path]) -> None:
    saved = load_run(saved_folders[0])
    assert saved.list_differences(resume_run(saved_folders[0]).machine) == []
    lines = saved.list_differences(
        resume_run(saved_folders[0]).machine | {"torch": "9.9", "threads": 2}
    )
    assert [line.split(" was ")[0] for line in lines] == ["torch", "threads"]
    assert lines[1] == "threads was 1, now it is 2: the last bits may differ"


def rewrite(folder: Path, **changes: Any) -> None:
    """Change a manifest, and its own hash."""
    body = json.loads((folder / "manifest.json").read_bytes()) | changes
    (folder / "manifest.json").write_bytes(checkpoint.render_manifest(body))


def test_newer_format_and_plan_are_refused(saved_folders: list[Path], tmp_path: Path) -> None:
    shutil.copytree(saved_folders[0], tmp_path / "run")
    rewrite(tmp_path / "run" / "progress" / "00000006", format=4)
    with pytest.raises(Mismatch, match="its format is 4, this musicgen reads format 3"):
        load_saved_run(tmp_path / "run")
    saved = load_run(saved_folders[1])
    plan = saved.run_record["plan"] | {"attention": 4}
    newer = SavedRun(replace_run(saved.progress, plan=plan))
    with pytest.raises(Mismatch, match=r"its plan is from another version .*attention.*update"):
        newer.read_plan()


def replace_run(saved: SavedProgress, **changes: Any) -> SavedProgress:
    values = saved.values | {"run": saved.values["run"] | changes}
    return SavedProgress(saved.arrays, values, saved.folder)


@pytest.mark.parametrize(
    ("table", "name", "value", "message"),
    [
        ("model", "hidden", 65_536, "do not fit the plan"),
        ("model", "layers", 10**9, "layers is 1000000000"),
        ("training", "lanes", 4_096, "lanes is 4096, and the state has"),
    ],
)
def test_sizes_are_checked_before_allocation(
    saved_folders: list[Path], table: str, name: str, value: int, message: str
) -> None:
    saved = load_run(saved_folders[0])
    plan = saved.run_record["plan"] | {table: saved.run_record["plan"][table] | {name: value}}
    edited = SavedRun(replace_run(saved.progress, plan=plan))
    with pytest.raises((DamagedCheckpoint, Mismatch), match=message):
        TrainingRun.resume(edited, small_dataset(), saved_folders[0])


@pytest.mark.parametrize(
    ("path", "value", "message"),
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
def test_edited_state_is_refused(
    saved_folders: list[Path], tmp_path: Path, path: str, value: Any, message: str
) -> None:
    shutil.copytree(saved_folders[0], tmp_path / "run")
    for state in (tmp_path / "run" / "progress").iterdir():
        file = state / "values.json"
        values = json.loads(file.read_bytes())
        *folders, name = path.split(".")
        inner = values
        for folder in folders:
            inner = inner[folder]
        inner[name] = value
        file.write_bytes(json.dumps(values).encode())
        hashes = json.loads((state / "manifest.json").read_bytes())["sha256"]
        rewrite(state, sha256=hashes | {file.name: sha256_hex(file.read_bytes())})
    with pytest.raises(DamagedCheckpoint, match=message):
        load_saved_run(tmp_path / "run")


@pytest.mark.parametrize("lanes", [{"queue": [10**6]}, {"at": [[10**6, 0, 0]] * 99}])
def test_lanes_outside_the_tunes_are_refused(
    saved_folders: list[Path], lanes: dict[str, Any]
) -> None:
    saved = load_run(saved_folders[0])
    trainer = saved.progress.values["trainer"]
    values = saved.progress.values | {"trainer": trainer | {"lanes": trainer["lanes"] | lanes}}
    edited = SavedRun(SavedProgress(saved.progress.arrays, values, saved.progress.folder))
    with pytest.raises(DamagedCheckpoint, match="its contents do not fit the plan"):
        TrainingRun.resume(edited, small_dataset(), saved_folders[0])


def test_arrays_of_other_shapes_are_refused(saved_folders: list[Path]) -> None:
    saved = load_run(saved_folders[0])
    arrays = saved.progress.arrays | {"model/head.bias": np.zeros(3, np.float32)}
    edited = SavedRun(SavedProgress(arrays, saved.progress.values, saved.progress.folder))
    with pytest.raises(DamagedCheckpoint, match="its contents do not fit the plan"):
        TrainingRun.resume(edited, small_dataset(), saved_folders[0])


# Errors during training


def train_with_nan_state(run: TrainingRun, at: int) -> Iterator[Progress]:
    """Train, and set the recurrent state to NaN before an update."""
    for progress in run.train():
        yield progress
        if progress.step == at - 1:
            state = run.trainer.state or ()
            run.trainer.state = tuple(tuple(part * np.nan for part in layer) for layer in state)


def train_with_infinite_gradient(run: TrainingRun, at: int) -> Iterator[Progress]:
    """Train, and make one gradient infinite from an update on."""
    for progress in run.train():
        yield progress
        if progress.step == at - 1:
            bias = dict(run.trainer.model.named_parameters())["head.bias"]
            bias.register_hook(lambda grad: grad * np.inf)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("train_with_error", [train_with_nan_state, train_with_infinite_gradient])
def test_divergence_is_one_line_and_is_not_saved(
    tmp_path: Path,
    uninterrupted: TrainingRun,
    train_with_error: Callable[[TrainingRun, int], Iterator[Progress]],
) -> None:
    run = small_run(tmp_path / "uninterrupted")
    with pytest.raises(Diverged, match=r"update 12.*--resume --learning-rate 0\.0035") as caught:
        list(train_with_error(run, 12))
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (1, False)
    assert is_all_finite(run.folder)
    resumed = resume_run(run.folder)
    assert resumed.trainer.step == 11
    list(resumed.train())
    assert weights_of(resumed) == weights_of(uninterrupted)


def is_all_finite(folder: Path) -> bool:
    saved = [run_folder.load_progress(path) for path in sorted((folder / "progress").iterdir())]
    weights = [checkpoint.load_one(path).weights for path in sorted((folder / "best").iterdir())]
    arrays = [a for table in (*(s.arrays for s in saved), *weights) for a in table.values()]
    assert len(arrays) > 20
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def test_weight_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine")

    def spoil() -> None:
        dict(run.trainer.model.named_parameters())["head.bias"].data[0] = np.inf
        run.trainer.check_finite_loss = lambda loss_and_norm: None  # type: ignore[method-assign]

    with pytest.raises(MusicgenError, match=r"update 12: model/\S+ is no longer finite"):
        list(act_after(run, 11, spoil))
    assert is_all_finite(run.folder)
    assert load_run(run.folder).step == 11


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried")])
def test_lack_of_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, uninterrupted: TrainingRun
) -> None:
    run = small_run(tmp_path / "uninterrupted")
    update_weights = run.trainer.update_weights

    def fail_at_update_10(window: Window) -> torch.Tensor:
        if run.trainer.step == 9:
            raise error
        return update_weights(window)

    monkeypatch.setattr(run.trainer, "update_weights", fail_at_update_10)
    with pytest.raises(
        MusicgenError, match=r"uninterrupted: not enough memory; .*--resume, or .*--batch"
    ):
        list(run.train())
    resumed = resume_run(run.folder)
    list(resumed.train())
    assert weights_of(resumed) == weights_of(uninterrupted)


def test_other_errors_are_not_lack_of_memory() -> None:
    assert not is_short_of_memory(RuntimeError("shapes do not match"))


def test_failed_write_leaves_saved_progress_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: TrainingRun
) -> None:
    run = small_run(tmp_path / "uninterrupted")
    with monkeypatch.context() as patch, pytest.raises(WriteFailed, match=r"No space left.*free"):
        list(act_after(run, 9, lambda: patch.setattr("musicgen.files.os.write", raise_disk_full)))
    assert load_run(run.folder).step == 9
    resumed = resume_run(run.folder)
    list(resumed.train())
    assert weights_of(resumed) == weights_of(uninterrupted)


def raise_disk_full(*_: object) -> int:
    raise OSError(28, "No space left on device")


# Folders


def test_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine", plan={"updates": 8})
    for step in steps(run):
        if step == 3:
            with pytest.raises(InUse, match="another run is at work here") as caught:
                next(iter(small_run(tmp_path / "mine", force=True).train()))
            assert caught.value.exit_code == 2
    assert is_finished(run.folder)


def test_existing_run_is_kept_without_force(tmp_path: Path, uninterrupted: TrainingRun) -> None:
    folder = tmp_path / "uninterrupted"
    shutil.copytree(uninterrupted.folder, folder)
    manifest = (folder / "manifest.json").read_bytes()
    with pytest.raises(OutputExists, match="--resume"):
        list(small_run(folder).train())
    assert (folder / "manifest.json").read_bytes() == manifest
    list(small_run(folder, plan={"updates": 8}, force=True).train())
    assert checkpoint.load(folder).manifest.training["tokens"] == 8 * 21
    assert names(tmp_path) == ["uninterrupted"]


def test_failing_forced_run_leaves_the_previous_one(
    tmp_path: Path, uninterrupted: TrainingRun
) -> None:
    folder = tmp_path / "uninterrupted"
    shutil.copytree(uninterrupted.folder, folder)
    manifest = (folder / "manifest.json").read_bytes()
    run = small_run(folder, every=NEVER, force=True)
    with pytest.raises(Diverged):
        list(train_with_nan_state(run, 5))
    assert (folder / "manifest.json").read_bytes() == manifest
    assert names(tmp_path) == ["uninterrupted"]


def test_previous_model_is_used_until_a_forced_run_has_saved(
    tmp_path: Path, uninterrupted: TrainingRun
) -> None:
    folder = tmp_path / "uninterrupted"
    shutil.copytree(uninterrupted.folder, folder)
    run = small_run(folder, every=NEVER, force=True, plan={"updates": 8})
    for step in steps(run):
        old = checkpoint.load(folder).manifest.training["tokens"]
        assert old == (8 * 21 if step == 8 else 40 * 21)
    assert names(tmp_path) == ["uninterrupted"]


def test_run_that_fails_before_saving_leaves_nothing(tmp_path: Path) -> None:
    run = small_run(tmp_path / "mine", every=NEVER)
    with pytest.raises(Diverged):
        list(train_with_nan_state(run, 5))
    assert names(tmp_path) == []


def test_empty_run_folder_starts_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert load_saved_run(tmp_path / "mine") is None
    with lock_run(tmp_path / "mine", exists=True) as lock:
        list(small_run(tmp_path / "mine", lock=lock, plan={"updates": 8}).train())
    assert is_finished(tmp_path / "mine")


def test_saved_plan_is_read_back(saved_folders: list[Path]) -> None:
    assert load_run(saved_folders[0]).read_plan() == small_plan(small_dataset())


@pytest.mark.cuda
def test_state_moves_to_a_gpu_and_back(saved_folders: list[Path]) -> None:
    gpu_run = resume_run(saved_folders[0], device="cuda")
    assert gpu_run.trainer.model.device.type == "cuda"
    expected = resume_run(saved_folders[0]).trainer.copy_state()
    state = gpu_run.trainer.copy_state()
    for name, array in expected.arrays.items():
        assert state.arrays[name].tobytes() == array.tobytes(), name
    assert any(line.startswith("device was cpu, now it is cuda") for line in gpu_run.notes)
