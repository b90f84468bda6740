"""Parts as rows of the playground, in a browser, with a real server and a real model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import musicgen
from musicgen.music.bars import find_bars
from musicgen.music.score import Score
from tests.browser import (
    find_serious_violations,
    open_page,
    wait_until,
)
from tests.serve_process import ServeProcess, serve_folder

BAND: Final = "melody,bass,drums"
MELODY, BASS, DRUMS = range(3)
BARS: Final = 4
DENSITIES: Final = musicgen.load("band").checkpoint.manifest.corpus["densities"]
Cell = tuple[tuple[float, int, float], ...]  # start in the bar, pitch and length of each sound


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """Serve the included models, `band` among them."""
    folder = tmp_path_factory.mktemp("parts")
    with serve_folder(folder) as process:
        yield process


@pytest.fixture
def page(browser: Browser, serve: ServeProcess) -> Iterator[Page]:
    """Open the playground with the model of bands; console errors fail the test."""
    with open_page(browser, serve.address, viewport={"width": 1280, "height": 900}) as opened:
        choose_model(opened)
        yield opened


def choose_model(page: Page) -> None:
    page.locator("#at-once").uncheck()
    page.locator("#model").select_option("band")
    page.locator("#more-knobs summary").click()


def sample_band(page: Page) -> str:
    """Sample a tune of three parts, and return its id."""
    options = {"bars": str(BARS), "form": "through", "parts": BAND, "pickup": "none", "seed": "8"}
    for name, value in options.items():
        page.locator(f"#knob-{name}").fill(value)
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("New tune")
    return id_of(page)


def id_of(page: Page) -> str:
    match = re.search(r"#tune=([0-9a-f]+)$", page.url)
    assert match is not None, page.url
    return match[1]


def row(page: Page, part: int) -> Locator:
    return page.locator(f".part-row[data-part='{part}']")


def cell(page: Page, part: int, bar: int) -> Locator:
    return row(page, part).locator(f"[data-bar='{bar}']")


def button(page: Page, part: int, action: str) -> Locator:
    return row(page, part).locator(f"[data-action={action}]")


def list_cells(tune: dict[str, Any]) -> dict[tuple[int, int], Cell]:
    """Return the sounds of each part and bar, by part and bar number."""
    cells: dict[tuple[int, int], list[tuple[float, int, float]]] = {
        (part, bar + 1): [] for part in range(len(tune["parts"])) for bar in range(tune["bars"])
    }
    for start, length, pitch, _, part, _, bar in tune["sounds"]:
        bar_start = tune["heard"][bar][0]
        cells[part, bar + 1].append((round(start - bar_start, 2), pitch, round(length, 2)))
    return {place: tuple(sorted(sounds)) for place, sounds in cells.items()}


def list_marked(page: Page, selector: str) -> set[tuple[int, int]]:
    """Return part and bar of the cells that match a selector."""
    pairs: list[list[int]] = page.locator(f".part-row .cell{selector}").evaluate_all(
        "cells => cells.map((each) =>"
        " [Number(each.closest('li').dataset.part), Number(each.dataset.bar)])"
    )
    return {(part, bar) for part, bar in pairs}


def find_changes(before: dict[str, Any], after: dict[str, Any]) -> set[tuple[int, int]]:
    a, b = list_cells(before), list_cells(after)
    return {place for place in a if a[place] != b[place]}


def draw_again(page: Page, part: int) -> str:
    before = id_of(page)
    button(page, part, "draw").click()
    expect(page.locator("#status")).to_contain_text(re.compile("Drew .* again: "))
    assert id_of(page) != before
    return id_of(page)


def test_loop_with_parts(page: Page, serve: ServeProcess) -> None:
    first = sample_band(page)
    tune = serve.tune(first)
    assert [part["role"] for part in tune["parts"]] == BAND.split(",")
    expect(page.locator(".part-row")).to_have_count(3)
    expect(row(page, BASS).locator("h3")).to_contain_text("Bass")
    assert list_marked(page, ":not(.rests)") == {
        (part, bar + 1) for part in range(3) for bar in tune["parts"][part]["measures"]
    }

    # lock a part and bars of another, and draw the latter again
    button(page, DRUMS, "lock").click()
    cell(page, BASS, 1).click()
    cell(page, BASS, 2).click(modifiers=["Shift"])
    locked = {(BASS, 1), (BASS, 2)} | {(DRUMS, bar) for bar in range(1, BARS + 1)}
    assert list_marked(page, "[aria-pressed=true]") == locked
    expect(button(page, DRUMS, "draw")).to_be_disabled()
    assert page.locator("#bars .cell[aria-pressed=mixed]").count() == BARS
    expect(page.locator("#bars-told")).to_have_text(
        re.compile("^Bass bars 1.2, Drums locked: the next change keeps them$")
    )
    second = draw_again(page, BASS)
    changes = find_changes(tune, serve.tune(second))
    assert changes
    assert changes <= {(BASS, 3), (BASS, 4)}
    assert list_marked(page, ".changed") == changes
    assert list_marked(page, "[aria-pressed=true]") == locked
    expect(page.locator("#status")).to_contain_text("changed Bass in bar")
    expect(page.locator("#view-b .difference-rings ellipse")).not_to_have_count(0)

    # regenerate the rest: the locked cells stay
    page.get_by_role("button", name="Regenerate the rest").click()
    expect(page.locator("#status")).to_contain_text(
        re.compile("Regenerated all except Bass bars 1.2, Drums")
    )
    third = id_of(page)
    changes = find_changes(serve.tune(second), serve.tune(third))
    assert {part for part, _ in changes} == {MELODY, BASS}
    assert not changes & locked
    assert list_marked(page, ".changed") == changes
    expect(page.locator("#knob-parts")).to_have_value(BAND)  # although the kept parts settle it

    # undo, redo
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert id_of(page) == first
    assert list_marked(page, "[aria-pressed=true]") == locked
    page.keyboard.press("Control+Shift+z")
    assert id_of(page) == second

    # compare, and save
    page.locator("#compare").click()
    expect(page.locator("#status")).to_contain_text("A and B differ: Bass in bar")
    page.locator("#compare").click()
    page.locator("#keep").click()
    expect(page.locator("#shelf-list li")).to_have_count(1)
    page.reload()
    expect(page.locator(".part-row")).to_have_count(3)
    assert id_of(page) == second
    page.locator("#shelf-list button").click()
    page.locator("#shelf-list button").click()


@pytest.mark.promises
def test_nothing_locked_regenerates_everything(page: Page, serve: ServeProcess) -> None:
    sample_band(page)
    redrawn = draw_again(page, BASS)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#status")).to_contain_text("Regenerated")
    changes = find_changes(serve.tune(redrawn), serve.tune(id_of(page)))
    assert {part for part, _ in changes} == {MELODY, BASS, DRUMS}


@pytest.mark.promises
def test_density_and_range_of_a_row(page: Page, serve: ServeProcess) -> None:
    tune = serve.tune(sample_band(page))
    row(page, BASS).locator("select").select_option("low")
    expect(page.locator("#status")).to_contain_text("Density any → bass=low")
    lower = serve.tune(id_of(page))
    assert {part for part, _ in find_changes(tune, lower)} <= {BASS}
    starts = Counter((sound[6], sound[0]) for sound in lower["sounds"] if sound[4] == BASS)
    assert max(Counter(bar for bar, _ in starts).values()) <= DENSITIES["bass"][0]

    row(page, MELODY).locator("input").fill("C4-C5")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Range any → melody=C4-C5")
    ranged = serve.tune(id_of(page))
    assert {part for part, _ in find_changes(lower, ranged)} == {MELODY}
    assert {60 <= sound[2] <= 72 for sound in ranged["sounds"] if sound[4] == MELODY} == {True}
    expect(row(page, BASS).locator("select")).to_have_value("low")
    page.keyboard.press("Escape")
    page.locator("#stage").focus()
    page.keyboard.press("Control+z")
    expect(row(page, MELODY).locator("input")).to_have_value("")


def test_mute_and_solo(page: Page) -> None:
    sample_band(page)
    button(page, MELODY, "mute").click()
    expect(page.locator("#view-b .roll-note.part-0.silent")).not_to_have_count(0)
    expect(page.locator("#view-b .roll-note.part-1.silent")).to_have_count(0)
    page.evaluate(WATCH)
    page.locator("#play").click()
    wait_until(page, "(window.lit?.has('part-1') && window.lit.has('part-2'))")
    assert "part-0" not in page.evaluate("[...window.lit]")
    button(page, MELODY, "mute").click()
    button(page, MELODY, "solo").click()
    expect(page.locator("#view-b .roll-note.part-1.silent")).not_to_have_count(0)
    page.evaluate("window.lit.clear()")
    page.locator("#to-start").dispatch_event("click")  # the page scrolls along while it plays
    wait_until(page, "window.lit.has('part-0')")
    assert page.evaluate("[...window.lit]") == ["part-0"]
    expect(cell(page, MELODY, 1)).to_have_class(re.compile("sounding"))
    page.locator("#play").click()


WATCH: Final = """() => {
  window.lit = new Set();
  const roll = document.querySelector("#view-b .tune-roll");
  new MutationObserver((records) => {
    for (const { target } of records) {
      if (target.classList.contains("sounding")) window.lit.add(/part-./.exec(target.classList)[0]);
    }
  }).observe(roll, { subtree: true, attributes: true, attributeFilter: ["class"] });
}"""
DROP: Final = """(bytes) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([new Uint8Array(bytes)], "song.mid"));
  const options = { dataTransfer, bubbles: true, cancelable: true };
  for (const name of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(name, options));
  }
}"""


def list_notes(score: Score, part: int) -> list[tuple[int, int, int]]:
    return sorted((n.onset, n.pitch, n.duration) for n in score.notes if n.part == part)


def test_dropped_file_becomes_given_parts(page: Page, serve: ServeProcess, tmp_path: Path) -> None:
    model = musicgen.load("band")
    model.sample(seed=8, parts=BAND, bars=BARS, form="through", pickup="none").write(
        tmp_path / "song.mid"
    )
    (song,), _ = musicgen.read(tmp_path / "song.mid")
    page.evaluate(DROP, list((tmp_path / "song.mid").read_bytes()))
    expect(page.locator("#given-parts li")).to_have_count(3)
    expect(page.locator("#given-parts")).to_contain_text("4 bars")
    expect(page.locator("#primer-choice")).to_be_hidden()
    drawn = page.locator("#given-roles input:checked")
    expect(drawn).to_have_value("chords")  # of the usual parts, the only one that the file lacks

    page.locator("#given-parts input").nth(BASS).uncheck()
    expect(drawn).to_have_count(2)
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("New tune around song.mid")
    page.locator("#files [data-file=mid]").wait_for()
    with page.expect_download() as download_info:
        page.locator("#files [data-file=mid]").click()
    download_info.value.save_as(tmp_path / "around.mid")
    (around,), _ = musicgen.read(tmp_path / "around.mid")
    roles = [part["role"] for part in serve.tune(id_of(page))["parts"]]
    assert roles == ["melody", "drums", "chords", "bass"]
    assert list_notes(around, 0) == list_notes(song, MELODY)
    assert list_notes(around, 1) == list_notes(song, DRUMS)
    assert list_notes(around, 3) != list_notes(song, BASS)
    assert len(find_bars(around)) == len(find_bars(song))
    for part in (0, 1):
        expect(button(page, part, "lock")).to_have_attribute("aria-pressed", "true")
    expect(button(page, 3, "lock")).to_have_attribute("aria-pressed", "false")

    before = serve.tune(id_of(page))
    draw_again(page, 3)
    assert {part for part, _ in find_changes(before, serve.tune(id_of(page)))} == {3}

    # or continue from its notes, as with other models
    page.locator("#use-primer").check()
    expect(page.locator("#primer-choice")).to_be_visible()
    page.locator("#model").select_option("folk")
    expect(page.locator("#given")).to_be_hidden()
    page.get_by_role("button", name="Clear").click()
    page.locator("#model").select_option("band")
    expect(page.locator("#given")).to_be_hidden()


def test_rows_by_keyboard(page: Page) -> None:
    sample_band(page)
    assert page.locator(".part-row .cell[tabindex='0']").count() == 1
    cell(page, MELODY, 1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(cell(page, BASS, BARS - 1)).to_be_focused()
    page.keyboard.press("Space")
    assert list_marked(page, "[aria-pressed=true]") == {(BASS, BARS - 1)}
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("Shift+Enter")
    assert list_marked(page, "[aria-pressed=true]") == {
        (part, bar) for part in (BASS, DRUMS) for bar in range(1, BARS)
    }
    expect(cell(page, DRUMS, 1)).to_have_accessible_name(re.compile(r"^Drums, bar 1.*, locked"))
    page.locator("#bars .cell").first.click()
    assert {(part, 1) for part in range(3)} <= list_marked(page, "[aria-pressed=true]")
    expect(page.locator("#bars .cell").first).to_have_attribute("aria-pressed", "true")


def test_surprise_of_several_parts_is_fetched_when_it_is_shown(page: Page) -> None:
    sample_band(page)
    expect(page.locator("#surprise")).to_be_hidden()
    page.locator("#surprise-on").check()
    expect(page.locator("#surprise")).to_contain_text("bits per note")
    expect(page.locator("#view-b .tune-legend")).to_be_visible()
    page.locator("#surprise-on").uncheck()
    expect(page.locator("#view-b .tune-legend")).to_be_hidden()


def test_rows_are_accessible(browser: Browser, serve: ServeProcess) -> None:
    with open_page(browser, serve.address, bypass_csp=True, reduced_motion="reduce") as page:
        choose_model(page)
        sample_band(page)
        cell(page, BASS, 1).click()
        button(page, DRUMS, "lock").click()
        button(page, MELODY, "mute").click()
        draw_again(page, BASS)
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            assert find_serious_violations(page) == []
        page.set_viewport_size({"width": 390, "height": 844})  # a phone
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
