"""Measure accuracy and speed of the MIDI reader, on music21's scores written as MIDI by music21.

python benchmarks/midi.py --truth --cache DIR    compare every note with symusic
python benchmarks/midi.py --speed --cache DIR --rival PYTHON
                                                 files to ids on one core, in turn with MidiTok
python benchmarks/midi.py --speed --files FOLDER --rival PYTHON
                                                 the same on your own MIDI files, played ones
python benchmarks/midi.py --toy                  a few small files; seconds

MIDI files that DIR lacks are created first: Bach's chorales and music21's scores by Beethoven,
Haydn, Joplin and Mozart; about half an hour. PYTHON is an interpreter with miditok and symusic.
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
from musicgen.music.roles import assign_roles  # noqa: E402
from musicgen.music.score import Score  # noqa: E402
from musicgen.tokens.measures import MeasuresCodec  # noqa: E402

TARGET_RATIO = 3  # times faster than REMI
TARGET_RATIO_PLAYED = 1.2  # on played files, whose offset, swing and grids must be found first
FOLDERS = ("joplin", "haydn", "mozart", "beethoven", "bach")
CODEC = MeasuresCodec()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a few small files")
    parser.add_argument("--truth", action="store_true", help="compare every note with symusic")
    parser.add_argument(
        "--speed", action="store_true", help="compare files-to-ids speed with MidiTok"
    )
    parser.add_argument("--cache", type=Path, help="folder of the MIDI files")
    parser.add_argument("--files", type=Path, help="measure the speed on the MIDI files in it")
    parser.add_argument("--rival", default=sys.executable, help="a Python with miditok")
    options = parser.parse_args()
    if options.files:
        paths = sorted(options.files.rglob("*.mid"))
        measure_speed(paths, options.rival, rounds=3, target=TARGET_RATIO_PLAYED)
        return
    with tempfile.TemporaryDirectory() as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(exist_ok=True, parents=True)
        paths = list(make_midi_files(cache, 3 if options.toy else None))
        if options.truth or not options.speed:
            compare_notes(paths)
        if options.speed or not options.truth:
            measure_speed(paths, options.rival, rounds=1 if options.toy else 3)


def make_midi_files(cache: Path, count: int | None) -> Iterator[Path]:
    """Yield the MIDI file of each score; music21 writes the missing ones."""
    import music21

    root = Path(music21.__file__).parent / "corpus"
    paths = [p for folder in FOLDERS for p in sorted((root / folder).rglob("*.[mx][xm]l"))]
    if count is not None:
        paths = [path for path in paths if path.stem in ("bwv10.7", "bwv101.7", "bwv108.6")]
    for path in paths[:count]:
        target = cache / f"{path.parent.name}-{path.stem}.mid"
        if target.exists() or (not _failure_file(target).exists() and _write_midi(path, target)):
            yield target


def _failure_file(target: Path) -> Path:
    """Return the file that records why music21 could not write `target`."""
    return target.with_suffix(".failed")


def _write_midi(path: Path, target: Path) -> bool:
    from music21 import converter

    part = target.with_suffix(".part")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter.parse(path, forceSource=True).write("midi", fp=str(part))
    except Exception as error:  # noqa: BLE001 - music21 raises many kinds
        _failure_file(target).write_text(f"{error!r:.90}\n", "utf-8")
        print(f"music21 cannot write {path.name}: {error!r:.90}")
        return False
    part.rename(target)
    return True


def compare_notes(paths: Sequence[Path]) -> None:
    """Print how many notes agree with symusic, and the kinds of the differences."""
    notes: Counter[str] = Counter()
    files: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    for path in paths:
        result = midi.inspect(path.read_bytes(), path.name)
        repairs.update(result.repairs or {})
        for refusal in result.refusals:
            files[f"refused: {refusal.code}"] += 1
            print(refusal)
        for score, grid in zip(result.scores, result.grids, strict=True):
            files[f"read on the grid {grid.name!r}"] += 1
            files[_check_round_trip(score, path.name)] += 1
            prefix = "in repaired files, " if result.repairs else ""
            outcomes = compare_with_symusic(score, path)
            notes.update({prefix + outcome: count for outcome, count in outcomes.items()})
            if set(outcomes) - {"within half a step"}:
                print(f"{path.name}: {dict(outcomes)}, repairs {dict(result.repairs or {})}")
    for title, counts in (("files", files), ("notes", notes), ("repairs", repairs)):
        for outcome, count in counts.most_common():
            print(f"{count:9,} {title}: {outcome}")


def _check_round_trip(score: Score, name: str) -> str:
    """Encode and decode a tune; return the outcome as text."""
    try:
        encoded = CODEC.encode(score)
    except Refusal as refusal:
        print(f"{name}: {refusal}")
        return f"not encoded: {refusal.message.split(';')[0]}"
    decoded = CODEC.decode(encoded.ids, encoded.setting)
    is_equal = decoded.score == score.canonical() and not decoded.dropped
    return "equal after encoding and decoding" if is_equal else "NOT EQUAL after decoding"


def compare_with_symusic(score: Score, path: Path) -> Counter[str]:
    """Pair the notes with symusic's by pitch and time; count them by distance."""
    from symusic.core import ScoreTick

    symusic_score: Any = ScoreTick.from_midi(path.read_bytes())
    scale = 48 / symusic_score.tpq
    symusic_notes = sorted(
        (note.pitch, note.time * scale, (note.time + note.duration) * scale)
        for track in symusic_score.tracks
        for note in track.notes
        if note.duration > 0
    )
    own_notes = sorted((note.pitch, note.onset, note.end) for note in score.notes)
    outcomes: Counter[str] = Counter()
    remaining = deque(symusic_notes)
    for pitch, onset, end in own_notes:
        while remaining and remaining[0] < (pitch, onset - 0.5, 0):
            remaining.popleft()
            outcomes["only symusic's"] += 1
        if not remaining or (remaining[0][0], abs(remaining[0][1] - onset) <= 0.5) != (pitch, True):
            outcomes["only ours"] += 1
            continue
        _, _, symusic_end = remaining.popleft()
        is_near = abs(end - symusic_end) <= 0.5 or end - onset == 1
        outcomes["within half a step" if is_near else "ends elsewhere"] += 1
    outcomes["only symusic's"] += len(remaining)
    return +outcomes


def measure_speed(
    paths: Sequence[Path], rival: str, rounds: int, target: float = TARGET_RATIO
) -> None:
    """Print medians over rounds, both readers in turn; the first round is a warm-up."""
    miditok = _Rival(rival, paths)
    own_seconds: list[float] = []
    miditok_seconds: list[float] = []
    ids = 0
    for _ in range(rounds + 1):
        start_time = time.process_time()
        ids = sum(_ids(path) for path in paths)
        own_seconds.append(time.process_time() - start_time)
        miditok_seconds.append(miditok.run_round())
    print(f"musicgen {median(own_seconds[1:]):8.3f} s for {len(paths)} files, {ids:,} ids (median)")
    if not miditok.is_installed:
        print("ratio musicgen : MidiTok is not measured: --rival must name a Python with miditok")
        return
    print(f"MidiTok  {median(miditok_seconds[1:]):8.3f} s, REMI")
    ratio = median(miditok_seconds[1:]) / median(own_seconds[1:])
    print(f"ratio musicgen : MidiTok = {ratio:.2f} (at least {target})")
    print(
        f"ratio of the first rounds, with empty caches = {miditok_seconds[0] / own_seconds[0]:.2f}"
    )


def _ids(path: Path) -> int:
    scores, _ = midi.parse(path.read_bytes(), path.name)  # no scores if it is refused
    count = 0
    for score in scores:
        try:
            count += len(CODEC.encode(assign_roles(score)).ids)
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
    """MidiTok in its own interpreter, which runs one round per input line."""

    def __init__(self, python: str, paths: Sequence[Path]) -> None:
        probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('miditok') is None)"
        self.is_installed = subprocess.run([python, "-c", probe], check=False).returncode == 0
        self.process = None
        if self.is_installed:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                [python, "-c", RIVAL], stdin=pipe, stdout=pipe, text=True
            )
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps([str(path) for path in paths]) + "\n")

    def run_round(self) -> float:
        """Read and encode all files once; return the CPU seconds."""
        if self.process is None:
            return 0.0
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


if __name__ == "__main__":
    main()
