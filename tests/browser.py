"""Headless Chromium for tests of pages: no network, and console errors fail the test."""

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
CHROMIUM_ARGUMENTS: Final = (
    "--autoplay-policy=no-user-gesture-required",
    "--force-color-profile=srgb",
)
TIMEOUT_MS: Final = 20_000  # for every wait
LOCAL_URLS: Final = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:")


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Launch the browser; skip the test if it is not installed, but fail under CI."""
    if CHROMIUM is None:
        reason = "chromium is not installed (Debian package chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    as_root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*CHROMIUM_ARGUMENTS, *as_root], timeout=120_000
        )
        yield browser
        browser.close()


@dataclass
class CheckedPage:
    """A page that records console errors and requests to other hosts."""

    page: Page
    console_errors: list[str] = field(default_factory=list)  # errors and warnings
    external_requests: list[str] = field(default_factory=list)  # URLs

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self._record_message(message.type, message.text))
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        self.page.context.on("request", lambda request: self._record_request(request.url))

    @contextmanager
    def open(self, address: str | Path) -> Iterator[Page]:
        """Open a file or a URL; fail after console errors or requests to other hosts."""
        self.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        yield self.page
        assert self.console_errors == []
        assert self.external_requests == []

    def _record_message(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.console_errors.append(text)

    def _record_request(self, url: str) -> None:
        if not url.startswith(LOCAL_URLS):
            self.external_requests.append(url)


@contextmanager
def new_page(browser: Browser, *, offline: bool = True, **options: Any) -> Iterator[CheckedPage]:
    """Open a new page; options are those of `Browser.new_context`, such as color_scheme."""
    context = browser.new_context(offline=offline, **options)
    context.set_default_timeout(TIMEOUT_MS)
    try:
        yield CheckedPage(context.new_page())
    finally:
        context.close()


@contextmanager
def open_page(browser: Browser, address: str | Path, **options: Any) -> Iterator[Page]:
    """Open a file offline, or a local URL, in a page of its own."""
    offline = isinstance(address, Path)
    with (
        new_page(browser, offline=offline, **options) as checked_page,
        checked_page.open(address) as page,
    ):
        yield page


def wait_until(page: Page, condition: str, given: Any = None) -> None:
    """Wait until a JavaScript expression, which may use `given`, is true.

    Playwright's wait_for_function evaluates text later, which a strict policy forbids.
    """
    page.evaluate(
        f"async (given) => {{ const last = performance.now() + {TIMEOUT_MS};"
        f" while (!({condition})) {{"
        " if (performance.now() > last) throw new Error('timeout');"
        " await new Promise((done) => setTimeout(done, 10)); } }",
        given,
    )


def find_serious_violations(page: Page, *rules: str) -> list[str]:
    """Return the accessibility violations that axe calls serious or critical.

    The context of the page must have bypass_csp. rules: the axe rules to run, default all.
    """
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
