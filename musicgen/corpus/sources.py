"""Where tunes come from: a file, a folder, or a corpus card that names one."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from dataclasses import fields as fields_of
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from musicgen.corpus.archives import ARCHIVES, Part, is_archive, members
from musicgen.errors import InvalidValue, NotFound, Refusal, printable
from musicgen.files import open_regular
from musicgen.formats import READABLE, Reading, max_bytes_of, parse
from musicgen.music.score import Score

MAX_CARD: Final = 2**20
_PACKAGE: Final = Path(__file__).parents[1]
_HOW_TO_WRITE_ONE: Final = "one is TOML with title, description and where"
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
    where: str = ""  # a URL, or "music21:FOLDER", inside the corpus that music21 brings
    files: str = "*"  # which names in that folder or archive
    sha256: str = ""  # of the file at the URL
    bytes: int = 0  # how long that is
    includes: tuple[str, ...] = ()  # other cards, of which this one is made
    ships: bool = False  # whether weights trained on it may be given away


_CARD_KINDS: Final = {
    field.name: str
    if field.default is MISSING
    else list
    if field.default == ()
    else type(field.default)
    for field in fields_of(Card)
    if field.name != "name"
}  # what a card's file may say


@dataclass(frozen=True, slots=True)
class TuneFile:
    """A file that may hold tunes, and the name that reports and data sets call it by."""

    path: Path
    name: str
    named: bool = False  # by the user, who may name a link
    only: str = "*"  # which members of an archive

    def parts(self, suffixes: Collection[str] = READABLE) -> Iterator[Part]:
        """Yield what is read one by one: the file itself, or the members of an archive.

        Raises Refusal or NotFound for an archive that cannot be read, or not to its end.
        """
        if not is_archive(self.path.name):
            yield Part(self.name, 0, self._whole)
            return
        with _telling_of_folders(self.path):
            yield from members(self.path, self.name, suffixes, only=self.only, follow=self.named)

    def _whole(self) -> bytes:
        with _telling_of_folders(self.path):
            limit = max_bytes_of(self.path.suffix)
            return open_regular(self.path, limit=limit, follow=self.named)

    def contents(
        self,
        suffixes: Collection[str] = READABLE,
        *,
        starting: Callable[[str, int], None] | None = None,
        first: int = 0,
    ) -> Iterator[tuple[Part, bytes | Refusal]]:
        """Yield the bytes of each part, or why there are none; what is no tune is passed over.

        Before each part `starting` is told its name and number; those before the first are
        not read.
        """
        holds_none = True
        try:
            for part in self.parts(suffixes):
                if starting is not None:
                    starting(part.name, part.number)
                holds_none = holds_none and part.read is None
                if part.read is not None and part.number >= first:
                    yield part, _bytes_of(part)
            if holds_none:
                raise Refusal("it holds no file of tunes; it was left out", code="empty")
        except NotFound as fault:
            yield Part(self.name, 0, None), Refusal(str(fault), source=self.name, code="unreadable")
        except Refusal as fault:
            yield Part(self.name, 0, None), fault.at(self.name)

    def read(self) -> Reading:
        """Read its tunes here and now; refusals say the name, that of a file that went away too."""
        scores: list[Score] = []
        refusals: list[Refusal] = []
        for part, data in self.contents():
            if isinstance(data, Refusal):
                refusals.append(data)
            else:
                read, refused = parse(data, part.suffix, part.name)
                scores += read
                refusals += refused
        return tuple(scores), tuple(refusals)


@contextmanager
def _telling_of_folders(path: Path) -> Iterator[None]:
    """Where a folder with a tune's suffix is refused, say that its files are not."""
    try:
        yield
    except Refusal as fault:
        if fault.code != "not-regular" or path.is_symlink() or not path.is_dir():
            raise
        message = f"{fault.message}; what lies in it is read under its own names"
        raise Refusal(message, source=fault.source, code=fault.code) from fault


def _bytes_of(part: Part) -> bytes | Refusal:
    try:
        return part.read() if part.read is not None else b""
    except NotFound as fault:
        return Refusal(str(fault), source=part.name, code="unreadable")
    except Refusal as fault:
        return fault.at(part.name)


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


@dataclass(frozen=True, slots=True)
class Found:
    """What a source stands for."""

    files: tuple[TuneFile, ...]
    passed_over: int = 0  # other files, which are no tunes by their names


def files(source: str | Path, *, suffixes: Collection[str] = READABLE) -> tuple[TuneFile, ...]:
    """Return the tune files of a source, as `find` does."""
    return find(source, suffixes=suffixes).files


def find(
    source: str | Path,
    *,
    suffixes: Collection[str] = READABLE,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Return the tune files of a file, folder, archive or card, in the order of their names.

    A card goes before a folder of its name, which is written ./NAME; a card of one's own is named
    by its path, which ends in .toml. A card's URL is downloaded; progress is told the bytes so far
    and in all. Raises NotFound where a source has none, InvalidValue for a file of an unknown
    suffix, MusicgenError where a download fails.
    """
    if isinstance(source, str) and source in {card.name for card in cards()}:
        return _of_card(find_card(source), suffixes, progress)
    path = Path(source)
    _check_there(source, path)
    if path.is_dir():
        return _of_folder(path, path.resolve().name, "*", suffixes)
    if path.suffix == ".toml":
        return _of_card(_card(path), suffixes, progress)
    if not _is_read(path, suffixes):
        raise InvalidValue(
            f"{path}: only {', '.join((*suffixes, *ARCHIVES))}, folders of them and corpus cards"
            " (.toml) are read"
        )
    return Found((TuneFile(path, printable(path.name), named=True),))


def _check_there(source: str | Path, path: Path) -> None:
    """Refuse what does not exist; an empty word is no name of the folder that one is in."""
    if source == "" or not os.path.lexists(path):
        find_card(str(source))
    elif not os.path.exists(path):  # noqa: PTH110 - Path.exists fails where a name is too long
        raise NotFound(f"{path} is a link to nothing; see where it leads")


def tunes(source: str | Path) -> Iterator[tuple[Score | Refusal, str]]:
    """Yield each tune of a source, or why there is none, with the file that it stands in."""
    for file in files(source):
        scores, refusals = file.read()
        yield from ((score, file.name) for score in scores)
        yield from ((refusal, file.name) for refusal in refusals)


def count_tunes(card: Card) -> int | None:
    """Count the tunes of a card without reading them; None where it is not on this machine."""
    if is_url(card.where):
        return None
    try:
        return sum(_count(file.path) for file in _of_card(card).files)
    except NotFound:
        return None


def _count(path: Path) -> int:
    if path.suffix.lower() != ".abc":
        return 1
    return sum(line.startswith(b"X:") for line in path.read_bytes().splitlines())


def _of_folder(folder: Path, name: str, pattern: str, suffixes: Collection[str]) -> Found:
    lying, closed = _walk(folder)
    read = [path for path in lying if fnmatch(path.name, pattern) and _is_read(path, suffixes)]
    names = sorted(path.relative_to(folder).as_posix() for path in (*read, *closed))
    if not names:
        raise NotFound(f"{folder} holds no tunes; {', '.join(suffixes)} are read")
    return Found(tuple(_inside(folder, name, path) for path in names), len(lying) - len(read))


def _inside(folder: Path, name: str, path: str) -> TuneFile:
    return TuneFile(folder / path, printable(name if path == "." else f"{name}/{path}"))


def _is_read(path: Path, suffixes: Collection[str]) -> bool:
    return path.suffix.lower() in suffixes or is_archive(path.name)


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return what lies in a folder and its folders, and the folders that cannot be entered.

    Linked folders are not entered; they, and folders with a tune's suffix, count as files, which
    reading refuses.
    """
    lying: list[Path] = []
    closed: list[Path] = []

    def no_entry(fault: OSError) -> None:
        closed.append(Path(fault.filename))

    for root, folders, names in os.walk(folder, onerror=no_entry, followlinks=False):
        here = Path(root)
        odd = [n for n in folders if (here / n).is_symlink() or _is_read(Path(n), READABLE)]
        lying += [here / name for name in (*names, *odd)]
    return lying, closed


def _of_card(
    card: Card,
    suffixes: Collection[str] = READABLE,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    own = _of_place(card, suffixes, progress) if card.where else Found(())
    others = [_of_card(one, suffixes, progress) for one in _included(card)]
    everything = tuple(file for found in (own, *others) for file in found.files)
    return Found(everything, sum(found.passed_over for found in (own, *others)))


def _included(card: Card) -> list[Card]:
    try:
        return [find_card(name) for name in card.includes]
    except NotFound as fault:
        raise NotFound(f"corpus {card.name}: includes: {fault}") from fault


def is_url(text: str) -> bool:
    """Tell a URL from other places."""
    return "://" in text


def _of_place(
    card: Card, suffixes: Collection[str], progress: Callable[[int, int], None] | None
) -> Found:
    if not is_url(card.where):
        return _of_folder(_located(card), card.name, card.files, suffixes)
    from musicgen.corpus.download import Download, download  # 0.1 s, and wanted by few

    path = download(Download(card.where, card.sha256, card.bytes), progress=progress)
    if not _is_read(path, suffixes):
        raise InvalidValue(f"corpus {card.name}: {card.where} is no file of tunes by its name")
    return Found((TuneFile(path, f"{card.name}/{_last(card.where)}", only=card.files),))


def _last(url: str) -> str:
    return printable(urlsplit(url).path.rpartition("/")[2])


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
    try:
        fields: dict[str, Any] = tomllib.loads(open_regular(path, limit=MAX_CARD).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, Refusal) as fault:
        why = fault.message if isinstance(fault, Refusal) else fault
        raise InvalidValue(f"{path} is no corpus card: {why}; {_HOW_TO_WRITE_ONE}") from fault
    return _checked_card(path, fields)


def _checked_card(path: Path, fields: dict[str, Any]) -> Card:
    for name, value in fields.items():
        if name not in _CARD_KINDS:
            known = ", ".join(_CARD_KINDS)
            raise InvalidValue(f"{path}: a corpus card has no {name!r}; it has {known}")
        if type(value) is not _CARD_KINDS[name]:
            kind = _CARD_KINDS[name].__name__
            raise InvalidValue(f"{path}: {name} = {value!r} should be of the kind {kind}")
    missing = [name for name in ("title", "description") if name not in fields]
    if missing or bool(fields.get("where")) == bool(fields.get("includes")):
        lacking = ", ".join(missing) or "one of where and includes"
        raise InvalidValue(f"{path}: the corpus card lacks {lacking}")
    if is_url(fields.get("where", "")) and not {"sha256", "bytes"} <= fields.keys():
        raise InvalidValue(f"{path}: a corpus card with a URL needs sha256 and bytes")
    return Card(name=path.stem, **{**fields, "includes": tuple(fields.get("includes", ()))})
