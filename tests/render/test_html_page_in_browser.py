"""The one-file page in a browser: playback, loops, printing and accessibility."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from musicgen import formats
from musicgen.music.accompaniment import accompany
from musicgen.music.score import Part, Score
from musicgen.render.html_page import render_page
from musicgen.render.timeline import bar_timeline, timeline
from musicgen.render.tune_json import score_to_json
from musicgen.trained_model import load
from musicgen.tune import Tune
from tests.browser import (
    CheckedPage,
    find_serious_violations,
    launch_chromium,
    new_page,
    open_page,
    wait_until,
)
from tests.related_tunes import indexed
from tests.toy_tunes import read_abc

JIG: Final = """X:1
T:A jig
R:jig
M:6/8
L:1/8
Q:3/8=200
K:D
d|:ABA DED|1 FGF E2d:|2 FGF D3||[DF]BA DED|A3- A3|]
"""
LOG: Final = """
() => {
  const log = (globalThis.log = { sounds: [], lit: [], bars: [], states: [], ended: 0 });
  const { player } = musicgen;
  const [lights, bar, state, end] = [player.onNote, player.onBar, player.onState, player.onEnd];
  player.onSchedule = (sound) => log.sounds.push({ ...sound, tempo: player.tempo });
  player.onNote = (note, isOn) => { lights(note, isOn); if (isOn) log.lit.push(note); };
  player.onBar = (k) => { bar(k); log.bars.push(k); };
  player.onState = (s) => { state(s); log.states.push(s); };
  player.onEnd = () => { end(); log.ended += 1; };
}
"""
RATE: Final = 8000
# Render one second of one note for each program.
RENDER: Final = """
async ([programs, pitch, rate]) => {
  const sound = async (program) => {
    const context = new OfflineAudioContext(1, rate, rate);
    const note = { program, pitch, velocity: 90, when: 0, length: 1 };
    new musicgen.Instrument(context).play(context.destination, note);
    return Array.from((await context.startRendering()).getChannelData(0));
  };
  return JSON.stringify(await Promise.all(programs.map(sound)));
}
"""
PROGRAMS: Final = (0, 12, 16, 21, 24, 32, 40, 52, 56, 71, 73, 105, 109)  # one of each family


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def checked_page(browser: Browser) -> Iterator[CheckedPage]:
    """Return the page in which most tests open their files, one after another."""
    with new_page(browser) as page:
        yield page


@pytest.fixture(scope="module")
def jig() -> Score:
    return formats.parse(JIG.encode(), ".abc")[0][0]


@pytest.fixture(scope="module")
def jig_file(jig: Score, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "jig.html"
    file.write_text(render_page(jig), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tune() -> Tune:
    return load("folk").sample(seed=7, bars=16, form="AABB")


@pytest.fixture(scope="module")
def tune_file(tune: Tune, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "tune.html"
    text = render_page(tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def phrases() -> Score:
    """Return a tune whose phrases are new, exact, varied, transposed and new."""
    theme = "CDEF GABc|cBAG FEDC|CEGc cGEC|"
    raised = "DE^FG AB^cd|d^cBA G^FED|D^FAd dA^FD|D8|"
    return read_abc(f"{theme}C8|{theme}C8|{theme}E8|{raised}{'GFED C4|' * 4}")


@pytest.fixture(scope="module")
def phrase_file(phrases: Score, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "phrases.html"
    file.write_text(render_page(phrases), encoding="utf-8")
    return file


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def set_slider(page: Page, name: str, value: float) -> None:
    page.get_by_role("slider", name=name).fill(str(value))


def read_log(page: Page, name: str) -> Any:
    return page.evaluate("name => globalThis.log[name]", name)


def test_playback_highlights_notes_in_order(
    checked_page: CheckedPage, jig: Score, jig_file: Path
) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        set_slider(page, "Tempo", 200)
        button(page, "Play").click()
        wait_until(page, "musicgen.player.audio?.state === 'running'")
        page.wait_for_selector(".tune-score .sounding")
        page.wait_for_selector(".tune-roll .sounding")
        page.wait_for_selector(".bar-cover.playing")
        wait_until(page, "log.ended === 1")
        sounds = timeline(jig)
        assert read_log(page, "lit") == [sound.note for sound in sounds]
        assert read_log(page, "bars") == [bar for _, _, bar in bar_timeline(jig)]
        assert read_log(page, "states") == ["playing", "stopped"]
        assert page.locator(".sounding, .playing").count() == 0
        button(page, "Play").wait_for()


def test_sounds_are_scheduled_at_the_times_of_the_timeline(
    checked_page: CheckedPage, jig: Score, jig_file: Path
) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        button(page, "Play").click()
        wait_until(page, "log.sounds.length >= 9")
        button(page, "Pause").click()
        scheduled, expected = read_log(page, "sounds"), timeline(jig)
    first = scheduled[0]["time"]
    for sound_data, sound in zip(scheduled, expected, strict=False):
        assert sound_data["time"] - first == pytest.approx(sound.start, abs=1e-3)
        assert sound_data["length"] == pytest.approx(sound.length, abs=1e-3)
        assert sound_data["frequency"] == pytest.approx(440 * 2 ** ((sound.pitch - 69) / 12))


def test_the_tempo_changes_the_speed_and_not_the_pitch(
    checked_page: CheckedPage, jig: Score, jig_file: Path
) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        set_slider(page, "Tempo", 50)
        button(page, "Play").click()
        wait_until(page, "log.sounds.length >= 4")
        set_slider(page, "Tempo", 200)
        wait_until(page, "log.sounds.filter(({ tempo }) => tempo === 2).length >= 8")
        scheduled = read_log(page, "sounds")
    starts = [sound.start for sound in timeline(jig)][: len(scheduled)]
    gaps = np.diff([sound["time"] for sound in scheduled]) / np.diff(starts)
    tempos = np.array([sound["tempo"] for sound in scheduled])
    assert gaps[tempos[1:] == 0.5] == pytest.approx(2, abs=0.02)
    assert gaps[tempos[:-1] == 2] == pytest.approx(0.5, abs=0.02)
    assert 0.48 < gaps.min() < gaps.max() < 2.02  # no note is skipped or repeated
    lengths = np.array([sound.length for sound in timeline(jig)][: len(scheduled)])
    assert [sound["length"] for sound in scheduled] == pytest.approx(lengths / tempos, abs=1e-3)
    assert [sound["pitch"] for sound in scheduled] == [s.pitch for s in timeline(jig)][
        : len(scheduled)
    ]
    frequencies = [440 * 2 ** ((sound["pitch"] - 69) / 12) for sound in scheduled]
    assert [sound["frequency"] for sound in scheduled] == pytest.approx(frequencies)


def test_loop_repeats_its_bars_in_time(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        set_slider(page, "Tempo", 200)
        page.get_by_role("spinbutton", name="First bar of the loop").fill("3")
        page.get_by_role("spinbutton", name="Last bar of the loop").fill("4")
        page.keyboard.press("Tab")
        assert page.locator(".bar-cover.looped").count() == 2
        button(page, "Play").click()
        wait_until(page, "log.bars.length >= 5")
        button(page, "Pause").click()
        scheduled = read_log(page, "sounds")
        assert read_log(page, "bars")[:5] == [3, 4, 3, 4, 3]
        assert {sound["bar"] for sound in scheduled} == {3, 4}
    starts = [sound["time"] for sound in scheduled]
    path_times = [sound["pathTime"] for sound in scheduled]
    assert np.diff(starts) == pytest.approx(np.diff(path_times) / 2, abs=1e-3)


def test_loop_over_two_endings(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        is_looping = page.evaluate(
            "() => { musicgen.toolbar.setLoop([2, 3]); musicgen.player.loop(new Set([2, 3]));"
            " return musicgen.player.isLooping; }"
        )
        assert is_looping
        page.evaluate(LOG)
        set_slider(page, "Tempo", 200)
        button(page, "Play").click()
        wait_until(page, "log.bars.length >= 3")
        assert read_log(page, "bars")[:3] == [2, 3, 2]


def test_click_plays_and_shift_click_loops(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        page.get_by_role("button", name="Bar 4").click(position={"x": 4, "y": 4})
        wait_until(page, "log.bars[0] === 4")
        page.get_by_role("button", name="Bar 5").click(
            modifiers=["Shift"], position={"x": 4, "y": 4}
        )
        page.wait_for_selector(".bar-cover.looped")
        assert page.get_by_role("status").inner_text() == "Loop over bars 4 to 5"
        button(page, "Loop").click()
        assert page.locator(".bar-cover.looped").count() == 0
        page.get_by_role("button", name="Bar 1").hover(position={"x": 4, "y": 4})
        page.mouse.down()
        page.get_by_role("button", name="Bar 3").hover(position={"x": 4, "y": 4})
        page.mouse.up()
        assert page.locator(".bar-cover.looped").count() == 3


def test_pause_and_resume(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        button(page, "Play").click()
        wait_until(page, "log.bars.length >= 2")
        button(page, "Pause").click()
        assert page.locator(".sounding").count() == 0
        position = page.evaluate("musicgen.player.position")
        count = len(read_log(page, "sounds"))
        page.evaluate("() => new Promise((done) => setTimeout(done, 200))")
        assert len(read_log(page, "sounds")) == count
        assert page.evaluate("musicgen.player.position") == position > 0
        button(page, "Play").click()
        wait_until(page, "log.sounds.length > given", count)
        assert read_log(page, "sounds")[count]["pathTime"] >= position - 1e-3


def test_count_in_precedes_the_first_sound(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        page.evaluate(LOG)
        page.get_by_role("checkbox", name="Count-in").check()
        page.evaluate("globalThis.tune = JSON.parse(document.getElementById('tune').textContent)")
        button(page, "Play").click()
        wait_until(page, "log.sounds.length")
        delay = page.evaluate("log.sounds[0].time - musicgen.player.audio.currentTime")
        count_in_seconds = page.evaluate("tune.count_in.beats * tune.count_in.seconds")
        assert count_in_seconds == pytest.approx(4 * 0.3)
        assert 0 < delay < 0.2  # scheduled at the end of the clicks


def test_keyboard_controls_everything(checked_page: CheckedPage, tune_file: Path) -> None:
    with checked_page.open(tune_file) as page:
        page.evaluate(LOG)
        page.keyboard.press("Tab")
        assert (
            page.evaluate("document.activeElement.getAttribute('aria-label')")
            == "Back to the start"
        )
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        wait_until(page, "musicgen.player.state === 'playing'")
        assert page.get_by_role("status").inner_text() == "Playing"
        page.keyboard.press("Space")
        wait_until(page, "musicgen.player.state === 'paused'")
        page.keyboard.press("]")
        assert page.evaluate("musicgen.player.tempo") == pytest.approx(1.05)
        page.keyboard.press("s")
        assert page.locator(".shows-surprise").count() == 1
        page.keyboard.press("r")
        assert page.locator(".tune-roll").is_hidden()
        page.evaluate("musicgen.view.focusBar(0)")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+Enter")
        assert page.locator(".bar-cover.looped").count() == 2
        page.keyboard.press("l")
        assert page.locator(".bar-cover.looped").count() == 0
        page.keyboard.press("Home")
        assert page.evaluate("document.activeElement.dataset.bar") == "0"
        below = page.evaluate("document.activeElement.getBoundingClientRect().bottom")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= below - 1


def test_shortcuts_can_be_disabled(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        page.get_by_text("Keyboard shortcuts", exact=True).click()
        page.get_by_role("checkbox", name="Shortcuts work anywhere").uncheck()
        page.locator("h1").click()
        page.keyboard.press("l")
        assert not page.evaluate("musicgen.player.isLooping")


def test_downloads_have_the_right_bytes(
    checked_page: CheckedPage, tune: Tune, tune_file: Path
) -> None:
    with checked_page.open(tune_file) as page:
        data = score_to_json(tune.score, recipe=tune.recipe)
        with page.expect_download() as midi:
            button(page, "MIDI").click()
        with page.expect_download() as text:
            button(page, "ABC").click()
        assert midi.value.path().read_bytes() == base64.b64decode(data["midi"])
        assert text.value.path().read_text("utf-8") == data["abc"]
        assert midi.value.suggested_filename.endswith(".mid")
        assert formats.parse(midi.value.path().read_bytes(), ".mid")[0]


def test_surprise_and_shared_runs_are_shown(
    checked_page: CheckedPage, tune: Tune, tune_file: Path
) -> None:
    assert tune.receipt is not None
    assert tune.receipt.runs
    with checked_page.open(tune_file) as page:
        assert page.locator(".tune-legend").is_hidden()
        page.get_by_role("checkbox", name="Surprise").check()
        page.get_by_role("checkbox", name="Copies").check()
        assert page.locator(".tune-legend li").count() == 6
        colours = page.evaluate(
            "[0, 1, 2, 3, 4, 5].map((s) => { const head ="
            " document.querySelector(`.tune-score .s${s} .notehead`);"
            " return head && getComputedStyle(head).fill; }).filter(Boolean)"
        )
        assert len(set(colours)) == len(colours) >= 4
        drawn = page.locator(".tune-score [data-note]").count()
        assert (
            page.locator(".tune-score").locator(", ".join(f".s{s}" for s in range(6))).count()
            == drawn
        )
        runs = page.locator(".tune-copies li")
        assert runs.count() == len(tune.receipt.runs)
        assert tune.receipt.runs[0].label.title in runs.first.inner_text()
        bands = page.locator(".copy-bands rect")
        assert bands.count() >= len(tune.receipt.runs)
        assert bands.first.is_visible()
        runs.first.get_by_role("button").click()
        assert page.evaluate("document.activeElement.dataset.bar !== undefined")
        notes = page.locator(".tune-score [data-note] title").all_text_contents()
        assert all("bits" in title for title in notes)
        assert any(tune.receipt.runs[0].label.title in title for title in notes)


def test_roll_shows_every_sound_and_differences_are_ringed(
    checked_page: CheckedPage, jig: Score, jig_file: Path
) -> None:
    with checked_page.open(jig_file) as page:
        assert page.locator(".roll-note").count() == len(timeline(jig))
        page.evaluate("musicgen.view.markDifferences(new Set([0, 3]))")
        assert page.locator(".difference-rings ellipse").count() == 2
        page.evaluate("musicgen.view.markDifferences(new Set())")
        assert page.locator(".difference-rings ellipse, .differs").count() == 0
        roll = page.locator(".tune-roll svg")
        box = roll.bounding_box()
        assert box is not None
        roll.click(position={"x": box["width"] / 2, "y": 20})
        middle = page.evaluate("musicgen.player.seconds / 2")
        assert page.evaluate("musicgen.player.position") == pytest.approx(middle, rel=0.02)


def test_arcs_lead_to_the_phrases_that_return(
    checked_page: CheckedPage, phrases: Score, phrase_file: Path
) -> None:
    rows = score_to_json(phrases)["phrases"]
    relations = ["exact", "varied", "transposed"]
    assert [row["relation"] for row in rows] == [None, *relations, None]
    with checked_page.open(phrase_file) as page:
        assert page.locator(".tune-phrases").is_hidden()
        page.keyboard.press("p")
        assert page.get_by_role("checkbox", name="Returning phrases").is_checked()
        blocks = page.locator(".tune-phrases button")
        titles = blocks.evaluate_all("(blocks) => blocks.map((block) => block.title)")
        assert titles == [row["words"] for row in rows]
        assert [text.split("\n")[1] for text in blocks.all_inner_texts()] == [
            "new", "exact", "varied 75%", "transposed", "new",
        ]  # fmt: skip
        arcs = page.locator(".phrase-arcs g")
        assert arcs.locator("title").all_text_contents() == [row["words"] for row in rows[1:4]]
        styles = page.locator(".phrase-arcs .phrase-arc").evaluate_all(
            "(arcs) => arcs.map((arc) => getComputedStyle(arc).strokeDasharray)"
        )
        assert len(set(styles)) == 3
        edges = page.locator(".phrase-hit").evaluate_all(
            "(arcs) => arcs.map((arc) => [arc.getTotalLength(), 0].map((length) =>"
            " arc.getPointAtLength(length).matrixTransform(arc.getScreenCTM()).x))"
        )
        middles = blocks.evaluate_all(
            "(blocks) => blocks.map((block) => block.getBoundingClientRect())"
            ".map(({ x, width }) => x + width / 2)"
        )
        assert np.array(edges) == pytest.approx(
            np.array([[middles[0], middle] for middle in middles[1:4]]), abs=3
        )
        blocks.nth(2).focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.dataset.bar") == str(rows[2]["measures"][0])
        page.evaluate("musicgen.view.setBar(14)")
        playing = page.locator(".phrase.playing")
        assert playing.get_attribute("title") == rows[3]["words"]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.promises)])
def test_page_is_accessible(browser: Browser, tune_file: Path, scheme: Any) -> None:
    with open_page(browser, tune_file, color_scheme=scheme, bypass_csp=True) as page:
        page.get_by_text("Keyboard shortcuts", exact=True).click()
        page.get_by_role("checkbox", name="Surprise").check()
        page.get_by_role("checkbox", name="Copies").check()
        page.get_by_role("checkbox", name="Returning phrases").check()
        assert (
            find_serious_violations(page, *(["color-contrast"] if scheme == "dark" else [])) == []
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_surprise_colours_have_contrast(browser: Browser, tune_file: Path, scheme: Any) -> None:
    with open_page(browser, tune_file, color_scheme=scheme) as page:
        paper, *shades = page.evaluate(
            "['--paper', ...[0, 1, 2, 3, 4, 5].map((s) => `--s${s}`)].map((name) =>"
            " getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
        )
    ratios = [contrast_ratio(paper, shade) for shade in shades]
    assert min(ratios) >= 3  # WCAG 2.2, 1.4.11
    assert ratios == sorted(ratios)  # monotonic, so that hue is not needed


def contrast_ratio(colour_a: str, colour_b: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it."""
    low, high = sorted(map(luminance, (colour_a, colour_b)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_print_shows_only_music(browser: Browser, tune_file: Path) -> None:
    with open_page(browser, tune_file, color_scheme="dark") as page:
        page.get_by_role("checkbox", name="Surprise").check()
        page.get_by_role("checkbox", name="Returning phrases").check()
        page.emulate_media(media="print")
        for hidden in (
            ".tune-phrases",
            "#player",
            ".columns",
            ".help",
            ".tune-roll",
            ".tune-legend",
        ):
            assert page.locator(hidden).is_hidden()
        assert page.locator("h1").is_visible()
        assert page.locator(".tune-score > svg").is_visible()
        heads = ".tune-score > svg .s3 .notehead"
        ink = page.locator(heads).first.evaluate("(head) => getComputedStyle(head).fill")
        assert ink == "rgb(0, 0, 0)"


def test_printed_pages_break_between_systems(browser: Browser, tune_file: Path) -> None:
    with open_page(browser, tune_file, viewport={"width": 400, "height": 700}) as page:
        narrow = page.locator(".tune-score svg[viewBox]").first.get_attribute("viewBox")
        assert len(page.pdf(format="A4")) > 5000
        assert page.locator(".piece").count() == 0
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        systems = page.locator(".tune-score > .whole .system:has(.measure)").count()
        assert page.locator(".piece").count() == systems > 1
        assert page.locator(".whole").is_hidden()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator(".tune-score svg[viewBox]").first.get_attribute("viewBox") == narrow


def test_names_are_escaped(browser: Browser, jig: Score, tmp_path: Path) -> None:
    name = '</script><img src=x onerror="globalThis.ran = 1"><b>&amp;'
    score = replace(jig, title=name, rhythm=name, parts=(Part(name=name),))
    receipt = indexed([score]).make_receipt(score)
    file = tmp_path / "hostile.html"
    file.write_text(render_page(score, receipt=receipt), encoding="utf-8")
    with open_page(browser, file) as page:
        assert page.locator("h1").inner_text() == page.title() == name
        page.get_by_role("checkbox", name="Copies").check()
        assert name in page.locator(".tune-copies li").first.inner_text()
        assert page.evaluate("globalThis.ran") is None
        assert page.locator("img").count() == 0


def test_rotation_keeps_playing(browser: Browser, tune_file: Path) -> None:
    with open_page(browser, tune_file, viewport={"width": 900, "height": 400}) as page:
        page.get_by_role("checkbox", name="Surprise").check()
        page.evaluate("musicgen.toolbar.setLoop([0, 1])")
        button(page, "Play").click()
        page.wait_for_selector(".bar-cover.playing")
        wide = page.locator(".tune-score > svg").get_attribute("viewBox")
        page.set_viewport_size({"width": 400, "height": 900})
        wait_until(
            page,
            f"document.querySelector('.tune-score > svg').getAttribute('viewBox') !== '{wide}'",
        )
        assert page.locator(".bar-cover.playing").count() == 1
        assert page.locator(".bar-cover.looped").count() == 2
        assert page.locator(".tune-legend").is_visible()
        assert page.evaluate("musicgen.player.state") == "playing"


def test_phone_has_no_horizontal_scrolling(browser: Browser, tune_file: Path) -> None:
    with open_page(browser, tune_file, viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_instruments_are_in_tune(checked_page: CheckedPage, jig_file: Path) -> None:
    with checked_page.open(jig_file) as page:
        sounds = json.loads(page.evaluate(RENDER, [PROGRAMS, 69, RATE]))
    for sound in map(np.array, sounds):
        assert 0.02 < np.abs(sound).max() < 1
        assert abs(1200 * np.log2(find_frequency(sound[RATE // 4 :], 440) / 440)) < 5


def find_frequency(sound: Any, hertz: float) -> float:
    """Return the energy-weighted mean frequency within a semitone of a frequency in hertz."""
    energy = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**16)) ** 2
    frequencies = np.arange(len(energy)) * RATE / 2**16
    energy[abs(np.log2(frequencies.clip(1) / hertz)) > 1 / 12] = 0
    return float((frequencies * energy).sum() / energy.sum())


def test_accompaniment_can_be_muted(checked_page: CheckedPage, tmp_path: Path) -> None:
    text = 'X:1\nT:t\nM:3/4\nL:1/4\nQ:1/4=300\nK:G\n"G"GAB|"D7"cBA|"G"B3|]\n'
    score = accompany(formats.parse(text.encode(), ".abc")[0][0])
    (tmp_path / "chords.html").write_text(render_page(score), encoding="utf-8")
    with checked_page.open(tmp_path / "chords.html") as page:
        page.evaluate(LOG)
        box = page.get_by_role("checkbox", name="Accompaniment")
        assert box.is_checked()
        page.evaluate("musicgen.player.play()")
        wait_until(page, "log.ended === 1")
        assert page.evaluate("[...new Set(log.sounds.map(({ part }) => part))].sort()") == [0, 1, 2]
        page.keyboard.press("a")
        assert not box.is_checked()
        page.evaluate("log.sounds.length = 0; log.ended = 0; musicgen.player.play()")
        wait_until(page, "log.ended === 1")
        assert page.evaluate("[...new Set(log.sounds.map(({ part }) => part))]") == [0]
        assert page.evaluate("new Set(log.lit).size") == len(score.notes) - count_added(score)
        assert find_serious_violations(page) == []


def count_added(score: Score) -> int:
    return sum(note.part > 0 for note in score.notes)
