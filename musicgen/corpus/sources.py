"""Where tunes come from: a file, a folder, or a corpus card that names one."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, structs

from musicgen.corpus.archives import ARCHIVE_SUFFIXES, FileEntry, is_archive, iter_members
from musicgen.corpus.download import split_url, url_file_name
from musicgen.errors import InvalidValue, NotFound, Refusal, escape_unprintable
from musicgen.files import read_regular_file
from musicgen.formats import READABLE_SUFFIXES, ParseResult, max_bytes_of, parse
from musicgen.music.score import Score
from musicgen.number_parsing import shorten
from musicgen.typed_data import check_schema, parse_toml

MAX_CARD_BYTES: Final = 2**16
_MUSIC21_PREFIX: Final = "music21:"  # before a folder of the corpus that music21 brings
_FOLDER: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,60}"
_WHERE: Final = re.compile(rf"(https?://\S{{1,2000}}|music21:{_FOLDER}(/{_FOLDER}){{0,4}})?")
_PACKAGE: Final = Path(__file__).parents[1]
_CARD_HINT: Final = "one is TOML with title, description and where (or includes)"
_CARD_FOLDERS: Final = (_PACKAGE / "_corpora", _PACKAGE.parent / "corpora")


class CardSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a card's file may say."""

    title: Annotated[str, Meta(min_length=1)]
    description: str
    source: str = ""
    terms: str = ""
    in_short: str = ""  # the terms in a line
    where: str = ""  # https://..., or music21:FOLDER, inside the corpus that music21 brings
    files: Annotated[str, Meta(max_length=200)] = "*"  # names in that folder or archive
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""  # of the file at the URL
    bytes: Annotated[int, Meta(ge=0, le=2**40)] = 0  # how long that is
    includes: Annotated[tuple[str, ...], Meta(max_length=100)] = ()  # other cards, its parts
    ships: bool = False  # whether weights trained on it may be given away

    def __post_init__(self) -> None:
        """Refuse a place that is not allowed, and fields that contradict each other."""
        if not _WHERE.fullmatch(self.where):
            raise ValueError(
                f"where is {shorten(self.where)!r}: write https://HOST/FILE, or music21:FOLDER, a"
                " folder inside the corpus that music21 brings; a folder of your own is named"
                " instead of a card"
            )
        if bool(self.where) == bool(self.includes):
            raise ValueError("the corpus card lacks one of where and includes")
        if is_url(self.where):
            split_url(self.where)
            if not (self.sha256 and self.bytes):
                raise ValueError("a corpus card with a URL needs sha256 and bytes")


class CorpusCard(CardSchema, frozen=True, kw_only=True):
    """What is known of a corpus: where it lies, whose it is, on what terms."""

    name: str


@dataclass(frozen=True, slots=True)
class TuneFile:
    """A file that may hold tunes, and the name that reports and data sets call it by."""

    path: Path
    name: str
    named: bool = False  # by the user, who may name a link
    only: str = "*"  # which members of an archive

    def iter_entries(self, suffixes: Collection[str] = READABLE_SUFFIXES) -> Iterator[FileEntry]:
        """Yield what is read one by one: the file itself, or the members of an archive.

        Raises Refusal or NotFound for an archive that cannot be read, or not to its end.
        """
        if not is_archive(self.path.name):
            yield FileEntry(self.name, 0, self._read_bytes)
            return
        with _explain_folder_refusals(self.path):
            yield from iter_members(
                self.path, self.name, suffixes, only=self.only, follow=self.named
            )

    def _read_bytes(self) -> bytes:
        with _explain_folder_refusals(self.path):
            limit = max_bytes_of(self.path.suffix)
            return read_regular_file(self.path, limit=limit, follow=self.named)

    def iter_contents(
        self,
        suffixes: Collection[str] = READABLE_SUFFIXES,
        *,
        on_start: Callable[[str, int], None] | None = None,
        first: int = 0,
    ) -> Iterator[tuple[FileEntry, bytes | Refusal]]:
        """Yield the bytes of each part, or why there are none; what is no tune is passed over.

        Before each part `starting` is told its name and number; those before the first are
        not read.
        """
        holds_none = True
        try:
            for part in self.iter_entries(suffixes):
                if on_start is not None:
                    on_start(part.name, part.number)
                holds_none = holds_none and part.read is None
                if part.read is not None and part.number >= first:
                    yield part, _read_entry(part)
            if holds_none:
                raise Refusal("it holds no file of tunes; it was left out", code="empty")
        except NotFound as fault:
            yield (
                FileEntry(self.name, 0, None),
                Refusal(str(fault), source=self.name, code="unreadable"),
            )
        except Refusal as fault:
            yield FileEntry(self.name, 0, None), fault.with_source(self.name)

    def read(self) -> ParseResult:
        """Read its tunes here and now; refusals say the name, that of a file that went away too."""
        scores: list[Score] = []
        refusals: list[Refusal] = []
        for part, data in self.iter_contents():
            if isinstance(data, Refusal):
                refusals.append(data)
            else:
                read, refused = parse(data, part.suffix, part.name)
                scores += read
                refusals += refused
        return tuple(scores), tuple(refusals)


@contextmanager
def _explain_folder_refusals(path: Path) -> Iterator[None]:
    """Where a folder with a tune's suffix is refused, say that its files are not."""
    try:
        yield
    except Refusal as fault:
        if fault.code != "not-regular" or path.is_symlink() or not path.is_dir():
            raise
        message = f"{fault.message}; what lies in it is read under its own names"
        raise Refusal(message, source=fault.source, code=fault.code) from fault


def _read_entry(entry: FileEntry) -> bytes | Refusal:
    try:
        return entry.read() if entry.read is not None else b""
    except NotFound as fault:
        return Refusal(str(fault), source=entry.name, code="unreadable")
    except Refusal as fault:
        return fault.with_source(entry.name)


def list_cards() -> tuple[CorpusCard, ...]:
    """Return all corpus cards, by name."""
    return tuple(_load_card(path) for path in sorted(_card_folder().glob("*.toml")))


def find_card(name: str) -> CorpusCard:
    """Return the card of a name. Raises NotFound."""
    found = {card.name: card for card in list_cards()}
    if name not in found:
        raise NotFound(f"there is no file, folder or corpus {name!r}; known are {', '.join(found)}")
    return found[name]


def expand_cards(sources: Iterable[str | Path]) -> list[CorpusCard]:
    """Return the cards among sources, a card of cards as the ones that it is made of."""
    known = {card.name: card for card in list_cards()}
    named = [known[str(source)] for source in sources if str(source) in known]
    return [one for card in named for one in ([known[n] for n in card.includes] or [card])]


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """What a source stands for."""

    files: tuple[TuneFile, ...]
    skipped_files: int = 0  # other files, which are no tunes by their names


def list_files(
    source: str | Path, *, suffixes: Collection[str] = READABLE_SUFFIXES
) -> tuple[TuneFile, ...]:
    """Return the tune files of a source, as `find` does."""
    return find_files(source, suffixes=suffixes).files


def find_files(
    source: str | Path,
    *,
    suffixes: Collection[str] = READABLE_SUFFIXES,
    progress: Callable[[int, int], None] | None = None,
) -> SourceFiles:
    """Return the tune files of a file, folder, archive or card, in the order of their names.

    A card goes before a folder of its name, which is written ./NAME; a card of one's own is named
    by its path, which ends in .toml. A card's URL is downloaded; progress is told the bytes so far
    and in all. Raises NotFound where a source has none, InvalidValue for a file of an unknown
    suffix, MusicgenError where a download fails.
    """
    if isinstance(source, str) and source in {card.name for card in list_cards()}:
        return _find_in_card(find_card(source), suffixes, progress)
    path = Path(source)
    _check_exists(source, path)
    if path.is_dir():
        return _find_in_folder(path, path.resolve().name, "*", suffixes)
    if path.suffix == ".toml":
        return _find_in_card(_load_card(path), suffixes, progress)
    if not _is_readable(path, suffixes):
        raise InvalidValue(
            f"{path}: only {', '.join((*suffixes, *ARCHIVE_SUFFIXES))}, folders of them and"
            f" corpus cards"
            " (.toml) are read"
        )
    return SourceFiles((TuneFile(path, escape_unprintable(path.name), named=True),))


def _check_exists(source: str | Path, path: Path) -> None:
    """Refuse what does not exist; an empty word is no name of the folder that one is in."""
    if source == "" or not os.path.lexists(path):
        find_card(str(source))
    elif not os.path.exists(path):  # noqa: PTH110 - Path.exists fails where a name is too long
        raise NotFound(f"{path} is a link to nothing; see where it leads")


def iter_tunes(source: str | Path) -> Iterator[tuple[Score | Refusal, str]]:
    """Yield each tune of a source, or why there is none, with the file that it stands in."""
    for file in list_files(source):
        scores, refusals = file.read()
        yield from ((score, file.name) for score in scores)
        yield from ((refusal, file.name) for refusal in refusals)


def count_tunes(card: CorpusCard) -> int | None:
    """Count the tunes of a card without reading them; None where it is not on this machine."""
    if is_url(card.where):
        return None
    try:
        return sum(_count_in_file(file.path) for file in _find_in_card(card).files)
    except NotFound:
        return None


def _count_in_file(path: Path) -> int:
    if path.suffix.lower() != ".abc":
        return 1
    return sum(line.startswith(b"X:") for line in path.read_bytes().splitlines())


def _find_in_folder(
    folder: Path, name: str, pattern: str, suffixes: Collection[str]
) -> SourceFiles:
    lying, closed = _walk(folder)
    read = [path for path in lying if fnmatch(path.name, pattern) and _is_readable(path, suffixes)]
    names = sorted(path.relative_to(folder).as_posix() for path in (*read, *closed))
    if not names:
        raise NotFound(f"{folder} holds no tunes; {', '.join(suffixes)} are read")
    return SourceFiles(
        tuple(_make_tune_file(folder, name, path) for path in names), len(lying) - len(read)
    )


def _make_tune_file(folder: Path, name: str, path: str) -> TuneFile:
    return TuneFile(folder / path, escape_unprintable(name if path == "." else f"{name}/{path}"))


def _is_readable(path: Path, suffixes: Collection[str]) -> bool:
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
        odd = [
            name
            for name in folders
            if os.path.islink(here / name)  # noqa: PTH114 - False where it may not be asked
            or _is_readable(Path(name), READABLE_SUFFIXES)
        ]
        lying += [here / name for name in (*names, *odd)]
    return lying, closed


def _find_in_card(
    card: CorpusCard,
    suffixes: Collection[str] = READABLE_SUFFIXES,
    progress: Callable[[int, int], None] | None = None,
) -> SourceFiles:
    own = _find_at_location(card, suffixes, progress) if card.where else SourceFiles(())
    others = [_find_in_card(one, suffixes, progress) for one in _load_included_cards(card)]
    everything = tuple(file for found in (own, *others) for file in found.files)
    return SourceFiles(everything, sum(found.skipped_files for found in (own, *others)))


def _load_included_cards(card: CorpusCard) -> list[CorpusCard]:
    try:
        return [find_card(name) for name in card.includes]
    except NotFound as fault:
        raise NotFound(f"corpus {card.name}: includes: {fault}") from fault


def is_url(text: str) -> bool:
    """Tell a URL from other places."""
    return "://" in text


def _find_at_location(
    card: CorpusCard, suffixes: Collection[str], progress: Callable[[int, int], None] | None
) -> SourceFiles:
    if not is_url(card.where):
        return _find_in_folder(_find_music21_folder(card), card.name, card.files, suffixes)
    from musicgen.corpus.download import RemoteFile, download  # 0.1 s, and wanted by few

    path = download(RemoteFile(card.where, card.sha256, card.bytes), progress=progress)
    if not _is_readable(path, suffixes):
        raise InvalidValue(f"corpus {card.name}: {card.where} is no file of tunes by its name")
    name = escape_unprintable(f"{card.name}/{url_file_name(card.where)}")
    return SourceFiles((TuneFile(path, name, only=card.files),))


def _find_music21_folder(card: CorpusCard) -> Path:
    """Find a card's folder in music21's corpus, without importing music21."""
    spec = importlib.util.find_spec("music21")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        corpus = Path(root, "corpus").resolve()
        folder = (corpus / card.where.removeprefix(_MUSIC21_PREFIX)).resolve()
        if folder.is_dir() and corpus in folder.parents:
            return folder
    raise NotFound(
        f"corpus {card.name}: music21's corpus holds no folder {card.where}; see that music21 is"
        " installed with its corpus, or name another folder in the card"
    )


def _card_folder() -> Path:
    return next((folder for folder in _CARD_FOLDERS if folder.is_dir()), _CARD_FOLDERS[0])


@cache
def _load_card(path: Path) -> CorpusCard:
    try:
        fields = parse_toml(read_regular_file(path, limit=MAX_CARD_BYTES).decode("utf-8"))
    except (ValueError, RecursionError, Refusal) as fault:
        why = fault.message if isinstance(fault, Refusal) else fault
        raise InvalidValue(f"{path} is not a corpus card: {why}; {_CARD_HINT}") from fault
    try:
        text = check_schema(fields, CardSchema, f"{path} is not a corpus card")
    except InvalidValue as fault:
        raise InvalidValue(f"{fault}; {_CARD_HINT}") from fault
    return CorpusCard(name=path.stem, **structs.asdict(text))
