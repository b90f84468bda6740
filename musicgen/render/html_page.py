"""One self-contained page of a tune: its score, sound, recipe and receipt, in one file of HTML.

It opens from the disk without a network: all it needs stands in it, its policy lets nothing else
in, and only its own script and style, named by their hashes, may run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from musicgen.errors import InvalidValue, printable
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.score import Score
from musicgen.render.tune_json import drawn, view
from musicgen.sampling.recipe import MOST_BYTES, Recipe
from musicgen.sampling.surprisal import Surprise
from musicgen.similarity.overlap_report import Receipt

STATIC: Final = Path(__file__).parent / "static"
SCRIPTS: Final = (  # each after those that it imports
    "dom.js",
    "format.js",
    "instrument.js",
    "player.js",
    "tune_view.js",
    "player_toolbar.js",
    "page.js",
)
STYLES: Final = ("tune_view.css", "player_toolbar.css", "page.css")
NARROW: Final = 420  # pixels of a line of the score on a phone
UNTITLED: Final = "Untitled"
_DOWNLOADS: Final = {"midi": ("mid", "MIDI"), "abc": ("abc", "ABC")}  # keys of what is shown
_PRINTS: Final = "<p>The page prints as sheet music.</p>"
_JOINT: Final = " · "
_IMPORT: Final = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)
_STYLE: Final = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)
_RECIPE: Final = re.compile(rb'<script type="application/json" id="recipe">([^<]*)</script>')


def page(
    score: Score,
    *,
    recipe: Recipe | None = None,
    receipt: Receipt | None = None,
    surprise: Surprise | None = None,
) -> str:
    """Return the page of a tune as HTML; what is not given is not shown."""
    shown = view(score, recipe=recipe, receipt=receipt, surprise=surprise)
    svg = shown.pop("svg") or ""
    shown["narrow"] = drawn(score, width=NARROW) if svg else None
    style, script = _joined(STYLES), _script()
    return Template(_text("page.html")).substitute(
        policy=_policy([style, *_STYLE.findall(svg)], script),
        style=style,
        script=script,
        svg=svg or f'<p class="unwritten">{escape(shown["unwritten"])}</p>',
        title=escape(_title(score)),
        name=escape(_file_name(score)),
        facts=_facts(shown),
        sections="\n".join(_sections(shown)),
        downloads=" ".join(_downloads(shown)),
        prints=_PRINTS if svg else "",
        recipe=_as_data(recipe.to_text() if recipe else None),
        data=_as_data(shown),
    )


def recipe_in(data: bytes) -> str | None:
    """Return the recipe in a page's bytes; None without one. Raises InvalidValue for a bad one."""
    found = _RECIPE.search(data)
    if found is None or found[1] == b"null":
        return None
    try:
        text = json.loads(found[1][: 2 * MOST_BYTES])
    except ValueError as fault:
        raise InvalidValue("its recipe cannot be read; the page was damaged") from fault
    if not isinstance(text, str):
        raise InvalidValue("its recipe cannot be read; the page was damaged")
    return text


def _text(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _joined(names: tuple[str, ...]) -> str:
    return "\n" + "".join(_text(name) for name in names)


def _script() -> str:
    """Join the modules to one, in the order in which they use one another."""
    return _EXPORT.sub("", _IMPORT.sub("", _joined(SCRIPTS)))


def _policy(styles: list[str], script: str) -> str:
    """Let in the page's own styles and script, and nothing else."""
    hashes = " ".join(map(_hash, styles))
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {hashes}; font-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _as_data(value: Any) -> str:
    """Write JSON that no text in it can end, or open a comment in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _title(score: Score) -> str:
    return printable(score.title).strip() or UNTITLED


def _file_name(score: Score) -> str:
    """Return a plain name for what is downloaded: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", _title(score).lower()).strip("-")[:60] or "tune"


def _downloads(shown: Mapping[str, Any]) -> Iterator[str]:
    """Yield a button for each file that the page has inside."""
    for key, (suffix, name) in _DOWNLOADS.items():
        if shown[key]:
            yield f'<button type="button" data-download="{suffix}">{name}</button>'


def _facts(shown: Mapping[str, Any]) -> str:
    """Say what a tune is; how long it is does not stand on paper."""
    minutes, seconds = divmod(int(shown["seconds"] + 0.5), 60)
    bars = f"{shown['bars']} bar{'' if shown['bars'] == 1 else 's'} as heard"
    kind = [printable(shown["rhythm"]), _with_signs(shown["key"]), shown["meter"]]
    told = escape(_JOINT.join(filter(None, kind)))
    long = [
        *([told] if told else []),
        *([bars] if shown["bars"] else []),
        f"{minutes}:{seconds:02d}",
    ]
    return told + f'<span class="length">{_JOINT.join(long).removeprefix(told)}</span>'


def _with_signs(key: str) -> str:
    """Write a key with the signs of music: F♯ minor, B♭ major."""
    tonic, _, mode = key.partition(" ")
    return f"{tonic[:1]}{tonic[1:].replace('#', '♯').replace('b', '♭')} {mode}".strip()


def _sections(shown: Mapping[str, Any]) -> Iterator[str]:
    if shown["receipt"]:
        words = shown["receipt"]["words"]
        yield _section("receipt", "Receipt", f"<p>{escape(_sentence(words))}</p>")
    if shown["recipe"]:
        yield _section("made", "Recipe", _listed(_made(shown["recipe"])))


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}\n</section>'


def _listed(rows: Iterator[tuple[str, str]]) -> str:
    each = (f"<dt>{escape(name)}</dt><dd>{escape(printable(told))}</dd>" for name, told in rows)
    return f"<dl>{''.join(each)}</dl>"


def _made(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what made a tune: the model, the seed, and each option."""
    model = recipe["model"]
    yield "model", f"{model['name']} {model['version']} ({model['fingerprint']})"
    yield "seed", f"{recipe['seed']}, tune {recipe['number'] + 1}"
    for name, value in recipe["wishes"].items():
        told = PROGRAMS[value] if name == "program" and isinstance(value, int) else str(value)
        yield name.replace("_", " "), told
    if "primer" in recipe:
        yield "primer", "the notes that it was given"
    if "keep" in recipe:
        yield "kept", "some bars of the tune before it"
    yield "engine", recipe.get("engine", "numpy")
    yield "musicgen", recipe["musicgen"]
