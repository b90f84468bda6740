"""Sources of tunes: files, folders, archives, and corpus cards that name them.

`find_files` lists the `TuneFile`s of a source; a `CorpusCard` is a TOML file in `corpora/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, structs

from musicgen.corpus.archives import ARCHIVE_SUFFIXES, FileEntry, is_archive, iter_members
from musicgen.corpus.download import split_url, url_file_name
from musicgen.errors import InvalidValue, NotFound, Refusal, escape_unprintable
from musicgen.files import read_regular_file
from musicgen.formats import READABLE_SUFFIXES, ParseResult, max_bytes_of, parse
from musicgen.music.key_labels import set_key_by_rule
from musicgen.music.score import Score
from musicgen.typed_data import check_schema, parse_toml, shorten

MAX_CARD_BYTES: Final = 2**16
_MUSIC21_PREFIX: Final = "music21:"  # prefix of a folder of music21's corpus
HERE: Final = "."  # the folder that holds a card
_FOLDER_PATTERN: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,60}"
_WHERE: Final = re.compile(
    rf"(https?://\S{{1,2000}}|music21:{_FOLDER_PATTERN}(/{_FOLDER_PATTERN}){{0,4}}|\.)?"
)
_PACKAGE: Final = Path(__file__).parents[1]
_CARD_HINT: Final = "a card is TOML with title, description and where (or includes)"
_CARD_FOLDERS: Final = (_PACKAGE / "_corpora", _PACKAGE.parent / "corpora")


class Download(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file below the URL of a card that ends in a slash."""

    name: Annotated[str, Meta(pattern=rf"^{_FOLDER_PATTERN}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, Meta(gt=0, le=2**40)]


class CardSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a corpus card."""

    title: Annotated[str, Meta(min_length=1)]
    description: str
    source: str = ""
    terms: str = ""
    in_short: str = ""  # the terms in one line
    where: str = ""  # https://..., music21:FOLDER, or HERE: the folder that holds the card
    files: Annotated[str, Meta(max_length=200)] = "*"  # pattern of the file names to read
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""  # of the file at the URL
    bytes: Annotated[int, Meta(ge=0, le=2**40)] = 0  # size of that file
    downloads: Annotated[tuple[Download, ...], Meta(max_length=1000)] = ()  # if a URL ends in /
    left_out: Literal["", "title SHA-256 divisible by 8"] = ""  # a name of LEFT_OUT_RULES
    parts: Annotated[tuple[str, ...], Meta(max_length=16)] = ()  # only tunes with these parts
    rhythm: Annotated[str, Meta(max_length=60)] = ""  # of tunes that name none
    tonic: Literal["", "last bass note", "all notes"] = ""  # of KEY_RULES; "": keys as written
    chords_as_part: bool = False  # whether a tune's chord symbols are stored as a part of their own
    includes: Annotated[tuple[str, ...], Meta(max_length=100)] = ()  # names of other cards
    ships: bool = False  # whether weights trained on it may be distributed

    def __post_init__(self) -> None:
        """Raise ValueError for a forbidden location or contradictory fields."""
        if not _WHERE.fullmatch(self.where):
            raise ValueError(
                f"where is {shorten(self.where)!r}: write https://HOST/FILE, music21:FOLDER for a"
                f" folder of music21's corpus, or {HERE} for the folder that holds the card"
            )
        if bool(self.where) == bool(self.includes):
            raise ValueError("a corpus card needs exactly one of where and includes")
        if is_url(self.where):
            split_url(self.where)
            if self.where.endswith("/") != bool(self.downloads):
                raise ValueError("downloads name the files below a URL that ends in /; give both")
            if not self.downloads and not (self.sha256 and self.bytes):
                raise ValueError("a corpus card with a URL needs sha256 and bytes")


class CorpusCard(CardSchema, frozen=True, kw_only=True):
    """A corpus: its name, location, source and terms."""

    name: str
    folder: str = ""  # that holds the card


def is_title_hash_divisible(title: str) -> bool:
    """Return whether the SHA-256 of a title in lower case, as a number, is divisible by 8."""
    digest = hashlib.sha256(title.strip().lower().encode()).digest()
    return digest[-1] % 8 == 0


# Which tunes of a corpus are left out, so that they can judge what was learned from the others.
LEFT_OUT_RULES: Final[Mapping[str, Callable[[str], bool]]] = {
    "title SHA-256 divisible by 8": is_title_hash_divisible,
}


@dataclass(frozen=True, slots=True)
class TuneFile:
    """A file that may hold tunes, and its name in reports and data sets."""

    path: Path
    name: str
    named: bool = False  # by the user, so that a link is followed
    only: str = "*"  # pattern of the archive members to read
    left_out: str = ""  # a name of LEFT_OUT_RULES; "": all tunes are read
    part_names: tuple[str, ...] = ()  # of the tunes to read, all of them in order; (): any
    rhythm: str = ""  # of tunes that name none
    chords_as_part: bool = False  # whether chord symbols are stored as a part of their own
    tonic: str = ""  # as in the card

    def leaves_out(self, title: str) -> bool:
        """Return whether the rule of the file leaves out a tune with a title."""
        return bool(self.left_out) and LEFT_OUT_RULES[self.left_out](title)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields as JSON can store them."""
        return {
            "path": os.fspath(self.path), "name": self.name, "named": self.named,
            "only": self.only, "left_out": self.left_out, "rhythm": self.rhythm,
            "part_names": list(self.part_names), "chords_as_part": self.chords_as_part,
            "tonic": self.tonic,
        }  # fmt: skip

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TuneFile:
        """Return the file of what `to_fields` returned."""
        path, part_names = Path(fields["path"]), tuple(fields.get("part_names", ()))
        return cls(**{**fields, "path": path, "part_names": part_names})

    def iter_entries(self, suffixes: Collection[str] = READABLE_SUFFIXES) -> Iterator[FileEntry]:
        """Yield the file itself, or the members of an archive.

        Raises:
            NotFound: the archive does not exist.
            Refusal: the archive cannot be read to its end.
        """
        if not is_archive(self.path.name):
            yield FileEntry(self.name, 0, self._read_bytes)
            return
        with _explain_folder_refusals(self.path):
            yield from iter_members(
                self.path, self.name, suffixes, only=self.only, follow=self.named
            )

    def has_wanted_parts(self, score: Score) -> bool:
        """Return whether a tune has the parts that the card of the file names."""
        return self.part_names in ((), tuple(part.name for part in score.parts))

    def apply_labels(self, score: Score) -> Score:
        """Return a tune with the rhythm and the key that the card of the file gives it."""
        labelled = replace(score, rhythm=score.rhythm or self.rhythm)
        return set_key_by_rule(labelled, self.tonic) if self.tonic else labelled

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
        """Yield each tune file of the entries with its bytes, or with the refusal of reading it.

        A file or archive that cannot be read gives a refusal too; nothing is raised.

        Args:
            suffixes: of tune files; other members of an archive are skipped.
            on_start: called with the name and number of each entry before it is read.
            first: skip the entries before this number.
        """
        is_empty = True
        try:
            for entry in self.iter_entries(suffixes):
                if on_start is not None:
                    on_start(entry.name, entry.number)
                is_empty = is_empty and entry.read is None
                if entry.read is not None and entry.number >= first:
                    yield entry, _read_entry(entry)
            if is_empty:
                message = "it holds no tune file; it was left out"
                yield (
                    FileEntry(self.name, 0, None),
                    Refusal(message, source=self.name, code="empty"),
                )
        except NotFound as fault:
            yield (
                FileEntry(self.name, 0, None),
                Refusal(str(fault), source=self.name, code="unreadable"),
            )
        except Refusal as fault:
            yield FileEntry(self.name, 0, None), fault.with_source(self.name)

    def read(self) -> ParseResult:
        """Parse all tunes but those that the file leaves out; a missing file gives a refusal."""
        scores: list[Score] = []
        refusals: list[Refusal] = []
        for entry, data in self.iter_contents():
            if isinstance(data, Refusal):
                refusals.append(data)
            else:
                entry_scores, entry_refusals = parse(data, entry.suffix, entry.name)
                wanted = (s for s in entry_scores if self.has_wanted_parts(s))
                scores += [self.apply_labels(s) for s in wanted if not self.leaves_out(s.title)]
                refusals += entry_refusals
        return tuple(scores), tuple(refusals)


@contextmanager
def _explain_folder_refusals(path: Path) -> Iterator[None]:
    """Add to the refusal of a folder named like a tune file that its files are read."""
    try:
        yield
    except Refusal as fault:
        if fault.code != "not-regular" or path.is_symlink() or not path.is_dir():
            raise
        message = f"{fault.message}; the files in it are read under their own names"
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
    cards = {card.name: card for card in list_cards()}
    if name not in cards:
        raise NotFound(f"there is no file, folder or corpus {name!r}; known are {', '.join(cards)}")
    return cards[name]


def expand_cards(sources: Iterable[str | Path]) -> list[CorpusCard]:
    """Return the cards that sources are, each card of cards replaced by the cards it includes."""
    cards = {card.name: card for card in list_cards()}
    named = [
        cards[str(source)] if str(source) in cards else _load_card(Path(source))
        for source in sources
        if str(source) in cards or (str(source).endswith(".toml") and Path(source).is_file())
    ]
    return [part for card in named for part in ([cards[name] for name in card.includes] or [card])]


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of a source."""

    files: tuple[TuneFile, ...]
    skipped_files: int = 0  # number of other files, whose suffix is not that of a tune

    def leave_out(self, rule: str) -> SourceFiles:
        """Return the files with a rule of LEFT_OUT_RULES for their tunes."""
        return replace(self, files=tuple(replace(file, left_out=rule) for file in self.files))


def list_files(
    source: str | Path, *, suffixes: Collection[str] = READABLE_SUFFIXES
) -> tuple[TuneFile, ...]:
    """Return the tune files of a source; raises as `find_files`."""
    return find_files(source, suffixes=suffixes).files


def find_files(
    source: str | Path,
    *,
    suffixes: Collection[str] = READABLE_SUFFIXES,
    progress: Callable[[int, int], None] | None = None,
) -> SourceFiles:
    """Return the tune files of a file, folder, archive or card, sorted by name.

    The URL of a card is downloaded.

    Args:
        source: a path, the name of a shipped card, or the path of a .toml card. A card hides a
            folder of the same name; write ./NAME for the folder.
        suffixes: of tune files.
        progress: called with the bytes downloaded so far and in all.

    Raises:
        NotFound: the source does not exist, or a folder holds no tune file.
        InvalidValue: the suffix of the file is unknown, or the card is malformed.
        MusicgenError: a download failed.
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
            " corpus cards (.toml) are read"
        )
    return SourceFiles((TuneFile(path, escape_unprintable(path.name), named=True),))


def _check_exists(source: str | Path, path: Path) -> None:
    """Raise NotFound unless a source exists; "" is not the current folder."""
    if source == "" or not os.path.lexists(path):
        find_card(str(source))
    elif not os.path.exists(path):  # noqa: PTH110 - Path.exists fails where a name is too long
        raise NotFound(f"{path} is a broken link; check its target")


def iter_tunes(source: str | Path) -> Iterator[tuple[Score | Refusal, str]]:
    """Yield each tune or refusal of a source, with the name of its file."""
    for file in list_files(source):
        scores, refusals = file.read()
        yield from ((score, file.name) for score in scores)
        yield from ((refusal, file.name) for refusal in refusals)


def count_tunes(card: CorpusCard) -> int | None:
    """Count the tunes of a card without parsing them; None if it is not on this machine."""
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
    paths, unreadable_folders = _walk(folder)
    tune_paths = [p for p in paths if fnmatch(p.name, pattern) and _is_readable(p, suffixes)]
    names = sorted(p.relative_to(folder).as_posix() for p in (*tune_paths, *unreadable_folders))
    if not names:
        raise NotFound(f"{folder} holds no tunes; {', '.join(suffixes)} are read")
    return SourceFiles(
        tuple(_make_tune_file(folder, name, path) for path in names), len(paths) - len(tune_paths)
    )


def _make_tune_file(folder: Path, name: str, path: str) -> TuneFile:
    return TuneFile(folder / path, escape_unprintable(name if path == "." else f"{name}/{path}"))


def _is_readable(path: Path, suffixes: Collection[str]) -> bool:
    return path.suffix.lower() in suffixes or is_archive(path.name)


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files below a folder, and the subfolders that cannot be read.

    Linked folders are not entered. They, and folders with the suffix of a tune, count as files,
    which reading refuses.
    """
    paths: list[Path] = []
    unreadable: list[Path] = []

    def add_unreadable(fault: OSError) -> None:
        unreadable.append(Path(fault.filename))

    for root, folders, names in os.walk(folder, onerror=add_unreadable, followlinks=False):
        parent = Path(root)
        file_like_folders = [
            name
            for name in folders
            if os.path.islink(parent / name)  # noqa: PTH114 - False without permission
            or _is_readable(Path(name), READABLE_SUFFIXES)
        ]
        paths += [parent / name for name in (*names, *file_like_folders)]
    return paths, unreadable


def _find_in_card(
    card: CorpusCard,
    suffixes: Collection[str] = READABLE_SUFFIXES,
    progress: Callable[[int, int], None] | None = None,
) -> SourceFiles:
    parts = [_find_at_location(card, suffixes, progress)] if card.where else []
    if card.left_out:
        parts = [part.leave_out(card.left_out) for part in parts]
    parts += [_find_in_card(part, suffixes, progress) for part in _load_included_cards(card)]
    files = tuple(file for part in parts for file in part.files)
    return SourceFiles(files, sum(part.skipped_files for part in parts))


def _load_included_cards(card: CorpusCard) -> list[CorpusCard]:
    try:
        return [find_card(name) for name in card.includes]
    except NotFound as fault:
        raise NotFound(f"corpus {card.name}: includes: {fault}") from fault


def is_url(text: str) -> bool:
    """Tell whether a text is a URL."""
    return "://" in text


def _find_at_location(
    card: CorpusCard, suffixes: Collection[str], progress: Callable[[int, int], None] | None
) -> SourceFiles:
    if not is_url(card.where):
        find_folder = _find_card_folder if card.where == HERE else _find_music21_folder
        source = _find_in_folder(find_folder(card), card.name, card.files, suffixes)
        return replace(source, files=tuple(_apply_card(file, card) for file in source.files))
    remotes = [(f"{card.where}{file.name}", file.sha256, file.bytes) for file in card.downloads]
    remotes = remotes or [(card.where, card.sha256, card.bytes)]
    tune_files = [_download_file(card, remote, suffixes, progress) for remote in remotes]
    return SourceFiles(tuple(tune_files))


def _download_file(
    card: CorpusCard,
    remote: tuple[str, str, int],
    suffixes: Collection[str],
    progress: Callable[[int, int], None] | None,
) -> TuneFile:
    """Return a file of a card, given its URL, SHA-256 and size in bytes; download it if needed."""
    from musicgen.corpus.download import RemoteFile, download  # 0.1 s, rarely needed

    url = remote[0]
    path = download(RemoteFile(*remote), progress=progress)
    if not _is_readable(path, suffixes):
        raise InvalidValue(f"corpus {card.name}: {url} is not named like a tune file")
    name = escape_unprintable(f"{card.name}/{url_file_name(url)}")
    return _apply_card(TuneFile(path, name, only=card.files), card)


def _apply_card(file: TuneFile, card: CorpusCard) -> TuneFile:
    """Return a file with what its card says of its tunes."""
    return replace(
        file,
        part_names=card.parts,
        rhythm=card.rhythm,
        chords_as_part=card.chords_as_part,
        tonic=card.tonic,
    )


def _find_card_folder(card: CorpusCard) -> Path:
    """Return the folder of a card that lies beside its files."""
    folder = Path(card.folder)
    if folder.resolve() != _card_folder().resolve():
        return folder
    raise NotFound(
        f"corpus {card.name}: its files do not come with musicgen; get them from"
        f" {card.source}, copy {folder / card.name}.toml beside them, and name the copy instead"
    )


def _find_music21_folder(card: CorpusCard) -> Path:
    """Return the folder of a card in music21's corpus, without importing music21."""
    spec = importlib.util.find_spec("music21")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        corpus = Path(root, "corpus").resolve()
        folder = (corpus / card.where.removeprefix(_MUSIC21_PREFIX)).resolve()
        if folder.is_dir() and corpus in folder.parents:
            return folder
    raise NotFound(
        f"corpus {card.name}: music21's corpus holds no folder {card.where}; check that music21 is"
        " installed with its corpus, or name another folder in the card"
    )


def _card_folder() -> Path:
    return next((folder for folder in _CARD_FOLDERS if folder.is_dir()), _CARD_FOLDERS[0])


@cache
def _load_card(path: Path) -> CorpusCard:
    try:
        fields = parse_toml(read_regular_file(path, limit=MAX_CARD_BYTES).decode("utf-8"))
    except (ValueError, RecursionError, Refusal) as fault:
        reason = fault.message if isinstance(fault, Refusal) else fault
        raise InvalidValue(f"{path} is not a corpus card: {reason}; {_CARD_HINT}") from fault
    try:
        card = check_schema(fields, CardSchema, f"{path} is not a corpus card")
    except InvalidValue as fault:
        raise InvalidValue(f"{fault}; {_CARD_HINT}") from fault
    return CorpusCard(name=path.stem, folder=str(path.parent), **structs.asdict(card))
