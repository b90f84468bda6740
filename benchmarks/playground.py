"""How soon a tune stands on the screen, and the pictures of docs/playground.md.

    python benchmarks/playground.py                           50 tunes of 32 bars; minutes
    python benchmarks/playground.py --screenshots docs/pictures
    python benchmarks/playground.py --toy                     two small tunes, seconds

What is timed: from the press of New tune to the frame in which the score is drawn, in headless
Chromium (Debian's package), with `musicgen serve` beside it on the same machine. Beside it the same
without a browser: from the request to the last byte of what a page shows. Wanted: a median under a
second on two cores.
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

LIMIT = 1.0  # seconds
WAIT = 60_000  # milliseconds
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FOLK = Path(__file__).parents[1] / "checkpoints" / "folk"
COLOURS = 128  # of a picture
PRESS = """() => new Promise((resolve) => {
  const view = document.getElementById("view-b");
  const start = performance.now();
  const seen = new MutationObserver(() => {
    if (!view.querySelector(".tune-score > svg")) return;
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
  });
  seen.observe(view, { childList: true, subtree: true });
  document.getElementById("generate").click();
})"""


@dataclass(frozen=True)
class Shape:
    """How much is asked for."""

    bars: int
    times: int


FULL, TOY = Shape(bars=32, times=50), Shape(bars=8, times=2)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run `musicgen serve` in a folder; yield its address."""
    command = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        try:
            assert found is not None, "musicgen serve did not start"
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """Run a headless Chromium."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    flags = ["--autoplay-policy=no-user-gesture-required", "--force-color-profile=srgb", *root]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=WAIT)
        yield browser
        browser.close()


def opened(browser: Any, address: str, **options: Any) -> Any:
    """Open the playground and wait until it is ready."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#at-once").uncheck()
    return page


# How soon


def asked(client: httpx.Client, bars: int) -> float:
    """Return the seconds from asking for a tune to having all that is shown of it."""
    start = time.perf_counter()
    job = client.post("/api/jobs", json={"do": "sample", "bars": bars}).json()["id"]
    with client.stream("GET", f"/api/jobs/{job}/events") as events:
        last = [line for line in events.iter_lines() if line.startswith("data:")][-1]
    found = re.search(r'"tune": ?"(\w+)"', last)
    assert found is not None, last
    client.get(f"/api/tunes/{found[1]}").raise_for_status()
    return time.perf_counter() - start


def shown(page: Any, bars: int) -> Callable[[], float]:
    """Return what presses New tune, and returns the seconds until its score is drawn."""
    page.locator("#knob-bars").fill(str(bars))

    def press() -> float:
        page.locator("#view-b").evaluate("(view) => view.replaceChildren()")
        return float(page.evaluate(PRESS)) / 1000

    return press


def told(name: str, seconds: Sequence[float]) -> float:
    """Print a median and the 95th percentile; return the median."""
    median = statistics.median(seconds)
    late = sorted(seconds)[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    print(f"{name}: median {median:.2f} s, 95th percentile {late:.2f} s, of {len(seconds)}")
    return median


def measure(shape: Shape) -> None:
    """Measure both, in turn, and print them."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as address:
        client = httpx.Client(base_url=address, timeout=WAIT / 1000)
        asked(client, shape.bars)  # the model is warm from here on
        print(f"folk, {shape.bars} bars, {os.cpu_count()} cores")
        if CHROMIUM is None:
            told("without a browser", [asked(client, shape.bars) for _ in range(shape.times)])
            print("chromium is not installed (Debian's package chromium): the rest is left out")
            return
        with browsing() as browser:
            press = shown(opened(browser, address), shape.bars)
            press()
            pairs = [(asked(client, shape.bars), press()) for _ in range(shape.times)]
        bare, whole = zip(*pairs, strict=True)
        ratio = 1 / told("without a browser", bare)
        median = told("New tune to score on the screen", whole)
        verdict = "within" if median < LIMIT else "OVER"
        print(f"{ratio * median:.2f} times as long with the browser; {verdict} {LIMIT:.0f} s")


# Pictures


def paint(folder: Path) -> None:
    """Take the pictures of the how-to page, always of the same tunes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(FOLK, Path(place) / "checkpoints" / "mine")
        with serving(Path(place)) as address, browsing() as browser:
            for name, data in pictures(browser, address):
                (folder / f"playground-{name}.png").write_bytes(smaller(data))
                print(f"{folder / f'playground-{name}.png'}")


def pictures(browser: Any, address: str) -> Iterator[tuple[str, bytes]]:
    """Yield each step of the how-to page as PNG."""
    page = opened(browser, address, viewport={"width": 1280, "height": 860})
    wish(page, {"bars": "32", "form": "AABB", "seed": "7"}, {"rhythm": "jig", "key": "D major"})
    press(page, "#generate", "New tune")
    yield "first", page.screenshot()
    page.locator("#copies-on").check()
    yield "receipt", page.screenshot(full_page=True)
    page.locator("#copies-on").uncheck()
    page.locator("#knob-temperature").focus()
    page.keyboard.press("ArrowRight")
    until(page, "changed")
    yield "knob", page.screenshot()
    page.locator("#bars .cell").first.click()
    page.locator("#bars .cell").nth(7).click(modifiers=["Shift"])
    press(page, "#redraw", "Regenerated")
    yield "locked", page.screenshot()
    press(page, "#compare", "A and B differ")
    yield "compared", page.screenshot()
    page.locator("#compare").click()
    press(page, "#keep", "Saved")
    page.locator("#to-training").click()
    page.locator(".run path.held").wait_for()
    yield "training", page.locator(".shelves").screenshot()
    phone = opened(browser, address, viewport={"width": 390, "height": 844})
    phone.goto(page.url)
    phone.locator("#view-b .tune-score > svg").wait_for()
    phone.locator("#stage").evaluate("(stage) => stage.scrollIntoView()")
    yield "phone", phone.screenshot()


def wish(page: Any, written: dict[str, str], chosen: dict[str, str]) -> None:
    """Turn knobs before the first tune."""
    page.locator("#more-knobs summary").click()
    for name, value in written.items():
        page.locator(f"#knob-{name}").fill(value)
    for name, value in chosen.items():
        page.locator(f"#knob-{name}").select_option(value)
    page.locator("#more-knobs summary").click()


def press(page: Any, button: str, words: str) -> None:
    """Press a button and wait until it is told that it is done."""
    page.locator(button).click()
    until(page, words)


def until(page: Any, words: str) -> None:
    """Wait until something is told, and the page is still."""
    page.locator("#status").filter(has_text=words).wait_for()
    page.mouse.move(0, 0)


def smaller(data: bytes) -> bytes:
    """Return a picture with fewer colours, and fewer bytes."""
    from PIL import Image

    found = BytesIO()
    Image.open(BytesIO(data)).convert("RGB").quantize(COLOURS).save(found, "PNG", optimize=True)
    return found.getvalue()


def main() -> None:
    """Measure, or take pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="two small tunes")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="take the pictures")
    given = parser.parse_args()
    if given.screenshots:
        paint(given.screenshots)
    else:
        measure(TOY if given.toy else FULL)


if __name__ == "__main__":
    main()
