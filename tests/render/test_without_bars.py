"""Music without bars, and very long music: sound, piano roll and page."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from playwright.sync_api import Browser

from musicgen import formats
from musicgen.cli import commands
from musicgen.errors import InvalidValue
from musicgen.formats import abc, midi, musicxml
from musicgen.music.milliseconds import PERFORMANCE_QPM, is_performance
from musicgen.music.score import FASTEST_QPM, SLOWEST_QPM, Mark, Note, Part, Score
from musicgen.notation.score_images import engrave
from musicgen.render.html_page import render_page
from musicgen.render.piano_roll import draw_pianoroll_svg
from musicgen.render.synth import LONGEST_NOTE, synthesise
from musicgen.render.synth_voice import RATE
from musicgen.render.timeline import timeline
from musicgen.render.tune_json import score_to_json
from tests.browser import launch_chromium, open_page

TEMPO = Mark(0, "tempo", PERFORMANCE_QPM)


def make_performance(count: int) -> Score:
    """Return a performance: notes about 40 ms apart, without bars."""
    rng = random.Random(count)
    notes = [
        Note(40 * n + rng.randrange(30), rng.randrange(36, 96), rng.randrange(30, 300))
        for n in range(count)
    ]
    return Score(notes, (TEMPO,), title="Played")


def write_live_file(path: Path, count: int = 400) -> Path:
    """Write a recorded performance: 120 quarter notes per minute, and notes off the beat."""
    score = make_performance(count)
    notes = [replace(n, onset=n.onset // 10, duration=n.duration // 10 + 1) for n in score.notes]
    data = midi.render(Score(notes))
    path.write_bytes(data.replace(b"\x01\xe0", b"\x01\xdf", 1))  # 479 ticks per quarter note
    return path


def run_render(file: Path, *words: str) -> Result:
    return CliRunner().invoke(commands, ["render", str(file), *words])


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = write_live_file(tmp_path / "live.mid")
    scores, refusals = formats.read(path)
    assert not scores
    assert refusals[0].code == "no-bars"
    return path


def test_performance_is_read_without_bars(live: Path) -> None:
    (score,), refusals = formats.read(live, needs_bars=False)
    assert not refusals
    assert is_performance(score)
    assert (score,) == formats.read(live, as_performance=True)[0]


def test_bars_are_read_if_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "bars.mid"
    formats.write(Score([Note(0, 60, 48)], (Mark(192, "bar"),)), path)
    assert formats.read(path, needs_bars=False) == formats.read(path)


def test_performance_becomes_sound_roll_page_and_midi(live: Path) -> None:
    outs = [live.with_name(name) for name in ("a.wav", "a.svg", "a.png", "a.html", "a.mid")]
    words = [word for out in outs for word in ("--out", str(out))]
    result = run_render(live, *words, "--view", "roll")
    assert result.exit_code == 0, result.output
    assert "400 notes without bars" in result.stderr
    assert "0:05" in outs[1].read_text()  # a label of its time axis
    assert is_performance(formats.read(outs[4])[0][0])


@pytest.mark.parametrize("suffix", [".svg", ".png", ".musicxml", ".abc"])
def test_performance_is_not_engraved(live: Path, suffix: str) -> None:
    out = live.with_name(f"a{suffix}")
    sound = live.with_name("a.wav")
    result = run_render(live, "--out", str(sound), "--out", str(out))
    assert result.exit_code == 2
    assert "keeps to no bars" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()
    assert not sound.exists()  # nothing is written


@pytest.mark.parametrize("words", [("--tempo", "90"), ("--count-in",)])
def test_options_that_need_beats_are_refused(live: Path, words: tuple[str, ...]) -> None:
    result = run_render(live, "--out", str(live.with_name("a.wav")), *words)
    assert result.exit_code == 2
    assert "has no bars and beats" in result.stderr


WRITERS: tuple[Callable[[Score], object], ...] = (engrave, musicxml.render, abc.render)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "score",
    [
        make_performance(10_000),
        replace(make_performance(10_000), marks=(Mark(400_300, "bar"),)),
        Score([Note(n, 1 + n % 100, 5_000) for n in range(40_000)],
              tuple(Mark(192 * n, "bar") for n in range(1, 235))),
    ],
    ids=["performance", "one bar", "held"],
)  # fmt: skip
def test_unengravable_score_is_refused_quickly(
    write: Callable[[Score], object], score: Score
) -> None:
    start = time.process_time()
    with pytest.raises(InvalidValue, match=r"no bars|a bar lasts|at most|the limit is"):
        write(score)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("count", [10_000, pytest.param(60_000, marks=pytest.mark.promises)])
def test_long_performance_becomes_a_page(count: int) -> None:
    score = make_performance(count)
    start = time.process_time()
    text = render_page(score)
    assert "has no bars" in text
    assert "prints as sheet music" not in text
    assert time.process_time() - start < count / 1_000
    assert len(score_to_json(score)["sounds"]) == count


@pytest.mark.promises
def test_long_performance_is_synthesised_and_drawn() -> None:
    start = time.process_time()
    assert synthesise(make_performance(10_000)).shape[1] > 400 * RATE
    assert draw_pianoroll_svg(make_performance(10_000)).count('class="note"') >= 10_000
    assert time.process_time() - start < 60


@pytest.mark.parametrize("first", [SLOWEST_QPM, FASTEST_QPM])
@pytest.mark.parametrize("then", [SLOWEST_QPM, FASTEST_QPM])
def test_extreme_tempos_are_rendered(first: float, then: float) -> None:
    notes = [Note(12 * n, 60 + n % 12, 12) for n in range(32)]
    marks = (Mark(0, "tempo", first), Mark(24, "tempo", then), Mark(192, "bar"), Mark(384, "bar"))
    score = Score(notes, marks)
    assert "<svg" in render_page(score)
    assert synthesise(score).shape[0] == 2
    assert midi.parse(midi.render(score))[0][0].qpm == pytest.approx(first)


def test_roll_of_an_extreme_tempo_change_is_refused_quickly() -> None:
    marks = (Mark(0, "tempo", FASTEST_QPM), Mark(48, "tempo", SLOWEST_QPM))
    start = time.process_time()
    with pytest.raises(Exception, match="needs more than 200 rows"):
        draw_pianoroll_svg(Score([Note(0, 60, 900_000)], marks))
    assert time.process_time() - start < 1


@pytest.mark.promises
def test_endless_note_lasts_a_minute() -> None:
    organ = Part("", 19)
    sound = synthesise(Score([Note(0, 60, 90_000)], (TEMPO,), (organ,)))
    assert abs(sound[:, : int((LONGEST_NOTE - 1) * RATE)]).max(axis=0)[-RATE:].max() > 0.01
    assert abs(sound[:, int((LONGEST_NOTE + 5) * RATE) :]).max() < 0.001


def make_repeats(count: int) -> Score:
    """Return a tune of some repeated bars."""
    notes = [Note(192 * n, 60, 192) for n in range(count)]
    starts = [Mark(192 * n, "repeat_start") for n in range(count)]
    return Score(notes, (*starts, *(Mark(192 * n + 192, "repeat_end", 2) for n in range(count))))


@pytest.mark.parametrize("work", [Score.unfolded, timeline])
def test_unfolding_repeats_takes_linear_time(work: Callable[[Score], object]) -> None:
    start = time.process_time()
    work(make_repeats(6_000))
    assert time.process_time() - start < 6  # 40 seconds when it was quadratic


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as chromium:
        yield chromium


def test_page_of_a_performance_shows_the_roll(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "played.html"
    path.write_text(render_page(make_performance(200)))
    with open_page(browser, path) as page:
        assert "cannot be shown as a score" in page.inner_text(".tune-score")
        assert page.locator(".tune-roll .roll-note").count() == 200
        assert page.locator(".roll-times span").all_text_contents() == ["0:00", "0:05"]
        assert not page.locator("input[aria-label='First bar of the loop']").is_visible()
        assert [b.inner_text() for b in page.locator("[data-download]").all()] == ["MIDI"]
