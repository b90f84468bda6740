"""Measure a model of four-voice chorales beside held-out ones of Bach.

    python benchmarks/chorales.py MODEL DATA                 on the validation part
    python benchmarks/chorales.py MODEL DATA --split test    on the test part; read it once, last

MODEL is a name or folder, DATA the data set that it was trained on. Four tables are printed:

1. bits per note of whole pieces as they are written, beside Kneser-Ney n-grams fitted to the
   training pieces as they are written.
2. nats per sixteenth and bits per note of the voices drawn, given the others, which come first in
   the order of the parts: all events of those voices in the bars, without the header. A sixteenth
   is one of the piece, not one per voice.
3. the figures of voice leading of sampled chorales beside those of the held-out ones, and of these
   sopranos with other voices drawn to them.
4. receipts, voice by voice: the share of pieces with a run of 8 notes or more that a training
   chorale has too, and the longest runs; also of the training chorales themselves, each beside
   those that are no near-duplicates of it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.common.part_receipts import (
    Receipts,
    decode_tune,
    print_receipts,
    read_training_pieces,
)
from musicgen.corpus.part_orders import iter_part_orders
from musicgen.corpus.store import load as load_dataset
from musicgen.errors import InvalidValue
from musicgen.evaluation.figures import FigureTable, compare_tables
from musicgen.evaluation.sequence_baselines import fit_ngrams, sum_nats
from musicgen.evaluation.token_scores import score_tokens
from musicgen.evaluation.voice_leading import VOICE_LEADING_FIGURES
from musicgen.music.arrays import FloatArray
from musicgen.music.roles import assign_roles
from musicgen.music.score import CHOIR_ROLES, STEPS_PER_QUARTER, Score
from musicgen.music.tune_content import TuneContent
from musicgen.sampling.recipe import GenerationRequest
from musicgen.tokens.codec import Encoded, Setting
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import Model, load, sample_many

STEPS_PER_SIXTEENTH: Final = STEPS_PER_QUARTER // 4
CODEC: Final = MeasuresCodec()


@dataclass(frozen=True)
class PartBits:
    """The nats and the notes of each part of one piece in one order."""

    nats: FloatArray  # (part,) of its events in bars
    notes: FloatArray  # (part,)
    sixteenths: float


def read_scores(folder: Path, split: str) -> list[Score]:
    """Decode a part of a data set."""
    return [decode_tune(tune) for tune in getattr(load_dataset(folder), split)]


def number_parts(ids: Sequence[int]) -> list[int]:
    """Return the part that each id writes; -1 in the header and between bars."""
    numbers, part, in_bar = [], -1, False
    for id_ in ids:
        event = MEASURES.events[id_]
        if event.kind in ("bar", "partial"):
            in_bar, part = True, 0
        elif event.kind == "part":
            part = int(event.value or 0)
        elif event.kind in ("end", "repeat_start", "repeat_end", "ending", "ending_end"):
            in_bar = False
        numbers.append(part if in_bar else -1)
    return numbers


def measure_parts(
    model: Model, encoded: Sequence[Encoded], scores: Sequence[Score]
) -> list[PartBits]:
    """Measure the nats of each part of pieces."""
    grammars = [CODEC.create_grammar(item.setting, strict=False) for item in encoded]
    tunes = [np.array(item.ids, np.int64) for item in encoded]
    nats = np.split(
        score_tokens(model.sampler.engine, tunes, grammars).nats,
        np.cumsum([len(ids) for ids in tunes])[:-1],
    )
    rows = []
    for ids, row, score in zip(tunes, nats, scores, strict=True):
        parts = np.array(number_parts(ids.tolist()))
        kept = parts >= 0
        counts = np.bincount(score.columns[4], minlength=len(score.parts)).astype(np.float64)
        sums: FloatArray = np.zeros(len(score.parts))
        np.add.at(sums, parts[kept], row[kept])
        rows.append(PartBits(sums, counts, score.end / STEPS_PER_SIXTEENTH))
    return rows


def print_likelihood(model: Model, folder: Path, split: str) -> None:
    """Print the bits per note of whole pieces, header and end included, beside n-grams."""
    dataset = load_dataset(folder)
    tunes = getattr(dataset, split)
    notes = sum(tune.notes for tune in tunes)
    as_written = [tune.ids for tune in dataset.train if tune.order == 0]
    ngrams, _ = fit_ngrams(len(MEASURES), as_written, [tune.ids for tune in dataset.valid])
    grammars = [
        CODEC.create_grammar(Setting.from_json(tune.setting), strict=False) for tune in tunes
    ]
    nats = score_tokens(model.sampler.engine, [tune.ids for tune in tunes], grammars).nats.sum()
    bits = nats / notes / math.log(2)
    print(f"{split}: {len(tunes)} pieces, {notes} notes; bits per note {bits:.3f}")
    for ngram in ngrams:
        other = sum_nats(ngram.surprisal, [tune.ids for tune in tunes]) / notes / math.log(2)
        print(
            f"  {ngram.title}: {other:.3f}; the model is {1 - bits / other:.1%} below", flush=True
        )


def print_conditionals(model: Model, scores: Sequence[Score]) -> None:
    """Print what the later parts cost given the earlier ones, order by order."""
    print("given -> drawn: nats per sixteenth, bits per note drawn")
    pieces = [list(iter_part_orders(assign_roles(score))) for score in scores]
    for ordered in zip(*pieces, strict=True):
        order = [part.role for part in ordered[0].parts]
        rows = measure_parts(model, [CODEC.encode(score) for score in ordered], ordered)
        sixteenths = sum(row.sixteenths for row in rows)
        for given in range(len(order)):
            nats = sum(row.nats[given:].sum() for row in rows)
            notes = sum(row.notes[given:].sum() for row in rows)
            names = f"{', '.join(order[:given]) or 'nothing':21} -> {', '.join(order[given:]):28}"
            bits = nats / notes / math.log(2)
            print(f"  {names} {nats / sixteenths:6.3f} {bits:6.3f}", flush=True)


def print_figures(sampled: Sequence[Score], real: Sequence[Score]) -> None:
    """Print the figures of voice leading beside the band of as many real pieces."""
    sampled_table, real_table = (
        FigureTable.of([TuneContent.of(score) for score in scores], VOICE_LEADING_FIGURES)
        for scores in (sampled, real)
    )
    known = real_table.count_tunes() > 0
    generator = np.random.default_rng(0)
    figures = compare_tables(sampled_table.select(known), real_table.select(known), generator)
    print(f"{len(sampled)} sampled, {len(real)} real: value, real, band of real ones, verdict")
    for figure in figures:
        print("  " + " | ".join(figure.format_row()))


def harmonise(
    model: Model, real: Sequence[Score], count: int, options: Mapping[str, Any]
) -> Iterator[Score]:
    """Yield real sopranos with other voices drawn to them, piece after piece, over and over.

    A piece that cannot be harmonised, such as one in a mode that is new to the model, is named and
    left out.
    """
    for number in range(count):
        piece = real[number % len(real)]
        parts = [n for n, part in enumerate(piece.parts) if part.role == CHOIR_ROLES[0]]
        try:
            yield model.sample(given=piece.select_parts(parts), seed=number, **options).score
        except InvalidValue as refusal:
            print(f"  {piece.title}: {refusal}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="chorale")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--split", choices=("valid", "test"), default="valid")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--harmonised", type=int, default=0, help="sopranos to harmonise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--min-p", type=float)
    parser.add_argument("--skip-conditionals", action="store_true")
    parser.add_argument("--toy", action="store_true", help="seconds; sampled tunes beside others")
    arguments = parser.parse_args()
    model = load(arguments.model)
    options = {"temperature": arguments.temperature, "min_p": arguments.min_p}
    if arguments.toy:
        options["bars"] = 4
    request = GenerationRequest(model.complete_options(options), seed=arguments.seed)
    count = 8 if arguments.toy else arguments.count
    sampled = [tune.score for tune in sample_many(model, request, count=count)]
    if arguments.toy:
        real = sampled[4:]
    elif arguments.data is None:
        parser.error("name the data set that the model was trained on")
    else:
        real = read_scores(arguments.data, arguments.split)
    if arguments.data is not None and not arguments.skip_conditionals:
        print_likelihood(model, arguments.data, arguments.split)
    if not arguments.skip_conditionals:
        print_conditionals(model, real)
    print_figures(sampled, real)
    if arguments.harmonised:
        print("real sopranos with other voices drawn to them")
        drawn = harmonise(model, real, arguments.harmonised, options)
        print_figures(list(drawn), real)
    if model.has_index:
        compared = [Receipts("sampled", sampled), Receipts("held out", real)]
        if arguments.data is not None:
            compared.append(read_training_pieces(arguments.data))
        print_receipts(compared, model.index, CHOIR_ROLES)


if __name__ == "__main__":
    main()
