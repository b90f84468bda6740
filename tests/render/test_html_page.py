"""The one-file page without a browser: its content and its escaping."""

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
from musicgen.render.tune_json import MAX_COMPARED_BARS, phrases_to_json, score_to_json
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


def parse_abc(text: str = JIG) -> Score:
    return formats.parse(text.encode(), ".abc")[0][0]


@cache
def sample_tune() -> Tune:
    return load("folk").sample(seed=7, bars=32, form="AABB")


@cache
def render_sample_page() -> str:
    tune = sample_tune()
    return render_page(tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise)


class Elements(HTMLParser):
    """The tags of a page, and the texts of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:  # inside a script or a style
            tag, attributes, text = self.texts[-1]
            self.texts[-1] = (tag, attributes, text + data)


def parse_page_data(text: str) -> dict[str, Any]:
    for tag, attributes, data in Elements(text).texts:
        if tag == "script" and attributes.get("id") == "tune":
            return dict(json.loads(data))
    raise AssertionError("the page has no data")


def test_page_contains_all_data() -> None:
    data = parse_page_data(render_sample_page())
    assert data["title"] == sample_tune().score.title
    assert data["bars"] == 32
    assert len(data["surprise"]["notes"]) == len(sample_tune().score.notes)
    assert data["recipe"]["seed"] == 7
    assert base64.b64decode(data["midi"])[:4] == b"MThd"
    assert "surprise" in render_sample_page()
    assert data["receipt"]["words"] == sample_tune().receipt.format_line()  # type: ignore[union-attr]


def test_page_of_32_bars_is_small() -> None:
    assert len(render_sample_page().encode()) < 400_000


def test_page_is_deterministic() -> None:
    tune = sample_tune()
    again = render_page(
        tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise
    )
    assert again == render_sample_page()


def test_page_without_recipe_receipt_and_surprise() -> None:
    data = parse_page_data(render_page(parse_abc()))
    assert data["recipe"] is data["receipt"] is data["surprise"] is None
    assert data["bars"] == 6


@pytest.mark.parametrize("title", HOSTILE)
def test_title_is_escaped(title: str) -> None:
    score = replace(parse_abc(), title=title, rhythm=title, parts=(Part(name=title),))
    plain = Elements(render_page(parse_abc()))
    hostile = Elements(render_page(score))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    assert parse_page_data(render_page(score))["title"] == title


def test_name_in_a_receipt_is_escaped() -> None:
    notes = [(pitch, 24) for pitch in (62, 64, 66, 67, 69, 71, 73, 74, 62, 66)]
    score = line(notes)
    receipt = indexed([line(notes, HOSTILE[0])]).make_receipt(score)
    text = render_page(score, receipt=receipt)
    assert "<img" not in text
    assert parse_page_data(text)["receipt"]["runs"][0]["tune"] == HOSTILE[0]
    assert parse_page_data(text)["receipt"]["runs"][0]["marked"] == list(range(10))


def test_policy_allows_only_the_page_s_scripts_and_styles() -> None:
    elements = Elements(render_sample_page())
    policy = next(a["content"] for _, a in elements.tags if "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    executed = [
        (tag, data) for tag, attributes, data in elements.texts
        if attributes.get("type") != "application/json"
    ]  # fmt: skip
    for tag, data in executed:
        digest = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[f"{tag}-src"]
    assert {tag for tag, _ in executed} == {"script", "style"}
    assert "unsafe" not in policy


def test_page_has_no_external_resources() -> None:
    for tag, attributes in Elements(render_sample_page()).tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
        assert "style" not in attributes  # the policy would block it
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"\w+://[^\s\"'<>)\\]+", render_sample_page())) <= namespaces


def test_modules_are_bundled() -> None:
    [script] = [d for t, a, d in Elements(render_sample_page()).texts if a.get("type") == "module"]
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names))
    imported = re.findall(r'from "\./([\w.]+)"', "".join(map(read_script, SCRIPTS)))
    assert set(imported) < set(SCRIPTS)


def read_script(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def test_recipe_is_read_from_the_page() -> None:
    assert read_page_recipe(render_sample_page().encode()) == sample_tune().recipe.to_text()
    assert read_page_recipe(render_page(parse_abc()).encode()) is None


def test_page_can_be_tweaked(tmp_path: Path) -> None:
    sample_tune().write(tmp_path / "song.html")
    assert [path.name for path in tmp_path.iterdir()] == ["song.html"]
    assert (tmp_path / "song.html").read_text("utf-8") == render_sample_page()
    again = tweak(tmp_path / "song.html")
    assert again.recipe.to_text() == sample_tune().recipe.to_text()
    assert tweak(tmp_path / "song.html", temperature=0.9).recipe.request.options.temperature == 0.9


@given(st.binary(max_size=200))
def test_damaged_recipe_is_refused(content: bytes) -> None:
    data = b'<script type="application/json" id="recipe">' + content + b"</script>"
    try:
        recipe = read_page_recipe(data)
    except InvalidValue as fault:
        assert "damaged" in str(fault)  # noqa: PT017
    else:
        assert recipe is None or isinstance(recipe, str)


def test_marked_notes_are_those_of_the_shared_run() -> None:
    tune = sample_tune()
    assert tune.receipt is not None
    for run_data, run in zip(
        parse_page_data(render_sample_page())["receipt"]["runs"], tune.receipt.runs, strict=True
    ):
        notes = [tune.score.notes[index] for index in run_data["marked"]]
        assert len(notes) == run.notes
        assert (notes[0].onset, notes[-1].onset + notes[-1].duration) == (run.onset, run.end)


def test_surprise_belongs_to_its_note() -> None:
    tune = sample_tune()
    bits = score_to_json(tune.score, surprise=tune.surprise)["surprise"]["notes"]
    bits_of = {(n.onset, n.pitch): n.bits for n in tune.surprise.notes}
    expected = [bits_of[n.onset, n.pitch] for n in tune.score.notes]
    assert bits == pytest.approx(expected, abs=0.006)


def test_notes_are_spelled_in_their_key() -> None:
    score = parse_abc("X:1\nM:4/4\nL:1/4\nK:Eb\nEAB=B|[K:E]EGd2|]\n")
    assert score_to_json(score)["names"] == ["E♭4", "A♭4", "B♭4", "B4", "E4", "G♯4", "D♯5"]


def test_pickup_has_number_0_and_partial_bars_share_a_number() -> None:
    data = score_to_json(parse_abc("X:1\nM:2/4\nL:1/4\nK:C\nC|DE|F:|G|AB|c|]\n"))
    assert data["numbers"] == [0, 1, 2, 3, 3, 4]
    assert data["keep_numbers"] == [1, 1, 2, 3, 3, 4]
    assert score_to_json(parse_abc("X:1\nM:4/4\nL:1/4\nK:C\nCCCC|]\n"))["numbers"] == [1]


@pytest.mark.parametrize(
    ("meter", "beats", "seconds"), [("4/4", 4, 0.5), ("6/8", 4, 0.75), ("3/4", 3, 0.5)]
)
def test_count_in_has_the_beats_of_the_meter(meter: str, beats: int, seconds: float) -> None:
    score = parse_abc(f"X:1\nM:{meter}\nL:1/4\nQ:1/4=120\nK:C\nCCC|]\n")
    assert score_to_json(score)["count_in"] == {"beats": beats, "seconds": seconds}


PHRASES = "CDEF GABc|cBAG FEDC|CEGc cGEC|C8|"
RAISED = "DE^FG AB^cd|d^cBA G^FED|D^FAd dA^FD|D8|"


def test_phrases_name_the_earlier_phrase_that_they_return() -> None:
    body = f"G|{PHRASES}{PHRASES}{PHRASES.replace('C8', 'E8')}{RAISED}{'GFED C4|' * 4}"
    phrases = score_to_json(parse_abc(f"X:1\nM:4/4\nL:1/8\nK:C\n{body}\n"))["phrases"]
    assert [phrase["words"] for phrase in phrases] == [
        "bars 1-4 are new",
        "bars 5-8 return bars 1-4 (exact)",
        "bars 9-12 return bars 1-4 (varied: 75% alike)",
        "bars 13-16 return bars 1-4 (transposed up by 2 semitones)",
        "bars 17-20 are new",
    ]
    assert phrases[2] == {
        "measures": [9, 12], "bars": [9, 12], "source": 0, "relation": "varied", "likeness": 0.75,
        "semitones": 0, "words": phrases[2]["words"],
    }  # fmt: skip
    assert phrases[0]["source"] is phrases[0]["relation"] is phrases[0]["likeness"] is None


def test_no_phrases_of_long_or_unwritten_music() -> None:
    bars = [(60, 96)] * (MAX_COMPARED_BARS + 1)
    assert phrases_to_json(line(bars)) == []
    assert len(phrases_to_json(line(bars[1:]))) == MAX_COMPARED_BARS // 4
    assert score_to_json(line(bars[:16]), has_bars=False)["phrases"] == []
