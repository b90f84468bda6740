"""Read and write files of tunes; the suffix of a path selects the format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from musicgen.errors import InvalidValue, Refusal
from musicgen.files import read_regular_file, refuse_existing, write_atomically
from musicgen.formats import abc, midi, musicxml
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Score

ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]

MAX_BOOK_BYTES: Final = 64 * 2**20
MAX_XML_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Format:
    """The functions that read and write a format; None where it does not support an operation."""

    suffixes: tuple[str, ...]
    parse: Callable[[bytes, str], ParseResult] | None = None  # of file contents and source
    render: Callable[[Score, Sequence[str]], bytes] | None = None  # of score and remarks
    max_bytes: int = MAX_BOOK_BYTES
    # Reads what was played, where the format stores more of it than the written notes.
    parse_performance: Callable[[bytes, str], ParseResult] | None = None
    # Reads tune by tune, where a file may hold many.
    iter_tunes: Callable[[bytes, str], Iterator[Score | Refusal]] | None = None
    # Returns the remarks that `render` stored in the file.
    read_remarks: Callable[[bytes], tuple[str, ...]] | None = None
    # Reads music without bars as a performance, where the format may hold such music.
    parse_score_or_performance: Callable[[bytes, str], ParseResult] | None = None


def _parse_abc(data: bytes, source: str) -> ParseResult:
    return abc.parse(abc.decode_bytes(data), source)


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
    """Read all tunes of a file; return the scores, and a refusal per tune that cannot be read.

    Args:
        path: a file with one of READABLE_SUFFIXES.
        follow_symlinks: read the target of a symbolic link instead of refusing it.
        as_performance: read tunes as played, with one step per millisecond.
        needs_bars: refuse music without bars; otherwise read it as a performance.

    Raises:
        NotFound: there is no such file.
        InvalidValue: no format has the suffix.
    """
    path = Path(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.parse is None:
        raise _unknown_suffix(path, READABLE_SUFFIXES, "read")
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
    """Read all tunes of a file's contents, as `read` does.

    Args:
        data: the contents of the file.
        suffix: one of READABLE_SUFFIXES, which selects the format.
        source: the name of the file for refusals.
        as_performance: read tunes as played, with one step per millisecond.

    Raises:
        InvalidValue: no format has the suffix.
    """
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    if form is None or form.parse is None:
        raise _unknown_suffix(Path(source or f"(bytes){suffix}"), READABLE_SUFFIXES, "read")
    if len(data) > form.max_bytes:
        fault = f"it is larger than {form.max_bytes:,} bytes; the file was left out"
        return (), (Refusal(fault, source=source, code="too-large"),)
    return _parse_with(form, data, source, as_performance=as_performance)


def iter_tunes(
    data: bytes, suffix: str, source: str = "", *, as_performance: bool = False
) -> Iterator[Score | Refusal]:
    """Yield the outcome for each tune of a file's contents; parse those of a book on demand."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    if form is None or form.iter_tunes is None or len(data) > form.max_bytes:
        scores, refusals = parse(data, suffix, source, as_performance=as_performance)
        yield from refusals
        yield from scores
        return
    for outcome in form.iter_tunes(data, source):
        yield to_performance(outcome) if as_performance and isinstance(outcome, Score) else outcome


def _parse_with(form: Format, data: bytes, source: str, *, as_performance: bool) -> ParseResult:
    assert form.parse is not None
    if not as_performance:
        return form.parse(data, source)
    if form.parse_performance is not None:
        return form.parse_performance(data, source)
    scores, refusals = form.parse(data, source)
    return tuple(map(to_performance, scores)), refusals


def max_bytes_of(suffix: str) -> int:
    """Return the limit on the size of a file by its suffix, in bytes."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    return form.max_bytes if form else MAX_BOOK_BYTES


def write(
    score: Score, path: str | Path, *, force: bool = False, remarks: Sequence[str] = ()
) -> None:
    """Write a score in the format of the suffix, completely or not at all.

    Args:
        score: the score to write.
        path: a file with one of WRITABLE_SUFFIXES.
        force: overwrite an existing file.
        remarks: single-line texts to store in the file, where the format supports it.
    """
    path = Path(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.render is None:
        raise _unknown_suffix(path, WRITABLE_SUFFIXES, "written")
    refuse_existing([path], force=force)
    write_atomically(path, form.render(score, remarks), force=force)


def read_remarks(path: str | Path) -> tuple[str, ...]:
    """Return the remarks stored in a file, in order; none where its format does not support them.

    Raises:
        NotFound: there is no such file.
        Refusal: the file cannot be read.
    """
    path = Path(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or form.read_remarks is None:
        return ()
    return form.read_remarks(read_regular_file(path, limit=form.max_bytes))


def supports_remarks(suffix: str) -> bool:
    """Return whether files of a suffix can store remarks."""
    form = FORMAT_BY_SUFFIX.get(suffix.lower())
    return form is not None and form.read_remarks is not None


def _unknown_suffix(path: Path, suffixes: tuple[str, ...], verb: str) -> InvalidValue:
    return InvalidValue(
        f"{path}: a file with the suffix {path.suffix or '(none)'!r} cannot be {verb};"
        f" known are {', '.join(suffixes)}"
    )
