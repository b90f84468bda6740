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

from musicgen.errors import InvalidValue, escape_unprintable
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.score import Score
from musicgen.render.tune_json import engrave_untitled, score_to_json
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
NARROW_WIDTH: Final = 420  # pixels of a line of the score on a phone
UNTITLED: Final = "Untitled"
_DOWNLOADS: Final = {"midi": ("mid", "MIDI"), "abc": ("abc", "ABC")}  # keys of what is shown
_PRINT_NOTICE: Final = "<p>The page prints as sheet music.</p>"
_SEPARATOR: Final = " · "
_IMPORT: Final = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ", re.MULTILINE)
_STYLE: Final = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)
_RECIPE: Final = re.compile(rb'<script type="application/json" id="recipe">([^<]*)</script>')


def render_page(
    score: Score,
    *,
    recipe: Recipe | None = None,
    receipt: Receipt | None = None,
    surprise: Surprise | None = None,
) -> str:
    """Return the page of a tune as HTML; what is not given is not shown."""
    shown = score_to_json(score, recipe=recipe, receipt=receipt, surprise=surprise)
    svg = shown.pop("svg") or ""
    shown["narrow"] = engrave_untitled(score, width=NARROW_WIDTH) if svg else None
    style, script = _join_files(STYLES), _bundle_script()
    return Template(_read_static("page.html")).substitute(
        policy=_build_policy([style, *_STYLE.findall(svg)], script),
        style=style,
        script=script,
        svg=svg or f'<p class="unwritten">{escape(shown["unwritten"])}</p>',
        title=escape(_title(score)),
        name=escape(_make_file_name(score)),
        facts=_format_facts(shown),
        sections="\n".join(_build_sections(shown)),
        downloads=" ".join(_build_download_buttons(shown)),
        prints=_PRINT_NOTICE if svg else "",
        recipe=_to_script_json(recipe.to_text() if recipe else None),
        data=_to_script_json(shown),
    )


def read_page_recipe(data: bytes) -> str | None:
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


def _read_static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _join_files(names: tuple[str, ...]) -> str:
    return "\n" + "".join(_read_static(name) for name in names)


def _bundle_script() -> str:
    """Join the modules to one, in the order in which they use one another."""
    return _EXPORT.sub("", _IMPORT.sub("", _join_files(SCRIPTS)))


def _build_policy(styles: list[str], script: str) -> str:
    """Let in the page's own styles and script, and nothing else."""
    hashes = " ".join(map(_hash, styles))
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {hashes}; font-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _to_script_json(value: Any) -> str:
    """Write JSON that no text in it can end, or open a comment in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _title(score: Score) -> str:
    return escape_unprintable(score.title).strip() or UNTITLED


def _make_file_name(score: Score) -> str:
    """Return a plain name for what is downloaded: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", _title(score).lower()).strip("-")[:60] or "tune"


def _build_download_buttons(tune_data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a button for each file that the page has inside."""
    for key, (suffix, name) in _DOWNLOADS.items():
        if tune_data[key]:
            yield f'<button type="button" data-download="{suffix}">{name}</button>'


def _format_facts(tune_data: Mapping[str, Any]) -> str:
    """Say what a tune is; how long it is does not stand on paper."""
    minutes, seconds = divmod(int(tune_data["seconds"] + 0.5), 60)
    bars = f"{tune_data['bars']} bar{'' if tune_data['bars'] == 1 else 's'} as heard"
    kind = [
        escape_unprintable(tune_data["rhythm"]),
        _format_key(tune_data["key"]),
        tune_data["meter"],
    ]
    told = escape(_SEPARATOR.join(filter(None, kind)))
    long = [
        *([told] if told else []),
        *([bars] if tune_data["bars"] else []),
        f"{minutes}:{seconds:02d}",
    ]
    return told + f'<span class="length">{_SEPARATOR.join(long).removeprefix(told)}</span>'


def _format_key(key: str) -> str:
    """Write a key with the signs of music: F♯ minor, B♭ major."""
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
    each = (
        f"<dt>{escape(name)}</dt><dd>{escape(escape_unprintable(told))}</dd>" for name, told in rows
    )
    return f"<dl>{''.join(each)}</dl>"


def _list_recipe_entries(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
