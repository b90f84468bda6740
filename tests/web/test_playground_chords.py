"""The chords of new tunes in the playground, in a browser, with a real server and model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import find_serious_violations, open_page
from tests.serve_process import ServeProcess, serve_folder

CHORDS: Final = "D | G | A7 | D"


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """Serve the included models."""
    with serve_folder(tmp_path_factory.mktemp("chords")) as process:
        yield process


@pytest.fixture
def page(browser: Browser, serve: ServeProcess) -> Iterator[Page]:
    """Open the playground with the model of lead sheets; console errors fail the test."""
    with open_page(browser, serve.address, viewport={"width": 1280, "height": 900}) as opened:
        opened.locator("#at-once").uncheck()
        expect(opened.locator("#chords")).to_be_hidden()  # folk writes no chords
        opened.locator("#model").select_option("lead")
        opened.locator("#chords summary").click()
        yield opened


def test_new_tunes_have_the_chords_of_the_field(page: Page) -> None:
    field = page.locator("#chords-text")
    field.fill(CHORDS)
    expect(page.locator("#chords-facts")).to_have_text("4 bars")
    assert find_serious_violations(page) == []
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("New tune to chords")
    expect(page.locator("#view-b")).to_contain_text("A7")
    page.locator("#chords-clear").click()
    expect(field).to_have_value("")
    page.locator("#chords-take").click()
    expect(field).to_have_value(" | ".join([CHORDS] * 4))  # repeated to sixteen bars
    expect(page.locator("#chords-facts")).to_have_text("16 bars")


def test_chords_that_cannot_be_read_are_named_in_the_alert(page: Page) -> None:
    page.locator("#chords-text").fill("D | Hx")
    page.locator("#generate").click()
    expect(page.locator("#alert")).to_contain_text("'Hx' in bar 2 is not a chord")
