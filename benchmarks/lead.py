"""Measure how well a model of lead sheets predicts chords from a melody, and a melody from chords.

python benchmarks/lead.py --model lead --data FOLDER [--split test]
python benchmarks/lead.py --model lead --asked 1000
python benchmarks/lead.py --toy

FOLDER is a data set of the corpus nottingham-chords (musicgen corpus build). Bits per chord are all
bits of the part of chord symbols (chords, basses, where they change) per chord symbol, after the
melody of each bar. They stand beside n-gram models of the same ids, which are counted in the
training tunes: of orders 1 to 6, of the ids of the symbols with the melody note as context, and of
the whole sequence of ids. Top-1 agreement is per beat: the most likely chord where a chord may
change, after the true chords before it, has root and quality of the true one; beats after the point
where the model expected the next change count as wrong. Intervals are bootstrapped over tunes.
Last come receipts: runs of 8 notes that the melodies of sampled, held-out and training tunes share
with (other) training tunes.

With --asked, random chords are asked for in random meters, keys, ranges, forms and numbers of bars,
and the melody of each tune is harmonised again: what is asked for must be met, or be refused.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common.part_receipts import (  # noqa: E402
    Receipts,
    print_receipts,
    read_training_pieces,
)
from musicgen import formats  # noqa: E402
from musicgen.config import BEGIN_ID  # noqa: E402
from musicgen.corpus.part_orders import iter_lead_sheet_orders  # noqa: E402
from musicgen.corpus.store import load as load_dataset  # noqa: E402
from musicgen.errors import InvalidValue  # noqa: E402
from musicgen.evaluation.ngram_models import KneserNey  # noqa: E402
from musicgen.music.arrays import FloatArray, IntArray  # noqa: E402
from musicgen.music.bars import count_heard_bars, find_bars  # noqa: E402
from musicgen.music.score import Score  # noqa: E402
from musicgen.music.symbols_part import add_symbols_part, without_symbols_part  # noqa: E402
from musicgen.music.theory import Meter, normalize_chord  # noqa: E402
from musicgen.sampling.engine import Engine  # noqa: E402
from musicgen.sampling.noise import log_softmax  # noqa: E402
from musicgen.sampling.recipe import GenerationRequest  # noqa: E402
from musicgen.tokens.codec import Setting  # noqa: E402
from musicgen.tokens.measures import MeasuresCodec  # noqa: E402
from musicgen.tokens.vertical_context import VerticalContext, find_cursor  # noqa: E402
from musicgen.tokens.vocabulary import MEASURES  # noqa: E402
from musicgen.trained_model import Model, load, sample_many  # noqa: E402
from tests.fake_models import may_be_seen_in_lead_sheets, untrained  # noqa: E402

CODEC = MeasuresCodec()
ORDERS = range(1, 7)
CHORDS = frozenset((*MEASURES.ranges["chord"], MEASURES.id("no_chord")))
VALUES = frozenset(MEASURES.ranges["duration"])
REST_CLASS, FIRST_CLASS = 0, 1  # melody classes: silence, then the 12 pitch classes
RESAMPLES = 2000
SAMPLED = 200  # tunes, for the receipts
ASKED_CHORDS = ("D", "G", "A7", "Em", "Bm", "C", "F#m7", "Am", "D/F#", "N.C.", "Bb")
TOY_TUNES = """X:1
M:4/4
L:1/4
K:D
"D"DF A2|"G"GB "A7"A2|"D"d4|]

X:2
M:6/8
L:1/8
K:G
|:"G"GAB d3|"C"cAc "D7"BAF|"G"G6:|
"""


@dataclass(frozen=True)
class Place:
    """Where an id is written, before it is."""

    part: int  # -1 in the header and between bars
    step: int  # of the bar
    melody: int  # REST_CLASS, or FIRST_CLASS + semitones above the tonic, of what sounds here
    opens_segment: bool  # whether a chord symbol or a value may follow
    legal: tuple[int, ...]


@dataclass(frozen=True)
class Sheet:
    """A lead sheet in one order of its parts: its ids, and the place of each."""

    ids: tuple[int, ...]
    places: tuple[Place, ...]
    notes: int
    beat_steps: int

    @classmethod
    def of(cls, score: Score) -> Sheet:
        """Encode a lead sheet, and walk through its ids."""
        encoded = CODEC.encode(score)
        walk, context = CODEC.create_grammar(strict=False), VerticalContext()
        places = []
        for id_ in encoded.ids:
            in_bar = walk.in_bar and (MEASURES.events[id_].kind not in _BETWEEN)
            part = int(MEASURES.events[id_].value or 0) if id_ in _PARTS else walk.voice[0]
            pitch = context.fields[2]
            legal = walk.legal_ids()
            places.append(
                Place(
                    part if in_bar else -1,
                    walk.cursor,
                    FIRST_CLASS + (pitch - 1 + _FIRST_PITCH) % 12 if pitch else REST_CLASS,
                    in_bar and walk.duration is None and walk.change_rank == 0
                    and id_ not in _PARTS and walk.tuplet is None,
                    legal,
                )
            )  # fmt: skip
            before = find_cursor(walk)
            walk.take(id_)
            context = context.take(id_, before, find_cursor(walk))
        meter = Meter.parse(str(MEASURES.events[encoded.ids[0]].value))
        return cls(encoded.ids, tuple(places), len(score.canonical().notes), meter.beat_steps)

    def positions(self, part: int) -> list[int]:
        """Return the positions of the ids of a part."""
        return [n for n, place in enumerate(self.places) if place.part == part]


_BETWEEN = frozenset(
    "bar partial irregular end repeat_start repeat_end ending ending_end meter key".split()
)
_PARTS = frozenset(MEASURES.ranges["part"])
_FIRST_PITCH = int(MEASURES.events[MEASURES.ranges["pitch"].start].value or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="an untrained model; seconds")
    parser.add_argument("--model", help="name or folder of a model")
    parser.add_argument("--data", type=Path, help="data set of lead sheets")
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    parser.add_argument("--asked", type=int, default=0, help="only ask for chords so often")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.toy:
            options.model = untrained(Path(scratch, "toy"), is_seen=may_be_seen_in_lead_sheets)
            scores, _ = formats.parse(TOY_TUNES.encode(), ".abc")
            train = held_out = list(map(add_symbols_part, scores))
            report_asked(load(options.model), 3)
        elif options.asked:
            report_asked(load(options.model), options.asked)
            return
        else:
            train = read_sheets(options.data, "train")
            held_out = read_sheets(options.data, options.split)
        model = load(options.model)
        report(model.sampler.engine, train, held_out)
        if options.data is not None and model.has_index:
            report_receipts(model, options.data, held_out)


def report_asked(model: Model, count: int) -> None:
    """Ask for random chords, and harmonise the melodies; print how often what is given stays."""
    counts: Counter[str] = Counter()
    for seed in range(count):
        text, request, expected = draw_request(random.Random(seed))
        try:
            tune = model.sample(chords=text, seed=seed, **request)
        except InvalidValue as refusal:
            counts[f"refused: {refusal}"] += 1
            continue
        is_met = (
            list_chords(tune.score) == expected
            and all(bar.kind == "full" for bar in find_bars(tune.score))
            and request["bars"] in (None, count_heard_bars(tune.score))
            and has_returning_letters(tune.score, request["form"])
        )
        counts["chords as asked" if is_met else "NOT AS ASKED"] += 1
        other = model.sample(given=tune.score, given_parts="melody", seed=seed).score
        is_same = np.array_equal(other.columns[:3], tune.score.columns[:3])
        counts["melody stays" if is_same and any(other.of("chord")) else "NOT HARMONISED"] += 1
    for name, times in counts.most_common():
        print(f"{times:6,} {name}")


def report_receipts(model: Model, data: Path, held_out: Sequence[Score]) -> None:
    """Print what the melodies of sampled tunes share with training tunes."""
    request = GenerationRequest(model.complete_options({}), seed=1)
    sampled = [tune.score for tune in sample_many(model, request, count=SAMPLED)]
    compared = [Receipts("sampled", sampled), Receipts("held out", held_out)]
    print_receipts([*compared, read_training_pieces(data)], model.index, ("melody",))


def draw_request(
    source: random.Random,
) -> tuple[str, dict[str, Any], list[tuple[int, str]]]:
    """Draw chords and options; return also the chords that are expected, each with its step."""
    meter = Meter.parse(source.choice(["4/4", "3/4", "6/8", "2/4", "9/8", "2/2"]))
    beats = meter.steps // meter.beat_steps
    sheet = [
        source.choices(ASKED_CHORDS, k=source.randint(int(number == 0), beats))
        for number in range(source.randint(1, 4))
    ]
    form = source.choice([None, None, None, "AABB", "ABAC", "AABA", "AABBCB", "through"])
    letters = form if form not in (None, "through") else "A"
    section_bars = source.randint(1, 6)
    request = {
        "meter": str(meter), "form": form, "bars": len(letters) * section_bars,
        "end": source.choice(["any", "tonic", "cadence"]),
        "key": source.choice(["D", "G", "Am", "Edor", None]),
        "range": source.choice(["D4-B5", None]),
    }  # fmt: skip
    expected = [
        (bar * meter.steps + n * beats // len(chords) * meter.beat_steps, normalize_chord(chord))
        for bar, chords in enumerate(write_out(sheet, letters, section_bars))
        for n, chord in enumerate(chords)
    ]
    return " | ".join(" ".join(chords) or "%" for chords in sheet), request, expected


def write_out(sheet: list[list[str]], letters: str, bars: int) -> list[list[str]]:
    """Return the chords of the written bars of a form with so many bars per letter."""
    rest, by_letter, written = cycle(sheet), dict[str, list[list[str]]](), list[list[str]]()
    for letter, _ in groupby(letters):
        if letter not in by_letter:
            by_letter[letter] = list(islice(rest, bars))
            if written and not by_letter[letter][0]:
                by_letter[letter][0] = [[chord for chords in written for chord in chords][-1]]
        written += by_letter[letter]
    return written


def has_returning_letters(score: Score, form: str | None) -> bool:
    """Tell whether the written sections of a form have the notes of their letters."""
    if form in (None, "through"):
        return True
    letters = [letter for letter, _ in groupby(form or "")]
    bars = find_bars(score)
    count, starts = len(bars) // len(letters), [bar.start for bar in bars]
    notes_by_letter: dict[str, set[tuple[int, int, int]]] = {}
    for number, letter in enumerate(letters):
        start, end = starts[number * count], bars[(number + 1) * count - 1].end
        notes = {
            (n.onset - start, n.pitch, n.duration) for n in score.notes if start <= n.onset < end
        }
        if notes_by_letter.setdefault(letter, notes) != notes:
            return False
    return True


def list_chords(score: Score) -> list[tuple[int, str]]:
    """Return the chord symbols of a score, each with its step."""
    return [(mark.onset, mark.value) for mark in score.of("chord")]


def read_sheets(folder: Path, split: str) -> list[Score]:
    """Return the tunes of a split that have chord symbols, the melody first."""
    scores = [
        CODEC.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score
        for tune in getattr(load_dataset(folder), split)
    ]
    return [score for score in scores if [p.role for p in score.parts] == ["melody", "symbols"]]


def report(engine: Engine, train: Sequence[Score], held_out: Sequence[Score]) -> None:
    """Print all figures."""
    sheets = [Sheet.of(score) for score in held_out]
    print(f"{len(held_out)} held-out tunes, {len(train)} training tunes with chord symbols")
    rows = [list(iter_logits(engine, sheet.ids)) for sheet in sheets]
    chords = np.array([sum(id_ in CHORDS for id_ in sheet.ids) for sheet in sheets])
    bits = np.array([sum_bits(row, s, s.positions(1)) for row, s in zip(rows, sheets, strict=True)])
    print(f"bits per chord given the melody: {format_ratio(bits, chords)}")
    report_ngrams([Sheet.of(score) for score in train], sheets, bits, chords)
    agreements = np.array(
        [count_agreements(row, sheet) for row, sheet in zip(rows, sheets, strict=True)]
    )
    for name, column in (("top-1 chord per beat", 0), ("same, wherever the next one", 1)):
        print(f"{name}: {format_ratio(agreements[:, column], agreements[:, 2], percent=True)}")
    report_melody(engine, held_out)


def iter_logits(engine: Engine, ids: Sequence[int]) -> Iterator[FloatArray]:
    """Yield the log probabilities, (vocabulary,) float64, before each id."""
    state = engine.start()
    for previous in (BEGIN_ID, *ids[:-1]):
        logits, state = engine.step([previous], state)
        yield log_softmax(np.asarray(logits, dtype=np.float64))


def sum_bits(rows: Sequence[FloatArray], sheet: Sheet, positions: Sequence[int]) -> float:
    """Return the bits of the ids at some positions."""
    return -sum(float(rows[n][sheet.ids[n]]) for n in positions) / math.log(2)


def count_agreements(rows: Sequence[FloatArray], sheet: Sheet) -> tuple[int, int, int]:
    """Return the beats whose chord is predicted, those if changes are known, and all beats."""
    strict = lenient = total = 0
    true_chord = predicted = -1
    start = 0
    for n in sheet.positions(1):
        place, id_ = sheet.places[n], sheet.ids[n]
        if place.opens_segment:
            likeliest = find_likeliest(rows[n], place.legal)
            predicted = likeliest if likeliest in CHORDS else true_chord
            start = place.step
        true_chord = id_ if id_ in CHORDS else true_chord
        if id_ in VALUES:
            length = int(MEASURES.events[id_].value or 0)
            guess = find_likeliest(rows[n], place.legal)
            expected = int(MEASURES.events[guess].value or 0) if guess in VALUES else length
            beats = [b for b in range(start, start + length) if b % sheet.beat_steps == 0]
            is_right = predicted == true_chord
            total += len(beats)
            lenient += len(beats) * is_right
            strict += sum(is_right and beat < start + expected for beat in beats)
    return strict, lenient, total


def find_likeliest(row: FloatArray, legal: Sequence[int]) -> int:
    """Return the likeliest of the legal ids."""
    known = [id_ for id_ in legal if id_ < len(row)]
    return known[int(np.argmax(row[known]))]


def report_ngrams(
    train: Sequence[Sheet], held_out: Sequence[Sheet], bits: FloatArray, chords: IntArray
) -> None:
    """Print the bits per chord of n-gram models, and how far below the best one the model is."""
    best = np.full(len(held_out), np.inf)
    for order in ORDERS:
        families = {
            "ids of the symbols, then the melody note": measure_with_notes(train, held_out, order),
            "all ids": measure_all_ids(train, held_out, order),
        }
        for name, own in families.items():
            print(f"  {order}-gram, {name}: {format_ratio(own, chords)}")
            best = own if own.sum() < best.sum() else best
    share = bootstrap(lambda rows: 1 - bits[rows].sum() / best[rows].sum(), len(bits))
    print(f"below the best n-gram: {format_interval(share, percent=True)}")


def measure_with_notes(train: Sequence[Sheet], held_out: Sequence[Sheet], order: int) -> FloatArray:
    """Return the bits of the symbols of each tune: order - 1 ids before, and the melody note.

    Each id is the end of a window of its own: the ids before it, the note at its place, the id.
    """
    numbers: dict[int, int] = {}  # compact ids, from 1, so that long windows fit 64 bits

    def number(id_: int) -> int:
        return numbers.setdefault(id_, len(numbers) + 1)

    def list_windows(sheet: Sheet) -> list[IntArray]:
        positions = sheet.positions(1)
        ids = [BEGIN_ID] * (order - 1) + [number(sheet.ids[n]) for n in positions]
        notes = [number(len(MEASURES) + sheet.places[n].melody) for n in positions]
        return [
            np.array([*ids[n : n + order - 1], note, ids[n + order - 1]])
            for n, note in enumerate(notes)
        ]

    windows = [window for sheet in train for window in list_windows(sheet)]
    rows = [list_windows(sheet) for sheet in held_out]
    model = KneserNey(windows, len(numbers) + 1, order + 1)
    return np.array([sum(model.surprisal(w)[-1] for w in row) for row in rows]) / math.log(2)


def measure_all_ids(train: Sequence[Sheet], held_out: Sequence[Sheet], order: int) -> FloatArray:
    """Return the bits of the symbols of each tune, given the order - 1 ids before each."""
    model = KneserNey([np.array(sheet.ids) for sheet in train], len(MEASURES), order)
    rows = [model.surprisal(np.array(sheet.ids))[sheet.positions(1)].sum() for sheet in held_out]
    return np.array(rows) / math.log(2)


def report_melody(engine: Engine, held_out: Sequence[Score]) -> None:
    """Print the bits per melody note with the chords given, and without."""
    sums = []
    for score in held_out:
        _, symbols_first, alone = iter_lead_sheet_orders(without_symbols_part(score))
        row = []
        for sheet, part in ((Sheet.of(symbols_first), 1), (Sheet.of(alone), 0)):
            rows = list(iter_logits(engine, sheet.ids))
            row.append(sum_bits(rows, sheet, sheet.positions(part)))
        sums.append((*row, Sheet.of(alone).notes))
    given, alone_bits, notes = np.array(sums, np.float64).T
    print(f"bits per melody note, chords given: {format_ratio(given, notes)}")
    print(f"bits per melody note, alone: {format_ratio(alone_bits, notes)}")
    print(f"difference: {format_ratio(given - alone_bits, notes)}")


def format_ratio(
    values: FloatArray, counts: FloatArray | IntArray, *, percent: bool = False
) -> str:
    """Write a ratio of sums with its interval."""
    interval = bootstrap(lambda rows: values[rows].sum() / counts[rows].sum(), len(values))
    return format_interval(interval, percent=percent)


def bootstrap(measure: Callable[[IntArray], float], count: int) -> tuple[float, float, float]:
    """Return a figure of all tunes, and the limits of its 95 % interval over tunes."""
    rng = np.random.default_rng(1)
    draws = [measure(rng.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(measure(np.arange(count))), float(low), float(high)


def format_interval(interval: tuple[float, float, float], *, percent: bool) -> str:
    """Write a figure and the limits of its interval."""
    value, low, high = interval
    if percent:
        return f"{value:.1%} ({low:.1%} to {high:.1%})"
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
