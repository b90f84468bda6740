"""Whether given bars have the repeats of a form that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from musicgen.errors import InvalidValue
from musicgen.sampling.given_parts import GivenBar, GivenTune
from musicgen.tokens.song_form import THROUGH, FormLayout
from musicgen.tokens.vocabulary import MEASURES

_REPEAT_IDS = frozenset((MEASURES.id("repeat_start"), *MEASURES.ranges["repeat_end"]))


def has_letters(form: str | None) -> bool:
    """Return whether a form asks for sections, by letters."""
    return form not in (None, THROUGH)


def check_given_form(form: str | None, tune: GivenTune) -> None:
    """Check that given bars can be those of a form: its repeats, and letters that return.

    Raises:
        InvalidValue: they have other repeats, or differ where a letter returns.
    """
    if form is None:
        return
    openings, closing = [bar.opening for bar in tune.bars], tune.closing
    if form == THROUGH:
        fits = not _REPEAT_IDS & {id_ for ids in (*openings, closing) for id_ in ids}
    else:
        layout = FormLayout.of(form, tune.heard_bars)
        pickup = tune.pickup_steps
        fits = [*openings, closing] == list(_iter_openings(layout, pickup, tune.score.meter.steps))
    if not fits:
        raise InvalidValue(
            f"form {form}: the repeats are those of the given parts, which have others; leave"
            " --form out"
        )
    if has_letters(form):
        _check_returning_letters(form, layout, tune)


def _check_returning_letters(form: str, layout: FormLayout, tune: GivenTune) -> None:
    """Check what is given where a letter returns. Raises InvalidValue."""
    starts = list(_find_section_starts(layout, has_pickup=tune.pickup_steps > 0))
    for section, start in zip(layout.sections, starts, strict=True):
        if section.source is None:
            continue
        source = starts[section.source]
        for offset in range(section.bars):
            first, again = tune.bars[source + offset], tune.bars[start + offset]
            if not _may_return(first, again):
                raise InvalidValue(
                    f"form {form}: bar {again.number} is bar {first.number} again, and what is"
                    " given of the two differs; give the same, or leave --form out"
                )


def _may_return(first: GivenBar, again: GivenBar) -> bool:
    """Return whether a bar can be written again, with what is given of it where it returns."""
    pairs: Sequence[tuple[object, object]] = list(zip(first.cells, again.cells, strict=True))
    return all(cell is None or cell == source for source, cell in pairs)


def _iter_openings(layout: FormLayout, pickup: int, meter_steps: int) -> Iterator[tuple[int, ...]]:
    """Yield the ids before each bar of a form, and those after the last.

    Args:
        layout: of the form.
        pickup: steps of the pickup that opens the tune; 0 for none.
        meter_steps: of a full bar.
    """
    before: tuple[int, ...] = ()
    for section in layout.sections:
        if section.plays > 1:
            before += (MEASURES.id("repeat_start"),)
        lengths = [meter_steps] * section.bars
        if pickup and section.has_short_end:
            lengths[-1] -= pickup
        if pickup and section.has_pickup:
            lengths.insert(0, pickup)
        for steps in lengths:
            is_full = steps == meter_steps
            yield (*before, MEASURES.id("bar") if is_full else MEASURES.id("partial", steps))
            before = ()
        if section.plays > 1:
            before = (MEASURES.id("repeat_end", section.plays),)
    yield (*before, MEASURES.id("end"))


def _find_section_starts(layout: FormLayout, *, has_pickup: bool) -> Iterator[int]:
    """Yield the place of the first full bar of each section."""
    place = 0
    for section in layout.sections:
        place += has_pickup and section.has_pickup
        yield place
        place += section.bars
