"""Files to Score and back: read(path), write(score, path) by suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.files import open_regular, refuse_existing, write_whole
from musicgen.formats import abc, midi, musicxml
from musicgen.music.performance import performed as as_performed
from musicgen.music.score import Score

Reading = tuple[tuple[Score, ...], tuple[Refusal, ...]]

MAX_BOOK_BYTES: Final = 64 * 2**20
MAX_XML_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Format:
    """How files of some suffixes are read and written; None where there is no way.

    perform: reads what was played, where a format knows more of it than the written notes say.
    parse_or_perform: reads as a performance what has no bars, where a format may hold such music.
    each: reads tune by tune, where a file may hold many.
    remarks: the texts that travel with the notes, as `render` was given them; None: it has no room.
    """

    suffixes: tuple[str, ...]
    parse: Callable[[bytes, str], Reading] | None = None
    render: Callable[[Score, Sequence[str]], bytes] | None = None
    max_bytes: int = MAX_BOOK_BYTES
    perform: Callable[[bytes, str], Reading] | None = None
    each: Callable[[bytes, str], Iterator[Score | Refusal]] | None = None
    remarks: Callable[[bytes], tuple[str, ...]] | None = None
    parse_or_perform: Callable[[bytes, str], Reading] | None = None


def _parse_abc(data: bytes, source: str) -> Reading:
    scores, refusals = abc.parse(abc.decode_bytes(data), source)
    return tuple(scores), tuple(refusals)


def _each_abc(data: bytes, source: str) -> Iterator[Score | Refusal]:
    return abc.each(abc.decode_bytes(data), source)


def _render_abc(score: Score, remarks: Sequence[str]) -> bytes:
    return abc.render(score, directives=[f"%%{text}" for text in remarks]).encode("utf-8")


def _remarks_of_abc(data: bytes) -> tuple[str, ...]:
    lines = abc.decode_bytes(data).splitlines()
    return tuple(line[2:] for line in lines if line.startswith("%%"))


def _render_midi(score: Score, remarks: Sequence[str]) -> bytes:
    return midi.render(score, text_events=remarks)


def _render_musicxml(score: Score, remarks: Sequence[str]) -> bytes:
    return musicxml.render(score, remarks=remarks)


FORMATS: Final = (
    Format((".abc",), _parse_abc, _render_abc, each=_each_abc, remarks=_remarks_of_abc),
    Format(
        (".mid", ".midi"),
        midi.parse,
        _render_midi,
        midi.MAX_BYTES,
        midi.perform,
        remarks=midi.text_events,
        parse_or_perform=midi.parse_or_perform,
    ),
    Format(
        (".musicxml", ".xml"),
        musicxml.parse,
        _render_musicxml,
        MAX_XML_BYTES,
        remarks=musicxml.remarks,
    ),
    Format((".mxl",), musicxml.parse, None, MAX_XML_BYTES, remarks=musicxml.remarks),
    Format((".krn",), musicxml.parse_humdrum, None, MAX_XML_BYTES),
)
BY_SUFFIX: Final[Mapping[str, Format]] = {
    suffix: form for form in FORMATS for suffix in form.suffixes
}
READABLE: Final = tuple(suffix for suffix, form in BY_SUFFIX.items() if form.parse)
WRITABLE: Final = tuple(suffix for suffix, form in BY_SUFFIX.items() if form.render)


def read(
    path: str | Path, *, follow: bool = True, performed: bool = False, needs_bars: bool = True
) -> Reading:
    """Read all tunes of a file. A bad tune costs one tune, a bad file itself; both are refusals.

    performed: as they sound, at 1,250 quarters a minute, where one step is one millisecond.
    needs_bars: refuse music that keeps to no bars; else it is read as if `performed`.
    Raises NotFound where there is no such file, InvalidValue for a suffix that no format has.
    """
    path = Path(path)
    form = BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.parse is None:
        raise _unknown(path, READABLE, "read")
    try:
        data = open_regular(path, limit=form.max_bytes, follow=follow)
    except Refusal as refusal:
        return (), (refusal,)
    if not needs_bars and form.parse_or_perform is not None:
        return form.parse_or_perform(data, str(path))
    return _parsed(form, data, str(path), performed=performed)


def parse(data: bytes, suffix: str, source: str = "", *, performed: bool = False) -> Reading:
    """Read all tunes of a file's bytes, as `read` does. Raises InvalidValue for the suffix."""
    form = BY_SUFFIX.get(suffix.lower())
    if form is None or form.parse is None:
        raise _unknown(Path(source or f"(bytes){suffix}"), READABLE, "read")
    if len(data) > form.max_bytes:
        fault = f"it is larger than {form.max_bytes:,} bytes; the file was left out"
        return (), (Refusal(fault, source=source, code="too-large"),)
    return _parsed(form, data, source, performed=performed)


def each(
    data: bytes, suffix: str, source: str = "", *, performed: bool = False
) -> Iterator[Score | Refusal]:
    """Read a file's bytes tune by tune; of a book, each is parsed when it is asked for."""
    form = BY_SUFFIX.get(suffix.lower())
    if form is None or form.each is None or len(data) > form.max_bytes:
        scores, refusals = parse(data, suffix, source, performed=performed)
        yield from refusals
        yield from scores
        return
    for one in form.each(data, source):
        yield as_performed(one) if performed and isinstance(one, Score) else one


def _parsed(form: Format, data: bytes, source: str, *, performed: bool) -> Reading:
    assert form.parse is not None
    if not performed:
        return form.parse(data, source)
    if form.perform is not None:
        return form.perform(data, source)
    scores, refusals = form.parse(data, source)
    return tuple(map(as_performed, scores)), refusals


def max_bytes_of(suffix: str) -> int:
    """Return how large a file of a suffix may be."""
    form = BY_SUFFIX.get(suffix.lower())
    return form.max_bytes if form else MAX_BOOK_BYTES


def write(
    score: Score, path: str | Path, *, force: bool = False, remarks: Sequence[str] = ()
) -> None:
    """Write a score in the format of the suffix, whole or not at all.

    remarks: texts of one line each that are to travel with it, where the format has room for them.
    """
    path = Path(path)
    form = BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.render is None:
        raise _unknown(path, WRITABLE, "written")
    refuse_existing([path], force=force)
    write_whole(path, form.render(score, remarks), force=force)


def remarks(path: str | Path) -> tuple[str, ...]:
    """Return the texts that travel with the notes of a file, in order; none where it has no room.

    Raises NotFound, or Refusal for a file that cannot be read.
    """
    path = Path(path)
    form = BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.remarks is None:
        return ()
    return form.remarks(open_regular(path, limit=form.max_bytes))


def has_room(suffix: str) -> bool:
    """Tell whether files of a suffix carry remarks."""
    form = BY_SUFFIX.get(suffix.lower())
    return form is not None and form.remarks is not None


def _unknown(path: Path, suffixes: tuple[str, ...], verb: str) -> InvalidValue | NotFound:
    return InvalidValue(
        f"{path}: a file with the suffix {path.suffix or '(none)'!r} cannot be {verb};"
        f" known are {', '.join(suffixes)}"
    )
