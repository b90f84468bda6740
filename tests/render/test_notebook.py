"""A tune in a notebook: one line as text, score and player as HTML, and nothing that escapes."""

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
from tests.browser import chromium, opened, until
from tests.render.test_html_page import HOSTILE

CELL = """<!doctype html><html lang="en"><title>A notebook</title>
<script>window.reached = 0;</script>
<div class="output">{}</div></html>"""


@cache
def tune() -> Tune:
    return load("folk").sample(seed=7)


class Tags(HTMLParser):
    """The tags of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_the_version_is_the_package_s() -> None:
    assert musicgen.__version__ == get_package_version("musicgen")
    assert "__version__" in musicgen.__all__


def test_a_tune_and_a_model_are_one_line() -> None:
    made = tune()
    what = f"{made.score.title}; {made.score.meter}, 32 bars"
    assert repr(made) == f"<Tune {what}; folk 2, seed 7, number 1>"
    hostile = replace(made, score=replace(made.score, title=f"{HOSTILE[4]}\n" * 300))
    assert repr(hostile).isprintable()
    assert len(repr(hostile)) < 700
    named = replace(made.recipe.model, name="\x1b]0;evil\x07\n" * 300)
    renamed = replace(made, recipe=replace(made.recipe, model=named))
    assert repr(renamed).isprintable()
    assert len(repr(renamed)) < 700
    assert "\x1b" not in renamed._repr_html_()
    assert repr(replace(made, score=Score(), text="X:1\nT:x\n")).startswith("<Tune 8 characters; ")
    assert repr(made.model).isprintable()
    assert repr(made.model).startswith("<Model folk 2 (")
    assert len(repr(made.model)) < 200


@pytest.mark.parametrize("title", HOSTILE)
def test_a_title_stays_inside_of_the_frame(title: str) -> None:
    hostile = replace(tune(), score=replace(tune().score, title=title))
    ((tag, attributes),) = Tags(hostile._repr_html_()).found
    assert tag == "iframe"
    assert set(attributes) == {"title", "srcdoc", "sandbox", "style"}
    assert attributes["sandbox"] == "allow-scripts allow-downloads"
    assert str(attributes["srcdoc"]).lower().startswith("<!doctype html>")


def test_a_text_is_shown_as_it_is() -> None:
    text = replace(tune(), score=Score(), text="<script>alert(1)</script>\nA & B\x1b[31m")
    assert text._repr_html_() == (
        "<pre>&lt;script&gt;alert(1)&lt;/script&gt;\nA &amp; B\\x1b[31m</pre>"
    )


def test_a_notebook_shows_the_score_and_plays_it(browser: Browser, tmp_path: Path) -> None:
    cell = tmp_path / "cell.html"
    cell.write_text(CELL.format(tune()._repr_html_()), encoding="utf-8")
    with opened(browser, cell) as page:
        frame = page.frame_locator("iframe")
        assert frame.locator(".tune-score .note").count() > 50
        assert frame.get_by_text("Receipt").count() == 1
        inside = page.frames[1]
        frame.get_by_role("button", name="Play").first.click()
        inside.wait_for_selector(".note.sounding", state="attached")
        reach = "() => { try { return parent.reached } catch { return 'another origin' } }"
        assert inside.evaluate(reach) == "another origin"


def test_a_tune_without_bars_is_heard(browser: Browser, tmp_path: Path) -> None:
    model = Model(tune().model.checkpoint, find_codec("performance"))
    notes = tuple(Note(250 * number, 60 + number, 200) for number in range(4))
    live = Tune(Score(notes, title=HOSTILE[0]), tune().recipe, model)
    cell = tmp_path / "cell.html"
    cell.write_text(CELL.format(live._repr_html_()), encoding="utf-8")
    with opened(browser, cell) as page:
        assert page.locator("img").count() == 0
        until(page, "document.querySelector('audio').readyState >= 1")
        assert 0.5 < page.evaluate("document.querySelector('audio').duration") < 20
