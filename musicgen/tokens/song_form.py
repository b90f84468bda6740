"""The form of a tune in letters: AABB, ABAC, through.

A letter is a section of a fixed number of bars. The same letter twice in a row is written once,
between repeat signs; a letter that returns later is written again, note for note.

A pickup precedes the first bar. Where a repeated section starts or ends, the bar before is short,
so that it and the pickup make a full bar whichever section follows; between sections without repeat
signs bars stay full. A form allows no pickup if a section returns where its last bar would have to
be of the other kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import groupby, pairwise
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.score import MAX_PLAYS
from musicgen.typed_data import shorten

THROUGH: Final = "through"
FREE: Final = "free"  # the model draws the repeats
BARS_PER_LETTER: Final = 8  # if no number of bars is given
LETTERS: Final = "ABCDEFGH"
_MAX_LETTERS: Final = 16
_FORM_HINT: Final = f"write letters such as AABB or ABAC, or {THROUGH}, or {FREE}"


@dataclass(frozen=True, slots=True)
class FormSection:
    """The bars of one letter, as they are written."""

    bars: int
    plays: int = 1  # over 1: between repeat signs
    source: int | None = None  # index of the earlier section that it repeats note for note
    has_pickup: bool = False  # whether it starts with a pickup if the tune does
    has_short_end: bool = False  # whether its last bar is short if the tune has a pickup


@dataclass(frozen=True, slots=True)
class FormLayout:
    """The sections of a tune in written order."""

    sections: tuple[FormSection, ...]

    @classmethod
    def of(cls, form: str, bars: int | None) -> FormLayout:
        """Lay out a form.

        Args:
            form: letters or `through`, as `check_form` returns them.
            bars: bars heard; None: BARS_PER_LETTER per letter.

        Raises:
            InvalidValue: the number of bars is not a multiple of the number of letters.
        """
        if form == THROUGH:
            return cls((FormSection(bars or BARS_PER_LETTER, has_pickup=True, has_short_end=True),))
        section_bars, remainder = divmod(bars or BARS_PER_LETTER * len(form), len(form))
        if remainder:
            raise InvalidValue(
                f"bars {bars}: the form {form} has {len(form)} parts of equal length; ask for a"
                f" multiple of {len(form)}, such as {len(form) * max(1, section_bars)}"
            )
        return cls(tuple(_mark_pickups(list(_split_sections(form, section_bars)))))

    @property
    def repeat_counts(self) -> frozenset[int]:
        """The numbers of plays of the repeated sections."""
        return frozenset(section.plays for section in self.sections if section.plays > 1)

    @property
    def allows_pickup(self) -> bool:
        """Whether a tune of this form may have a pickup."""
        return all(map(self._is_balanced, self.sections))

    def _is_balanced(self, section: FormSection) -> bool:
        """Tell whether a section has room for its short bars, and ends like its source."""
        min_bars = 2 if section.has_pickup and section.has_short_end else 1
        source = section if section.source is None else self.sections[section.source]
        return section.bars >= min_bars and section.has_short_end == source.has_short_end


def parse_form(text: str) -> str:
    """Parse a form as a user writes it: letters, `through` or `free`, in any case.

    Raises:
        InvalidValue: the text is not a form.
    """
    stripped = text.strip()
    if stripped.lower() in (THROUGH, FREE):
        return stripped.lower()
    if fault := _find_form_fault(stripped.upper()):
        matches = get_close_matches(stripped.lower()[:40], (THROUGH, FREE), n=1)
        if matches:
            fault = f"did you mean {matches[0]}? {fault[:1].upper()}{fault[1:]}"
        raise InvalidValue(f"form {shorten(text)!r}: {fault}; {_FORM_HINT}")
    return check_form(stripped)


def _find_form_fault(form: str) -> str:
    """Return the first rule for letters that a form breaks; "" if it breaks none."""
    if not form:
        return "it has no letters"
    if invalid := [character for character in form if character not in LETTERS]:
        return f"a form has letters A to {LETTERS[-1]}, not {invalid[0]!r}"
    if len(form) > _MAX_LETTERS:
        return f"a form has at most {_MAX_LETTERS} letters, not {len(form):,}"
    return "" if form.startswith("A") else f"a form starts with A, not with {form[0]}"


def check_form(text: str) -> str:
    """Normalize a form to upper-case letters or `through`.

    Recipes of earlier versions may contain letters that `parse_form`, which reads what users write,
    no longer allows.

    Raises:
        InvalidValue: the text is not a form.
    """
    if text == THROUGH:
        return THROUGH
    form = text.strip().upper()
    if not re.fullmatch(rf"[A-Z]{{1,{_MAX_LETTERS}}}", form):
        raise InvalidValue(f"form {shorten(text)!r}: {_find_form_fault(form)}; {_FORM_HINT}")
    for letter, repeats in groupby(form):
        if (count := len(list(repeats))) > MAX_PLAYS:
            raise InvalidValue(
                f"form {form}: {letter} occurs {count} times in a row; a part is played at most"
                f" {MAX_PLAYS} times"
            )
    return form


def _split_sections(form: str, bars: int) -> Iterator[FormSection]:
    """Yield a section per run of equal letters."""
    source_by_letter: dict[str, int] = {}
    for index, (letter, repeats) in enumerate(groupby(form)):
        yield FormSection(bars, len(list(repeats)), source_by_letter.get(letter))
        source_by_letter.setdefault(letter, index)


def _mark_pickups(sections: Sequence[FormSection]) -> Iterator[FormSection]:
    """Mark the sections that start with a pickup and end in a short bar."""
    has_repeat_sign = [a.plays > 1 or b.plays > 1 for a, b in pairwise(sections)]
    short_ends: list[bool] = []
    for index, section in enumerate(sections):
        is_last = index == len(sections) - 1
        if is_last and section.plays == 1 and section.source is not None:
            short_ends.append(short_ends[section.source])
        else:
            short_ends.append(is_last or has_repeat_sign[index])
        has_pickup = index == 0 or has_repeat_sign[index - 1]
        yield replace(section, has_pickup=has_pickup, has_short_end=short_ends[-1])
