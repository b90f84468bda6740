"""Tunes as JSON and files for the page, and the bars in which two tunes differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final

from musicgen import formats
from musicgen.errors import InvalidValue, NotFound
from musicgen.music.bars import Bar, find_bars
from musicgen.music.score import Score
from musicgen.render.export import PAGE_SUFFIXES, RENDERERS, RenderOptions
from musicgen.render.timeline import duration
from musicgen.render.tune_json import score_to_json
from musicgen.tokens.codec import Setting
from musicgen.tune import Tune

NoteInBar = tuple[int, int, int, int]  # steps into the bar, pitch above the tonic, steps, part


def compare_scores(a: Score, b: Score) -> dict[str, Any]:
    """Compare two scores as written, each bar with the one of the same number.

    Pitches are compared from the first tonic, so that a tune that was only moved differs nowhere;
    drums have none.
    """
    in_a, in_b = _group_by_bar(a), _group_by_bar(b)
    pairs = [(dict(x or {}), dict(y or {})) for x, y in zip_longest(in_a, in_b)]
    return {
        "notes_a": sorted(index for x, y in pairs for index in _find_unmatched(x, y)),
        "notes_b": sorted(index for x, y in pairs for index in _find_unmatched(y, x)),
        "bars": [k for k, (x, y) in enumerate(pairs) if Counter(x.values()) != Counter(y.values())],
    }


def _group_by_bar(score: Score) -> list[dict[int, NoteInBar]]:
    """Return the notes of each bar, by their places in the score."""
    cut = find_bars(score)
    found: list[dict[int, NoteInBar]] = [{} for _ in cut]
    zero = Setting(score.key.tonic).tonic_pitch
    for index, note in enumerate(score.notes):
        bar = _find_bar(cut, note.onset)
        pitch = note.pitch - (0 if score.parts[note.part].is_drums else zero)
        found[bar][index] = note.onset - cut[bar].start, pitch, note.duration, note.part
    return found


def _find_bar(score_bars: Sequence[Bar], step: int) -> int:
    return next(
        k for k in reversed(range(len(score_bars))) if score_bars[k].start <= step or k == 0
    )


def _find_unmatched(notes: dict[int, NoteInBar], other_notes: dict[int, NoteInBar]) -> list[int]:
    """Return the notes that the other bar has not."""
    left = Counter(other_notes.values())
    found = []
    for index, note in notes.items():
        if left[note] > 0:
            left[note] -= 1
        else:
            found.append(index)
    return found


FILE_SUFFIXES: Final = ("mid", "abc", "musicxml", "wav", "svg", "png", "html")
SUFFIXES_WITHOUT_BARS: Final = ("mid", "wav", "svg", "png")  # the pictures are piano rolls
MAX_LABEL_LENGTH: Final = 200  # of a title, or of another text that is shown of a tune
MAX_WAV_SECONDS: Final = 600  # of sound that is handed out
MAX_PNG_PIXELS: Final = 16_000_000  # of a PNG that is handed out: three or four seconds of work
_NOT_IN_FILE_NAME: Final = re.compile(r"[^a-z0-9]+")


def tune_to_json(tune: Tune) -> dict[str, Any]:
    """Return everything that a page shows of a tune; titles are cut to a line or two."""
    has_bars = tune.model.codec.has_bars
    found = score_to_json(
        tune.score, recipe=tune.recipe, receipt=tune.receipt, surprise=tune.surprise,
        has_bars=has_bars,
    )  # fmt: skip
    for name in ("title", "rhythm", "receipt"):
        found[name] = _truncate_texts(found[name])
    told = [line[:MAX_LABEL_LENGTH] for line in tune.messages]
    files = FILE_SUFFIXES if has_bars else SUFFIXES_WITHOUT_BARS
    return found | {"codec": tune.codec, "files": files, "told": told}


def _truncate_texts(value: Any) -> Any:
    """Shorten the texts in a value, whatever it is made of."""
    if isinstance(value, str):
        return value if len(value) <= MAX_LABEL_LENGTH else f"{value[:MAX_LABEL_LENGTH]}..."
    if isinstance(value, dict):
        return {name: _truncate_texts(one) for name, one in value.items()}
    return [_truncate_texts(one) for one in value] if isinstance(value, list | tuple) else value


def render_tune_file(tune: Tune, suffix: str) -> bytes:
    """Return the bytes of a tune's file, with its recipe where there is room for it."""
    has_bars = tune.model.codec.has_bars
    if not has_bars and suffix in FILE_SUFFIXES and suffix not in SUFFIXES_WITHOUT_BARS:
        raise InvalidValue(f"{suffix}: the music keeps to no bars; it can be had as"
                           f" {', '.join(SUFFIXES_WITHOUT_BARS)}")  # fmt: skip
    if suffix == "wav" and duration(tune.score) > MAX_WAV_SECONDS:
        raise InvalidValue(f"wav: it lasts over {MAX_WAV_SECONDS // 60} minutes; write it with"
                           " musicgen render")  # fmt: skip
    if suffix == "png" and not has_bars:
        _check_roll_size(tune)
    if render := RENDERERS.get(f".{suffix}"):
        wanted = RenderOptions("score" if has_bars else "roll")
        if f".{suffix}" in PAGE_SUFFIXES:  # which alone shows what takes a while to tell
            wanted = replace(wanted, recipe=tune.recipe, receipt=tune.receipt,
                             surprise=tune.surprise)  # fmt: skip
        return render(tune.score, wanted)
    form = formats.FORMAT_BY_SUFFIX.get(f".{suffix}")
    if form is None or form.render is None:
        raise NotFound(f"a tune has no file of the kind {suffix[:20]!r}")
    return form.render(tune.score, tuple(tune.recipe.remarks()))


def _check_roll_size(tune: Tune) -> None:
    """Raise InvalidValue for a piano roll whose PNG would hold a worker for long."""
    from musicgen.render.piano_roll import count_pixels

    if count_pixels(tune.score) > MAX_PNG_PIXELS:
        raise InvalidValue(f"png: the piano roll has over {MAX_PNG_PIXELS // 10**6} million pixels;"
                           " take svg, or write it with musicgen render --view roll")  # fmt: skip


def make_file_name(title: str) -> str:
    """Return a name for a download: letters, digits and hyphens of the title, "" without any."""
    return _NOT_IN_FILE_NAME.sub("-", title.lower())[:60].strip("-")
