"""Chords that a user asks for, bar by bar: "D | D | G A7 | D".

The chords of a bar share its beats: as many beats each as divide evenly, the later ones longer
where they do not. A bar without a chord, or "%", goes on with the chord before it; a new line is a
new bar. The sheet is repeated until it fills the bars asked for; of a form, it is repeated over the
letters in the order in which they first occur, and a letter that comes again has its chords again.
It becomes a score without notes, whose only part is that of the chord symbols, so that a melody is
drawn to it as to any given part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.files import is_file, read_regular_file
from musicgen.music.bars import find_bars
from musicgen.music.score import Mark, Score
from musicgen.music.symbols_part import SYMBOLS_PART
from musicgen.music.theory import CHORD_TONES, ChordSymbol, Key, Meter, normalize_chord, spell_chord
from musicgen.tokens.song_form import FormLayout, FormSection
from musicgen.typed_data import shorten

DEFAULT_METER: Final = Meter(4, 4)
FEWEST_BARS: Final = 16  # to which a shorter sheet is repeated, if no number of bars is asked for
FEWEST_BARS_PER_LETTER: Final = 4  # else the sheet is repeated to the usual number
MOST_BARS: Final = 512
_MOST_BYTES: Final = 2**16  # of a file of chords
_GOES_ON: Final = "%"
_NO_CHORD: Final = "N.C."
_MINOR_THIRD: Final = 3


def read_chord_text(text: str) -> str:
    """Return the chords of a text file, or the text itself where it names none.

    Raises:
        InvalidValue: the file is not text.
    """
    path = Path(text)
    if "|" in text or "\n" in text or not is_file(path):
        return text
    try:
        return read_regular_file(path, limit=_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InvalidValue(f"chords {shorten(text)}: the file is not valid UTF-8 text") from fault


def make_chord_score(
    text: str,
    *,
    meter: Meter | None = None,
    key: Key | None = None,
    bars: int | None = None,
    form: str | None = None,
) -> Score:
    """Return a score of chord symbols alone.

    Args:
        text: the chords, bar by bar.
        meter: of the score; None: 4/4.
        key: of the score; None: that of the first chord, major or minor.
        bars: their number as heard; None: the sheet is repeated as a whole, to at least
            FEWEST_BARS, or to the letters of the form.
        form: by letters, whose chords are written once; None: no repeats.

    Raises:
        InvalidValue: a chord is unknown, there are more of them in a bar than beats, or more bars
            than the form has.
    """
    meter = meter or DEFAULT_METER
    sheet = _split_bars(text)
    if not any(sheet):
        raise InvalidValue(f'chords {shorten(text)!r}: write bars such as "D | D | G A7 | D"')
    _check_sheet(sheet, meter)
    if not sheet[0]:
        raise InvalidValue(f"chords {shorten(text)!r}: the first bar has no chord; begin with one")
    layout = _lay_out(sheet, form, bars)
    sheet = _take_letters(sheet, layout) if form else sheet
    written = sum(section.bars for section in layout.sections)
    if written > MOST_BARS:
        raise InvalidValue(f"chords: {written} bars are too many; ask for up to {MOST_BARS}")
    marks = [Mark(0, "key", key or _guess_key(sheet)), Mark(0, "meter", meter)]
    start = 0
    for section, section_bars in zip(
        layout.sections, _fill_sections(sheet, layout.sections), strict=True
    ):
        end = start + len(section_bars) * meter.steps
        if section.plays > 1:
            marks += [Mark(start, "repeat_start"), Mark(end, "repeat_end", section.plays)]
        for chords in section_bars:
            marks += _place_chords(chords, start, meter)
            start += meter.steps
            marks.append(Mark(start, "bar"))
    return Score((), tuple(marks), (SYMBOLS_PART,))


def format_chord_sheet(score: Score) -> str:
    """Write the chord symbols of a score bar by bar, as `make_chord_score` reads them.

    Written bars count, without a pickup. Of the chords in a bar there are as many as it has beats,
    the first ones; where they stand in the bar is left out. "" for a score without chord symbols.
    """
    symbols = [(mark.onset, spell_chord(mark.value, score.key)) for mark in score.of("chord")]
    if not symbols:
        return ""
    cells = []
    bars = find_bars(score)
    for bar in bars[1:] if bars[0].kind == "partial" else bars:
        chords = [text for onset, text in symbols if bar.start <= onset < bar.end]
        cells.append(" ".join(chords[: _count_beats(bar.meter)]) or _GOES_ON)
    if cells and cells[0] == _GOES_ON:
        cells[0] = _NO_CHORD
    return " | ".join(cells)


def _split_bars(text: str) -> list[list[str]]:
    """Return the chords of each bar."""
    bars: list[list[str]] = []
    for line in filter(None, map(str.strip, text.replace("||", "|").splitlines())):
        cells = line.removeprefix("|").removesuffix("|").split("|")
        bars += [[] if cell.strip() == _GOES_ON else cell.split() for cell in cells]
    return bars


def _check_sheet(sheet: list[list[str]], meter: Meter) -> None:
    """Check chords and their numbers. Raises InvalidValue."""
    beats = _count_beats(meter)
    for number, chords in enumerate(sheet, 1):
        for chord in chords:
            if normalize_chord(chord) == _NO_CHORD and chord.upper() not in ("N.C.", "NC"):
                raise InvalidValue(
                    f"chords: {shorten(chord)!r} in bar {number} is not a chord; write such as D,"
                    " F#m, A7, Bbmaj7, C/E, or N.C. for none"
                )
        if len(chords) > beats:
            raise InvalidValue(
                f"chords: bar {number} has {len(chords)} chords, and a bar of {meter} has"
                f" {beats} beats; write up to one per beat"
            )


def _lay_out(sheet: list[list[str]], form: str | None, bars: int | None) -> FormLayout:
    """Return the sections of a tune. Raises InvalidValue where bars do not fit the form."""
    if form is None:
        return FormLayout((FormSection(bars or len(sheet) * -(-FEWEST_BARS // len(sheet))),))
    if bars is None:
        share, rest = divmod(len(sheet), len(set(form)))
        if not rest and share >= FEWEST_BARS_PER_LETTER:
            bars = share * len(form)
    return FormLayout.of(form, bars)


def _take_letters(sheet: list[list[str]], layout: FormLayout) -> list[list[str]]:
    """Return the chords of each letter once; a sheet may also have every written bar.

    Raises:
        InvalidValue: there are more bars, or a letter that returns has other chords.
    """
    room = sum(section.bars for section in layout.sections if section.source is None)
    if len(sheet) <= room:
        return sheet
    written = sum(section.bars for section in layout.sections)
    if len(sheet) != written:
        raise InvalidValue(
            f"chords: there are {len(sheet)} bars, and the letters of the form have {room}; write"
            " the chords of each letter once, or ask for more --bars"
        )
    rest = iter(enumerate(sheet))
    filled: list[list[tuple[int, list[str]]]] = []
    for section in layout.sections:
        filled.append(list(islice(rest, section.bars)))
        for (number, chords), (first, source) in zip(
            filled[-1], filled[-1 if section.source is None else section.source], strict=True
        ):
            if chords != source:
                raise InvalidValue(
                    f"chords: bar {number + 1} is bar {first + 1} again in this form, and has other"
                    " chords; write the chords of each letter once"
                )
    return [
        chords
        for section, bars in zip(layout.sections, filled, strict=True)
        if section.source is None
        for _, chords in bars
    ]


def _fill_sections(
    sheet: list[list[str]], sections: Sequence[FormSection]
) -> Iterator[list[list[str]]]:
    """Yield the bars of each section, each of which names the chord that it starts with."""
    bars = cycle(sheet)
    filled: list[list[list[str]]] = []
    for section in sections:
        if section.source is not None:
            filled.append(filled[section.source])
        else:
            taken = list(islice(bars, section.bars))
            if filled and not taken[0]:
                taken[0] = next(chords for chords in reversed(filled[-1]) if chords)[-1:]
            filled.append(taken)
        yield filled[-1]


def _count_beats(meter: Meter) -> int:
    return max(1, meter.steps // meter.beat_steps)


def _place_chords(chords: list[str], start: int, meter: Meter) -> Iterator[Mark]:
    """Yield the marks of the chords of a bar, on its beats."""
    beats = _count_beats(meter)
    for number, chord in enumerate(chords):
        beat = number * beats // len(chords)
        yield Mark(start + beat * meter.beat_steps, "chord", normalize_chord(chord))


def _guess_key(sheet: list[list[str]]) -> Key:
    """Return the key of the first chord: minor, if its third is."""
    symbols = (ChordSymbol.parse(chord) for chords in sheet for chord in chords)
    first = next((symbol for symbol in symbols if symbol is not None), ChordSymbol(0))
    is_minor = _MINOR_THIRD in CHORD_TONES[first.quality]
    return Key.of(first.root, "minor" if is_minor else "major")
