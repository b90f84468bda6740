"""Whether given bars have the repeats of a form that is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from musicgen.errors import InvalidValue
from musicgen.sampling.given_parts import GivenBar, GivenTune
from musicgen.tokens.song_form import THROUGH, FormLayout
from musicgen.tokens.vocabulary import MEASURES


def has_letters(form: str | None) -> bool:
    """Return whether a form asks for sections, by letters."""
    return form not in (None, THROUGH)


def check_given_form(form: str | None, tune: GivenTune) -> None:
    """Check that given bars are those of a form: its repeats, and letters that return as they were.

    Raises:
        InvalidValue: they have other repeats.
    """
    if form is None or not has_letters(form):
        return
    layout = FormLayout.of(form, tune.heard_bars)
    *openings, closing = _iter_openings(layout)
    if [bar.opening for bar in tune.bars] != openings or tune.closing != closing:
        raise InvalidValue(
            f"form {form}: the repeats are those of the given parts; leave --form out"
        )
    sections = list(_split_at_sections(tune.bars, layout))
    for section, bars in zip(layout.sections, sections, strict=True):
        source = bars if section.source is None else sections[section.source]
        if [bar.cells for bar in bars] != [bar.cells for bar in source]:
            raise InvalidValue(
                f"form {form}: what is given changes where a letter returns; leave --form out"
            )


def _iter_openings(layout: FormLayout) -> Iterator[tuple[int, ...]]:
    """Yield the ids before each bar of a form without a pickup, and those after the last."""
    before: tuple[int, ...] = ()
    for section in layout.sections:
        if section.plays > 1:
            before += (MEASURES.id("repeat_start"),)
        for _ in range(section.bars):
            yield (*before, MEASURES.id("bar"))
            before = ()
        if section.plays > 1:
            before = (MEASURES.id("repeat_end", section.plays),)
    yield (*before, MEASURES.id("end"))


def _split_at_sections(
    bars: tuple[GivenBar, ...], layout: FormLayout
) -> Iterator[tuple[GivenBar, ...]]:
    """Yield the bars of each section."""
    start = 0
    for section in layout.sections:
        yield bars[start : start + section.bars]
        start += section.bars
