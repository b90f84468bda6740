"""Draw a score as a piano roll, with repeats unfolded, as SVG or PNG."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from musicgen.errors import Refusal
from musicgen.music.bars import Bar, find_bars
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import DEFAULT_QPM, Part, Score
from musicgen.music.theory import Key, spell
from musicgen.notation.mei import MAX_CHORD_SYMBOL, escape_xml
from musicgen.render.timeline import (
    SoundingNote,
    bar_timeline,
    chord_timeline,
    duration,
    timeline,
)

# Eight colours for all kinds of colour vision (Okabe and Ito, Color Universal Design, 2008).
COLOURS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f00", "#222222",
)  # fmt: skip
MAX_ROWS: Final = 200  # a picture about 40,000 pixels high
MAX_RECTANGLES: Final = 400_000  # one for each row in which a note sounds: 60 MB of SVG
_WIDTH: Final = 1040  # pixels of a row
_LABEL_SECONDS: Final = 5  # between the labelled lines of a performance
_PIXELS_PER_QUARTER: Final = 32  # at the initial tempo; half a second of a performance
_PIXELS_PER_PITCH: Final = 8
_LEFT, _TOP, _GAP, _MARGIN = 44, 56, 30, 16  # pixels
_CHORD_LINE: Final = 14  # pixels of the line of chord symbols above each row
_BLACK: Final = (1, 3, 6, 8, 10)  # pitch classes of the black keys
_ZOOM: Final = 1.5
_MAX_PIXELS: Final = 60_000_000
_FONT: Final = "DejaVu Sans"
_ACCIDENTALS: Final = {-2: "𝄫", -1: "♭", 0: "", 1: "♯", 2: "𝄪"}
_STYLE: Final = (
    f"text{{font-family:'{_FONT}',Verdana,sans-serif;font-size:9px;fill:#333}}"
    ".title{font-size:17px}.black{fill:#eef0f2}.edge{fill:none;stroke:#888}"
    ".beat{stroke:#d4d8dc}.bar{stroke:#70767c}.note{stroke:#fff;stroke-width:.6}"
)
_CHORD_STYLE: Final = ".chord{font-size:11px;font-weight:bold}"


@dataclass(frozen=True, slots=True)
class Row:
    """The part of the tune that one row shows."""

    start: float  # seconds
    end: float
    top: float  # pixels


@dataclass(frozen=True)
class _Layout:
    """The positions of all elements."""

    score: Score
    sounds: tuple[SoundingNote, ...]
    rows: tuple[Row, ...]
    low: int  # lowest pitch shown
    high: int  # highest pitch shown
    pixels_per_second: float

    @classmethod
    def of(cls, score: Score) -> _Layout:
        sounds = timeline(score)
        if not sounds:
            raise Refusal("the tune has no notes to show; choose another tune", code="empty")
        low, high = min(s.pitch for s in sounds) - 1, max(s.pitch for s in sounds) + 1
        pixels_per_second = _PIXELS_PER_QUARTER * _reference_qpm(score) / 60
        row_seconds = _WIDTH / pixels_per_second
        spans = list(islice(_split_into_rows(score, row_seconds), MAX_ROWS + 1))
        rectangles = sum(1 + sound.length * pixels_per_second / _WIDTH for sound in sounds)
        _check_size(len(spans), MAX_ROWS, "rows")
        _check_size(rectangles, MAX_RECTANGLES, "rectangles")
        chord_line = _CHORD_LINE if any(score.of("chord")) else 0
        row_height = (high - low + 1) * _PIXELS_PER_PITCH + _GAP + chord_line
        top = _TOP + chord_line
        rows = tuple(Row(*span, top + index * row_height) for index, span in enumerate(spans))
        return cls(score, sounds, rows, low, high, pixels_per_second)

    @property
    def height(self) -> int:
        """Height of a row in pixels."""
        return (self.high - self.low + 1) * _PIXELS_PER_PITCH

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        return _LEFT + _WIDTH + _MARGIN, round(self.rows[-1].top + self.height + _MARGIN)

    def x(self, row: Row, seconds: float) -> float:
        """Return the horizontal position of a time in a row, in pixels."""
        return _LEFT + (min(max(seconds, row.start), row.end) - row.start) * self.pixels_per_second

    def y(self, row: Row, pitch: int) -> float:
        """Return the top edge of a pitch in a row, in pixels."""
        return row.top + (self.high - pitch) * _PIXELS_PER_PITCH


def draw_pianoroll_svg(score: Score) -> str:
    """Draw a score as it sounds, as an SVG document.

    Raises:
        Refusal: the score has no notes, or exceeds MAX_ROWS or MAX_RECTANGLES.
    """
    return _draw_svg(_Layout.of(score))


def draw_pianoroll_png(score: Score) -> bytes:
    """Draw a score as it sounds, as PNG; see `draw_pianoroll_svg`."""
    import matplotlib
    import resvg_py

    roll = _Layout.of(score)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=_draw_svg(roll), zoom=_zoom(roll),
            skip_system_fonts=True, font_files=[str(fonts / f"{_FONT.replace(' ', '')}.ttf")],
            font_family=_FONT, sans_serif_family=_FONT,
        )
    )  # fmt: skip


def count_pixels(score: Score) -> int:
    """Return how many pixels `draw_pianoroll_png` draws, which determine its running time."""
    roll = _Layout.of(score)
    width, height = roll.size
    return round(width * height * _zoom(roll) ** 2)


def _zoom(roll: _Layout) -> float:
    """Return the scale of the PNG relative to the SVG."""
    width, height = roll.size
    return min(_ZOOM, math.sqrt(_MAX_PIXELS / width / height))


def _draw_svg(roll: _Layout) -> str:
    width, height = roll.size
    style = _STYLE + _CHORD_STYLE * any(roll.score.of("chord"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}"><style>{style}</style>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<text class="title" x="{_LEFT}" y="24">{escape_xml(roll.score.title)}</text>'
    )
    keys = (element for row in roll.rows for element in _draw_keys(roll, row))
    return "".join(
        [
            head,
            *_draw_legend(roll.score),
            *keys,
            *_draw_grid(roll),
            *_draw_chords(roll),
            *_draw_notes(roll),
            "</svg>\n",
        ]
    )


def _check_size(count: float, limit: int, unit: str) -> None:
    if count > limit:
        raise Refusal(
            f"the piano roll needs more than {limit:,} {unit}; shorten the tune", code="too-large"
        )


def _reference_qpm(score: Score) -> float:
    """Return the tempo that sets the horizontal scale; a performance has no tempo of its own."""
    return DEFAULT_QPM if is_performance(score) else score.qpm


def _split_into_rows(score: Score, row_seconds: float) -> Iterator[tuple[float, float]]:
    """Yield start and end of each row in seconds: whole bars, unless a bar is longer than a row."""
    bar_ends = [end for _, end, _ in bar_timeline(score)] or [duration(score)]
    start = 0.0
    while start < bar_ends[-1] - 1e-6:
        last = bisect_right(bar_ends, start + row_seconds + 1e-6) - 1
        fits = last >= 0 and bar_ends[last] > start + 1e-6
        end = bar_ends[last] if fits else start + row_seconds
        yield start, end
        start = end


def _draw_legend(score: Score) -> Iterator[str]:
    """Draw the name and colour of each part, if there are several."""
    x = _LEFT
    for index, part in enumerate(score.parts if len(score.parts) > 1 else ()):
        name = escape_xml(part.name or _instrument_name(part))
        yield f'<rect x="{x}" y="33" width="9" height="9" fill="{_colour(index)}"/>'
        yield f'<text x="{x + 13}" y="41">{name}</text>'
        x += 30 + 6 * len(name)


def _instrument_name(part: Part) -> str:
    return "drums" if part.is_drums else PROGRAMS[part.program]


def _colour(part: int) -> str:
    return COLOURS[part % len(COLOURS)]


def _draw_keys(roll: _Layout, row: Row) -> Iterator[str]:
    """Draw the keyboard: stripes for black keys, names of white keys."""
    right = roll.x(row, row.end)
    for pitch in range(roll.low, roll.high + 1):
        top = roll.y(row, pitch)
        if pitch % 12 in _BLACK:
            yield (
                f'<rect class="black" x="{_LEFT}" y="{top:g}" width="{right - _LEFT:.1f}"'
                f' height="{_PIXELS_PER_PITCH}"/>'
            )
        elif _has_label(roll, pitch):
            name = f"{'C D EF G A B'[pitch % 12]}{pitch // 12 - 1}"
            bottom = top + _PIXELS_PER_PITCH
            yield f'<text x="{_LEFT - 5}" y="{bottom}" text-anchor="end">{name}</text>'
    yield (
        f'<rect class="edge" x="{_LEFT}" y="{row.top:g}" width="{right - _LEFT:.1f}"'
        f' height="{roll.height}"/>'
    )


def _has_label(roll: _Layout, pitch: int) -> bool:
    """Tell whether a key is named: in a wide range, only C and G are."""
    return roll.high - roll.low < 30 or pitch % 12 in (0, 7)


def _draw_grid(roll: _Layout) -> Iterator[str]:
    """Draw bars, beats and the numbers of bars as heard; of a performance, seconds."""
    starts = [row.start for row in roll.rows]
    for second in range(int(roll.rows[-1].end) + 1 if is_performance(roll.score) else 0):
        row = roll.rows[bisect_right(starts, second) - 1]
        yield _draw_line(roll, row, second, "beat" if second % _LABEL_SECONDS else "bar")
        if second % _LABEL_SECONDS == 0:
            x = roll.x(row, second) + 2
            yield f'<text x="{x:.1f}" y="{row.top - 4:g}">{second // 60}:{second % 60:02d}</text>'
    for start, end, bar, number in _number_bars(roll.score):
        row = roll.rows[bisect_right(starts, start + 1e-6) - 1]
        for fraction in _beat_fractions(bar):
            yield _draw_line(roll, row, start + fraction * (end - start), "beat")
        yield _draw_line(roll, row, start, "bar")
        if number:
            x = roll.x(row, start) + 2
            yield f'<text x="{x:.1f}" y="{row.top - 4:g}">{number}</text>'


def _draw_chords(roll: _Layout) -> Iterator[str]:
    """Draw the chord symbols above the rows, where they are heard."""
    starts = [row.start for row in roll.rows]
    for seconds, symbol in chord_timeline(roll.score):
        row = roll.rows[max(0, bisect_right(starts, seconds + 1e-6) - 1)]
        x, y = roll.x(row, seconds) + 2, row.top - _CHORD_LINE
        text = escape_xml(symbol, MAX_CHORD_SYMBOL)
        yield f'<text class="chord" x="{x:.1f}" y="{y:g}">{text}</text>'


def _number_bars(score: Score) -> Iterator[tuple[float, float, Bar, int]]:
    """Yield (start, end, bar, number) of each bar heard; start and end are in seconds.

    A pickup has number 0, and so has the partial bar that completes the bar before it.
    """
    if is_performance(score):
        return
    written_bars, number, is_open = find_bars(score), 0, True
    for start, end, index in bar_timeline(score):
        bar = written_bars[index]
        completes = is_open and bar.kind == "partial"
        number += not completes
        yield start, end, bar, 0 if completes else number
        is_open = bar.kind == "partial" and not completes


def _beat_fractions(bar: Bar) -> Sequence[float]:
    """Return the positions of beats as fractions of a bar; a pickup counts back from its end."""
    beat = bar.meter.beat_steps
    first = bar.steps % beat if bar.kind == "partial" else beat
    return [step / bar.steps for step in range(first or beat, bar.steps, beat)]


def _draw_line(roll: _Layout, row: Row, seconds: float, name: str) -> str:
    x = roll.x(row, seconds)
    return f'<path class="{name}" d="M{x:.1f} {row.top:g}v{roll.height}"/>'


def _draw_notes(roll: _Layout) -> Iterator[str]:
    """Draw each note in every row in which it sounds; louder notes are more opaque."""
    starts = [row.start for row in roll.rows]
    names = [name_pitch(pitch, roll.score.key) for pitch in range(128)]
    for sound in roll.sounds:
        end = sound.start + sound.length
        first_row = bisect_right(starts, sound.start + 1e-6) - 1
        for row in islice(roll.rows, first_row, None):
            if row.start >= end - 1e-6:
                break
            yield _draw_note(roll, row, sound, end, names[sound.pitch])


def name_pitch(pitch: int, key: Key) -> str:
    """Return the name of a MIDI pitch as its key spells it, such as B♭4."""
    spelled = spell(pitch, key)
    return f"{spelled.letter}{_ACCIDENTALS[spelled.alteration]}{spelled.octave}"


def _draw_note(roll: _Layout, row: Row, sound: SoundingNote, end: float, name: str) -> str:
    left, right = roll.x(row, sound.start), roll.x(row, end)
    return (
        f'<rect class="note" x="{left:.1f}" y="{roll.y(row, sound.pitch):g}"'
        f' width="{max(right - left, 1):.1f}" height="{_PIXELS_PER_PITCH}" rx="1.5"'
        f' fill="{_colour(sound.part)}" fill-opacity="{0.5 + sound.velocity / 254:.2f}">'
        f"<title>{name}</title></rect>"
    )
