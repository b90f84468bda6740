"""Convert tunes to JSON and files for the page, and compare two tunes bar by bar."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final, TypeAlias

from musicgen import formats
from musicgen.errors import InvalidValue, NotFound
from musicgen.music.bars import find_bars, number_bars
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.roles import find_roles
from musicgen.music.score import Score
from musicgen.render.export import PAGE_SUFFIXES, PLAYED_SUFFIXES, RENDERERS, RenderOptions
from musicgen.render.timeline import duration
from musicgen.render.tune_json import score_to_json
from musicgen.tokens.codec import Setting
from musicgen.tune import Tune
from musicgen.web.limits import MAX_LABEL_LENGTH

FILE_SUFFIXES: Final = ("mid", "abc", "musicxml", "wav", "svg", "png", "html")
SUFFIXES_WITHOUT_BARS: Final = ("mid", "wav", "svg", "png")  # the pictures are piano rolls
DRUM_KIT: Final = "drum kit"  # instrument of a drum part
MAX_WAV_SECONDS: Final = 600
MAX_PNG_PIXELS: Final = 16_000_000  # three or four seconds of work

# onset in steps from the bar line, pitch in semitones above the tonic, duration in steps, part
NoteInBar: TypeAlias = tuple[int, int, int, int]


def compare_scores(a: Score, b: Score) -> dict[str, Any]:
    """Compare each written bar of two scores with the bar at the same index.

    Pitches are relative to the first tonic, so that transposed tunes do not differ; the pitches of
    drums are absolute.

    Returns:
        The fields of `Differences`.
    """
    pairs: list[tuple[dict[int, NoteInBar], dict[int, NoteInBar]]] = list(
        zip_longest(_group_by_bar(a), _group_by_bar(b), fillvalue={})
    )
    part_count = max(len(a.parts), len(b.parts))
    return {
        "notes_a": sorted(index for x, y in pairs for index in _find_unmatched(x, y)),
        "notes_b": sorted(index for x, y in pairs for index in _find_unmatched(y, x)),
        "bars": [k for k, (x, y) in enumerate(pairs) if Counter(x.values()) != Counter(y.values())],
        "parts": [
            [k for k, (x, y) in enumerate(pairs) if _count(x, part) != _count(y, part)]
            for part in range(part_count)
        ],
    }


def _count(notes: dict[int, NoteInBar], part: int) -> Counter[NoteInBar]:
    """Count the notes of a part in a bar."""
    return Counter(note for note in notes.values() if note[-1] == part)


def _group_by_bar(score: Score) -> list[dict[int, NoteInBar]]:
    """Return the notes of each bar, by their indices in the score."""
    starts = [bar.start for bar in find_bars(score)]
    bars: list[dict[int, NoteInBar]] = [{} for _ in starts]
    tonic = Setting(score.key.tonic).tonic_pitch
    for index, note in enumerate(score.notes):
        bar = max(0, bisect_right(starts, note.onset) - 1)
        pitch = note.pitch - (0 if score.parts[note.part].is_drums else tonic)
        bars[bar][index] = note.onset - starts[bar], pitch, note.duration, note.part
    return bars


def _find_unmatched(notes: dict[int, NoteInBar], other_notes: dict[int, NoteInBar]) -> list[int]:
    """Return the indices of the notes that the other bar lacks."""
    available = Counter(other_notes.values())
    unmatched = []
    for index, note in notes.items():
        if available[note] > 0:
            available[note] -= 1
        else:
            unmatched.append(index)
    return unmatched


def tune_to_json(tune: Tune) -> dict[str, Any]:
    """Return everything that a page shows of a tune, with long texts truncated.

    The surprise of a tune of several parts is left out: it takes as long as drawing the tune.
    """
    has_bars = tune.model.codec.has_bars
    data = score_to_json(
        tune.played_score, recipe=tune.recipe, receipt=tune.receipt,
        surprise=tune.surprise if len(tune.parts) == 1 else None, has_bars=has_bars,
    )  # fmt: skip
    data["parts"] = parts_to_json(tune.score)
    for name in ("title", "rhythm", "receipt", "parts"):
        data[name] = _truncate_texts(data[name])
    messages = [line[:MAX_LABEL_LENGTH] for line in tune.messages]
    files = FILE_SUFFIXES if has_bars else SUFFIXES_WITHOUT_BARS
    return data | {"codec": tune.codec, "files": files, "told": messages}


def parts_to_json(score: Score) -> list[dict[str, Any]]:
    """Return name, role and instrument of each part, and the measures in which its notes start."""
    starts = [bar.start for bar in find_bars(score)]
    measures: list[set[int]] = [set() for _ in score.parts]
    for note in score.notes:
        measures[note.part].add(max(0, bisect_right(starts, note.onset) - 1))
    return [
        {
            "name": part.name,
            "role": part.role,
            "instrument": DRUM_KIT if part.is_drums else PROGRAMS[part.program],
            "measures": sorted(sounding),
        }
        for part, sounding in zip(score.parts, measures, strict=True)
    ]


def file_to_json(score: Score) -> dict[str, Any]:
    """Return the fields of a `FileParts`: the parts of a file, with their likeliest roles."""
    parts = [
        {"name": part["name"], "role": part["role"] or role.name, "instrument": part["instrument"],
         "bars": len(part["measures"])}
        for part, role in zip(parts_to_json(score), find_roles(score), strict=True)
    ]  # fmt: skip
    bars = max(number_bars(find_bars(score)), default=0)
    data = {"title": score.title, "key": str(score.key), "meter": str(score.meter), "bars": bars,
            "parts": parts}  # fmt: skip
    truncated: dict[str, Any] = _truncate_texts(data)
    return truncated


def _truncate_texts(value: Any) -> Any:
    """Truncate all texts in a JSON value."""
    if isinstance(value, str):
        return value if len(value) <= MAX_LABEL_LENGTH else f"{value[:MAX_LABEL_LENGTH]}..."
    if isinstance(value, dict):
        return {name: _truncate_texts(item) for name, item in value.items()}
    return [_truncate_texts(item) for item in value] if isinstance(value, list | tuple) else value


def render_tune_file(tune: Tune, suffix: str) -> bytes:
    """Return the bytes of a tune's file, with its recipe if the format supports it.

    Args:
        tune: the tune.
        suffix: one of FILE_SUFFIXES.

    Raises:
        InvalidValue: the tune has no bars for the format, or the file would be too large.
        NotFound: the suffix is unknown.
    """
    has_bars = tune.model.codec.has_bars
    if not has_bars and suffix in FILE_SUFFIXES and suffix not in SUFFIXES_WITHOUT_BARS:
        raise InvalidValue(f"{suffix}: the music has no bars; choose one of"
                           f" {', '.join(SUFFIXES_WITHOUT_BARS)}")  # fmt: skip
    if suffix == "wav" and duration(tune.score) > MAX_WAV_SECONDS:
        raise InvalidValue(f"wav: longer than {MAX_WAV_SECONDS // 60} minutes; use musicgen"
                           " render")  # fmt: skip
    if suffix == "png" and not has_bars:
        _check_roll_size(tune)
    score = tune.played_score if f".{suffix}" in PLAYED_SUFFIXES else tune.score
    if render := RENDERERS.get(f".{suffix}"):
        options = RenderOptions("score" if has_bars else "roll")
        if (
            f".{suffix}" in PAGE_SUFFIXES
        ):  # only these need the receipt and surprise, which are slow
            options = replace(options, recipe=tune.recipe, receipt=tune.receipt,
                              surprise=tune.surprise)  # fmt: skip
        return render(score, options)
    file_format = formats.FORMAT_BY_SUFFIX.get(f".{suffix}")
    if file_format is None or file_format.render is None:
        raise NotFound(f"{suffix[:20]!r}: unknown format; choose one of {', '.join(FILE_SUFFIXES)}")
    return file_format.render(score, tuple(tune.recipe.remarks()))


def _check_roll_size(tune: Tune) -> None:
    """Raise InvalidValue for a piano roll whose PNG would take too long."""
    from musicgen.render.piano_roll import count_pixels

    if count_pixels(tune.score) > MAX_PNG_PIXELS:
        raise InvalidValue(f"png: the piano roll has over {MAX_PNG_PIXELS // 10**6} million pixels;"
                           " choose svg, or use musicgen render --view roll")  # fmt: skip
