"""The form of a tune by letters: AABB, ABAC, through.

A letter is a part of a tune, so many bars of it. The same letter twice in a row is written once,
between repeat signs; one that returns later has its bars written again, note for note.

A pickup stands before the first bar. Where a repeated part starts or ends, the bar before it is
short, so that it is balanced whichever way the playing goes on; between parts without repeat signs
bars stay whole. A part that returns where its last bar would have to be of the other kind makes a
pickup impossible.
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
from musicgen.number_parsing import shorten

THROUGH: Final = "through"
FREE: Final = "free"  # the model draws the repeats
BARS_PER_LETTER: Final = 8  # where no number of bars is asked for
LETTERS: Final = "ABCDEFGH"
_MAX_LETTERS: Final = 16
_FORM_HINT: Final = f"write letters such as AABB or ABAC, or {THROUGH}, or {FREE}"


@dataclass(frozen=True, slots=True)
class FormSection:
    """The bars of one letter, as they are written."""

    bars: int
    plays: int = 1  # over 1: between repeat signs
    source: int | None = None  # the earlier stretch whose bars it has again
    has_pickup: bool = False  # where the tune has a pickup, it has one too
    has_short_end: bool = False  # and its last bar is short


@dataclass(frozen=True, slots=True)
class FormLayout:
    """What a tune is made of, in the order in which it is written."""

    sections: tuple[FormSection, ...]

    @classmethod
    def of(cls, form: str, bars: int | None) -> FormLayout:
        """Lay a checked form out. Raises InvalidValue for bars that it does not divide."""
        if form == THROUGH:
            return cls((FormSection(bars or BARS_PER_LETTER, has_pickup=True, has_short_end=True),))
        each, rest = divmod(bars or BARS_PER_LETTER * len(form), len(form))
        if rest:
            raise InvalidValue(
                f"bars {bars}: the form {form} has {len(form)} parts of equal length; ask for a"
                f" multiple of {len(form)}, such as {len(form) * max(1, each)}"
            )
        return cls(tuple(_mark_pickups(list(_split_sections(form, each)))))

    @property
    def repeat_counts(self) -> frozenset[int]:
        """How often its repeated parts are played."""
        return frozenset(one.plays for one in self.sections if one.plays > 1)

    @property
    def allows_pickup(self) -> bool:
        """Whether a tune of this form may have a pickup."""
        return all(map(self._is_balanced, self.sections))

    def _is_balanced(self, stretch: FormSection) -> bool:
        """Tell whether a stretch has room for its short bars, and ends as the one it repeats."""
        least = 2 if stretch.has_pickup and stretch.has_short_end else 1
        source = stretch if stretch.source is None else self.sections[stretch.source]
        return stretch.bars >= least and stretch.has_short_end == source.has_short_end


def parse_form(text: str) -> str:
    """Read a form as a person writes it: letters, `through` or `free`. Raises InvalidValue."""
    plain = text.strip()
    if plain.lower() in (THROUGH, FREE):
        return plain.lower()
    if fault := _find_form_fault(plain.upper()):
        nearest = get_close_matches(plain.lower()[:40], (THROUGH, FREE), n=1)
        asked = f"did you mean {nearest[0]}? {fault[:1].upper()}{fault[1:]}" if nearest else fault
        raise InvalidValue(f"form {shorten(text)!r}: {asked}; {_FORM_HINT}")
    return check_form(plain)


def _find_form_fault(form: str) -> str:
    """Say which rule for letters a form breaks; "" where it keeps to all of them."""
    if not form:
        return "it has no letters"
    if others := [character for character in form if character not in LETTERS]:
        return f"a form has letters A to {LETTERS[-1]}, and {others[0]!r} is none of them"
    if len(form) > _MAX_LETTERS:
        return f"a form has at most {_MAX_LETTERS} letters, and this one has {len(form):,}"
    return "" if form.startswith("A") else f"a form starts with A, and this one with {form[0]}"


def check_form(text: str) -> str:
    """Return a form as it is kept, upper-case letters or `through`. Raises InvalidValue.

    A recipe of an earlier version may hold any letters; what a person writes goes through
    `parse_form`, which allows fewer.
    """
    if text == THROUGH:
        return THROUGH
    form = text.strip().upper()
    if not re.fullmatch(rf"[A-Z]{{1,{_MAX_LETTERS}}}", form):
        raise InvalidValue(f"form {shorten(text)!r}: {_find_form_fault(form)}; {_FORM_HINT}")
    for letter, same in groupby(form):
        if (count := len(list(same))) > MAX_PLAYS:
            raise InvalidValue(
                f"form {form}: {letter} stands {count} times in a row; a part is repeated at most"
                f" {MAX_PLAYS} times"
            )
    return form


def _split_sections(form: str, bars: int) -> Iterator[FormSection]:
    """Yield a stretch for each run of equal letters."""
    known: dict[str, int] = {}
    for place, (letter, same) in enumerate(groupby(form)):
        yield FormSection(bars, len(list(same)), known.get(letter))
        known.setdefault(letter, place)


def _mark_pickups(stretches: Sequence[FormSection]) -> Iterator[FormSection]:
    """Say of each stretch how it begins and ends where the tune has a pickup."""
    splits = [a.plays > 1 or b.plays > 1 for a, b in pairwise(stretches)]
    ends: list[bool] = []
    for place, stretch in enumerate(stretches):
        is_last = place == len(splits)
        free = is_last and stretch.plays == 1 and stretch.source is not None
        ends.append(ends[stretch.source or 0] if free else is_last or splits[place])
        begins = place == 0 or splits[place - 1]
        yield replace(stretch, has_pickup=begins, has_short_end=ends[-1])
