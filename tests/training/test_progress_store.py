"""Promises 15 and 16: what is saved is whole or not there, damage is noticed, three are kept."""

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

Damage = Callable[[bytes, np.random.Generator], bytes]
CALLS = ("open", "write", "fsync", "link", "rename", "replace", "close", "mkdir")


def arrays(step: int) -> dict[str, np.ndarray]:
    luck = np.random.default_rng(step)
    return {
        "model/weight": luck.normal(size=(4, 3)).astype(np.float32),
        "optimizer/weight/step": np.array(float(step), np.float32),
        "generator": luck.integers(0, 255, 40).astype(np.uint8),
    }


def values(step: int) -> dict[str, Any]:
    return {"trainer": {"step": step, "generator": 2**127 + step}, "run": {"name": "ü"}}


def fill(run: Path, *steps: int) -> Path:
    for step in steps:
        save_progress(run, step, arrays(step), values(step))
    return run


def kept(run: Path) -> list[str]:
    return [folder.name for folder in list_numbered_folders(run / "progress")]


def step_of(run: Path) -> int:
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
    return fill(tmp_path / "run", 8, 16, 24)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    assert load_latest_progress(tmp_path / "run") == (None, [])
    for step in (1, 5, 123_456_789):
        fill(tmp_path / "run", step)
        assert step_of(tmp_path / "run") == step
    files = sorted(
        path.name for path in list_numbered_folders(tmp_path / "run" / "progress")[0].iterdir()
    )
    assert files == ["arrays.safetensors", "manifest.json", "values.json"]


def test_the_last_three_are_kept(run: Path) -> None:
    assert kept(run) == ["00000008", "00000016", "00000024"]
    fill(run, 32)
    assert kept(run) == ["00000016", "00000024", "00000032"]
    assert [path.name for path in run.iterdir()] == ["progress"]


def test_an_old_one_goes_only_after_the_new_one_was_read_back(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "hash_regular_file", lambda *_, **__: b"other")
        with pytest.raises(WriteFailed, match="00000032: what was written is not what is read"):
            fill(run, 32)
    assert kept(run) == ["00000008", "00000016", "00000024", "00000032"]


def test_a_state_from_a_future_that_never_was_gives_way(run: Path) -> None:
    """Resumed after update 8, because the later two were damaged: now 12 is the last."""
    for step in (16, 24):
        (run / "progress" / f"{step:08d}" / "values.json").write_bytes(b"")
    assert step_of(run) == 8
    fill(run, 12)
    assert kept(run) == ["00000008", "00000012"]
    assert step_of(run) == 12


def test_a_damaged_one_of_the_same_update_is_replaced(run: Path) -> None:
    (run / "progress" / "00000024" / "values.json").write_bytes(b"")
    assert step_of(run) == 16
    fill(run, 24)
    assert step_of(run) == 24
    assert kept(run) == ["00000008", "00000016", "00000024"]


def flip(data: bytes, luck: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[luck.integers(len(data))] ^= 1 << int(luck.integers(8))
    return bytes(changed)


def cut(data: bytes, luck: np.random.Generator) -> bytes:
    return data[: luck.integers(len(data))]


def blank(data: bytes, luck: np.random.Generator) -> bytes:
    start = int(luck.integers(len(data)))
    return (
        data[:start] + bytes(min(len(data) - start, int(luck.integers(1, 64)))) + data[start:][64:]
    )


def check_damages(run: Path, damage: Damage, times: int) -> None:
    """Damage the newest state again and again: the one before is taken, and a line says so."""
    luck = np.random.default_rng(5)
    newest = run / "progress" / "00000024"
    files = sorted(newest.iterdir())
    noticed = tried = 0
    while tried < times:
        path = files[tried % len(files)]
        whole = path.read_bytes()
        changed = damage(whole, luck)
        if changed == whole:
            continue
        tried += 1
        path.write_bytes(changed)
        saved, notes = load_latest_progress(run)
        assert saved is not None
        assert saved.folder.name == "00000016"
        noticed += len(notes) == 1 and f"00000024/{path.name}" in notes[0] and "\n" not in notes[0]
        path.write_bytes(whole)
    assert noticed == times
    assert step_of(run) == 24


@pytest.mark.parametrize("damage", [flip, cut, blank])
def test_damage_is_noticed_and_the_one_before_is_taken(run: Path, damage: Damage) -> None:
    check_damages(run, damage, 10)


@pytest.mark.promises
@pytest.mark.parametrize("damage", [flip, cut, blank])
def test_300_damages_of_a_kind_are_noticed(run: Path, damage: Damage) -> None:
    check_damages(run, damage, 300)


@pytest.mark.parametrize("name", ["arrays.safetensors", "values.json", "manifest.json"])
def test_a_missing_file_is_noticed(run: Path, name: str) -> None:
    (run / "progress" / "00000024" / name).unlink()
    assert load_latest_progress(run)[1] == [f"{run}/progress/00000024/{name}: it is missing"]
    assert step_of(run) == 16


def test_where_all_are_damaged_nothing_is_guessed(run: Path) -> None:
    for folder in list_numbered_folders(run / "progress"):
        (folder / "values.json").write_bytes(b"{}")
    with pytest.raises(DamagedCheckpoint, match=r"00000024/values.json.*begin again with --force"):
        load_latest_progress(run)
    assert len(kept(run)) == 3


def test_another_format_is_refused_not_passed_over(run: Path) -> None:
    manifest = run / "progress" / "00000024" / "manifest.json"
    body = json.loads(manifest.read_bytes()) | {"format": 3}
    manifest.write_bytes(render_manifest(body))
    with pytest.raises(Mismatch, match="its format is 3, this musicgen reads format 2") as told:
        load_latest_progress(run)
    assert told.value.exit_code == 2


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model/weight", "optimizer/weight/step"])
def test_what_is_not_finite_is_never_saved(run: Path, name: str, odd: float) -> None:
    poisoned = arrays(32)
    poisoned[name].flat[-1] = odd
    with pytest.raises(MusicgenError, match=f"update 32: {name} is no longer finite.*--resume"):
        save_progress(run, 32, poisoned, values(32))
    assert kept(run) == ["00000008", "00000016", "00000024"]


def test_values_that_are_no_json_are_never_saved(run: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_progress(run, 32, arrays(32), {"loss": float("nan")})
    assert step_of(run) == 24


class Failing:
    """Make the n-th call of a function of os fail, and count the calls."""

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
def test_whatever_call_fails_a_whole_state_is_there(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for number in range(1, 60):
        step = 24 + number
        with monkeypatch.context() as patch:
            failing = Failing(getattr(os, name), number)
            patch.setattr(os, name, failing)
            words = outcome(run, step)
        assert words is None or "No space left on device" in words or "read back" in words
        assert words is None or "\n" not in words
        assert step_of(run) in (step - 1, step)
        remove_partial_files(run)
        if failing.count < number:
            assert step_of(run) == step
            return
        fill(run, step)
    pytest.fail("the calls never ended")


def outcome(run: Path, step: int) -> str | None:
    """Save, and return the words of what went wrong."""
    try:
        fill(run, step)
    except MusicgenError as fault:
        return f"{fault}" if fault.exit_code == 1 else None
    return None


def test_the_sweep_removes_what_killed_writers_left(run: Path) -> None:
    half = make_partial_path(run / "progress" / "00000032")
    half.mkdir()
    (half / "values.json").write_text("half")
    make_partial_path(run / "metrics.jsonl").write_text("half")
    write_atomically(run / "notes.partial", b"mine")
    assert remove_partial_files(run) == 2
    assert kept(run) == ["00000008", "00000016", "00000024"]
    assert (run / "notes.partial").exists()
    assert remove_partial_files(run / "nowhere") == 0


def test_a_place_is_named_by_its_update(tmp_path: Path) -> None:
    assert prepare_step_path(tmp_path / "run" / "best", 7) == tmp_path / "run" / "best" / "00000007"
    assert (tmp_path / "run" / "best").is_dir()


def test_what_is_vouched_for_may_still_not_fit(run: Path) -> None:
    folder = run / "progress" / "00000024"
    (folder / "values.json").write_bytes(b"[")
    body = json.loads((folder / "manifest.json").read_bytes())
    body["sha256"]["values.json"] = sha256_hex(b"[")
    (folder / "manifest.json").write_bytes(render_manifest(body))
    with pytest.raises(DamagedCheckpoint, match="its contents do not fit"):
        load_progress(folder)


def test_a_folder_named_in_other_digits_is_no_state(tmp_path: Path) -> None:
    names = ("00000024", "\u0660" * 8)
    for name in names:
        (tmp_path / name).mkdir()
    assert [is_step_folder(tmp_path / name) for name in names] == [True, False]
