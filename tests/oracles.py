"""What other programs read in ABC: the notes of the written form, repeats not played.

Both are given the same tune with their quirks switched off: abc2midi gets no rhythm (it swings
hornpipes), part order, decorations or repeat signs; music21 gets the version line without which
accidentals do not last the bar. Nothing here uses the project's own reader.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import mido

ABC2MIDI = shutil.which("abc2midi")
ABCM2PS = shutil.which("abcm2ps")
BOOKS = ("oneills1850", "ryansMammoth", "airdsAirs")
KEPT_FIELDS = "XTMLKV"


class Heard(NamedTuple):
    """A note as another program reads it; in quarters."""

    onset: Fraction
    duration: Fraction
    pitch: int


def tune_texts(book: str) -> Iterator[str]:
    """Yield the text of each tune: from X: to an empty line or the next X:."""
    for block in re.split(r"^(?=X:)", book, flags=re.MULTILINE)[1:]:
        yield re.split(r"^\s*$", block, maxsplit=1, flags=re.MULTILINE)[0]


def corpus_tunes() -> list[str]:
    """Return the text of every tune of O'Neill, Ryan and Aird in music21's corpus."""
    return [tune for file in corpus_files() for tune in tune_texts(decoded(file))]


def corpus_files() -> list[Path]:
    """Return the files of O'Neill, Ryan and Aird."""
    return [file for name in BOOKS for file in sorted((corpus_root() / name).glob("*.abc"))]


def all_tunes() -> list[str]:
    """Return the text of every ABC tune in music21's corpus."""
    return [tune for file in all_files() for tune in tune_texts(decoded(file))]


def all_files() -> list[Path]:
    """Return every ABC file in music21's corpus: also Essen, Josquin, Nottingham, miscFolk."""
    return sorted(corpus_root().rglob("*.abc"))


def corpus_root() -> Path:
    """Return the folder of music21's corpus without importing music21, which takes a second."""
    found = find_spec("music21")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "corpus"


def decoded(file: Path) -> str:
    """Return a book's text: all are ASCII or UTF-8."""
    return file.read_text(encoding="utf-8-sig")


def by_abc2midi(tunes: Sequence[str]) -> list[tuple[Heard, ...] | None]:
    """Let abc2midi play tunes as they are written; None where it crashes or makes no file."""
    heard = _run_abc2midi(tunes)
    if len(tunes) > 1:  # a crash costs the tunes behind it: once more, each for itself
        heard = [
            notes or _run_abc2midi([tune])[0] for notes, tune in zip(heard, tunes, strict=True)
        ]
    return heard


def _run_abc2midi(tunes: Sequence[str]) -> list[tuple[Heard, ...] | None]:
    assert ABC2MIDI is not None
    with tempfile.TemporaryDirectory() as folder:
        book = "\n\n".join(for_abc2midi(tune, i) for i, tune in enumerate(tunes, 1))
        (Path(folder) / "t.abc").write_text(book + "\n")
        command = [ABC2MIDI, "t.abc", "-silent", "-NGRA", "-NFER", "-NFNP", "-NGUI"]
        subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
        files = [Path(folder) / f"t{index}.mid" for index in range(1, len(tunes) + 1)]
        return [_played(file) if file.exists() else None for file in files]


def for_abc2midi(tune: str, index: int = 1) -> str:
    """Return what abc2midi is given: notes, lengths, bar lines, and the fields that they need."""
    lines = [f"X:{index}"]
    music = False
    for line in tune.replace("\t", " ").split("\n")[1:]:
        field = re.match(r"[A-Za-z]:(?![|:])", line) if music else re.match(r"[A-Za-z]:", line)
        if field is None and line.startswith("%%MIDI transpose"):
            lines.append(line)  # what it says sounds, and is no quirk
        elif field is None:
            lines.append(_plain_music(line))
        elif line[0] in KEPT_FIELDS:
            lines.append(re.sub("%.*", "", line))
        if field and line[0] == "K" and not music:
            music = True
        if field and line[0] in "KV" and music:
            lines.append("%%MIDI chordattack 0")
    return "\n".join(line for line in lines if line.strip()) + _REST


# Played between two tunes: a tuplet that one does not fill would go on in the next.
_REST = "\n\nX:0\nM:4/4\nL:1/8\nK:C\nCDEF GABc | CDEF GABc |"


def _plain_music(line: str) -> str:
    """Leave the notes, their lengths, accidentals and grace notes, and plain bar lines."""
    line = re.sub("%.*", "", line)
    line = re.sub(r'"[^"]*"|\[[IPRr]:[^\]]*\]|![^!|]*!', "", line)
    line = line.replace("!", "")  # of a pair nothing is left; one alone breaks the line
    line = re.sub(r":*\[?\|[|\]:]*|::+", "|", line)
    line = re.sub(r"(?<=\|)\s*\[?[0-9][0-9,\-]*|\[[0-9][0-9,\-]*", "|", line)
    inline = re.split(r"(\[[A-Z]:[^\]]*\])", line)
    inline[::2] = [re.sub(r"[H-WYh-wy~.\\$*'](?<![,a-gA-G']')", "", part) for part in inline[::2]]
    return "".join(inline)


def faults_by_abc2midi(text: str) -> list[str]:
    """Return the warnings and errors that abc2midi prints about a tune."""
    return [line for line in _printed([str(ABC2MIDI), "t.abc", "-c"], text) if _FAULT.search(line)]


def faults_by_abcm2ps(text: str) -> list[str]:
    """Return the warnings and errors of abcm2ps, but for lines that do not fit the paper."""
    printed = _printed([str(ABCM2PS), "t.abc", "-O", "t.ps"], text)
    return [line for line in printed if _FAULT.search(line) and ": Line " not in line]


_FAULT = re.compile("warning|error", re.IGNORECASE)


def _printed(command: list[str], text: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.abc").write_text(text)
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).splitlines()


def _played(file: Path) -> tuple[Heard, ...]:
    """Read the notes of a MIDI file; abc2midi starts each a tick late, so that none touch."""
    midi = mido.MidiFile(file)
    notes: list[Heard] = []
    for track in midi.tracks:
        open_notes: defaultdict[int, list[int]] = defaultdict(list)
        now = 0
        for message in track:
            now += message.time
            if message.type == "note_on" and message.velocity:
                open_notes[message.note].append(now - 1)
            elif message.type in ("note_on", "note_off") and open_notes[message.note]:
                start = open_notes[message.note].pop(0)
                quarter = midi.ticks_per_beat
                notes.append(
                    Heard(Fraction(start, quarter), Fraction(now - start, quarter), message.note)
                )
    return tuple(sorted(notes))


def for_music21(tune: str) -> str:
    """Return what music21 is given: the version line, without which it keeps to older rules."""
    return "%abc-2.1\n" + re.sub(r"^X:.*", "X:1", tune)


def by_music21(tune: str) -> tuple[Heard, ...] | None:
    """Let music21 read a tune; None where it fails."""
    from music21 import converter, harmony

    try:
        stream = converter.parse(for_music21(tune), format="abc", forceSource=True)
        stream = stream.stripTies()
    except Exception:  # noqa: BLE001 - whatever it raises, it has not read the tune
        return None
    notes = []
    for element in stream.flatten().notes:
        if isinstance(element, harmony.ChordSymbol) or element.duration.isGrace:
            continue
        length = Fraction(element.quarterLength)
        onset = Fraction(element.offset)
        notes += [Heard(onset, length, pitch.midi) for pitch in element.pitches]
    return tuple(sorted(notes))


def cut(notes: Iterable[Heard], places: Sequence[Fraction]) -> list[Heard]:
    """Cut notes at the places between which the playing may jump."""
    found = []
    for onset, duration, pitch in notes:
        inside = [p for p in places if onset + _NEAR < p < onset + duration - _NEAR]
        edges = [onset, *inside, onset + duration]
        found += [Heard(start, stop - start, pitch) for start, stop in pairwise(edges)]
    return sorted(found)


class Remembered:
    """What an oracle answered, one JSON line a tune, found again by the hash of what it was given.

    None is an answer too: the oracle does not read that tune.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{name}.jsonl"
        self._answers: dict[str, tuple[Heard, ...] | None] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            key, notes = json.loads(line)
            self._answers[key] = notes and tuple(
                Heard(Fraction(onset), Fraction(length), pitch) for onset, length, pitch in notes
            )

    def __contains__(self, given: str) -> bool:
        return _digest(given) in self._answers

    def __getitem__(self, given: str) -> tuple[Heard, ...] | None:
        return self._answers[_digest(given)]

    def add(self, given: str, heard: tuple[Heard, ...] | None) -> None:
        """Keep an answer, in memory and on the disk."""
        self._answers[_digest(given)] = heard
        notes = heard and [(str(n.onset), str(n.duration), n.pitch) for n in heard]
        with self._file.open("a") as file:
            file.write(json.dumps([_digest(given), notes]) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_NEAR = Fraction(1, 48)  # one step, in quarters


def agree(ours: Any, theirs: Iterable[Heard] | None) -> bool:
    """Tell whether another program read a Score's notes: pitches, and times to the step."""
    return theirs is not None and first_difference(ours, theirs) is None


def first_difference(score: Any, theirs: Iterable[Heard]) -> tuple[Any, Any] | None:
    """Return the first notes that differ, (ours, theirs); either may be missing."""
    from musicgen.music.score import STEPS_PER_QUARTER, find_jumps

    places = [Fraction(step, STEPS_PER_QUARTER) for step in find_jumps(score)]
    mine = [
        Heard(
            Fraction(note.onset, STEPS_PER_QUARTER),
            Fraction(note.duration, STEPS_PER_QUARTER),
            note.pitch,
        )
        for note in score.notes
    ]
    a, b = _in_order(cut(mine, places)), _in_order(cut(theirs, places))
    for one, other in zip(a, b, strict=False):
        if not _same(one, other):
            return one, other
    if len(a) == len(b):
        return None
    return (a[len(b)], None) if len(a) > len(b) else (None, b[len(a)])


def _in_order(notes: Iterable[Heard]) -> list[Heard]:
    """Sort notes by step; of doubled ones the longest stays."""
    longest_last = sorted(notes, key=lambda note: (note.duration, note))
    places = {(round(note.onset * 48), note.pitch): note for note in longest_last}
    return [note for _, note in sorted(places.items())]


def _same(one: Heard, other: Heard) -> bool:
    near = abs(one.onset - other.onset) < _NEAR
    return near and abs(one.duration - other.duration) < _NEAR and one.pitch == other.pitch
