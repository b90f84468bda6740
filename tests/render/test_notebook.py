"""A tune in a notebook: one line of text, and HTML that stays in its frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import musicgen
from musicgen.checkpoint import get_package_version
from musicgen.music.score import Note, Score
from musicgen.tokens.registry import find_codec
from musicgen.trained_model import Model, load
from musicgen.tune import Tune
from tests.browser import launch_chromium, open_page, wait_until
from tests.render.test_html_page import HOSTILE

CELL = """<!doctype html><html lang="en"><title>A notebook</title>
<script>window.reached = 0;</script>
<div class="output">{}</div></html>"""


@cache
def sample_tune() -> Tune:
    return load("folk").sample(seed=7)


class Tags(HTMLParser):
    """The tags of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as chromium:
        yield chromium


def test_version_is_that_of_the_package() -> None:
    assert musicgen.__version__ == get_package_version("musicgen")
    assert "__version__" in musicgen.__all__


def test_repr_is_one_line() -> None:
    tune = sample_tune()
    summary = f"{tune.score.title}; {tune.score.meter}, 32 bars"
    assert repr(tune) == f"<Tune {summary}; folk 3, seed 7, number 1>"
    hostile = replace(tune, score=replace(tune.score, title=f"{HOSTILE[4]}\n" * 300))
    assert repr(hostile).isprintable()
    assert len(repr(hostile)) < 700
    hostile_name = replace(tune.recipe.model, name="\x1b]0;evil\x07\n" * 300)
    renamed = replace(tune, recipe=replace(tune.recipe, model=hostile_name))
    assert repr(renamed).isprintable()
    assert len(repr(renamed)) < 700
    assert "\x1b" not in renamed._repr_html_()
    assert repr(replace(tune, score=Score(), text="X:1\nT:x\n")).startswith("<Tune 8 characters; ")
    assert repr(tune.model).isprintable()
    assert repr(tune.model).startswith("<Model folk 3 (")
    assert len(repr(tune.model)) < 200


@pytest.mark.parametrize("title", HOSTILE)
def test_title_stays_inside_the_frame(title: str) -> None:
    hostile = replace(sample_tune(), score=replace(sample_tune().score, title=title))
    ((tag, attributes),) = Tags(hostile._repr_html_()).tags
    assert tag == "iframe"
    assert set(attributes) == {"title", "srcdoc", "sandbox", "style"}
    assert attributes["sandbox"] == "allow-scripts allow-downloads"
    assert str(attributes["srcdoc"]).lower().startswith("<!doctype html>")


def test_text_is_escaped() -> None:
    text = replace(sample_tune(), score=Score(), text="<script>alert(1)</script>\nA & B\x1b[31m")
    assert text._repr_html_() == (
        "<pre>&lt;script&gt;alert(1)&lt;/script&gt;\nA &amp; B\\x1b[31m</pre>"
    )


def test_notebook_shows_and_plays_the_score(browser: Browser, tmp_path: Path) -> None:
    cell = tmp_path / "cell.html"
    cell.write_text(CELL.format(sample_tune()._repr_html_()), encoding="utf-8")
    with open_page(browser, cell) as page:
        frame = page.frame_locator("iframe")
        assert frame.locator(".tune-score .note").count() > 50
        assert frame.get_by_text("Receipt").count() == 1
        inside = page.frames[1]
        frame.get_by_role("button", name="Play").first.click()
        inside.wait_for_selector(".note.sounding", state="attached")
        reach = "() => { try { return parent.reached } catch { return 'another origin' } }"
        assert inside.evaluate(reach) == "another origin"


def test_tune_without_bars_is_played(browser: Browser, tmp_path: Path) -> None:
    model = Model(sample_tune().model.checkpoint, find_codec("performance"))
    notes = tuple(Note(250 * number, 60 + number, 200) for number in range(4))
    live = Tune(Score(notes, title=HOSTILE[0]), sample_tune().recipe, model)
    cell = tmp_path / "cell.html"
    cell.write_text(CELL.format(live._repr_html_()), encoding="utf-8")
    with open_page(browser, cell) as page:
        assert page.locator("img").count() == 0
        wait_until(page, "document.querySelector('audio').readyState >= 1")
        assert 0.5 < page.evaluate("document.querySelector('audio').duration") < 20
