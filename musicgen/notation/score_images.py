"""Images of sheet music: SVG by verovio, and PNG by resvg."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Container, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

from musicgen.errors import InvalidValue
from musicgen.music.score import Score
from musicgen.notation import mei
from musicgen.notation.engraving import Sheet, build_sheet, check_engravable
from musicgen.notation.mei import escape_xml

WIDTH: Final = 840  # pixels; fits four bars of eighths
_UNITS_PER_PIXEL: Final = 2.5  # of verovio, whose default size is for print
_TITLE_CHARACTER_WIDTH: Final = 14  # pixels
_MAX_PAGE_HEIGHT: Final = 60_000  # verovio's limit; further pages are placed below
_WIDTHS: Final = (240, 4000)  # pixels
_A4_SIZE: Final = (2100, 2970)  # tenths of a millimetre
PNG_ZOOM: Final = 2.0
MAX_PNG_PIXELS: Final = 60_000_000

_FONTS: Final = (
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
)  # fmt: skip

_VEROVIO_LOCK = threading.Lock()


def engrave(score: Score, *, width: int | None = None) -> str:
    """Engrave a tune as one SVG, in the text color of its surroundings.

    The symbol of score.notes[i] has the id n{i}; further symbols tied to it have n{i}-1, n{i}-2
    and so on. Measure k of `music.bars.find_bars` has m{k}.

    Args:
        score: a tune with bars.
        width: of the image in pixels, WIDTH by default; the height follows from the music.

    Raises:
        InvalidValue: the width is out of range, or `check_engravable` refuses the score.
    """
    width = WIDTH if width is None else width
    if not _WIDTHS[0] <= width <= _WIDTHS[1]:
        narrowest, widest = _WIDTHS
        raise InvalidValue(f"width {width} is out of range: write {narrowest} to {widest} pixels")
    check_engravable(score)
    sheet = build_sheet(score, as_strokes=True, with_grand_staves=True)
    page = {"pageWidth": round(width * _UNITS_PER_PIXEL), "pageHeight": _MAX_PAGE_HEIGHT}
    pages = _render_svg_pages(
        mei.render(sheet, width // _TITLE_CHARACTER_WIDTH), page | {"adjustPageHeight": True}
    )
    return _combine_pages(sheet, pages)


def engrave_pages(score: Score) -> tuple[str, ...]:
    """Engrave a tune on A4 pages for print, one SVG per page."""
    check_engravable(score)
    sheet = build_sheet(score, as_strokes=True, with_grand_staves=True)
    pages = _render_svg_pages(
        mei.render(sheet), {"pageWidth": _A4_SIZE[0], "pageHeight": _A4_SIZE[1]}
    )
    return tuple(_combine_pages(sheet, [page]) for page in pages)


def engrave_png(score: Score, *, width: int | None = None, zoom: float = PNG_ZOOM) -> bytes:
    """Engrave a tune as PNG, black on white; zoom is PNG pixels per SVG pixel."""
    return svg_to_png(engrave(score, width=width), zoom=zoom)


def svg_to_png(svg: str, *, zoom: float = PNG_ZOOM) -> bytes:
    """Render an SVG of this module as PNG, with the fonts of matplotlib.

    Args:
        svg: the result of `engrave`, or one of `engrave_pages`.
        zoom: PNG pixels per SVG pixel; lowered for an image of over MAX_PNG_PIXELS.
    """
    import resvg_py

    match = _SIZE.search(svg)
    assert match is not None
    area = int(match[1]) * int(match[2])
    zoom = min(zoom, (MAX_PNG_PIXELS / area) ** 0.5)
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, background="white", zoom=zoom, skip_system_fonts=True,
            font_files=_fonts(), serif_family="STIXGeneral", font_family="STIXGeneral",
        )
    )  # fmt: skip


@cache
def _fonts() -> list[str]:
    """Return matplotlib's files of a font as wide as Times, and of one with broad coverage."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [str(folder / f"{name}.ttf") for name in _FONTS]


# verovio


@cache
def _toolkit() -> Any:
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    return verovio.toolkit()


_OPTIONS: Final = {
    "adjustPageHeight": False,
    "breaks": "smart",
    "breaksSmartSb": 0.4,
    "footer": "none",
    "header": "encoded",
    "pageMarginBottom": 50,
    "pageMarginLeft": 50,
    "pageMarginRight": 50,
    "pageMarginTop": 50,
    "staffLineWidth": 0.18,
    "stemWidth": 0.22,
    "smuflTextFont": "none",
    "svgFormatRaw": True,
    "svgRemoveXlink": True,
    "svgViewBox": True,
}


def _render_svg_pages(text: str, options: dict[str, Any]) -> list[str]:
    """Render MEI with verovio, one SVG per page; its ids depend on the text alone."""
    with _VEROVIO_LOCK:
        toolkit = _toolkit()
        toolkit.setOptions(_OPTIONS | options)
        toolkit.resetXmlIdSeed(zlib.crc32(text.encode()) >> 1 | 1)
        if not toolkit.loadData(text):
            raise InvalidValue("verovio cannot engrave this score; write it as .mid instead")
        return [toolkit.renderToSVG(page + 1) for page in range(toolkit.getPageCount())]


# From verovio's SVG to ours

_SIZE: Final = re.compile(r'<svg[^>]* width="(\d+)" height="(\d+)"')
_ROOT: Final = re.compile(r'<svg viewBox="0 0 (\d+) (\d+)"[^>]*>')
_STYLE: Final = re.compile(r"<style.*?</style>", re.DOTALL)
_DESC: Final = re.compile(r"<desc>.*?</desc>", re.DOTALL)
_ID: Final = re.compile(r' id="([^"]*)"')
_GLYPH_ID: Final = re.compile(r"[EF][0-9A-F]{3}-.*")
_EMPTY: Final = re.compile(r'<g(?: class="[^"]*")?\s*/>|<text[^>]*/>')
_INNER: Final = re.compile(r'<svg class="definition-scale"[^>]*>')
_COLORED_GROUP: Final = (  # verovio uses tenths of a unit
    '<g transform="scale(0.1)" font-family="Times, serif"'
    ' fill="currentColor" stroke="currentColor">'
)
_BOLD: Final = re.compile(r'class="(?:ending|tempo)[^"]*"')
_ITALIC: Final = re.compile(r'class="(?:dir|mNum)[^"]*"')
_MARKER: Final = re.compile(r'<g class="[^"]*placeholder[^"]*"><ellipse[^>]*/></g>')
_SPACE: Final = re.compile(r">\s+<")
_MUSIC_TEXT: Final = re.compile(
    r'<text( x="(\d+)" y="(\d+)"[^>]*)>(?:<tspan[^>]*>)*'
    r'<tspan font-family="Leipzig" font-size="(\d+)px">([^<]+)</tspan>(?:</tspan>)*'
)
_GLYPH: Final = re.compile(r'<g c="([0-9A-F]+)"[^>]* h-a-x="(\d+)"')


def _combine_pages(sheet: Sheet, pages_svg: list[str]) -> str:
    """Stack pages vertically in one SVG."""
    element_ids = set(_iter_element_ids(sheet))
    width = height = 0
    groups = []
    for page in pages_svg:
        match = _ROOT.search(page)
        assert match is not None
        content = _clean_svg(page[match.end() :].rpartition("</svg>")[0], element_ids)
        groups.append(f'<g transform="translate(0,{height})">{content}</g>')
        width, height = max(width, int(match[1])), height + int(match[2])
    image_width, image_height = (round(units / _UNITS_PER_PIXEL) for units in (width, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sheet" role="img"'
        f' width="{image_width}" height="{image_height}" viewBox="0 0 {width} {height}">'
        f"{_title_and_description(sheet)}{''.join(groups)}</svg>\n"
    )


def _title_and_description(sheet: Sheet) -> str:
    """Write the title and the description, for screen readers."""
    first_measure = sheet.measures[0]
    name = escape_xml(sheet.title) or "Sheet music"
    part_count = sum(staff.hand != "left" for staff in sheet.staves)
    parts = f", {part_count} parts" if part_count > 1 else ""
    rhythm = f"{escape_xml(sheet.rhythm)} in " if sheet.rhythm else "in "
    key_and_meter = f"{first_measure.key}, {first_measure.meter}"
    description = f"Sheet music: {rhythm}{key_and_meter}, {len(sheet.measures)} measures{parts}"
    return f"<title>{name}</title><desc>{description}</desc>"


def _iter_element_ids(sheet: Sheet) -> Iterator[str]:
    """Yield the ids of notes and measures; verovio adds ids to all other elements."""
    for index, measure in enumerate(sheet.measures):
        yield f"m{index}"
        for layer in chain.from_iterable(measure.staves):
            for symbol in layer.symbols:
                yield from (head.element_id for head in symbol.heads)


def _clean_svg(page: str, element_ids: Container[str]) -> str:
    """Remove unused ids, descriptions and styles; inherit the color of the surroundings."""

    def keep_known_id(match: re.Match[str]) -> str:
        return match[0] if match[1] in element_ids or _GLYPH_ID.fullmatch(match[1]) else ""

    page = _EMPTY.sub("", _ID.sub(keep_known_id, _DESC.sub("", _STYLE.sub("", page))))
    page = _INNER.sub(_COLORED_GROUP, page).replace("</svg>", "</g>")
    page = page.replace(
        '<path transform="scale(1,-1)"', '<path stroke="none" transform="scale(1,-1)"'
    )
    page = _BOLD.sub(r'\g<0> font-weight="bold"', page)
    page = _ITALIC.sub(r'\g<0> font-style="italic"', page)
    page = _MUSIC_TEXT.sub(_draw_music_glyphs, _MARKER.sub("", _SPACE.sub("><", page)))
    return page.replace("<text ", '<text stroke="none" ')


def _draw_music_glyphs(match: re.Match[str]) -> str:
    """Draw the note at the start of a text as paths, so that no music font is needed."""
    x, y, scale = int(match[2]), int(match[3]), int(match[4]) / 1000
    paths = []
    for char in match[5]:
        path, width = _glyph(f"{ord(char):04X}")
        paths.append(f'<path transform="translate({x},{y}) scale({scale},{-scale})" d="{path}"/>')
        x += round(width * scale)
    attributes = match[1].replace(f'x="{match[2]}"', f'x="{x}"')
    return f"{''.join(paths)}<text{attributes}>"


@cache
def _glyph(code: str) -> tuple[str, int]:
    """Return the outline of a glyph of verovio's font, and its advance width in 1/1000 em."""
    folder = Path(_toolkit().getResourcePath())
    outline = re.search(r' d="([^"]*)"', (folder / "Leipzig" / f"{code}.xml").read_text("utf-8"))
    widths = dict(_GLYPH.findall((folder / "Leipzig.xml").read_text("utf-8")))
    assert outline is not None
    return outline[1], int(widths[code])
