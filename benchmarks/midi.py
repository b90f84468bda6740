"""How truly and how fast MIDI is read, on music21's own scores written to MIDI by music21.

python benchmarks/midi.py --truth --cache DIR    every note against symusic's ticks
python benchmarks/midi.py --speed --cache DIR --rival PYTHON
                                                 files to ids on one core, in turn with MidiTok's
python benchmarks/midi.py --toy                  a few small files, for CI; seconds

Files that DIR lacks are made there first: Bach's chorales and what music21 has of Beethoven, Haydn,
Joplin and Mozart; half an hour. PYTHON is an interpreter that has miditok and symusic.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from musicgen.errors import Refusal  # noqa: E402
from musicgen.formats import midi  # noqa: E402
from musicgen.music.score import Score  # noqa: E402
from musicgen.tokens.measures import MeasuresCodec  # noqa: E402

BAR = 3  # times as fast as REMI
FOLDERS = ("joplin", "haydn", "mozart", "beethoven", "bach")
CODEC = MeasuresCodec()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a few files, for CI")
    parser.add_argument("--truth", action="store_true", help="compare every note")
    parser.add_argument("--speed", action="store_true", help="files to ids, against MidiTok")
    parser.add_argument("--cache", type=Path, help="where the MIDI files are kept")
    parser.add_argument("--rival", default=sys.executable, help="a Python that has miditok")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(exist_ok=True, parents=True)
        paths = list(made(cache, 3 if options.toy else None))
        if options.truth or not options.speed:
            truth(paths)
        if options.speed or not options.truth:
            speed(paths, options.rival, rounds=1 if options.toy else 3)


def made(cache: Path, count: int | None) -> Iterator[Path]:
    """Yield the MIDI file of each score, written by music21 where it is not there yet."""
    import music21

    root = Path(music21.__file__).parent / "corpus"
    names = [p for folder in FOLDERS for p in sorted((root / folder).rglob("*.[mx][xm]l"))]
    if count is not None:
        names = [name for name in names if name.stem in ("bwv10.7", "bwv101.7", "bwv108.6")]
    for name in names[:count]:
        target = cache / f"{name.parent.name}-{name.stem}.mid"
        if target.exists() or (not _failed(target).exists() and _write(name, target)):
            yield target


def _failed(target: Path) -> Path:
    """Return the file that remembers why music21 could not write another."""
    return target.with_suffix(".failed")


def _write(name: Path, target: Path) -> bool:
    from music21 import converter

    part = target.with_suffix(".part")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter.parse(name, forceSource=True).write("midi", fp=str(part))
    except Exception as fault:  # noqa: BLE001 - music21 raises whatever its parts raise
        _failed(target).write_text(f"{fault!r:.90}\n", "utf-8")
        print(f"music21 cannot write {name.name}: {fault!r:.90}")
        return False
    part.rename(target)
    return True


def truth(paths: Sequence[Path]) -> None:
    """Print how many notes are where symusic has them, and what became of the others."""
    notes: Counter[str] = Counter()
    files: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    for path in paths:
        found = midi.inspect(path.read_bytes(), path.name)
        repairs.update(found.repairs or {})
        for refusal in found.refusals:
            files[f"refused: {refusal.code}"] += 1
            print(refusal)
        for score, grid in zip(found.scores, found.grids, strict=True):
            files[f"read on the grid {grid.name!r}"] += 1
            files[_encoded(score, path.name)] += 1
            where = "in repaired files, " if found.repairs else ""
            seen = compared(score, path)
            notes.update({where + outcome: count for outcome, count in seen.items()})
            if set(seen) - {"within half a step"}:
                print(f"{path.name}: {dict(seen)}, repairs {dict(found.repairs or {})}")
    for title, counts in (("files", files), ("notes", notes), ("repairs", repairs)):
        for outcome, count in counts.most_common():
            print(f"{count:9,} {title}: {outcome}")


def _encoded(score: Score, name: str) -> str:
    """Tell whether a tune comes back from ids as it was."""
    try:
        encoded = CODEC.encode(score)
    except Refusal as refusal:
        print(f"{name}: {refusal}")
        return f"not encoded: {refusal.message.split(';')[0]}"
    decoded = CODEC.decode(encoded.ids, encoded.setting)
    same = decoded.score == score.canonical() and not decoded.dropped
    return "equal after encoding and decoding" if same else "NOT EQUAL after decoding"


def compared(score: Score, path: Path) -> Counter[str]:
    """Count our notes by how near they are to symusic's, which are paired by pitch and time."""
    from symusic.core import ScoreTick

    reading: Any = ScoreTick.from_midi(path.read_bytes())
    scale = 48 / reading.tpq
    theirs = sorted(
        (note.pitch, note.time * scale, (note.time + note.duration) * scale)
        for track in reading.tracks
        for note in track.notes
        if note.duration > 0
    )
    ours = sorted((note.pitch, note.onset, note.end) for note in score.notes)
    seen: Counter[str] = Counter()
    rest = deque(theirs)
    for pitch, onset, end in ours:
        while rest and rest[0] < (pitch, onset - 0.5, 0):
            rest.popleft()
            seen["only symusic's"] += 1
        if not rest or (rest[0][0], abs(rest[0][1] - onset) <= 0.5) != (pitch, True):
            seen["only ours"] += 1
            continue
        _, _, their_end = rest.popleft()
        near = abs(end - their_end) <= 0.5 or end - onset == 1
        seen["within half a step" if near else "ends elsewhere"] += 1
    seen["only symusic's"] += len(rest)
    return +seen


def speed(paths: Sequence[Path], rival: str, rounds: int) -> None:
    """Print the medians of a few rounds, the two in turn; the first round of each warms up."""
    theirs = _Rival(rival, paths)
    ours: list[float] = []
    others: list[float] = []
    ids = 0
    for _ in range(rounds + 1):
        start = time.process_time()
        ids = sum(_ids(path) for path in paths)
        ours.append(time.process_time() - start)
        others.append(theirs.seconds())
    print(f"musicgen {median(ours[1:]):8.3f} s for {len(paths)} files, {ids:,} ids (CPU, median)")
    if not theirs.is_there:
        print("ratio musicgen : MidiTok is not measured: --rival names no Python that has miditok")
        return
    print(f"MidiTok  {median(others[1:]):8.3f} s, REMI")
    ratio = median(others[1:]) / median(ours[1:])
    print(f"ratio musicgen : MidiTok = {ratio:.2f} (at least {BAR})")
    print(f"ratio of the first rounds, nothing known yet = {others[0] / ours[0]:.2f}")


def _ids(path: Path) -> int:
    scores, _ = midi.parse(path.read_bytes(), path.name)
    count = 0
    for score in scores:
        try:
            count += len(CODEC.encode(score).ids)
        except Refusal:
            continue
    return count


RIVAL = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
from miditok import REMI
from symusic import Score
tokenizer = REMI()
paths = json.loads(sys.stdin.readline())
for line in sys.stdin:
    start = time.process_time()
    for path in paths:
        tokenizer.encode(Score(path))
    print(time.process_time() - start, flush=True)
"""


class _Rival:
    """MidiTok in an interpreter of its own, which does a round for every line that it is sent."""

    def __init__(self, python: str, paths: Sequence[Path]) -> None:
        find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('miditok') is None)"
        self.is_there = subprocess.run([python, "-c", find], check=False).returncode == 0
        self.child = None
        if self.is_there:
            pipe = subprocess.PIPE
            self.child = subprocess.Popen([python, "-c", RIVAL], stdin=pipe, stdout=pipe, text=True)
        if self.child is not None:
            assert self.child.stdin is not None
            self.child.stdin.write(json.dumps([str(path) for path in paths]) + "\n")

    def seconds(self) -> float:
        """Let it read and encode all files once."""
        if self.child is None:
            return 0.0
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())


if __name__ == "__main__":
    main()
