"""The one-file page as a reader has it: opened from the disk, played, looped, printed, audited."""

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
from musicgen.music.score import Part, Score
from musicgen.render.html_page import render_page as page_of
from musicgen.render.timeline import bar_timeline, timeline
from musicgen.render.tune_json import score_to_json
from musicgen.trained_model import load
from musicgen.tune import Tune
from tests.browser import Reader, chromium, opened, reader, serious, until
from tests.related_tunes import indexed

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
# What each program sounds: one second of one note, computed without a loudspeaker.
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
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def desk(browser: Browser) -> Iterator[Reader]:
    """Where most tests read, one after another."""
    with reader(browser) as found:
        yield found


@pytest.fixture(scope="module")
def jig() -> Score:
    return formats.parse(JIG.encode(), ".abc")[0][0]


@pytest.fixture(scope="module")
def jig_file(jig: Score, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "jig.html"
    file.write_text(page_of(jig), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tune() -> Tune:
    return load("folk").sample(seed=7, bars=16, form="AABB")


@pytest.fixture(scope="module")
def tune_file(tune: Tune, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "tune.html"
    text = page_of(tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)
    file.write_text(text, encoding="utf-8")
    return file


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def slide(page: Page, name: str, value: float) -> None:
    page.get_by_role("slider", name=name).fill(str(value))


def logged(page: Page, name: str) -> Any:
    return page.evaluate("name => globalThis.log[name]", name)


def test_it_plays_to_the_end_and_lights_the_notes_in_order(
    desk: Reader, jig: Score, jig_file: Path
) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        slide(page, "Tempo", 200)
        button(page, "Play").click()
        until(page, "musicgen.player.audio?.state === 'running'")
        page.wait_for_selector(".tune-score .sounding")
        page.wait_for_selector(".tune-roll .sounding")
        page.wait_for_selector(".bar-cover.playing")
        until(page, "log.ended === 1")
        sounds = timeline(jig)
        assert logged(page, "lit") == [sound.note for sound in sounds]
        assert logged(page, "bars") == [bar for _, _, bar in bar_timeline(jig)]
        assert logged(page, "states") == ["playing", "stopped"]
        assert page.locator(".sounding, .playing").count() == 0
        button(page, "Play").wait_for()


def test_sounds_are_planned_at_the_times_of_the_timeline(
    desk: Reader, jig: Score, jig_file: Path
) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        button(page, "Play").click()
        until(page, "log.sounds.length >= 9")
        button(page, "Pause").click()
        planned, wanted = logged(page, "sounds"), timeline(jig)
    first = planned[0]["time"]
    for told, sound in zip(planned, wanted, strict=False):
        assert told["time"] - first == pytest.approx(sound.start, abs=1e-3)
        assert told["length"] == pytest.approx(sound.length, abs=1e-3)
        assert told["frequency"] == pytest.approx(440 * 2 ** ((sound.pitch - 69) / 12))


def test_the_tempo_changes_the_speed_and_not_the_pitch(
    desk: Reader, jig: Score, jig_file: Path
) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        slide(page, "Tempo", 50)
        button(page, "Play").click()
        until(page, "log.sounds.length >= 4")
        slide(page, "Tempo", 200)
        until(page, "log.sounds.filter(({ tempo }) => tempo === 2).length >= 8")
        planned = logged(page, "sounds")
    wanted = [sound.start for sound in timeline(jig)][: len(planned)]
    gaps = np.diff([told["time"] for told in planned]) / np.diff(wanted)
    tempos = np.array([told["tempo"] for told in planned])
    assert gaps[tempos[1:] == 0.5] == pytest.approx(2, abs=0.02)
    assert gaps[tempos[:-1] == 2] == pytest.approx(0.5, abs=0.02)
    assert 0.48 < gaps.min() < gaps.max() < 2.02  # nothing is skipped or said twice in between
    lengths = np.array([sound.length for sound in timeline(jig)][: len(planned)])
    assert [told["length"] for told in planned] == pytest.approx(lengths / tempos, abs=1e-3)
    assert [told["pitch"] for told in planned] == [s.pitch for s in timeline(jig)][: len(planned)]
    frequencies = [440 * 2 ** ((told["pitch"] - 69) / 12) for told in planned]
    assert [told["frequency"] for told in planned] == pytest.approx(frequencies)


def test_a_loop_stays_in_its_bars_and_keeps_time(desk: Reader, jig_file: Path) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        slide(page, "Tempo", 200)
        page.get_by_role("spinbutton", name="First bar of the loop").fill("3")
        page.get_by_role("spinbutton", name="Last bar of the loop").fill("4")
        page.keyboard.press("Tab")
        assert page.locator(".bar-cover.looped").count() == 2
        button(page, "Play").click()
        until(page, "log.bars.length >= 5")
        button(page, "Pause").click()
        planned = logged(page, "sounds")
        assert logged(page, "bars")[:5] == [3, 4, 3, 4, 3]
        assert {told["bar"] for told in planned} == {3, 4}
    starts = [told["time"] for told in planned]
    places = [told["pathTime"] for told in planned]
    assert np.diff(starts) == pytest.approx(np.diff(places) / 2, abs=1e-3)


def test_two_endings_are_looped_without_what_lies_between(desk: Reader, jig_file: Path) -> None:
    with desk.reads(jig_file) as page:
        course = page.evaluate(
            "() => { musicgen.toolbar.setLoop([2, 3]); musicgen.player.loop(new Set([2, 3]));"
            " return musicgen.player.isLooping; }"
        )
        assert course
        page.evaluate(LOG)
        slide(page, "Tempo", 200)
        button(page, "Play").click()
        until(page, "log.bars.length >= 3")
        assert logged(page, "bars")[:3] == [2, 3, 2]


def test_a_click_plays_from_a_bar_and_a_click_with_shift_loops(
    desk: Reader, jig_file: Path
) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        page.get_by_role("button", name="Bar 4").click(position={"x": 4, "y": 4})
        until(page, "log.bars[0] === 4")
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


def test_it_stops_cleanly_and_goes_on_where_it_stood(desk: Reader, jig_file: Path) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        button(page, "Play").click()
        until(page, "log.bars.length >= 2")
        button(page, "Pause").click()
        assert page.locator(".sounding").count() == 0
        stood = page.evaluate("musicgen.player.position")
        count = len(logged(page, "sounds"))
        page.evaluate("() => new Promise((done) => setTimeout(done, 200))")
        assert len(logged(page, "sounds")) == count
        assert page.evaluate("musicgen.player.position") == stood > 0
        button(page, "Play").click()
        until(page, "log.sounds.length > given", count)
        assert logged(page, "sounds")[count]["pathTime"] >= stood - 1e-3


def test_the_count_in_comes_before_the_first_sound(desk: Reader, jig_file: Path) -> None:
    with desk.reads(jig_file) as page:
        page.evaluate(LOG)
        page.get_by_role("checkbox", name="Count-in").check()
        page.evaluate("globalThis.tune = JSON.parse(document.getElementById('tune').textContent)")
        button(page, "Play").click()
        until(page, "log.sounds.length")
        started = page.evaluate("log.sounds[0].time - musicgen.player.audio.currentTime")
        told = page.evaluate("tune.count_in.beats * tune.count_in.seconds")
        assert told == pytest.approx(4 * 0.3)
        assert 0 < started < 0.2  # it was planned when the clicks were over, or nearly


def test_everything_is_done_by_keys(desk: Reader, tune_file: Path) -> None:
    with desk.reads(tune_file) as page:
        page.evaluate(LOG)
        page.keyboard.press("Tab")
        assert (
            page.evaluate("document.activeElement.getAttribute('aria-label')")
            == "Back to the start"
        )
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        until(page, "musicgen.player.state === 'playing'")
        assert page.get_by_role("status").inner_text() == "Playing"
        page.keyboard.press("Space")
        until(page, "musicgen.player.state === 'paused'")
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


def test_keys_can_be_switched_off(desk: Reader, jig_file: Path) -> None:
    with desk.reads(jig_file) as page:
        page.get_by_text("Keyboard shortcuts", exact=True).click()
        page.get_by_role("checkbox", name="Shortcuts work anywhere").uncheck()
        page.locator("h1").click()
        page.keyboard.press("l")
        assert not page.evaluate("musicgen.player.isLooping")


def test_the_files_have_the_right_bytes(desk: Reader, tune: Tune, tune_file: Path) -> None:
    with desk.reads(tune_file) as page:
        told = score_to_json(tune.score, recipe=tune.recipe)
        with page.expect_download() as midi:
            button(page, "MIDI").click()
        with page.expect_download() as text:
            button(page, "ABC").click()
        assert midi.value.path().read_bytes() == base64.b64decode(told["midi"])
        assert text.value.path().read_text("utf-8") == told["abc"]
        assert midi.value.suggested_filename.endswith(".mid")
        assert formats.parse(midi.value.path().read_bytes(), ".mid")[0]


def test_surprise_colours_and_copied_runs_are_shown(
    desk: Reader, tune: Tune, tune_file: Path
) -> None:
    assert tune.receipt is not None
    assert tune.receipt.runs
    with desk.reads(tune_file) as page:
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
        assert all("bits" in told for told in notes)
        assert any(tune.receipt.runs[0].label.title in told for told in notes)


def test_the_piano_roll_shows_every_sound_and_differences_are_ringed(
    desk: Reader, jig: Score, jig_file: Path
) -> None:
    with desk.reads(jig_file) as page:
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_grave(browser: Browser, tune_file: Path, scheme: Any) -> None:
    with opened(browser, tune_file, color_scheme=scheme, bypass_csp=True) as page:
        page.get_by_text("Keyboard shortcuts", exact=True).click()
        page.get_by_role("checkbox", name="Surprise").check()
        page.get_by_role("checkbox", name="Copies").check()
        assert serious(page, *(["color-contrast"] if scheme == "dark" else [])) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_colour_of_surprise_stands_out_from_the_page(
    browser: Browser, tune_file: Path, scheme: Any
) -> None:
    with opened(browser, tune_file, color_scheme=scheme) as page:
        paper, *shades = page.evaluate(
            "['--paper', ...[0, 1, 2, 3, 4, 5].map((s) => `--s${s}`)].map((name) =>"
            " getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
        )
    ratios = [contrast(paper, shade) for shade in shades]
    assert min(ratios) >= 3  # WCAG 2.2, 1.4.11
    assert ratios == sorted(ratios)  # lighter or darker step by step, so no hue is needed


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_on_paper_there_is_only_music(browser: Browser, tune_file: Path) -> None:
    with opened(browser, tune_file, color_scheme="dark") as page:
        page.get_by_role("checkbox", name="Surprise").check()
        page.emulate_media(media="print")
        for hidden in ("#player", ".columns", ".help", ".tune-roll", ".tune-legend"):
            assert page.locator(hidden).is_hidden()
        assert page.locator("h1").is_visible()
        assert page.locator(".tune-score > svg").is_visible()
        heads = ".tune-score > svg .s3 .notehead"
        ink = page.locator(heads).first.evaluate("(head) => getComputedStyle(head).fill")
        assert ink == "rgb(0, 0, 0)"


def test_a_sheet_of_paper_ends_between_two_systems(browser: Browser, tune_file: Path) -> None:
    with opened(browser, tune_file, viewport={"width": 400, "height": 700}) as page:
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


def test_names_are_shown_as_text_and_never_run(
    browser: Browser, jig: Score, tmp_path: Path
) -> None:
    name = '</script><img src=x onerror="globalThis.ran = 1"><b>&amp;'
    score = replace(jig, title=name, rhythm=name, parts=(Part(name=name),))
    receipt = indexed([score]).make_receipt(score)
    file = tmp_path / "hostile.html"
    file.write_text(page_of(score, receipt=receipt), encoding="utf-8")
    with opened(browser, file) as page:
        assert page.locator("h1").inner_text() == page.title() == name
        page.get_by_role("checkbox", name="Copies").check()
        assert name in page.locator(".tune-copies li").first.inner_text()
        assert page.evaluate("globalThis.ran") is None
        assert page.locator("img").count() == 0


def test_a_screen_that_is_turned_goes_on_playing_and_showing(
    browser: Browser, tune_file: Path
) -> None:
    with opened(browser, tune_file, viewport={"width": 900, "height": 400}) as page:
        page.get_by_role("checkbox", name="Surprise").check()
        page.evaluate("musicgen.toolbar.setLoop([0, 1])")
        button(page, "Play").click()
        page.wait_for_selector(".bar-cover.playing")
        wide = page.locator(".tune-score > svg").get_attribute("viewBox")
        page.set_viewport_size({"width": 400, "height": 900})
        until(
            page,
            f"document.querySelector('.tune-score > svg').getAttribute('viewBox') !== '{wide}'",
        )
        assert page.locator(".bar-cover.playing").count() == 1
        assert page.locator(".bar-cover.looped").count() == 2
        assert page.locator(".tune-legend").is_visible()
        assert page.evaluate("musicgen.player.state") == "playing"


def test_a_phone_has_no_sideways_scrolling(browser: Browser, tune_file: Path) -> None:
    with opened(browser, tune_file, viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_each_family_of_instruments_is_in_tune(desk: Reader, jig_file: Path) -> None:
    with desk.reads(jig_file) as page:
        sounds = json.loads(page.evaluate(RENDER, [PROGRAMS, 69, RATE]))
    for sound in map(np.array, sounds):
        assert 0.02 < np.abs(sound).max() < 1
        assert abs(1200 * np.log2(pitch_near(sound[RATE // 4 :], 440) / 440)) < 5


def pitch_near(sound: Any, hertz: float) -> float:
    """Return the mean frequency, by energy, of what lies within half a tone of one."""
    energy = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**16)) ** 2
    found = np.arange(len(energy)) * RATE / 2**16
    energy[abs(np.log2(found.clip(1) / hertz)) > 1 / 12] = 0
    return float((found * energy).sum() / energy.sum())
