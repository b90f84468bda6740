"""The playground in a browser, with a real server and a real model."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

import musicgen
from musicgen import formats
from musicgen.web.models_and_runs import tune_id
from tests.browser import find_serious_violations, open_page
from tests.fake_models import untrained
from tests.serve_process import ServeProcess, serve_folder

FOLK_SAMPLING: Final = dict(musicgen.load("folk").checkpoint.manifest.sampling)
RAISED: Final = round(FOLK_SAMPLING["temperature"] + 0.1, 2)  # two steps of the dial
FOLK: Final = Path(musicgen.__file__).parents[1] / "checkpoints" / "folk"
HOSTILE: Final = "<img src=x onerror=document.title='gone'>"
IDEA: Final = "X:1\nT:Idea\nM:6/8\nL:1/8\nK:G\nGAB dBG|ABc dBG|GAB dBG|A3 G3|\n"
FAILED_REQUEST: Final = re.compile(r"Failed to load resource")


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """Serve a folder with a finished run, a running one, and one with a hostile name."""
    folder = tmp_path_factory.mktemp("playground")
    shutil.copytree(FOLK, folder / "checkpoints" / "mine")
    untrained(folder / "checkpoints" / "live", codec="performance")
    lines = (FOLK / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name in ("young", HOSTILE):
        (folder / "checkpoints" / name).mkdir()
        (folder / "checkpoints" / name / "metrics.jsonl").write_text("".join(lines[:100]))
    with serve_folder(folder) as process:
        yield process


@pytest.fixture
def page(browser: Browser, serve: ServeProcess) -> Iterator[Page]:
    """Open the playground; console errors and external requests fail the test."""
    with open_page(browser, serve.address, viewport={"width": 1280, "height": 900}) as opened:
        expect(opened.locator("#model option")).not_to_have_count(0)
        yield opened


@contextlib.contextmanager
def open_failing_page(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """Open a page on which requests will fail; other console errors fail the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("#model option")).not_to_have_count(0)
    yield page
    assert [error for error in errors if not FAILED_REQUEST.search(error)] == []
    context.close()


def status(page: Page) -> Locator:
    return page.locator("#status")


def id_of(page: Page) -> str:
    """Return the id of the tune that is shown, from the URL."""
    match = re.search(r"#tune=([0-9a-f]+)$", page.url)
    assert match is not None, page.url
    return match[1]


def generate(page: Page, seed: int = 7, **options: str) -> str:
    """Generate a tune, and return its id once it is shown."""
    page.locator("#at-once").uncheck()
    page.locator("#knob-seed").evaluate("(knob, seed) => (knob.value = seed)", seed)
    for name, value in options.items():
        knob = page.locator(f"#knob-{name}")
        knob.select_option(value) if name in ("key", "meter", "rhythm") else knob.fill(value)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("New tune")
    return id_of(page)


def raise_temperature(page: Page, presses: int = 2) -> str:
    """Raise the temperature by keyboard, and return the id of the new tune."""
    before = id_of(page)
    page.locator("#knob-temperature").focus()
    for _ in range(presses):
        page.keyboard.press("ArrowRight")
    value = page.locator("#knob-temperature").input_value()
    expect(status(page)).to_contain_text(f"→ {float(value):.2f}: ")
    assert id_of(page) != before
    return id_of(page)


def list_bar_sounds(tune: dict[str, Any]) -> list[list[tuple[float, ...]]]:
    """Return the sounds of each written measure as it is first heard, from its start."""
    first_heard: dict[int, tuple[float, float]] = {}
    for start, end, bar in tune["heard"]:
        first_heard.setdefault(bar, (start, end))
    sounds: dict[int, list[tuple[float, ...]]] = {bar: [] for bar in first_heard}
    for start, length, pitch, _, _, _, bar in tune["sounds"]:
        bar_start, end = first_heard[bar]
        if bar_start - 1e-6 <= start < end - 1e-6:
            sounds[bar].append((round(start - bar_start, 2), pitch, round(length, 2)))
    return [sorted(sounds[bar]) for bar in sorted(sounds)]


def list_note_heads(page: Page, pane: str = "b") -> list[str]:
    """Return the SVG of each note head in a score."""
    heads = f"#view-{pane} .tune-score .note .notehead"
    svgs: list[str] = page.locator(heads).evaluate_all("all => all.map((one) => one.innerHTML)")
    return svgs


def download(page: Page, suffix: str, folder: Path) -> Path:
    """Click a download button, and return the downloaded file."""
    with page.expect_download() as download_info:
        page.locator(f"[data-file={suffix}]").click()
    path = folder / download_info.value.suggested_filename
    download_info.value.save_as(path)
    return path


def test_the_tweak_loop(page: Page, serve: ServeProcess) -> None:
    page.locator("#more-knobs summary").click()
    first = generate(page, bars="32", form="AABB", rhythm="jig", key="D major", pickup="1/8")
    tune = serve.tune(first)
    assert (tune["bars"], tune["rhythm"], tune["key"]) == (32, "jig", "D major")
    assert page.locator("#bars .cell").count() == 16
    # a tied note has several heads
    assert page.locator("#view-b .note").count() >= len({sound[5] for sound in tune["sounds"]})

    # change one option
    variant = raise_temperature(page)
    differences = httpx.get(f"{serve.address}/api/tunes/{first}/differences/{variant}").json()
    assert serve.tune(variant)["wishes"]["temperature"] == pytest.approx(RAISED)
    assert bool(page.locator("#bars .cell.changed").count()) == bool(differences["bars"])
    assert (
        page.locator("#view-b .difference-rings ellipse").count() >= len(differences["notes_b"]) > 0
    )

    # lock bars in the strip and in the score, and regenerate the rest
    page.locator("#bars .cell").first.click()
    page.locator("#bars .cell").nth(6).click(modifiers=["Shift"])
    page.locator("#view-b [data-bar='8']").first.click()
    assert page.locator("#bars .cell[aria-pressed=true]").count() == 8
    assert page.locator("#view-b .bar-cover.locked").count() == 9  # and the pickup
    expect(page.locator("#bars-told")).to_contain_text(re.compile("bars 1.8 locked"))
    page.get_by_role("button", name="Regenerate the rest").click()
    expect(status(page)).to_contain_text(re.compile("Regenerated all except bars 1.8"))
    redrawn = id_of(page)
    before, after = list_bar_sounds(serve.tune(variant)), list_bar_sounds(serve.tune(redrawn))
    assert after[:9] == before[:9]
    assert after[9:] != before[9:]
    changed = page.locator("#bars .cell.changed")
    assert changed.count() > 0
    assert all(int(number) > 8 for number in changed.all_inner_texts())

    # undo, redo
    page.keyboard.press("Control+z")
    expect(status(page)).to_have_text("Undone: back to tune 2.")
    assert id_of(page) == variant
    expect(page.locator("#knob-temperature")).to_have_value(str(RAISED))
    page.keyboard.press("Control+z")
    assert id_of(page) == first
    expect(page.locator("#knob-temperature")).to_have_value(f"{FOLK_SAMPLING['temperature']:g}")
    expect(page.locator("#undo")).to_be_disabled()
    for _ in range(2):
        page.keyboard.press("Control+Shift+z")
    assert id_of(page) == redrawn
    expect(page.locator("#redo")).to_be_disabled()

    # compare A and B
    page.get_by_role("button", name="Compare").click()
    expect(status(page)).to_contain_text("A and B differ")
    assert page.locator("#choose-a").input_value() == "2"
    assert page.locator("#view-a .difference-rings ellipse").count() > 0
    assert page.locator("#view-b .difference-rings ellipse").count() > 0
    page.locator("#play").click()
    expect(page.locator("#view-b .note.sounding")).not_to_have_count(0)
    page.locator("#hear-a").click()
    expect(page.locator("#view-a .note.sounding")).not_to_have_count(0)
    assert page.locator("#view-b .note.sounding").count() == 0
    page.locator("#play").click()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#pane-a")).to_be_hidden()


@pytest.mark.promises
def test_empty_form_is_the_default_and_free_stays_free(page: Page, serve: ServeProcess) -> None:
    form, bars = page.locator("#knob-form"), page.locator("#knob-bars")
    expect(form).to_have_attribute("placeholder", "AABB")
    bars.fill("12")
    expect(form).to_have_attribute("placeholder", "any")
    bars.fill("")
    plain = serve.tune(generate(page))
    assert (plain["bars"], plain["wishes"]) == (32, {"form": "AABB"} | FOLK_SAMPLING)
    expect(form).to_have_value("AABB")
    raised = FOLK_SAMPLING | {"temperature": RAISED}
    assert serve.tune(raise_temperature(page))["wishes"] == {"form": "AABB"} | raised
    free = serve.tune(generate(page, seed=9, form="free"))
    assert free["wishes"] == raised
    expect(form).to_have_value("free")
    assert serve.tune(generate(page, seed=10))["wishes"] == raised


def test_saved_tune_is_restored(
    page: Page, browser: Browser, serve: ServeProcess, tmp_path: Path
) -> None:
    generate(page, bars="16")
    saved = raise_temperature(page)
    page.locator("#keep").click()
    expect(page.locator("#keep-told")).to_have_text("Saved")
    expect(page.locator("#shelf-list li")).to_have_count(1)
    assert len(list(serve.tunes.glob("*.mid"))) == 1
    scores = list_note_heads(page)

    page.reload()
    expect(page.locator("#knob-temperature")).to_have_value(str(RAISED))
    expect(page.locator("#knob-bars")).to_have_value("16")
    expect(page.locator("#keep-told")).to_have_text("Saved")
    assert (id_of(page), list_note_heads(page)) == (saved, scores)
    assert generate(page, seed=8) != saved
    page.locator("#shelf-list a").click()
    expect(status(page)).to_contain_text("Back to tune 1")
    assert (id_of(page), list_note_heads(page)) == (saved, scores)

    for suffix in ("mid", "abc"):
        file, again = download(page, suffix, tmp_path), tmp_path / f"again.{suffix}"
        musicgen.tweak(file).write(again)
        assert again.read_bytes() == file.read_bytes()

    page.locator("#shelf-list button").click()
    expect(page.locator("#shelf-list button")).to_have_text("Delete the file?")
    page.locator("#knob-bars").focus()  # losing the focus resets the confirmation
    expect(page.locator("#shelf-list button")).to_have_text("Delete")
    page.locator("#shelf-list button").click()
    page.locator("#shelf-list button").click()
    expect(page.locator("#shelf-list li")).to_have_count(0)
    expect(page.locator("#keep-told")).to_have_text("Save")
    assert list(serve.tunes.glob("*.mid")) == []


@pytest.mark.promises
def test_every_format_is_downloadable(page: Page, tmp_path: Path) -> None:
    starts = {"mid": b"MThd", "abc": b"X:", "musicxml": b"<?xml", "wav": b"RIFF", "svg": b"<svg",
              "png": b"\x89PNG", "html": b"<!doctype html>"}  # fmt: skip
    generate(page, bars="16")
    assert page.locator("#files button").count() == len(starts)
    for suffix, start in starts.items():
        file = download(page, suffix, tmp_path)
        assert file.suffix == f".{suffix}"
        assert file.read_bytes()[: len(start)].lower() == start.lower()


def test_primer_from_text_file_and_drop(page: Page, serve: ServeProcess, tmp_path: Path) -> None:
    page.locator("#primer summary").click()
    page.locator("#primer-text").fill(IDEA)
    page.locator("#at-once").uncheck()
    page.locator("#knob-bars").fill("8")
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("New tune from pasted.abc")
    idea = [sound[2] for sound in serve.tune(id_of(page))["sounds"]][:18]
    assert idea == [67, 69, 71, 74, 71, 67, 69, 71, 72, 74, 71, 67, 67, 69, 71, 74, 71, 67]

    (tmp_path / "idea.abc").write_text(IDEA)
    musicgen.write(musicgen.read(tmp_path / "idea.abc")[0][0], tmp_path / "idea.mid")
    page.locator("#primer-file").set_input_files(tmp_path / "idea.mid")
    expect(page.locator("#primer-text")).to_have_value("")
    expect(page.locator("#primer-name")).to_have_text("idea.mid")
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("New tune from idea.mid")
    assert [sound[2] for sound in serve.tune(id_of(page))["sounds"]][:18] == idea
    page.locator("#primer-bars").fill("2")
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("New tune from idea.mid")
    expect(page.locator("#remarks")).to_contain_text("bar 2 of it is taken")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#primer-choice")).to_be_hidden()
    expect(page.locator("#primer-name")).to_have_text("")

    data = (tmp_path / "idea.mid").read_bytes()
    page.evaluate(DROP, list(data))
    expect(page.locator("#primer-name")).to_have_text("dropped.mid")
    expect(page.locator("#drop")).to_be_hidden()


DROP: Final = """(bytes) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([new Uint8Array(bytes)], "dropped.mid"));
  const options = { dataTransfer, bubbles: true, cancelable: true };
  for (const name of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(name, options));
  }
}"""


def test_training_runs_are_shown_and_played(page: Page, serve: ServeProcess) -> None:
    page.clock.install()
    page.reload()
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url) if r.url.endswith("/training") else None)
    page.locator("#to-training").click()
    expect(page.locator(".run")).to_have_count(3)
    young = page.locator("[data-run=young]")
    expect(young.locator(".state")).to_have_text("running")
    expect(young.locator("button")).to_be_hidden()
    before = young.locator("path.loss").get_attribute("d")
    lines = (FOLK / "metrics.jsonl").read_text().splitlines(keepends=True)
    with (serve.folder / "checkpoints" / "young" / "metrics.jsonl").open("a") as file:
        file.writelines(lines[100:200])
    page.clock.run_for(5_000)
    expect(young.locator("path.loss")).not_to_have_attribute("d", str(before))
    assert len(requests) == 2

    page.evaluate(HIDDEN, True)
    page.clock.run_for(60_000)
    assert len(requests) == 2  # no polling while the page is hidden
    page.evaluate(HIDDEN, False)
    assert len(requests) == 3
    page.locator("#training > summary").click()
    page.clock.run_for(60_000)
    assert len(requests) == 3  # no polling while the panel is closed

    page.locator("#training > summary").click()
    page.clock.resume()
    mine = page.locator("[data-run=mine]")
    expect(mine.locator(".state")).to_have_text("finished")
    expect(mine.locator("path.held")).to_have_count(1)
    mine.get_by_role("button", name="Play latest tune").click()
    expect(mine.locator(".note.sounding")).not_to_have_count(0)


@pytest.mark.promises
def test_performance_model_has_its_own_options_and_a_piano_roll(
    page: Page, serve: ServeProcess
) -> None:
    page.locator("#model").select_option("live")
    page.locator("#more-knobs summary").click()
    labels = page.locator(".knob:visible label").all_text_contents()
    assert labels == ["Temperature", "Top-p", "Min-p", "Top-k", "Instrument", "Seed"]
    page.locator("#primer > summary").click()
    page.locator("#primer-text").fill("L:1/4\nK:C\nCDEF|GABc|")
    expect(page.locator("#primer-bars")).to_be_hidden()
    page.locator("#primer-seconds").fill("0-1.4")
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("New tune from pasted.abc: Performance")
    assert page.locator("#view-b .roll-times span").first.text_content() == "0:00"
    page.locator("#primer-clear").click()
    page.locator("#generate").click()
    expect(status(page)).to_contain_text("New tune: Performance")
    expect(page.locator("#view-b .unwritten")).to_contain_text("has no bars")
    expect(page.locator("#view-b .roll-note.sounding")).not_to_have_count(0)
    assert page.locator("#bars .cell").count() == 0
    assert page.locator("#files button").all_text_contents() == ["MIDI", "WAV", "SVG", "PNG"]
    page.locator("#redraw").click()
    expect(status(page)).to_contain_text("Regenerated: Performance")
    page.locator("#compare").click()
    expect(status(page)).to_have_text("A and B differ.")
    page.locator("#compare").click()
    page.locator("#keep").click()
    expect(page.locator("#shelf-list a")).to_contain_text("Performance")
    page.locator("#keep").click()
    expect(status(page)).to_contain_text("Deleted")
    page.locator("#model").select_option("folk")
    expect(page.locator("#knob-key")).to_be_visible()
    generate(page, bars="4")
    expect(page.locator("#view-b .tune-score svg")).to_have_count(1)


HIDDEN: Final = """(isHidden) => {
  Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_hostile_names_are_text(page: Page, serve: ServeProcess) -> None:
    tune = musicgen.load("folk").sample(bars=4, seed=3)
    serve.tunes.mkdir(exist_ok=True)
    shelved = serve.tunes / f"{tune_id(tune.recipe.to_text())}.mid"
    formats.write(replace(tune.score, title=HOSTILE), shelved, remarks=tuple(tune.recipe.remarks()))
    page.reload()
    shelf = page.locator("#shelf-list a").filter(has_text="onerror")
    expect(shelf.locator(".name")).to_have_text(HOSTILE)
    page.locator("#to-training").click()
    expect(page.locator(".run h3").filter(has_text="onerror")).to_have_text(HOSTILE)
    idea = IDEA.replace("Idea", HOSTILE).encode()
    file = FilePayload(name=f"{HOSTILE}.abc", mimeType="", buffer=idea)
    page.locator("#primer-file").set_input_files(file)
    expect(page.locator("#primer-name")).to_contain_text("onerror")
    shelf.click()
    expect(status(page)).to_contain_text("Opened from link")
    generate(page, bars="8")
    expect(page.locator("#takes li").last).to_contain_text("onerror")
    assert page.locator("img").count() == 0
    assert "gone" not in page.title()
    shelved.unlink()


def test_errors_are_shown_in_one_line(browser: Browser, serve: ServeProcess) -> None:
    with open_failing_page(browser, serve.address) as page:
        first = generate(page, bars="8")
        page.locator("#knob-bars").evaluate("(knob) => (knob.value = 512)")
        page.locator("#generate").click()
        expect(page.locator("#progress-told")).to_contain_text("of 512")
        assert page.locator("#view-b .note").count() > 0  # the previous tune stays
        page.locator("#cancel").click()
        expect(status(page)).to_have_text("Cancelled.")
        expect(page.locator("#knob-bars")).to_have_value("8")
        page.locator("#more-knobs summary").click()
        page.locator("#knob-range").fill("C1-C2")
        page.keyboard.press("Enter")
        expect(page.locator("#alert")).to_contain_text("range C1-C2")
        expect(page.locator("#knob-range")).to_have_value("")
        assert id_of(page) == first
        page.locator("#bars .cell").first.click()
        page.get_by_role("button", name="Regenerate the rest").click()
        expect(status(page)).to_contain_text("Regenerated")
        page.locator("#knob-bars").fill("12")
        page.keyboard.press("Enter")
        expect(page.locator("#alert")).to_contain_text("does not allow another")
        page.get_by_role("button", name="New tune with these settings").click()
        expect(status(page)).to_contain_text("New tune")
        assert serve.tune(id_of(page))["bars"] == 12
        page.goto(f"{serve.address}/#tune=0123456789abcdef")
        expect(page.locator("#alert")).to_contain_text("no longer available")


@pytest.mark.promises
def test_server_restart_loses_nothing(browser: Browser, serve: ServeProcess) -> None:
    with open_failing_page(browser, serve.address) as page:
        generate(page, bars="16", form="AABB")
        variant = raise_temperature(page)
        serve.stop()
        page.locator("#redraw").click()
        expect(page.locator("#alert")).to_contain_text("is musicgen serve still running?")
        page.locator("#play").click()  # the loaded tune can still be played
        expect(page.locator("#view-b .note.sounding")).not_to_have_count(0)
        page.locator("#play").click()
        serve.start()
        page.locator("#bars .cell").first.click()
        page.get_by_role("button", name="Regenerate the rest").click()
        expect(status(page)).to_contain_text("Regenerated all except bar 1")
        assert (
            list_bar_sounds(serve.tune(id_of(page)))[0] == list_bar_sounds(serve.tune(variant))[0]
        )


def test_keyboard_reaches_everything(page: Page) -> None:
    generate(page, bars="8", form="AB")
    page.locator("#bars .cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(page.locator("#bars .cell").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#bars .cell").nth(1)).to_have_accessible_name("Bar 2, locked")
    page.locator("#view-b .bar-cover[tabindex='0']").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#bars .cell").last).to_have_attribute("aria-pressed", "true")
    page.locator("#stage").focus()
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_accessible_name("Pause")
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_accessible_name("Play")


def test_page_is_accessible(browser: Browser, serve: ServeProcess) -> None:
    with open_page(browser, serve.address, bypass_csp=True, reduced_motion="reduce") as page:
        expect(page.locator("#model option")).not_to_have_count(0)
        generate(page, bars="8", form="through")
        raise_temperature(page)
        page.locator("#bars .cell").first.click()
        for box in ("#surprise-on", "#copies-on", "#phrases-on"):
            page.locator(box).check()
        expect(page.locator("#view-b .phrase")).to_have_count(2)
        for fold in ("#more-knobs", "#primer", "#training"):
            page.locator(f"{fold} > summary").click()
        page.locator("#compare").click()
        expect(page.locator(".run")).to_have_count(3)
        expect(status(page)).to_contain_text("A and B")
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            assert find_serious_violations(page) == []
        page.set_viewport_size({"width": 390, "height": 844})  # a phone
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
