"""Where tunes come from: a file, a folder, or a corpus card that names one."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Final

from musicgen.corpus.archives import Part
from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.files import open_regular
from musicgen.formats import BY_SUFFIX, READABLE, Reading, read
from musicgen.music.score import Score

_PACKAGE: Final = Path(__file__).parents[1]
_CARD_FOLDERS: Final = (_PACKAGE / "_corpora", _PACKAGE.parent / "corpora")


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a corpus: where it lies, whose it is, on what terms."""

    name: str
    title: str
    description: str
    source: str = ""
    terms: str = ""
    in_short: str = ""  # the terms in a line
    where: str = ""  # "music21:FOLDER", inside the corpus that music21 brings
    files: str = "*"  # which names in that folder
    includes: tuple[str, ...] = ()  # other cards, of which this one is made
    ships: bool = False  # whether weights trained on it may be given away


@dataclass(frozen=True, slots=True)
class TuneFile:
    """A file that may hold tunes, and the name that reports and data sets call it by."""

    path: Path
    name: str
    named: bool = False  # by the user, who may name a link

    def parts(self) -> Iterator[Part]:
        """Yield what is read one by one: the file itself, or the members of an archive."""
        form = BY_SUFFIX[self.path.suffix.lower()]
        limit, follow = form.max_bytes, self.named
        yield Part(self.name, 0, lambda: open_regular(self.path, limit=limit, follow=follow))

    def read(self) -> Reading:
        """Read its tunes; refusals say the name, that of a file that went away too."""
        try:
            scores, refusals = read(self.path, follow=self.named)
        except NotFound as fault:
            return (), (Refusal(str(fault), source=self.name, code="unreadable"),)
        return scores, tuple(refusal.at(self.name) for refusal in refusals)


def cards() -> tuple[Card, ...]:
    """Return all corpus cards, by name."""
    return tuple(_card(path) for path in sorted(_card_folder().glob("*.toml")))


def find_card(name: str) -> Card:
    """Return the card of a name. Raises NotFound."""
    found = {card.name: card for card in cards()}
    if name not in found:
        raise NotFound(f"there is no file, folder or corpus {name!r}; known are {', '.join(found)}")
    return found[name]


def cards_of(sources: Iterable[str | Path]) -> list[Card]:
    """Return the cards among sources, a card of cards as the ones that it is made of."""
    known = {card.name: card for card in cards()}
    named = [known[str(source)] for source in sources if str(source) in known]
    return [one for card in named for one in ([known[n] for n in card.includes] or [card])]


def files(source: str | Path) -> tuple[TuneFile, ...]:
    """Return the tune files of a file, a folder or a card, in the order of their names.

    A card goes before a folder of its name, which is written ./NAME. Raises NotFound where a
    source has none, InvalidValue for a file of an unknown suffix.
    """
    if isinstance(source, str) and source in {card.name for card in cards()}:
        return tuple(_of_card(find_card(source)))
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, path.resolve().name)
    if not os.path.lexists(path):
        find_card(str(source))
    if not _is_readable(path):
        raise InvalidValue(f"{path}: only {', '.join(READABLE)} and folders of them are read")
    return (TuneFile(path, path.name, named=True),)


def tunes(source: str | Path) -> Iterator[tuple[Score | Refusal, str]]:
    """Yield each tune of a source, or why there is none, with the file that it stands in."""
    for file in files(source):
        scores, refusals = file.read()
        yield from ((score, file.name) for score in scores)
        yield from ((refusal, file.name) for refusal in refusals)


def count_tunes(card: Card) -> int | None:
    """Count the tunes of a card without reading them; None where it is not installed."""
    try:
        return sum(_count(file.path) for file in _of_card(card))
    except NotFound:
        return None


def _count(path: Path) -> int:
    if path.suffix.lower() != ".abc":
        return 1
    return sum(line.startswith(b"X:") for line in path.read_bytes().splitlines())


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in READABLE


def _of_folder(folder: Path, name: str, pattern: str = "*") -> tuple[TuneFile, ...]:
    inside = (path.relative_to(folder) for path in _walk(folder) if fnmatch(path.name, pattern))
    found = sorted(path.as_posix() for path in inside if _is_readable(path))
    if not found:
        raise NotFound(f"{folder} holds no tunes; {', '.join(READABLE)} are read")
    return tuple(TuneFile(folder / path, f"{name}/{path}") for path in found)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and its folders; linked folders are not entered."""
    for root, folders, names in os.walk(folder, followlinks=False):
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from (Path(root) / name for name in (*names, *linked))


def _of_card(card: Card) -> Iterator[TuneFile]:
    if card.where:
        yield from _of_folder(_located(card), card.name, card.files)
    for name in card.includes:
        yield from _of_card(find_card(name))


def _located(card: Card) -> Path:
    """Find a card's folder, without importing the package that it lies in."""
    package, _, inside = card.where.partition(":")
    spec = importlib.util.find_spec(package)
    roots: Iterable[str] = (spec.submodule_search_locations or ()) if spec else ()
    for root in roots:
        folder = Path(root) / "corpus" / inside
        if folder.is_dir():
            return folder
    raise NotFound(
        f"corpus {card.name}: {package} is not installed with its corpus;"
        f" install it again with pip install --force-reinstall {package}"
    )


def _card_folder() -> Path:
    return next((folder for folder in _CARD_FOLDERS if folder.is_dir()), _CARD_FOLDERS[0])


@cache
def _card(path: Path) -> Card:
    fields: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    fields["includes"] = tuple(fields.get("includes", ()))
    return Card(name=path.stem, **fields)
