"""Render a tune as one self-contained HTML page with score, player, recipe and receipt.

The page needs no network: it contains all its resources, and its content security policy allows
only its own script and styles, by their hashes. The last functions embed a tune in a notebook, in
a sandboxed frame whose origin is its own, so that its script cannot reach the notebook.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from musicgen.errors import InvalidValue, escape_unprintable
from musicgen.music.accompaniment import split_accompaniment
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.score import Score
from musicgen.render.synth import render_wav
from musicgen.render.tune_json import engrave_untitled, score_to_json
from musicgen.sampling.recipe import MOST_BYTES, Recipe
from musicgen.sampling.surprisal import Surprise
from musicgen.similarity.overlap_report import Receipt

STATIC: Final = Path(__file__).parent / "static"
SCRIPTS: Final = (  # in the order of their imports
    "dom.js",
    "format.js",
    "instrument.js",
    "player.js",
    "phrase_arcs.js",
    "tune_view.js",
    "player_toolbar.js",
    "page.js",
)
STYLES: Final = ("tune_view.css", "player_toolbar.css", "page.css")
NARROW_WIDTH: Final = 420  # pixels of a system on a phone
UNTITLED: Final = "Untitled"
_DOWNLOADS: Final = {"midi": ("mid", "MIDI"), "abc": ("abc", "ABC")}  # JSON key -> suffix, label
_PRINT_NOTICE: Final = "<p>The page prints as sheet music.</p>"
_SEPARATOR: Final = " · "
_IMPORT: Final = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)
_STYLE: Final = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)
FRAME_HEIGHT: Final = 640  # pixels
SANDBOX: Final = "allow-scripts allow-downloads"
_NOT_IN_FILE_NAME: Final = re.compile(r"[^a-z0-9]+")
_RECIPE: Final = re.compile(rb'<script type="application/json" id="recipe">([^<]*)</script>')


def render_page(
    score: Score,
    *,
    recipe: Recipe | None = None,
    receipt: Receipt | None = None,
    surprise: Surprise | None = None,
) -> str:
    """Return the page of a tune as HTML; the page omits what is None.

    The accompaniment of the score is played and not written.
    """
    tune_data = score_to_json(score, recipe=recipe, receipt=receipt, surprise=surprise)
    score, _ = split_accompaniment(score)
    svg = tune_data.pop("svg") or ""
    tune_data["narrow"] = engrave_untitled(score, width=NARROW_WIDTH) if svg else None
    style, script = _join_files(STYLES), _bundle_script()
    return Template(_read_static("page.html")).substitute(
        policy=_build_policy([style, *_STYLE.findall(svg)], script),
        style=style,
        script=script,
        svg=svg or f'<p class="unwritten">{escape(tune_data["unwritten"])}</p>',
        title=escape(_title(score)),
        name=escape(make_file_name(_title(score)) or "tune"),
        facts=_format_facts(tune_data),
        sections="\n".join(_build_sections(tune_data)),
        downloads=" ".join(_build_download_buttons(tune_data)),
        prints=_PRINT_NOTICE if svg else "",
        recipe=_to_script_json(recipe.to_text() if recipe else None),
        data=_to_script_json(tune_data),
    )


def read_page_recipe(data: bytes) -> str | None:
    """Return the recipe in the bytes of a page, or None for a page without one.

    Raises:
        InvalidValue: the recipe is damaged.
    """
    match = _RECIPE.search(data)
    if match is None or match[1] == b"null":
        return None
    text = None
    with suppress(ValueError):
        text = json.loads(match[1][: 2 * MOST_BYTES])
    if not isinstance(text, str):
        raise InvalidValue("the recipe in the page is damaged; use another copy of the page")
    return text


def _read_static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _join_files(names: tuple[str, ...]) -> str:
    return "\n" + "".join(_read_static(name) for name in names)


def _bundle_script() -> str:
    """Join the modules into one script, without their import and export statements."""
    return _EXPORT.sub("", _IMPORT.sub("", _join_files(SCRIPTS)))


def _build_policy(styles: list[str], script: str) -> str:
    """Return a content security policy that allows these styles and this script only."""
    hashes = " ".join(map(_hash, styles))
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {hashes}; font-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _to_script_json(value: object) -> str:
    """Return JSON that is safe inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _title(score: Score) -> str:
    return escape_unprintable(score.title).strip() or UNTITLED


def make_file_name(title: str) -> str:
    """Return a name for a download: up to 60 letters, digits and hyphens, or "" without any."""
    return _NOT_IN_FILE_NAME.sub("-", title.lower())[:60].strip("-")


def _build_download_buttons(tune_data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a button for each file that the page contains."""
    for key, (suffix, name) in _DOWNLOADS.items():
        if tune_data[key]:
            yield f'<button type="button" data-download="{suffix}">{name}</button>'


def _format_facts(tune_data: Mapping[str, Any]) -> str:
    """Describe a tune in one line of HTML; its length is hidden in print."""
    minutes, seconds = divmod(int(tune_data["seconds"] + 0.5), 60)
    bars = f"{tune_data['bars']} bar{'' if tune_data['bars'] == 1 else 's'} as heard"
    kind = [
        escape_unprintable(tune_data["rhythm"]),
        _format_key(tune_data["key"]),
        tune_data["meter"],
    ]
    facts = escape(_SEPARATOR.join(filter(None, kind)))
    length = [bars, f"{minutes}:{seconds:02d}"][0 if tune_data["bars"] else 1 :]
    separator = _SEPARATOR if facts else ""
    return f'{facts}<span class="length">{separator}{_SEPARATOR.join(length)}</span>'


def _format_key(key: str) -> str:
    """Format a key with accidentals: F♯ minor, B♭ major."""
    tonic, _, mode = key.partition(" ")
    return f"{tonic[:1]}{tonic[1:].replace('#', '♯').replace('b', '♭')} {mode}".strip()


def _build_sections(tune_data: Mapping[str, Any]) -> Iterator[str]:
    if tune_data["receipt"]:
        words = tune_data["receipt"]["words"]
        yield _build_section("receipt", "Receipt", f"<p>{escape(_to_sentence(words))}</p>")
    if tune_data["recipe"]:
        yield _build_section(
            "made", "Recipe", _build_definition_list(_list_recipe_entries(tune_data["recipe"]))
        )


def _to_sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _build_section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}\n</section>'


def _build_definition_list(rows: Iterator[tuple[str, str]]) -> str:
    items = (
        f"<dt>{escape(name)}</dt><dd>{escape(escape_unprintable(value))}</dd>"
        for name, value in rows
    )
    return f"<dl>{''.join(items)}</dl>"


def _list_recipe_entries(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each entry of a recipe: the model, the seed, and each option."""
    model = recipe["model"]
    yield "model", f"{model['name']} {model['version']} ({model['fingerprint']})"
    yield "seed", f"{recipe['seed']}, tune {recipe['number'] + 1}"
    for name, value in recipe["wishes"].items():
        text = PROGRAMS[value] if name == "program" and isinstance(value, int) else str(value)
        yield name.replace("_", " "), text
    if "primer" in recipe or "live_primer" in recipe:
        yield "primer", "given notes"
    if "keep" in recipe:
        yield "kept", "bars of the previous tune"
    yield "engine", recipe.get("engine", "numpy")
    yield "musicgen", recipe["musicgen"]


def frame_page(title: str, page_html: str) -> str:
    """Return a sandboxed frame of a page, for a notebook."""
    return (
        f'<iframe title="{escape(escape_unprintable(title))}" srcdoc="{escape(page_html)}"'
        f' sandbox="{SANDBOX}" style="width: 100%; height: {FRAME_HEIGHT}px; border: 0"></iframe>'
    )


def embed_sound(summary: str, score: Score) -> str:
    """Return a line of text with an audio player of a score, for a notebook."""
    sound = base64.b64encode(render_wav(score)).decode()
    text = escape(escape_unprintable(summary))
    return f'<p>{text}</p><audio controls src="data:audio/wav;base64,{sound}"></audio>'


def quote_text(text: str) -> str:
    """Return a text in preformatted HTML, with unprintable characters escaped."""
    return f"<pre>{escape(chr(10).join(map(escape_unprintable, text.splitlines())))}</pre>"
