"""Measure the time until a new tune is on the screen; take the pictures of docs/playground.md.

    python benchmarks/playground.py                           50 tunes of 32 bars; a few minutes
    python benchmarks/playground.py --screenshots docs/pictures
    python benchmarks/playground.py --band runs/band          one part of 32 bars, drawn again
    python benchmarks/playground.py --band runs/band --screenshots docs/pictures
    python benchmarks/playground.py --toy                     two small tunes; seconds

Measured in headless Chromium (Debian's package), with `musicgen serve` on the same machine: from
pressing "New tune" to the frame in which the score is drawn. For comparison, without a browser:
from the request to the last byte of the tune. With a model of several parts: from pressing "Draw
again" of each part in turn. Target: a median under one second on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx

TARGET_SECONDS = 1.0  # seconds
TIMEOUT_MS = 60_000  # milliseconds
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FOLK = Path(__file__).parents[1] / "checkpoints" / "folk"
PALETTE_SIZE = 128  # colours of a screenshot
BAND_PARTS = "melody,bass,drums"
PRESS_AND_WAIT_JS = """(button) => new Promise((resolve) => {
  const view = document.getElementById("view-b");
  const previous = view.querySelector(".tune-score > svg");
  const start = performance.now();
  const seen = new MutationObserver(() => {
    const drawn = view.querySelector(".tune-score > svg");
    if (!drawn || drawn === previous) return;
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  });
  seen.observe(view, { childList: true, subtree: true });
  document.querySelector(button).click();
})"""


@dataclass(frozen=True)
class Size:
    """How many tunes of how many bars."""

    bars: int
    tune_count: int


FULL, TOY = Size(bars=32, tune_count=50), Size(bars=8, tune_count=2)


@contextlib.contextmanager
def run_server(folder: Path) -> Iterator[str]:
    """Run `musicgen serve` in a folder; yield its address."""
    command = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        try:
            assert match is not None, "musicgen serve did not start"
            yield match[0]
        finally:
            process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def run_browser() -> Iterator[Any]:
    """Run headless Chromium."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None
    sandbox_flags = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    flags = [
        "--autoplay-policy=no-user-gesture-required",
        "--force-color-profile=srgb",
        *sandbox_flags,
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, timeout=TIMEOUT_MS
        )
        yield browser
        browser.close()


def open_page(browser: Any, address: str, **options: Any) -> Any:
    """Open the playground and wait until it is ready."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(address)
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#at-once").uncheck()
    return page


# Times


def time_api(client: httpx.Client, bars: int) -> float:
    """Return the seconds from the request to the whole answer, without a browser."""
    start_time = time.perf_counter()
    job = client.post("/api/jobs", json={"do": "sample", "bars": bars}).json()["id"]
    with client.stream("GET", f"/api/jobs/{job}/events") as events:
        last = [line for line in events.iter_lines() if line.startswith("data:")][-1]
    match = re.search(r'"tune": ?"(\w+)"', last)
    assert match is not None, last
    client.get(f"/api/tunes/{match[1]}").raise_for_status()
    return time.perf_counter() - start_time


def make_press(page: Any, bars: int) -> Callable[[], float]:
    """Return a function that presses New tune and returns the seconds until its score is drawn."""
    page.locator("#knob-bars").fill(str(bars))

    def press() -> float:
        page.locator("#view-b").evaluate("(view) => view.replaceChildren()")
        return float(page.evaluate(PRESS_AND_WAIT_JS, "#generate")) / 1000

    return press


def print_times(name: str, seconds: Sequence[float]) -> float:
    """Print a median and the 95th percentile; return the median."""
    median = statistics.median(seconds)
    percentile_95 = sorted(seconds)[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    print(
        f"{name}: median {median:.2f} s, 95th percentile {percentile_95:.2f} s, of {len(seconds)}"
    )
    return median


def measure(size: Size) -> None:
    """Measure with and without a browser, in turn, and print both."""
    with tempfile.TemporaryDirectory() as folder, run_server(Path(folder)) as address:
        client = httpx.Client(base_url=address, timeout=TIMEOUT_MS / 1000)
        time_api(client, size.bars)  # loads the model
        print(f"folk, {size.bars} bars, {os.cpu_count()} cores")
        if CHROMIUM is None:
            print_times(
                "without a browser", [time_api(client, size.bars) for _ in range(size.tune_count)]
            )
            print("chromium is not installed (Debian package chromium): the page is not measured")
            return
        with run_browser() as browser:
            press = make_press(open_page(browser, address), size.bars)
            press()
            pairs = [(time_api(client, size.bars), press()) for _ in range(size.tune_count)]
        api_seconds, page_seconds = zip(*pairs, strict=True)
        ratio = 1 / print_times("without a browser", api_seconds)
        median = print_times("New tune to score on the screen", page_seconds)
        verdict = "within" if median < TARGET_SECONDS else "OVER"
        print(
            f"{ratio * median:.2f} times as long with the browser; {verdict} {TARGET_SECONDS:.0f} s"
        )


@contextlib.contextmanager
def open_band(browser: Any, band: Path, parts: str, bars: int, **options: Any) -> Iterator[Any]:
    """Open the playground with a tune of several parts, which a model of a folder generates."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(band, Path(folder) / "checkpoints" / "band")
        with run_server(Path(folder)) as address:
            page = open_page(browser, address, **options)
            page.locator("#model").select_option("band")
            texts = {"bars": str(bars), "form": "through", "parts": parts, "seed": "7"}
            set_options(page, texts, {})
            press_button(page, "#generate", "New tune")
            yield page


def measure_parts(band: Path, parts: str, size: Size) -> None:
    """Measure the time from Draw again of each part in turn to the score on the screen."""
    with run_browser() as browser, open_band(browser, band, parts, size.bars) as page:
        print(f"{band.name}, {parts}, {size.bars} bars, {os.cpu_count()} cores")
        seconds = []
        for number in range(size.tune_count):
            part = number % len(parts.split(","))
            button = f".part-row[data-part='{part}'] [data-action=draw]"
            seconds.append(float(page.evaluate(PRESS_AND_WAIT_JS, button)) / 1000)
            wait_for_message(page, " again: ")
        median = print_times("Draw again to score on the screen", seconds)
        print(f"{'within' if median < TARGET_SECONDS else 'OVER'} {TARGET_SECONDS:.0f} s")


# Pictures


def take_screenshots(folder: Path) -> None:
    """Take the screenshots of docs/playground.md, always with the same seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work_folder:
        shutil.copytree(FOLK, Path(work_folder) / "checkpoints" / "mine")
        with run_server(Path(work_folder)) as address, run_browser() as browser:
            for name, data in iter_screenshots(browser, address):
                (folder / f"playground-{name}.png").write_bytes(quantise_png(data))
                print(f"{folder / f'playground-{name}.png'}")


def iter_screenshots(browser: Any, address: str) -> Iterator[tuple[str, bytes]]:
    """Yield each step of the how-to page as PNG."""
    page = open_page(browser, address, viewport={"width": 1280, "height": 860})
    set_options(
        page, {"bars": "32", "form": "AABB", "seed": "7"}, {"rhythm": "jig", "key": "D major"}
    )
    press_button(page, "#generate", "New tune")
    yield "first", page.screenshot()
    page.locator("#copies-on").check()
    yield "receipt", page.screenshot(full_page=True)
    page.locator("#copies-on").uncheck()
    page.locator("#knob-temperature").focus()
    page.keyboard.press("ArrowRight")
    wait_for_message(page, "changed")
    yield "knob", page.screenshot()
    page.locator("#bars .cell").first.click()
    page.locator("#bars .cell").nth(7).click(modifiers=["Shift"])
    press_button(page, "#redraw", "Regenerated")
    yield "locked", page.screenshot()
    press_button(page, "#compare", "A and B differ")
    yield "compared", page.screenshot()
    page.locator("#compare").click()
    press_button(page, "#keep", "Saved")
    page.locator("#to-training").click()
    page.locator(".run path.held").wait_for()
    yield "training", page.locator(".shelves").screenshot()
    phone = open_page(browser, address, viewport={"width": 390, "height": 844})
    phone.goto(page.url)
    phone.locator("#view-b .tune-score > svg").wait_for()
    phone.locator("#stage").evaluate("(stage) => stage.scrollIntoView()")
    yield "phone", phone.screenshot()


def take_parts_screenshot(folder: Path, band: Path, parts: str) -> None:
    """Take the screenshot of a tune of several parts: some are locked, one is drawn again."""
    viewport = {"width": 1280, "height": 860}
    path = folder / "playground-parts.png"
    with run_browser() as browser, open_band(browser, band, parts, 16, viewport=viewport) as page:
        last = parts.count(",")
        page.locator(f".part-row[data-part='{last}'] [data-action=lock]").click()
        page.locator(".part-row[data-part='1'] [data-bar='5']").click()
        page.locator(".part-row[data-part='1'] [data-bar='8']").click(modifiers=["Shift"])
        press_button(page, ".part-row[data-part='1'] [data-action=draw]", " again: ")
        path.write_bytes(quantise_png(page.screenshot()))
    print(path)


def set_options(page: Any, texts: dict[str, str], choices: dict[str, str]) -> None:
    """Set options before the first tune."""
    page.locator("#more-knobs summary").click()
    for name, value in texts.items():
        page.locator(f"#knob-{name}").fill(value)
    for name, value in choices.items():
        page.locator(f"#knob-{name}").select_option(value)
    page.locator("#more-knobs summary").click()


def press_button(page: Any, button: str, message: str) -> None:
    """Press a button and wait for its status message."""
    page.locator(button).click()
    wait_for_message(page, message)


def wait_for_message(page: Any, message: str) -> None:
    """Wait until the status line contains a message."""
    page.locator("#status").filter(has_text=message).wait_for()
    page.mouse.move(0, 0)


def quantise_png(data: bytes) -> bytes:
    """Reduce the colours of a PNG, to save bytes."""
    from PIL import Image

    buffer = BytesIO()
    Image.open(BytesIO(data)).convert("RGB").quantize(PALETTE_SIZE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def main() -> None:
    """Measure, or take screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="two small tunes")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="take screenshots")
    parser.add_argument("--band", type=Path, metavar="FOLDER", help="model of several parts")
    parser.add_argument("--parts", default=BAND_PARTS, help=f"its line-up ({BAND_PARTS})")
    arguments = parser.parse_args()
    size = TOY if arguments.toy else FULL
    if arguments.band and arguments.screenshots:
        take_parts_screenshot(arguments.screenshots, arguments.band, arguments.parts)
    elif arguments.screenshots:
        take_screenshots(arguments.screenshots)
    elif arguments.band:
        measure_parts(arguments.band, arguments.parts, size)
    else:
        measure(size)


if __name__ == "__main__":
    main()
