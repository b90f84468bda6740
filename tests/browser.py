"""A headless Chromium for the tests of pages: without a network, and nothing it says is missed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS: Final = ("--autoplay-policy=no-user-gesture-required", "--force-color-profile=srgb")
WAIT: Final = 20_000  # milliseconds, at most, for what is waited for
INSIDE: Final = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; where there is none the test is skipped, but not where all is checked."""
    if CHROMIUM is None:
        told = "chromium is not installed (Debian's package chromium): no page is looked at"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    as_root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, *as_root], timeout=120_000
        )
        yield browser
        browser.close()


@dataclass
class Reader:
    """A page, and what it said and asked for."""

    page: Page
    faults: list[str] = field(default_factory=list)  # errors and warnings of the console
    left: list[str] = field(default_factory=list)  # requests to elsewhere

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self._told(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.context.on("request", lambda request: self._asked(request.url))

    @contextmanager
    def reads(self, where: str | Path) -> Iterator[Page]:
        """Open a file or an address; fail for what the page complains of or asks for elsewhere."""
        self.page.goto(where.resolve().as_uri() if isinstance(where, Path) else where)
        yield self.page
        assert self.faults == []
        assert self.left == []

    def _told(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith(INSIDE):
            self.left.append(url)


@contextmanager
def reader(browser: Browser, *, offline: bool = True, **options: Any) -> Iterator[Reader]:
    """Sit down at the browser; options: of `Browser.new_context`, such as color_scheme."""
    context = browser.new_context(offline=offline, **options)
    context.set_default_timeout(WAIT)
    try:
        yield Reader(context.new_page())
    finally:
        context.close()


@contextmanager
def opened(browser: Browser, where: str | Path, **options: Any) -> Iterator[Page]:
    """Open a file without a network, or an address of this machine, and close it after."""
    offline = isinstance(where, Path)
    with reader(browser, offline=offline, **options) as one, one.reads(where) as page:
        yield page


def until(page: Page, condition: str, given: Any = None) -> None:
    """Wait until an expression of JavaScript holds, asked at each frame; `given` is known to it.

    Playwright's own way evaluates text later on, which a strict policy does not allow.
    """
    page.evaluate(
        f"async (given) => {{ const last = performance.now() + {WAIT}; while (!({condition})) {{"
        " if (performance.now() > last) throw new Error('waited too long');"
        " await new Promise((done) => setTimeout(done, 10)); } }",
        given,
    )


def serious(page: Page, *rules: str) -> list[str]:
    """Return what axe calls serious or critical; the page's context is one with bypass_csp.

    rules: those that are asked, where not all are.
    """
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
