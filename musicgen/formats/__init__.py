"""Files to Score and back: read(path), write(score, path) by suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from musicgen.errors import InvalidValue, NotFound, Refusal
from musicgen.files import read_regular_file, refuse_existing, write_atomically
from musicgen.formats import abc, midi, musicxml
from musicgen.music.performance import to_performance as as_performed
from musicgen.music.score import Score

ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]

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
    parse: Callable[[bytes, str], ParseResult] | None = None
    render: Callable[[Score, Sequence[str]], bytes] | None = None
    max_bytes: int = MAX_BOOK_BYTES
    parse_performance: Callable[[bytes, str], ParseResult] | None = None
    iter_tunes: Callable[[bytes, str], Iterator[Score | Refusal]] | None = None
    read_remarks: Callable[[bytes], tuple[str, ...]] | None = None
    parse_score_or_performance: Callable[[bytes, str], ParseResult] | None = None


def _parse_abc(data: bytes, source: str) -> ParseResult:
    scores, refusals = abc.parse(abc.decode_bytes(data), source)
    return tuple(scores), tuple(refusals)


def _iter_abc(data: bytes, source: str) -> Iterator[Score | Refusal]:
    return abc.iter_tunes(abc.decode_bytes(data), source)


def _render_abc(score: Score, remarks: Sequence[str]) -> bytes:
    return abc.render(score, directives=[f"%%{text}" for text in remarks]).encode("utf-8")


def _read_abc_remarks(data: bytes) -> tuple[str, ...]:
    lines = abc.decode_bytes(data).splitlines()
    return tuple(line[2:] for line in lines if line.startswith("%%"))


def _render_midi(score: Score, remarks: Sequence[str]) -> bytes:
    return midi.render(score, text_events=remarks)


def _render_musicxml(score: Score, remarks: Sequence[str]) -> bytes:
    return musicxml.render(score, remarks=remarks)


FORMATS: Final = (
    Format(
        (".abc",), _parse_abc, _render_abc, iter_tunes=_iter_abc, read_remarks=_read_abc_remarks
    ),
    Format(
        (".mid", ".midi"),
        midi.parse,
        _render_midi,
        midi.MAX_BYTES,
        midi.parse_performance,
        read_remarks=midi.read_text_events,
        parse_score_or_performance=midi.parse_score_or_performance,
    ),
    Format(
        (".musicxml", ".xml"),
        musicxml.parse,
        _render_musicxml,
        MAX_XML_BYTES,
        read_remarks=musicxml.read_remarks,
    ),
    Format((".mxl",), musicxml.parse, None, MAX_XML_BYTES, read_remarks=musicxml.read_remarks),
    Format((".krn",), musicxml.parse_humdrum, None, MAX_XML_BYTES),
)
FORMAT_BY_SUFFIX: Final[Mapping[str, Format]] = {
    suffix: form for form in FORMATS for suffix in form.suffixes
}
READABLE_SUFFIXES: Final = tuple(suffix for suffix, form in FORMAT_BY_SUFFIX.items() if form.parse)
WRITABLE_SUFFIXES: Final = tuple(suffix for suffix, form in FORMAT_BY_SUFFIX.items() if form.render)


def read(
    path: str | Path,
    *,
    follow_symlinks: bool = True,
    as_performance: bool = False,
    needs_bars: bool = True,
) -> ParseResult:
    """Read all tunes of a file. A bad tune costs one tune, a bad file itself; both are refusals.

    as_performance: as they sound, at 1,250 quarters a minute, where one step is one millisecond.
    needs_bars: refuse music that keeps to no bars; else it is read as if `performed`.
    Raises NotFound where there is no such file, InvalidValue for a suffix that no format has.
    """
    path = Path(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.parse is None:
        raise _unknown(path, READABLE_SUFFIXES, "read")
    try:
        data = read_regular_file(path, limit=form.max_bytes, follow=follow_symlinks)
    except Refusal as refusal:
        return (), (refusal,)
    if not needs_bars and form.parse_score_or_performance is not None:
        return form.parse_score_or_performance(data, str(path))
    return _parse_with(form, data, str(path), as_performance=as_performance)


def parse(
    data: bytes, suffix: str, source: str = "", *, as_performance: bool = False
) -> ParseResult:
    """Read all tunes of a file's bytes, as `read` does. Raises InvalidValue for the suffix."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    if form is None or form.parse is None:
        raise _unknown(Path(source or f"(bytes){suffix}"), READABLE_SUFFIXES, "read")
    if len(data) > form.max_bytes:
        fault = f"it is larger than {form.max_bytes:,} bytes; the file was left out"
        return (), (Refusal(fault, source=source, code="too-large"),)
    return _parse_with(form, data, source, as_performance=as_performance)


def iter_tunes(
    data: bytes, suffix: str, source: str = "", *, as_performance: bool = False
) -> Iterator[Score | Refusal]:
    """Read a file's bytes tune by tune; of a book, each is parsed when it is asked for."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    if form is None or form.iter_tunes is None or len(data) > form.max_bytes:
        scores, refusals = parse(data, suffix, source, as_performance=as_performance)
        yield from refusals
        yield from scores
        return
    for one in form.iter_tunes(data, source):
        yield as_performed(one) if as_performance and isinstance(one, Score) else one


def _parse_with(form: Format, data: bytes, source: str, *, as_performance: bool) -> ParseResult:
    assert form.parse is not None
    if not as_performance:
        return form.parse(data, source)
    if form.parse_performance is not None:
        return form.parse_performance(data, source)
    scores, refusals = form.parse(data, source)
    return tuple(map(as_performed, scores)), refusals


def max_bytes_of(suffix: str) -> int:
    """Return how large a file of a suffix may be."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    return form.max_bytes if form else MAX_BOOK_BYTES


def write(
    score: Score, path: str | Path, *, force: bool = False, remarks: Sequence[str] = ()
) -> None:
    """Write a score in the format of the suffix, whole or not at all.

    remarks: texts of one line each that are to travel with it, where the format has room for them.
    """
    path = Path(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.render is None:
        raise _unknown(path, WRITABLE_SUFFIXES, "written")
    refuse_existing([path], force=force)
    write_atomically(path, form.render(score, remarks), force=force)


def read_remarks(path: str | Path) -> tuple[str, ...]:
    """Return the texts that travel with the notes of a file, in order; none where it has no room.

    Raises NotFound, or Refusal for a file that cannot be read.
    """
    path = Path(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.read_remarks is None:
        return ()
    return form.read_remarks(read_regular_file(path, limit=form.max_bytes))


def supports_remarks(suffix: str) -> bool:
    """Tell whether files of a suffix carry remarks."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    return form is not None and form.read_remarks is not None


def _unknown(path: Path, suffixes: tuple[str, ...], verb: str) -> InvalidValue | NotFound:
    return InvalidValue(
        f"{path}: a file with the suffix {path.suffix or '(none)'!r} cannot be {verb};"
        f" known are {', '.join(suffixes)}"
    )
