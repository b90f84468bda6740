"""Oracles: the notes that other programs read in ABC, in written form, without playing repeats.

Both get the tune with their peculiarities disabled: abc2midi without rhythm (it swings hornpipes),
part order, decorations and repeat signs; music21 with the version line without which accidentals
do not last until the bar line. Nothing here uses the project's own reader.
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
from functools import cache
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
    """A note as another program reads it, in quarter notes."""

    onset: Fraction
    duration: Fraction
    pitch: int


def tune_texts(book: str) -> Iterator[str]:
    """Yield the text of each tune: from X: to an empty line or the next X:."""
    for block in re.split(r"^(?=X:)", book, flags=re.MULTILINE)[1:]:
        yield re.split(r"^\s*$", block, maxsplit=1, flags=re.MULTILINE)[0]


@cache
def corpus_tunes() -> tuple[str, ...]:
    """Return the text of every tune of O'Neill, Ryan and Aird in music21's corpus."""
    return tuple(tune for file in corpus_files() for tune in tune_texts(decoded(file)))


def corpus_files() -> list[Path]:
    """Return the files of O'Neill, Ryan and Aird."""
    return [file for name in BOOKS for file in sorted((corpus_root() / name).glob("*.abc"))]


@cache
def all_tunes() -> tuple[str, ...]:
    """Return the text of every ABC tune in music21's corpus."""
    return tuple(tune for file in all_files() for tune in tune_texts(decoded(file)))


def all_files() -> list[Path]:
    """Return every ABC file in music21's corpus: also Essen, Josquin, Nottingham, miscFolk."""
    return sorted(corpus_root().rglob("*.abc"))


def corpus_root() -> Path:
    """Return the folder of music21's corpus without importing music21, which takes a second."""
    spec = find_spec("music21")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "corpus"


def decoded(file: Path) -> str:
    """Return a book's text: all are ASCII or UTF-8."""
    return file.read_text(encoding="utf-8-sig")


def by_abc2midi(tunes: Sequence[str]) -> list[tuple[Heard, ...] | None]:
    """Read tunes with abc2midi, in written form; None where it crashes or writes no file."""
    outcomes = _run_abc2midi(tunes)
    if len(tunes) > 1:  # a crash loses the tunes after it: retry one by one
        outcomes = [
            notes or _run_abc2midi([tune])[0] for notes, tune in zip(outcomes, tunes, strict=True)
        ]
    return outcomes


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
    """Reduce a tune for abc2midi to notes, lengths, bar lines and the fields that they need."""
    lines = [f"X:{index}"]
    in_music = False
    for line in tune.replace("\t", " ").split("\n")[1:]:
        field = re.match(r"[A-Za-z]:(?![|:])", line) if in_music else re.match(r"[A-Za-z]:", line)
        if field is None and line.startswith("%%MIDI transpose"):
            lines.append(line)  # it affects pitches
        elif field is None:
            lines.append(_plain_music(line))
        elif line[0] in KEPT_FIELDS:
            lines.append(re.sub("%.*", "", line))
        if field and line[0] == "K" and not in_music:
            in_music = True
        if field and line[0] in "KV" and in_music:
            lines.append("%%MIDI chordattack 0")
    return "\n".join(line for line in lines if line.strip()) + _REST


# Played between tunes: an incomplete tuplet of one would continue in the next.
_REST = "\n\nX:0\nM:4/4\nL:1/8\nK:C\nCDEF GABc | CDEF GABc |"


def _plain_music(line: str) -> str:
    """Keep only notes, lengths, accidentals, grace notes and plain bar lines."""
    line = re.sub("%.*", "", line)
    line = re.sub(r'"[^"]*"|\[[IPRr]:[^\]]*\]|![^!|]*!', "", line)
    line = line.replace("!", "")  # pairs are gone; a single one breaks the line
    line = re.sub(r":*\[?\|[|\]:]*|::+", "|", line)
    line = re.sub(r"(?<=\|)\s*\[?[0-9][0-9,\-]*|\[[0-9][0-9,\-]*", "|", line)
    inline = re.split(r"(\[[A-Z]:[^\]]*\])", line)
    inline[::2] = [re.sub(r"[H-WYh-wy~.\\$*'](?<![,a-gA-G']')", "", part) for part in inline[::2]]
    return "".join(inline)


def faults_by_abc2midi(text: str) -> list[str]:
    """Return the warnings and errors that abc2midi prints about a tune."""
    return [line for line in _printed([str(ABC2MIDI), "t.abc", "-c"], text) if _FAULT.search(line)]


def faults_by_abcm2ps(text: str) -> list[str]:
    """Return the warnings and errors of abcm2ps, except about overfull lines."""
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
    """Read the notes of a MIDI file of abc2midi, which starts each note a tick late."""
    midi = mido.MidiFile(file)
    notes: list[Heard] = []
    for track in midi.tracks:
        open_notes: defaultdict[int, list[int]] = defaultdict(list)
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "note_on" and message.velocity:
                open_notes[message.note].append(tick - 1)
            elif message.type in ("note_on", "note_off") and open_notes[message.note]:
                onset = open_notes[message.note].pop(0)
                quarter = midi.ticks_per_beat
                notes.append(
                    Heard(Fraction(onset, quarter), Fraction(tick - onset, quarter), message.note)
                )
    return tuple(sorted(notes))


def for_music21(tune: str) -> str:
    """Add the version line, without which music21 applies older rules."""
    return "%abc-2.1\n" + re.sub(r"^X:.*", "X:1", tune)


def by_music21(tune: str) -> tuple[Heard, ...] | None:
    """Read a tune with music21; None where it fails."""
    from music21 import converter, harmony

    try:
        stream = converter.parse(for_music21(tune), format="abc", forceSource=True)
        stream = stream.stripTies()
    except Exception:  # noqa: BLE001 - music21 does not limit what it raises
        return None
    notes = []
    for element in stream.flatten().notes:
        if isinstance(element, harmony.ChordSymbol) or element.duration.isGrace:
            continue
        length = Fraction(element.quarterLength)
        onset = Fraction(element.offset)
        notes += [Heard(onset, length, pitch.midi) for pitch in element.pitches]
    return tuple(sorted(notes))


def cut(notes: Iterable[Heard], jumps: Sequence[Fraction]) -> list[Heard]:
    """Split notes at the jumps of the playing order, in quarter notes."""
    pieces = []
    for onset, duration, pitch in notes:
        inner_jumps = [p for p in jumps if onset + _NEAR < p < onset + duration - _NEAR]
        edges = [onset, *inner_jumps, onset + duration]
        pieces += [Heard(start, stop - start, pitch) for start, stop in pairwise(edges)]
    return sorted(pieces)


class Remembered:
    """Cache of an oracle's answers: one JSON line per tune, by the hash of the oracle's input.

    The answer None means that the oracle cannot read the tune.
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
        """Store an answer, in memory and on disk."""
        self._answers[_digest(given)] = heard
        notes = heard and [(str(n.onset), str(n.duration), n.pitch) for n in heard]
        with self._file.open("a") as file:
            file.write(json.dumps([_digest(given), notes]) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_NEAR = Fraction(1, 48)  # quarter notes; one step


def agree(ours: Any, theirs: Iterable[Heard] | None) -> bool:
    """Return whether another program read the notes of a score: pitches, and times to the step."""
    return theirs is not None and first_difference(ours, theirs) is None


def first_difference(score: Any, theirs: Iterable[Heard]) -> tuple[Any, Any] | None:
    """Return the first differing notes (ours, theirs), or None; either may be missing."""
    from musicgen.music.score import STEPS_PER_QUARTER, find_jumps

    jumps = [Fraction(step, STEPS_PER_QUARTER) for step in find_jumps(score)]
    score_notes = [
        Heard(
            Fraction(note.onset, STEPS_PER_QUARTER),
            Fraction(note.duration, STEPS_PER_QUARTER),
            note.pitch,
        )
        for note in score.notes
    ]
    our_notes, their_notes = _in_order(cut(score_notes, jumps)), _in_order(cut(theirs, jumps))
    for our_note, their_note in zip(our_notes, their_notes, strict=False):
        if not _same(our_note, their_note):
            return our_note, their_note
    if len(our_notes) == len(their_notes):
        return None
    return (
        (our_notes[len(their_notes)], None)
        if len(our_notes) > len(their_notes)
        else (None, their_notes[len(our_notes)])
    )


def _in_order(notes: Iterable[Heard]) -> list[Heard]:
    """Sort notes by step; keep the longest of doubled ones."""
    longest_last = sorted(notes, key=lambda note: (note.duration, note))
    longest = {(round(note.onset * 48), note.pitch): note for note in longest_last}
    return [note for _, note in sorted(longest.items())]


def _same(our_note: Heard, their_note: Heard) -> bool:
    is_same_onset = abs(our_note.onset - their_note.onset) < _NEAR
    return (
        is_same_onset
        and abs(our_note.duration - their_note.duration) < _NEAR
        and our_note.pitch == their_note.pitch
    )
