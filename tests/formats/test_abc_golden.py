"""Golden files for rare constructs of ABC: small books, and descriptions of their tunes.

`python tests/formats/test_abc_golden.py` renews the expected files; review the changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from musicgen.formats import abc
from musicgen.music.score import Score

FOLDER = Path(__file__).parent / "golden_abc"
BOOKS = sorted(FOLDER.glob("*.abc"))


def describe_book(book: Path) -> str:
    scores, refusals = abc.read(book)
    lines = [line for score in scores for line in describe_score(score)]
    faults = [f"refused {fault.code}: {fault.place}: {fault.message}" for fault in refusals]
    return "\n".join([*lines, *faults, ""])


def describe_score(score: Score) -> Iterator[str]:
    """Yield lines with the parts of a tune, their notes as onset+duration:pitch, and its marks."""
    yield f"== {score.title}"
    for index, part in enumerate(score.parts):
        kit = " (drums)" if part.is_drums else ""
        notes = (note for note in score.notes if note.part == index)
        yield f"part {part.name!r} {part.program}{kit}: " + " ".join(
            f"{note.onset}+{note.duration}:{note.pitch}" for note in notes
        )
    yield "marks: " + ", ".join(
        f"{mark.onset} {mark.kind}" + ("" if mark.value is None else f" {mark.value}")
        for mark in score.marks
    )


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_book_is_read_as_expected(book: Path) -> None:
    assert describe_book(book) == book.with_suffix(".expected").read_text()


def test_golden_books_exist() -> None:
    assert len(BOOKS) == 6


if __name__ == "__main__":
    for path in BOOKS:
        path.with_suffix(".expected").write_text(describe_book(path))
