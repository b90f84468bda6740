"""The one-file page without a browser: what stands in it, and what cannot."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen import formats
from musicgen.errors import InvalidValue
from musicgen.music.score import Part, Score
from musicgen.render.html_page import SCRIPTS, STATIC, read_page_recipe, render_page
from musicgen.render.tune_json import score_to_json
from musicgen.trained_model import load
from musicgen.tune import Tune
from musicgen.variants import tweak
from tests.related_tunes import indexed, line

JIG = """X:1
T:A jig
R:jig
M:6/8
L:1/8
Q:3/8=120
K:D
d|:ABA DED|1 FGF E2d:|2 FGF D3||ABA [DF]ED|A3- A3|]
"""
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "</title><script>alert(1)</script>",
    "$policy $data ${title}",
    "\u2028\u2029'\"&amp;]]>\x1b[31m",
)


def abc(text: str = JIG) -> Score:
    return formats.parse(text.encode(), ".abc")[0][0]


@cache
def tune() -> Tune:
    return load("folk").sample(seed=7, bars=32, form="AABB")


@cache
def whole() -> str:
    song = tune()
    return render_page(song.score, recipe=song.recipe, receipt=song.receipt, surprise=song.surprise)


class Elements(HTMLParser):
    """The tags of a page, and the texts of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:  # inside of a script or a style
            tag, attributes, text = self.texts[-1]
            self.texts[-1] = (tag, attributes, text + data)


def data_of(text: str) -> dict[str, Any]:
    for tag, attributes, data in Elements(text).texts:
        if tag == "script" and attributes.get("id") == "tune":
            return dict(json.loads(data))
    raise AssertionError("the page has no data")


def test_a_page_has_all_there_is_to_show() -> None:
    shown = data_of(whole())
    assert shown["title"] == tune().score.title
    assert shown["bars"] == 32
    assert len(shown["surprise"]["notes"]) == len(tune().score.notes)
    assert shown["recipe"]["seed"] == 7
    assert base64.b64decode(shown["midi"])[:4] == b"MThd"
    assert "surprise" in whole()
    assert shown["receipt"]["words"] == tune().receipt.line()  # type: ignore[union-attr]


def test_a_page_of_32_bars_is_small() -> None:
    assert len(whole().encode()) < 400_000


def test_a_page_has_the_same_bytes_each_time() -> None:
    song = tune()
    again = render_page(
        song.score, recipe=song.recipe, receipt=song.receipt, surprise=song.surprise
    )
    assert again == whole()


def test_a_page_without_recipe_receipt_and_surprise_is_whole() -> None:
    shown = data_of(render_page(abc()))
    assert shown["recipe"] is shown["receipt"] is shown["surprise"] is None
    assert shown["bars"] == 6


@pytest.mark.parametrize("title", HOSTILE)
def test_a_title_is_no_markup(title: str) -> None:
    score = replace(abc(), title=title, rhythm=title, parts=(Part(name=title),))
    plain = Elements(render_page(abc()))
    hostile = Elements(render_page(score))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert not any(name.startswith("on") for _, attributes in hostile.found for name in attributes)
    assert data_of(render_page(score))["title"] == title


def test_a_name_in_a_receipt_is_no_markup() -> None:
    notes = [(pitch, 24) for pitch in (62, 64, 66, 67, 69, 71, 73, 74, 62, 66)]
    score = line(notes)
    receipt = indexed([line(notes, HOSTILE[0])]).make_receipt(score)
    text = render_page(score, receipt=receipt)
    assert "<img" not in text
    assert data_of(text)["receipt"]["runs"][0]["tune"] == HOSTILE[0]
    assert data_of(text)["receipt"]["runs"][0]["marked"] == list(range(10))


def test_the_policy_names_each_script_and_style_and_lets_in_nothing_else() -> None:
    elements = Elements(whole())
    policy = next(a["content"] for _, a in elements.found if "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    run = [
        (tag, data) for tag, attributes, data in elements.texts
        if attributes.get("type") != "application/json"
    ]  # fmt: skip
    for tag, data in run:
        digest = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[f"{tag}-src"]
    assert {tag for tag, _ in run} == {"script", "style"}
    assert "unsafe" not in policy


def test_nothing_of_a_page_stands_elsewhere() -> None:
    for tag, attributes in Elements(whole()).found:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
        assert "style" not in attributes  # the policy would not let it in
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"\w+://[^\s\"'<>)\\]+", whole())) <= namespaces


def test_the_modules_are_one_script() -> None:
    [script] = [d for t, a, d in Elements(whole()).texts if a.get("type") == "module"]
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names))
    imported = re.findall(r'from "\./([\w.]+)"', "".join(map(_source, SCRIPTS)))
    assert set(imported) < set(SCRIPTS)


def _source(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def test_a_page_knows_its_recipe() -> None:
    assert read_page_recipe(whole().encode()) == tune().recipe.to_text()
    assert read_page_recipe(render_page(abc()).encode()) is None


def test_a_page_is_tweaked_as_any_file_of_ours(tmp_path: Path) -> None:
    tune().write(tmp_path / "song.html")
    assert [path.name for path in tmp_path.iterdir()] == ["song.html"]
    assert (tmp_path / "song.html").read_text("utf-8") == whole()
    again = tweak(tmp_path / "song.html")
    assert again.recipe.to_text() == tune().recipe.to_text()
    assert tweak(tmp_path / "song.html", temperature=0.9).recipe.request.options.temperature == 0.9


@given(st.binary(max_size=200))
def test_what_is_no_recipe_is_refused_in_one_line(inside: bytes) -> None:
    data = b'<script type="application/json" id="recipe">' + inside + b"</script>"
    try:
        found = read_page_recipe(data)
    except InvalidValue as fault:
        assert "damaged" in str(fault)  # noqa: PT017
    else:
        assert found is None or isinstance(found, str)


def test_the_marks_of_a_copied_run_are_the_notes_that_it_covers() -> None:
    song = tune()
    assert song.receipt is not None
    for told, run in zip(data_of(whole())["receipt"]["runs"], song.receipt.runs, strict=True):
        notes = [song.score.notes[index] for index in told["marked"]]
        assert len(notes) == run.notes
        assert (notes[0].onset, notes[-1].onset + notes[-1].duration) == (run.onset, run.end)


def test_the_surprise_of_a_note_is_its_own() -> None:
    song = tune()
    told = score_to_json(song.score, surprise=song.surprise)["surprise"]["notes"]
    by_place = {(n.onset, n.pitch): n.bits for n in song.surprise.notes}
    expected = [by_place[n.onset, n.pitch] for n in song.score.notes]
    assert told == pytest.approx(expected, abs=0.006)


def test_notes_have_the_names_of_their_key() -> None:
    score = abc("X:1\nM:4/4\nL:1/4\nK:Eb\nEAB=B|[K:E]EGd2|]\n")
    assert score_to_json(score)["names"] == ["E♭4", "A♭4", "B♭4", "B4", "E4", "G♯4", "D♯5"]


def test_a_pickup_is_bar_nought_and_a_later_one_goes_with_the_bar_after_it() -> None:
    shown = score_to_json(abc("X:1\nM:2/4\nL:1/4\nK:C\nC|DE|F:|G|AB|c|]\n"))
    assert shown["numbers"] == [0, 1, 2, 3, 3, 4]
    assert shown["keep_numbers"] == [1, 1, 2, 3, 3, 4]
    assert score_to_json(abc("X:1\nM:4/4\nL:1/4\nK:C\nCCCC|]\n"))["numbers"] == [1]


@pytest.mark.parametrize(
    ("meter", "beats", "seconds"), [("4/4", 4, 0.5), ("6/8", 4, 0.75), ("3/4", 3, 0.5)]
)
def test_the_count_in_has_the_beats_of_the_meter(meter: str, beats: int, seconds: float) -> None:
    score = abc(f"X:1\nM:{meter}\nL:1/4\nQ:1/4=120\nK:C\nCCC|]\n")
    assert score_to_json(score)["count_in"] == {"beats": beats, "seconds": seconds}
