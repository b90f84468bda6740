"""Promises 15 and 16: saves are complete or absent, damage is detected, three are kept."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.checkpoint import list_numbered_folders, render_manifest
from musicgen.errors import DamagedCheckpoint, Mismatch, MusicgenError, WriteFailed
from musicgen.files import make_partial_path, sha256_hex, write_atomically
from musicgen.folder_contents import is_step_folder
from musicgen.training import run_folder
from musicgen.training.run_folder import (
    load_latest_progress,
    load_progress,
    prepare_step_path,
    remove_partial_files,
    save_progress,
)
from tests.damage import DAMAGES, Damage, damage_files

CALLS = ("open", "write", "fsync", "link", "rename", "replace", "close", "mkdir")


def arrays(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "model/weight": rng.normal(size=(4, 3)).astype(np.float32),
        "optimizer/weight/step": np.array(float(step), np.float32),
        "generator": rng.integers(0, 255, 40).astype(np.uint8),
    }


def values(step: int) -> dict[str, Any]:
    return {"trainer": {"step": step, "generator": 2**127 + step}, "run": {"name": "ü"}}


def save_steps(run: Path, *steps: int) -> Path:
    for step in steps:
        save_progress(run, step, arrays(step), values(step))
    return run


def list_states(run: Path) -> list[str]:
    return [folder.name for folder in list_numbered_folders(run / "progress")]


def load_step(run: Path) -> int:
    saved, _ = load_latest_progress(run)
    assert saved is not None
    step: int = saved.values["trainer"]["step"]
    for name, array in arrays(step).items():
        assert array.tobytes() == saved.arrays[name].tobytes()
        assert (array.shape, array.dtype) == (saved.arrays[name].shape, saved.arrays[name].dtype)
    assert saved.values == values(step)
    return step


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_steps(tmp_path / "run", 8, 16, 24)


def test_saved_progress_is_read_back(tmp_path: Path) -> None:
    assert load_latest_progress(tmp_path / "run") == (None, [])
    for step in (1, 5, 123_456_789):
        save_steps(tmp_path / "run", step)
        assert load_step(tmp_path / "run") == step
    files = sorted(
        path.name for path in list_numbered_folders(tmp_path / "run" / "progress")[0].iterdir()
    )
    assert files == ["arrays.safetensors", "manifest.json", "values.json"]


def test_last_three_states_are_kept(run: Path) -> None:
    assert list_states(run) == ["00000008", "00000016", "00000024"]
    save_steps(run, 32)
    assert list_states(run) == ["00000016", "00000024", "00000032"]
    assert [path.name for path in run.iterdir()] == ["progress"]


def test_old_state_is_removed_only_after_the_new_one_is_verified(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "hash_regular_file", lambda *_, **__: b"other")
        with pytest.raises(WriteFailed, match="00000032: the files read back differ"):
            save_steps(run, 32)
    assert list_states(run) == ["00000008", "00000016", "00000024", "00000032"]


def test_states_later_than_a_new_one_are_removed(run: Path) -> None:
    """A run resumed at update 8, because the later two states are damaged, saves update 12."""
    for step in (16, 24):
        (run / "progress" / f"{step:08d}" / "values.json").write_bytes(b"")
    assert load_step(run) == 8
    save_steps(run, 12)
    assert list_states(run) == ["00000008", "00000012"]
    assert load_step(run) == 12


def test_damaged_state_of_the_same_update_is_replaced(run: Path) -> None:
    (run / "progress" / "00000024" / "values.json").write_bytes(b"")
    assert load_step(run) == 16
    save_steps(run, 24)
    assert load_step(run) == 24
    assert list_states(run) == ["00000008", "00000016", "00000024"]


@pytest.mark.parametrize("times", [10, pytest.param(300, marks=pytest.mark.promises)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_detected_and_the_previous_state_used(
    run: Path, damage: Damage, times: int
) -> None:
    for path in damage_files(run / "progress" / "00000024", damage, times):
        saved, notes = load_latest_progress(run)
        assert saved is not None
        assert saved.folder.name == "00000016"
        assert len(notes) == 1
        assert f"00000024/{path.name}" in notes[0]
        assert "\n" not in notes[0]
    assert load_step(run) == 24


@pytest.mark.parametrize("name", ["arrays.safetensors", "values.json", "manifest.json"])
def test_missing_file_is_detected(run: Path, name: str) -> None:
    (run / "progress" / "00000024" / name).unlink()
    assert load_latest_progress(run)[1] == [f"{run}/progress/00000024/{name}: it is missing"]
    assert load_step(run) == 16


def test_error_if_all_states_are_damaged(run: Path) -> None:
    for folder in list_numbered_folders(run / "progress"):
        (folder / "values.json").write_bytes(b"{}")
    with pytest.raises(DamagedCheckpoint, match=r"00000024/values.json.*begin again with --force"):
        load_latest_progress(run)
    assert len(list_states(run)) == 3


def test_other_format_is_refused(run: Path) -> None:
    manifest = run / "progress" / "00000024" / "manifest.json"
    body = json.loads(manifest.read_bytes()) | {"format": 2}
    manifest.write_bytes(render_manifest(body))
    message = f"its format is 2, this musicgen reads format 3; start .* with --from {run}$"
    with pytest.raises(Mismatch, match=message) as caught:
        load_latest_progress(run)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model/weight", "optimizer/weight/step"])
def test_arrays_that_are_not_finite_are_not_saved(run: Path, name: str, odd: float) -> None:
    poisoned = arrays(32)
    poisoned[name].flat[-1] = odd
    with pytest.raises(MusicgenError, match=f"update 32: {name} is no longer finite.*--resume"):
        save_progress(run, 32, poisoned, values(32))
    assert list_states(run) == ["00000008", "00000016", "00000024"]


def test_values_that_are_not_json_are_not_saved(run: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_progress(run, 32, arrays(32), {"loss": float("nan")})
    assert load_step(run) == 24


class FailingCall:
    """Makes the n-th call of a function of os fail, and counts the calls."""

    def __init__(self, call: Callable[..., Any], number: int) -> None:
        self.call, self.number, self.count = call, number, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count == self.number:
            if self.call.__name__ == "close":
                self.call(*args)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.call(*args, **kwargs)


@pytest.mark.parametrize("name", CALLS)
def test_intact_state_remains_after_any_failing_call(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for number in range(1, 60):
        step = 24 + number
        with monkeypatch.context() as patch:
            failing = FailingCall(getattr(os, name), number)
            patch.setattr(os, name, failing)
            message = try_fill(run, step)
        assert message is None or "No space left on device" in message or "read back" in message
        assert message is None or "\n" not in message
        assert load_step(run) in (step - 1, step)
        remove_partial_files(run)
        if failing.count < number:
            assert load_step(run) == step
            return
        save_steps(run, step)
    pytest.fail("the calls never ended")


def try_fill(run: Path, step: int) -> str | None:
    """Save, and return the message of an error, if any."""
    try:
        save_steps(run, step)
    except MusicgenError as error:
        return f"{error}" if error.exit_code == 1 else None
    return None


def test_partial_files_of_killed_processes_are_removed(run: Path) -> None:
    half = make_partial_path(run / "progress" / "00000032")
    half.mkdir()
    (half / "values.json").write_text("half")
    make_partial_path(run / "metrics.jsonl").write_text("half")
    write_atomically(run / "notes.partial", b"mine")
    assert remove_partial_files(run) == 2
    assert list_states(run) == ["00000008", "00000016", "00000024"]
    assert (run / "notes.partial").exists()
    assert remove_partial_files(run / "nowhere") == 0


def test_state_folder_is_named_by_its_update(tmp_path: Path) -> None:
    assert prepare_step_path(tmp_path / "run" / "best", 7) == tmp_path / "run" / "best" / "00000007"
    assert (tmp_path / "run" / "best").is_dir()


def test_invalid_json_with_a_valid_hash_is_damage(run: Path) -> None:
    folder = run / "progress" / "00000024"
    (folder / "values.json").write_bytes(b"[")
    body = json.loads((folder / "manifest.json").read_bytes())
    body["sha256"]["values.json"] = sha256_hex(b"[")
    (folder / "manifest.json").write_bytes(render_manifest(body))
    with pytest.raises(DamagedCheckpoint, match="its contents do not fit"):
        load_progress(folder)


def test_folder_named_in_other_digits_is_not_a_state(tmp_path: Path) -> None:
    names = ("00000024", "\u0660" * 8)
    for name in names:
        (tmp_path / name).mkdir()
    assert [is_step_folder(tmp_path / name) for name in names] == [True, False]
