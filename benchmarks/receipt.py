"""Whether receipts name the right tune, how often they raise an alarm, and what they cost.

    python benchmarks/receipt.py DATASET            a data set built of dance-tunes, two minutes
    python benchmarks/receipt.py DATASET --test     the test part's alarms, to be read once
    python benchmarks/receipt.py --toy              made-up tunes, seconds

Copies: 200 training tunes, moved by -6 to 6 semitones, with 0, 5, 10 and 20 % of their notes moved
by 1 to 4 semitones. Right is the tune itself or one of its group of near-duplicates. An alarm is
more than 95 % of real tunes: a longest run that is longer than that of 95 % of the held-out tunes
(on the valid part itself at most 5 % by what it means; the test part is the measure). A slow
comparison of each note with each, over all training tunes, checks the longest run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from musicgen.corpus import store
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.formats import abc
from musicgen.music.melodic_runs import find_runs
from musicgen.music.score import Score
from musicgen.similarity.build_index import build_overlap_index
from musicgen.similarity.overlap_report import OverlapIndex, Receipt
from musicgen.tokens.codec import AnyCodec, Setting
from musicgen.tokens.registry import find_codec

ALARM = 0.95
CHANGES = (0.0, 0.05, 0.1, 0.2)
COLD = """
import sys, time
from pathlib import Path
from musicgen.formats import abc
from musicgen.similarity.overlap_report import Index
(score,), _ = abc.parse(Path(sys.argv[2]).read_text())
score.canonical()
began = time.perf_counter()
Index.parse(Path(sys.argv[1]).read_bytes()).receipt(score).line()
print(1000 * (time.perf_counter() - began))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--test", action="store_true", help="held-out tunes of the test part")
    options = parser.parse_args()
    dataset = toy() if options.toy or options.dataset is None else store.load(options.dataset)
    count, checked = (12, 12) if options.toy else (200, 10)
    began = time.perf_counter()
    index = build_overlap_index(dataset)
    assert index is not None
    data = index.known.render()
    print(
        f"index of {index.tunes:,} tunes, {len(index.known):,} notes: {len(data) / 1e6:.3f} MB,"
        f" made in {time.perf_counter() - began:.1f} s"
    )
    codec, luck = find_codec(dataset.codec), random.Random(1)
    chosen = luck.sample(range(len(dataset.train)), min(count, len(dataset.train)))
    for share in CHANGES:
        copies(index, dataset.train, codec, chosen, share)
    part = dataset.test if options.test else dataset.valid
    held = [decoded(tune, codec) for tune in part[:count]]
    alarms(index, held, "test" if options.test else "valid")
    agreement(index, dataset.train, codec, held[:checked])
    cost(index, held, data)


def decoded(tune: EncodedTune, codec: AnyCodec) -> Score:
    piece = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece
    assert isinstance(piece, Score)
    return piece


def changed(score: Score, share: float, luck: random.Random) -> Score:
    """Move a tune by some semitones, and a share of its notes by some more."""
    notes = list(score.notes)
    for place in luck.sample(range(len(notes)), round(share * len(notes))):
        step = luck.choice((-4, -3, -2, -1, 1, 2, 3, 4))
        pitch = min(max(notes[place].pitch + step, 0), 127)
        notes[place] = replace(notes[place], pitch=pitch)
    semitones = [n for n in range(-6, 7) if all(0 <= note.pitch + n <= 127 for note in notes)]
    return replace(score, notes=tuple(notes)).transposed(luck.choice(semitones))


def copies(
    index: OverlapIndex,
    tunes: Sequence[EncodedTune],
    codec: AnyCodec,
    chosen: list[int],
    share: float,
) -> None:
    """Print how often a changed copy is traced to its tune."""
    luck = random.Random(2)
    right = raised = 0
    lengths = []
    for place in chosen:
        found = index.receipt(changed(decoded(tunes[place], codec), share, luck))
        best = found.longest
        right += best is not None and best.label.group == index.known.label(place).group
        raised += is_alarm(found)
        lengths.append(best.notes if best else 0)
    print(
        f"copies with {share:.0%} of notes changed: {right} of {len(chosen)} traced"
        f" ({100 * right / len(chosen):.1f} %), {raised} alarms;"
        f" longest run {statistics.median(lengths):.1f} notes (median)"
    )


def is_alarm(found: Receipt) -> bool:
    return found.longer_than is not None and found.longer_than >= ALARM


def alarms(index: OverlapIndex, scores: Sequence[Score], part: str) -> None:
    """Print how often a tune that nobody copied raises an alarm, and what real tunes share."""
    found = [index.receipt(score) for score in scores]
    lengths = [one.longest.notes if one.longest else 0 for one in found]
    raised = sum(map(is_alarm, found))
    low, high = np.quantile(lengths, [0.5, ALARM])
    print(
        f"{part}: {raised} alarms in {len(found)} tunes ({100 * raised / len(found):.1f} %);"
        f" longest run {low:.1f} notes (median), {high:.1f} (95 %);"
        f" {100 * statistics.mean(one.share for one in found):.1f} % of 8-note runs copied"
    )


def agreement(
    index: OverlapIndex, tunes: Sequence[EncodedTune], codec: AnyCodec, scores: Sequence[Score]
) -> None:
    """Print how often the slow way finds the same longest run."""
    lines = [line for tune in tunes for line in strings(decoded(tune, codec))]
    same = 0
    for score in scores:
        best = index.receipt(score).longest
        same += longest_by_hand(score, lines) == (best.notes if best else 0)
    print(f"the slow way agrees on {same} of {len(scores)}, {100 * same / len(scores):.1f} %")


Line = np.ndarray  # (2, note): interval and duration


def strings(score: Score) -> list[Line]:
    """Return a score's runs; the first interval of each is none that occurs."""
    return [np.array([(999, run.first), *run.moves]).T for run in find_runs(score)]


def longest_by_hand(score: Score, lines: Sequence[Line]) -> int:
    """Return the longest common run: dynamic programming over all pairs of notes, no hashes."""
    intervals = np.concatenate([line[0] for line in lines])
    durations = np.concatenate([line[1] for line in lines])
    best = 0
    for mine in strings(score):
        before = np.zeros(len(intervals) + 1, dtype=np.int64)
        for place, (interval, duration) in enumerate(mine.T.tolist()):
            goes_on = (intervals == interval) & (place > 0) & (interval != 999)
            here = np.where(durations == duration, np.where(goes_on, before[:-1] + 1, 1), 0)
            best = max(best, int(here.max(initial=0)))
            before = np.append(0, here)
    return best


def cost(index: OverlapIndex, scores: Sequence[Score], data: bytes) -> None:
    """Print the time of a receipt, and of the first one in a process of its own."""
    times = [milliseconds(index.receipt, score) for score in scores]
    with tempfile.TemporaryDirectory() as folder:
        kept, tune = Path(folder) / "receipt.bin", Path(folder) / "tune.abc"
        kept.write_bytes(data)
        tune.write_text(abc.render(scores[0]))
        first = [cold(kept, tune) for _ in range(5)]
    print(
        f"a receipt: {statistics.median(times):.1f} ms (median),"
        f" {np.quantile(times, 0.95):.1f} ms (95 %), {max(times):.1f} ms (most);"
        f" the first of a process, index read: {statistics.median(first):.1f} ms (median of 5)"
    )
    guard = index.guard(8)
    made = milliseconds(lambda _: guard.forbidden([(60, 24)] * 8), scores[0])
    tails = [
        [(note.pitch, note.duration) for note in score.notes[start : start + 8]]
        for score in scores
        for start in range(0, len(score.notes) - 8, 4)
    ]
    began = time.perf_counter()
    for tail in tails:
        guard.blocked(tail, [(60, 24), (62, 24)])
    each = 1e6 * (time.perf_counter() - began) / max(1, len(tails))
    print(f"a guard of 8 notes: ready in {made:.1f} ms, then {each:.1f} microseconds a note")


def milliseconds(act: Callable[[Score], object], score: Score) -> float:
    began = time.perf_counter()
    act(score)
    return 1000 * (time.perf_counter() - began)


def cold(index: Path, tune: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", COLD, str(index), str(tune)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout)


def toy() -> Dataset:
    """Make tunes up: a few steps up and down, drawn at random."""
    luck, codec = random.Random(3), find_codec("measures")
    parts = {
        part: [made_up(luck, codec, f"{part} {number}") for number in range(count)]
        for part, count in (("train", 40), ("valid", 12), ("test", 12))
    }
    return Dataset(**parts, codec=codec.name, vocabulary=codec.vocabulary.names, refusals={})


def made_up(luck: random.Random, codec: AnyCodec, title: str) -> EncodedTune:
    bars = ("".join(luck.choice("CDEFGABcdef") for _ in range(6)) for _ in range(16))
    (score,), _ = abc.parse(f"X:1\nT:{title}\nM:6/8\nL:1/8\nK:C\n{'|'.join(bars)}|]\n")
    encoded = codec.encode(score)
    return EncodedTune(
        np.array(encoded.ids, np.int16), len(score.notes), title, "toy.abc", title, "C major",
        "6/8", "", encoded.setting.to_json(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
