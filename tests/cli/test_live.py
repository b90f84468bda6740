"""Live playing from end to end: train, sample, continue, compare and evaluate performances."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from musicgen import formats, load
from musicgen.config import CONTEXTS
from musicgen.evaluation import live_figures
from musicgen.music.milliseconds import is_performance
from musicgen.similarity.note_index import INDEX_FILE
from musicgen.tokens import performance
from tests.command_runner import assert_refused, run, run_ok
from tests.render.test_without_bars import write_live_file

FILES = 8
EVENTS = 500  # of a sampled piece


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with performances, and the run of a tiny model of them."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "mine").mkdir()
    for number in range(FILES):
        write_live_file(folder / "mine" / f"take{number}.mid", 780 + 10 * number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_ok(
            "train", "mine", "--codec", "performance", "--name", "live", "--epochs", "0.3",
            "--hidden", "16", "--layers", "1", "--device", "cpu",
        )  # fmt: skip
    return folder


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of that folder, which is the current one."""
    shutil.copytree(trained, tmp_path / "live")
    monkeypatch.chdir(tmp_path / "live")
    monkeypatch.setattr(performance, "MAX_EVENTS", EVENTS)
    return tmp_path / "live"


def test_training_reads_the_context_by_time_and_keeps_an_index(place: Path) -> None:
    model = load(place / "checkpoints" / "live")
    assert model.checkpoint.settings.context == CONTEXTS["time"]
    assert model.checkpoint.manifest.training["transposed"]
    assert (model.checkpoint.folder / INDEX_FILE).is_file()
    assert model.checkpoint.manifest.sampling == {"temperature": 1.0, "min_p": 0.03}


def test_context_can_be_turned_off_and_another_is_refused(place: Path) -> None:
    small = ("--epochs", "0.1", "--hidden", "8", "--layers", "1", "--device", "cpu")
    words = ("train", "mine", "--codec", "performance", *small, "--context")
    run_ok(*words, "none", "--name", "plain")
    assert load(place / "checkpoints" / "plain").checkpoint.settings.context == ""
    refused = run(*words, "all", "--name", "other")
    assert_refused(refused, 2, "codec performance has no such context; choose one of time, none")


def test_performance_is_written_in_every_form_that_it_has(place: Path) -> None:
    names = [f"x{suffix}" for suffix in (".mid", ".wav", ".png", ".svg", ".html")]
    outs = [word for name in names for word in ("--out", name)]
    output = run_ok("sample", "--model", "live", "--seed", "1", *outs)
    assert "Performance, no. 1-1" in output
    (score,), _ = formats.read(place / "x.mid", needs_bars=False)
    assert is_performance(score)
    assert 'text x="' in (place / "x.svg").read_text()
    assert ">0:05</text>" in (place / "x.svg").read_text()  # seconds on the axis, not bars
    assert "cannot be shown as a score" in (place / "x.html").read_text()
    run_ok("tweak", "x.mid", "--out", "again.mid")
    assert (place / "again.mid").read_bytes() == (place / "x.mid").read_bytes()


@pytest.mark.parametrize("suffix", [".abc", ".musicxml"])
def test_score_of_a_performance_is_refused(place: Path, suffix: str) -> None:
    result = run("sample", "--model", "live", "--out", f"x{suffix}")
    assert_refused(result, 2, f"x{suffix}: write one of .mid, .midi, .wav, .html, .svg, .png")


def test_performance_goes_on_from_a_file(place: Path) -> None:
    words = ("sample", "--model", "live", "--seed", "2", "--primer", "mine/take3.mid")
    run_ok(*words, "--primer-seconds", "1-4", "--out", "on.mid")
    (given,), _ = formats.read(place / "mine" / "take3.mid", as_performance=True, needs_bars=False)
    (score,), _ = formats.read(place / "on.mid", needs_bars=False)
    pitches = [note.pitch for note in sorted(given.notes) if 1_000 <= note.onset < 3_900]
    drawn = [note.pitch for note in sorted(score.notes)]
    assert sorted(drawn[: len(pitches)]) == sorted(pitches)
    assert len(drawn) > len(pitches)
    run_ok("tweak", "on.mid", "--out", "again.mid")
    assert (place / "again.mid").read_bytes() == (place / "on.mid").read_bytes()
    assert_refused(run(*words, "--primer-bars", "1-4", "--out", "b.mid"), 2, "has no bars; choose")
    assert_refused(run("sample", "--primer-seconds", "1-4", "--out", "b.mid"), 2, "no primer; name")


def test_origin_finds_a_performance_that_the_model_learnt(place: Path) -> None:
    model = load(place / "checkpoints" / "live")
    label = model.index.note_index.get_label(0)
    row = json.loads(run_ok("origin", f"mine/{label.source}", "--model", "live", "--json"))
    assert row["source"] == label.source
    assert row["share"] == 1
    assert row["seconds"][0] == 0
    assert "bars" not in row
    words = run_ok("origin", f"mine/{label.source}", "--model", "live", "--surprise")
    assert "0:00-0:3" in words
    assert "second 0: " in words


def test_evaluation_compares_minutes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "MAX_EVENTS", 4 * EVENTS)
    monkeypatch.setattr(live_figures, "FEWEST_MINUTES", 2)
    words = ("evaluate", "live", "--data", "mine", "--count", "4", "--seed", "3")
    output = run_ok(*words)
    for text in ("2 held-out performances", f"beside {FILES} real ones", "notes per second",
                 "longest silence (s)", "bits per note", "verdict minutes"):  # fmt: skip
        assert text in output
    assert_refused(run(*words, "--html", "a.html"), 2, "--html: live writes performances, which")
    assert_refused(run(*words, "--form", "AABB"), 2, "--form: live writes performances, which")
