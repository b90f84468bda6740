"""Measure copy receipts: do they name the right tune, how often do they alarm, what do they cost?

    python benchmarks/receipt.py DATASET            a data set of dance-tunes; two minutes
    python benchmarks/receipt.py DATASET --test     alarms on the test part, which is read once
    python benchmarks/receipt.py --toy              synthetic tunes; seconds

Copies: 200 training tunes, transposed by -6 to 6 semitones, with 0, 5, 10 and 20 % of their notes
moved by 1 to 4 semitones. A copy is traced if the receipt names the tune itself or one of its group
of near-duplicates. An alarm is a longest run that is longer than in 95 % of the held-out tunes (on
the validation part at most 5 % by definition; the test part is the real measure). A brute-force
comparison of all pairs of notes checks the longest run.
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
CHANGED_SHARES = (0.0, 0.05, 0.1, 0.2)
FIRST_RECEIPT = """
import sys, time
from pathlib import Path
from musicgen.formats import abc
from musicgen.similarity.overlap_report import OverlapIndex
(score,), _ = abc.parse(Path(sys.argv[2]).read_text())
score.canonical()
start_time = time.perf_counter()
OverlapIndex.from_bytes(Path(sys.argv[1]).read_bytes()).make_receipt(score).format_line()
print(1000 * (time.perf_counter() - start_time))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of minutes")
    parser.add_argument("--test", action="store_true", help="use the test part")
    options = parser.parse_args()
    dataset = (
        make_toy_dataset()
        if options.toy or options.dataset is None
        else store.load(options.dataset)
    )
    count, checked = (12, 12) if options.toy else (200, 10)
    start_time = time.perf_counter()
    index = build_overlap_index(dataset)
    assert index is not None
    index_bytes = index.note_index.to_bytes()
    print(
        f"index of {index.tune_count:,} tunes, {len(index.note_index):,} notes:"
        f" {len(index_bytes) / 1e6:.3f} MB, made in {time.perf_counter() - start_time:.1f} s"
    )
    codec, rng = find_codec(dataset.codec), random.Random(1)
    chosen_tunes = rng.sample(range(len(dataset.train)), min(count, len(dataset.train)))
    for share in CHANGED_SHARES:
        measure_copies(index, dataset.train, codec, chosen_tunes, share)
    part = dataset.test if options.test else dataset.valid
    held_out = [decode_tune(tune, codec) for tune in part[:count]]
    measure_alarms(index, held_out, "test" if options.test else "valid")
    compare_with_brute_force(index, dataset.train, codec, held_out[:checked])
    measure_cost(index, held_out, index_bytes)


def decode_tune(tune: EncodedTune, codec: AnyCodec) -> Score:
    piece = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece
    assert isinstance(piece, Score)
    return piece


def change_notes(score: Score, share: float, rng: random.Random) -> Score:
    """Transpose a tune, and move a share of its notes by a few more semitones."""
    notes = list(score.notes)
    for position in rng.sample(range(len(notes)), round(share * len(notes))):
        step = rng.choice((-4, -3, -2, -1, 1, 2, 3, 4))
        pitch = min(max(notes[position].pitch + step, 0), 127)
        notes[position] = replace(notes[position], pitch=pitch)
    semitones = [n for n in range(-6, 7) if all(0 <= note.pitch + n <= 127 for note in notes)]
    return replace(score, notes=tuple(notes)).transpose(rng.choice(semitones))


def measure_copies(
    index: OverlapIndex,
    tunes: Sequence[EncodedTune],
    codec: AnyCodec,
    chosen_tunes: list[int],
    share: float,
) -> None:
    """Print how often a changed copy is traced to its tune."""
    rng = random.Random(2)
    traced = alarm_count = 0
    lengths = []
    for number in chosen_tunes:
        receipt = index.make_receipt(change_notes(decode_tune(tunes[number], codec), share, rng))
        best = receipt.longest
        traced += best is not None and best.label.group == index.note_index.get_label(number).group
        alarm_count += is_alarm(receipt)
        lengths.append(best.notes if best else 0)
    print(
        f"copies with {share:.0%} of notes changed: {traced} of {len(chosen_tunes)} traced"
        f" ({100 * traced / len(chosen_tunes):.1f} %), {alarm_count} alarms;"
        f" longest run {statistics.median(lengths):.1f} notes (median)"
    )


def is_alarm(receipt: Receipt) -> bool:
    return receipt.longer_than is not None and receipt.longer_than >= ALARM


def measure_alarms(index: OverlapIndex, scores: Sequence[Score], part: str) -> None:
    """Print how often a held-out tune raises an alarm, and what held-out tunes share."""
    receipts = [index.make_receipt(score) for score in scores]
    lengths = [receipt.longest.notes if receipt.longest else 0 for receipt in receipts]
    alarm_count = sum(map(is_alarm, receipts))
    copied_share = statistics.mean(receipt.share for receipt in receipts)
    low, high = np.quantile(lengths, [0.5, ALARM])
    print(
        f"{part}: {alarm_count} alarms in {len(receipts)} tunes"
        f" ({100 * alarm_count / len(receipts):.1f} %);"
        f" longest run {low:.1f} notes (median), {high:.1f} (95 %);"
        f" {100 * copied_share:.1f} % of 8-note runs copied"
    )


def compare_with_brute_force(
    index: OverlapIndex, tunes: Sequence[EncodedTune], codec: AnyCodec, scores: Sequence[Score]
) -> None:
    """Print how often brute force finds the same longest run."""
    run_arrays = [
        run_array for tune in tunes for run_array in list_run_arrays(decode_tune(tune, codec))
    ]
    agreeing = 0
    for score in scores:
        best = index.make_receipt(score).longest
        agreeing += find_longest_by_brute_force(score, run_arrays) == (best.notes if best else 0)
    print(
        f"brute force agrees on {agreeing} of {len(scores)}, {100 * agreeing / len(scores):.1f} %"
    )


RunArray = np.ndarray  # (2, note): interval and duration


def list_run_arrays(score: Score) -> list[RunArray]:
    """Return a score's runs; the first interval of each is 999, which never occurs."""
    return [np.array([(999, run.first_duration), *run.moves]).T for run in find_runs(score)]


def find_longest_by_brute_force(score: Score, run_arrays: Sequence[RunArray]) -> int:
    """Return the length of the longest common run, by dynamic programming without hashes."""
    intervals = np.concatenate([run_array[0] for run_array in run_arrays])
    durations = np.concatenate([run_array[1] for run_array in run_arrays])
    best = 0
    for own_run in list_run_arrays(score):
        previous_lengths = np.zeros(len(intervals) + 1, dtype=np.int64)
        for position, (interval, duration) in enumerate(own_run.T.tolist()):
            continues = (intervals == interval) & (position > 0) & (interval != 999)
            lengths = np.where(
                durations == duration, np.where(continues, previous_lengths[:-1] + 1, 1), 0
            )
            best = max(best, int(lengths.max(initial=0)))
            previous_lengths = np.append(0, lengths)
    return best


def measure_cost(index: OverlapIndex, scores: Sequence[Score], index_bytes: bytes) -> None:
    """Print the time of a receipt, of the first one in a new process, and of the copy filter."""
    times = [time_milliseconds(index.make_receipt, score) for score in scores]
    with tempfile.TemporaryDirectory() as folder:
        index_file, tune_file = Path(folder) / "receipt.bin", Path(folder) / "tune.abc"
        index_file.write_bytes(index_bytes)
        tune_file.write_text(abc.render(scores[0]))
        first_times = [time_first_receipt(index_file, tune_file) for _ in range(5)]
    print(
        f"a receipt: {statistics.median(times):.1f} ms (median),"
        f" {np.quantile(times, 0.95):.1f} ms (95 %), {max(times):.1f} ms (most);"
        f" the first one of a process, with reading the index:"
        f" {statistics.median(first_times):.1f} ms (median of 5)"
    )
    detector = index.make_copy_detector(8)
    ready_ms = time_milliseconds(lambda _: detector.find_forbidden([(60, 24)] * 8), scores[0])
    tails = [
        [(note.pitch, note.duration) for note in score.notes[start : start + 8]]
        for score in scores
        for start in range(0, len(score.notes) - 8, 4)
    ]
    start_time = time.perf_counter()
    for tail in tails:
        detector.find_blocked(tail, [(60, 24), (62, 24)])
    microseconds_per_note = 1e6 * (time.perf_counter() - start_time) / max(1, len(tails))
    print(
        f"copy filter of 8 notes: ready in {ready_ms:.1f} ms,"
        f" then {microseconds_per_note:.1f} µs per note"
    )


def time_milliseconds(act: Callable[[Score], object], score: Score) -> float:
    start_time = time.perf_counter()
    act(score)
    return 1000 * (time.perf_counter() - start_time)


def time_first_receipt(index: Path, tune: Path) -> float:
    process = subprocess.run(
        [sys.executable, "-c", FIRST_RECEIPT, str(index), str(tune)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(process.stdout)


def make_toy_dataset() -> Dataset:
    """Make a data set of random synthetic tunes."""
    rng, codec = random.Random(3), find_codec("measures")
    parts = {
        part: [make_tune(rng, codec, f"{part} {number}") for number in range(count)]
        for part, count in (("train", 40), ("valid", 12), ("test", 12))
    }
    return Dataset(**parts, codec=codec.name, vocabulary=codec.vocabulary.names, refusals={})


def make_tune(rng: random.Random, codec: AnyCodec, title: str) -> EncodedTune:
    bars = ("".join(rng.choice("CDEFGABcdef") for _ in range(6)) for _ in range(16))
    (score,), _ = abc.parse(f"X:1\nT:{title}\nM:6/8\nL:1/8\nK:C\n{'|'.join(bars)}|]\n")
    encoded = codec.encode(score)
    return EncodedTune(
        np.array(encoded.ids, np.int16), len(score.notes), title, "toy.abc", title, "C major",
        "6/8", "", encoded.setting.to_json(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
