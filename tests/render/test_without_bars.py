"""Music without bars, and music of any size: sound, roll and page come to an end."""

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
from musicgen.music.performance import PERFORMANCE_QPM, is_performance
from musicgen.music.score import FASTEST_QPM, SLOWEST_QPM, Mark, Note, Part, Score
from musicgen.notation.score_images import engrave
from musicgen.render.html_page import render_page
from musicgen.render.piano_roll import draw_pianoroll_svg
from musicgen.render.synth import LONGEST_NOTE, synthesise
from musicgen.render.synth_voice import RATE
from musicgen.render.timeline import timeline
from musicgen.render.tune_json import score_to_json
from tests.browser import chromium, opened

TEMPO = Mark(0, "tempo", PERFORMANCE_QPM)


def played(count: int) -> Score:
    """Return live playing: so many notes, 40 ms from one to the next, and no bars."""
    luck = random.Random(count)
    notes = [
        Note(40 * n + luck.randrange(30), luck.randrange(36, 96), luck.randrange(30, 300))
        for n in range(count)
    ]
    return Score(notes, (TEMPO,), title="Played")


def live_file(path: Path, count: int = 400) -> Path:
    """Write live playing as it is recorded: at 120 quarters a minute, on no beat."""
    score = played(count)
    notes = [replace(n, onset=n.onset // 10, duration=n.duration // 10 + 1) for n in score.notes]
    data = midi.render(Score(notes))
    path.write_bytes(data.replace(b"\x01\xe0", b"\x01\xdf", 1))  # 479 ticks a quarter
    return path


def render(file: Path, *words: str) -> Result:
    return CliRunner().invoke(commands, ["render", str(file), *words])


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = live_file(tmp_path / "live.mid")
    scores, refusals = formats.read(path)
    assert not scores
    assert refusals[0].code == "no-bars"
    return path


def test_live_playing_is_read_where_bars_are_not_asked(live: Path) -> None:
    (score,), refusals = formats.read(live, needs_bars=False)
    assert not refusals
    assert is_performance(score)
    assert (score,) == formats.read(live, as_performance=True)[0]


def test_what_has_bars_is_read_with_them(tmp_path: Path) -> None:
    path = tmp_path / "bars.mid"
    formats.write(Score([Note(0, 60, 48)], (Mark(192, "bar"),)), path)
    assert formats.read(path, needs_bars=False) == formats.read(path)


def test_live_playing_becomes_sound_roll_page_and_midi(live: Path) -> None:
    outs = [live.with_name(name) for name in ("a.wav", "a.svg", "a.png", "a.html", "a.mid")]
    words = [word for out in outs for word in ("--out", str(out))]
    result = render(live, *words, "--view", "roll")
    assert result.exit_code == 0, result.output
    assert "400 notes without bars" in result.stderr
    assert "0:05" in outs[1].read_text()  # its seconds stand above it
    assert is_performance(formats.read(outs[4])[0][0])


@pytest.mark.parametrize("suffix", [".svg", ".png", ".musicxml", ".abc"])
def test_live_playing_is_not_engraved(live: Path, suffix: str) -> None:
    out = live.with_name(f"a{suffix}")
    sound = live.with_name("a.wav")
    result = render(live, "--out", str(sound), "--out", str(out))
    assert result.exit_code == 2
    assert "keeps to no bars" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()
    assert not sound.exists()  # nothing is begun


@pytest.mark.parametrize("words", [("--tempo", "90"), ("--count-in",)])
def test_options_of_beats_are_refused_where_there_are_none(
    live: Path, words: tuple[str, ...]
) -> None:
    result = render(live, "--out", str(live.with_name("a.wav")), *words)
    assert result.exit_code == 2
    assert "has no bars and beats" in result.stderr


WRITERS: tuple[Callable[[Score], object], ...] = (engrave, musicxml.render, abc.render)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "score",
    [
        played(10_000),
        replace(played(10_000), marks=(Mark(400_300, "bar"),)),
        Score([Note(n, 1 + n % 100, 5_000) for n in range(40_000)],
              tuple(Mark(192 * n, "bar") for n in range(1, 235))),
    ],
    ids=["performance", "one bar", "held"],
)  # fmt: skip
def test_what_cannot_be_engraved_is_refused_in_a_second(
    write: Callable[[Score], object], score: Score
) -> None:
    start = time.process_time()
    with pytest.raises(InvalidValue, match=r"no bars|a bar lasts|at most"):
        write(score)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("count", [10_000, pytest.param(60_000, marks=pytest.mark.promises)])
def test_many_notes_without_bars_become_a_page(count: int) -> None:
    score = played(count)
    start = time.process_time()
    text = render_page(score)
    assert "keeps to no bars" in text
    assert "prints as sheet music" not in text
    assert time.process_time() - start < count / 1_000
    assert len(score_to_json(score)["sounds"]) == count


@pytest.mark.promises
def test_many_notes_without_bars_are_heard_and_drawn() -> None:
    start = time.process_time()
    assert synthesise(played(10_000)).shape[1] > 400 * RATE
    assert draw_pianoroll_svg(played(10_000)).count('class="note"') >= 10_000
    assert time.process_time() - start < 60


@pytest.mark.parametrize("first", [SLOWEST_QPM, FASTEST_QPM])
@pytest.mark.parametrize("then", [SLOWEST_QPM, FASTEST_QPM])
def test_tempi_at_both_bounds_are_rendered(first: float, then: float) -> None:
    notes = [Note(12 * n, 60 + n % 12, 12) for n in range(32)]
    marks = (Mark(0, "tempo", first), Mark(24, "tempo", then), Mark(192, "bar"), Mark(384, "bar"))
    score = Score(notes, marks)
    assert "<svg" in render_page(score)
    assert synthesise(score).shape[0] == 2
    assert midi.parse(midi.render(score))[0][0].qpm == pytest.approx(first)


def test_a_roll_of_a_tempo_that_falls_is_refused_at_once() -> None:
    marks = (Mark(0, "tempo", FASTEST_QPM), Mark(48, "tempo", SLOWEST_QPM))
    start = time.process_time()
    with pytest.raises(Exception, match="fills more than 200 rows"):
        draw_pianoroll_svg(Score([Note(0, 60, 900_000)], marks))
    assert time.process_time() - start < 1


@pytest.mark.promises
def test_a_note_that_nothing_ends_is_heard_for_a_minute() -> None:
    organ = Part("", 19)
    sound = synthesise(Score([Note(0, 60, 90_000)], (TEMPO,), (organ,)))
    assert abs(sound[:, : int((LONGEST_NOTE - 1) * RATE)]).max(axis=0)[-RATE:].max() > 0.01
    assert abs(sound[:, int((LONGEST_NOTE + 5) * RATE) :]).max() < 0.001


def repeated(count: int) -> Score:
    """Return a tune of so many repeated bars."""
    notes = [Note(192 * n, 60, 192) for n in range(count)]
    starts = [Mark(192 * n, "repeat_start") for n in range(count)]
    return Score(notes, (*starts, *(Mark(192 * n + 192, "repeat_end", 2) for n in range(count))))


@pytest.mark.parametrize("work", [Score.unfolded, timeline])
def test_repeats_are_played_out_in_time_linear_in_them(work: Callable[[Score], object]) -> None:
    start = time.process_time()
    work(repeated(6_000))
    assert time.process_time() - start < 6  # it took 40 seconds and more


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_the_page_of_live_playing_says_so_and_shows_the_roll(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "played.html"
    path.write_text(render_page(played(200)))
    with opened(browser, path) as seen:
        assert "no score" in seen.inner_text(".tune-score")
        assert seen.locator(".tune-roll .roll-note").count() == 200
        assert not seen.locator("input[aria-label='First bar of the loop']").is_visible()
        assert [b.inner_text() for b in seen.locator("[data-download]").all()] == ["MIDI"]
