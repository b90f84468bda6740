"""How well a model predicts held-out tunes, beside models without training loss.

Every tune is predicted whole, from its first id to its end event; no id is left out. All bits of
the tunes are divided by all notes, bars or tunes (micro average); intervals are 95 % percentile
bootstraps over tunes (Efron, 1979). Notes and bars are those of the written score, whatever the
codec, so that figures of different codecs can be compared; text that is not ABC is measured per
character.

Bits per note can be compared across codecs only if the ids hold the same music. `measures` predicts
neither title nor tempo nor tonic, so the baselines as text read ABC without title and tempo, in C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Final, Self, TypeAlias

import numpy as np

from musicgen.corpus.store import EncodedTune, get_id_arrays
from musicgen.errors import InvalidValue, Mismatch
from musicgen.evaluation.heldout_score import HeldOutScore, bootstrap_ratio
from musicgen.evaluation.sequence_baselines import fit_baselines, sum_nats
from musicgen.evaluation.token_scores import NotePlaces, PlaceBits, place_notes, score_tokens
from musicgen.formats import abc
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, TokenIds
from musicgen.music.bars import find_bars, number_bars
from musicgen.music.score import Score
from musicgen.sampling.engine import Engine
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec, Setting, Unit
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.text import UNKNOWN_TEXT, ByteCodec, TextCodec

CALIBRATION_BINS: Final = 10
CURVE_POINTS: Final = 6  # each with half of the training tunes of the next
NETWORK: Final = "network"  # its name in the learning curve
NETWORK_WEIGHTS: Final = 500_000
NETWORK_TOKENS: Final = 1_000_000  # of training, whatever the number of tunes
NETWORK_NOTE: Final = (
    f"{NETWORK}: one layer of {NETWORK_WEIGHTS:,} weights, trained for {NETWORK_TOKENS:,} tokens"
)
SEED: Final = 0  # of the bootstrap
Tunes: TypeAlias = Sequence[EncodedTune]
ScoreFunction: TypeAlias = Callable[[Tunes], HeldOutScore]
TrainFunction: TypeAlias = Callable[[Tunes], ScoreFunction]  # from training tunes


def render_text(codec: AnyCodec, tune: EncodedTune) -> str:
    """Write a tune as ABC, with what its ids hold and nothing else.

    Raises:
        Mismatch: the codec is not `measures`.
    """
    if not isinstance(codec, MeasuresCodec):
        raise Mismatch(f"tunes of the codec {codec.name!r} cannot be written as text: build the"
                       " data set with --codec measures")  # fmt: skip
    setting = Setting.from_json(tune.setting)
    plain = replace(PLAIN_SETTING, parts=setting.parts, velocities=setting.velocities)
    return abc.render(codec.decode(tune.ids.tolist(), plain).score)


def encode_as_text(
    codec: AnyCodec, *parts: Sequence[EncodedTune]
) -> tuple[TextCodec, list[list[EncodedTune]]]:
    """Encode tunes as characters of ABC.

    The vocabulary holds the characters of all parts, as that of `measures` holds all events.

    Args:
        codec: `measures`, in which the tunes are stored.
        parts: the parts of a data set; one that is given twice is encoded once.

    Returns:
        The text codec, and the parts in their order.

    Raises:
        Mismatch: the codec is not `measures`.
    """
    distinct = {id(part): part for part in parts}
    texts = {key: [render_text(codec, tune) for tune in part] for key, part in distinct.items()}
    text_codec = ByteCodec("text", is_word_level=False).fit(chain.from_iterable(texts.values()))
    plain = PLAIN_SETTING.to_json()
    encoded = {
        key: [
            replace(tune, ids=np.array(text_codec.encode(text).ids, np.int16), setting=plain)
            for tune, text in zip(distinct[key], part_texts, strict=True)
        ]
        for key, part_texts in texts.items()
    }
    return text_codec, [encoded[id(part)] for part in parts]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and its 95 % interval by tune."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class TuneUnits:
    """What the bits of held-out tunes are divided by."""

    unit: Unit  # what notes holds
    notes: IntArray  # (tune,) int64, or the characters
    bars: IntArray | None  # (tune,) int64; None where there are none


@dataclass(frozen=True, slots=True)
class BitsTable:
    """The bits of held-out tunes."""

    bits_per_note: Estimate
    bits_per_bar: Estimate | None  # None for codecs without bars
    bits_per_tune: Estimate
    nats_per_token: float


@dataclass(frozen=True, slots=True)
class BaselineScore:
    """The score of a model without training loss."""

    name: str
    title: str
    is_chosen: bool  # False for n-grams of other orders than the best on validation tunes
    bits_per_note: Estimate
    places: tuple[PlaceBits, ...]  # of chosen ones


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The ids whose most likely candidate had a probability in one range."""

    confidence: float  # mean probability of the most likely candidate
    accuracy: float  # how often it followed
    tokens: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far the probabilities are from the frequencies that they promise."""

    error: float  # expected calibration error, 0 to 1
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Bits per note of a model after some training tunes."""

    model: str
    training_tunes: int
    bits_per_note: float


@dataclass(frozen=True, slots=True, eq=False)
class LikelihoodReport:
    """All figures on how well a model predicts held-out tunes."""

    codec: str
    units: TuneUnits
    tokens: int
    unmasked: BitsTable
    masked: BitsTable  # among the ids that the grammar allows
    top_1_accuracy: Estimate
    calibration: Calibration
    places: tuple[PlaceBits, ...]
    baselines: tuple[BaselineScore, ...]
    learning_curve: tuple[CurvePoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types; the unmasked figures stand at the top."""
        return {
            "codec": self.codec,
            "unit": self.units.unit,
            "tunes": len(self.units.notes),
            "tokens": self.tokens,
            "notes": int(self.units.notes.sum()),
            "bars": None if self.units.bars is None else int(self.units.bars.sum()),
            **asdict(self.unmasked),
            "masked": asdict(self.masked),
            "top_1_accuracy": asdict(self.top_1_accuracy),
            "calibration": asdict(self.calibration),
            "places": [row.to_json() for row in self.places],
            "baselines": [
                {**asdict(row), "places": [place.to_json() for place in row.places]}
                for row in self.baselines
            ],
            "learning_curve": [asdict(point) for point in self.learning_curve],
        }


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutTunes:
    """The tunes to predict, and what their bits are divided by."""

    tunes: list[EncodedTune]
    lengths: IntArray  # (tune,) int64 ids
    units: TuneUnits
    places: NotePlaces

    @classmethod
    def prepare(cls, codec: AnyCodec, tunes: Tunes) -> Self:
        """Sort tunes, and count what their bits are divided by; each is decoded once."""
        ordered = sort_tunes(tunes)
        lengths = np.array([len(tune.ids) for tune in ordered])
        scores = read_scores(codec, ordered)
        places = place_notes(codec, ordered, scores or ())
        return cls(ordered, lengths, count_units(codec, ordered, scores), places)

    def sum_by_tune(self, values: FloatArray) -> FloatArray:
        """Sum the values of the ids of each tune: (token,) float64 to (tune,) float64."""
        return np.add.reduceat(values, np.cumsum(self.lengths) - self.lengths)

    def tabulate_bits(self, nats: FloatArray) -> BitsTable:
        """Convert the nats of each id, (token,) float64, to bits per note, bar and tune."""
        bits, units = self.sum_by_tune(nats) / math.log(2), self.units
        return BitsTable(
            estimate_ratio(bits, units.notes),
            None if units.bars is None else estimate_ratio(bits, units.bars),
            estimate_ratio(bits, np.ones(len(bits), np.int64)),
            float(nats.sum() / len(nats)),
        )


def score_likelihood(
    engine: Engine, codec: AnyCodec, tunes: Tunes, training_tunes: Tunes, validation_tunes: Tunes
) -> LikelihoodReport:
    """Measure how well a model, and the baselines, predict held-out tunes.

    Args:
        engine: the model.
        codec: of the model and of all tunes.
        tunes: those to predict, in any order.
        training_tunes: the baselines are fitted on them.
        validation_tunes: the orders and weights of the baselines are chosen on them.

    Raises:
        InvalidValue: there are no tunes in one of the three.
        Mismatch: the tunes were encoded with another codec.
    """
    held_out = HeldOutTunes.prepare(codec, tunes)
    settings = [Setting.from_json(tune.setting) for tune in held_out.tunes]
    grammars = [codec.create_grammar(setting, strict=False) for setting in settings]
    scores = score_tokens(engine, list_ids(held_out.tunes), grammars)
    return LikelihoodReport(
        codec.name,
        held_out.units,
        int(held_out.lengths.sum()),
        held_out.tabulate_bits(scores.nats),
        held_out.tabulate_bits(scores.masked_nats),
        estimate_ratio(held_out.sum_by_tune(scores.is_top.astype(float)), held_out.lengths),
        measure_calibration(scores.confidence, scores.is_top),
        held_out.places.average_bits(scores.nats / math.log(2)),
        _score_baselines(codec, held_out, training_tunes, validation_tunes),
    )


def score_baselines(
    codec: AnyCodec, tunes: Tunes, training_tunes: Tunes, validation_tunes: Tunes
) -> tuple[BaselineScore, ...]:
    """Fit the baselines and score them; arguments and errors are those of `score_likelihood`."""
    held_out = HeldOutTunes.prepare(codec, tunes)
    return _score_baselines(codec, held_out, training_tunes, validation_tunes)


def score_baselines_as_text(
    codec: AnyCodec, tunes: Tunes, training_tunes: Tunes, validation_tunes: Tunes
) -> tuple[BaselineScore, ...]:
    """Score the baselines on the same tunes as text, whose bits per note can be compared.

    Args:
        codec: `measures`, in which the tunes are stored.
        tunes: those to predict.
        training_tunes: the baselines are fitted on them.
        validation_tunes: the orders and weights of the baselines are chosen on them.
    """
    text_codec, parts = encode_as_text(codec, tunes, training_tunes, validation_tunes)
    return score_baselines(text_codec, *parts)


def _score_baselines(
    codec: AnyCodec, held_out: HeldOutTunes, training_tunes: Tunes, validation_tunes: Tunes
) -> tuple[BaselineScore, ...]:
    rows = []
    for baseline in fit_baselines(codec, list_ids(training_tunes), list_ids(validation_tunes)):
        nats = np.concatenate([baseline.surprisal(tune.ids) for tune in held_out.tunes])
        places = held_out.places.average_bits(nats / math.log(2)) if baseline.is_chosen else ()
        bits_per_note = held_out.tabulate_bits(nats).bits_per_note
        rows.append(
            BaselineScore(baseline.name, baseline.title, baseline.is_chosen, bits_per_note, places)
        )
    return tuple(rows)


def measure_learning_curve(
    codec: AnyCodec,
    tunes: Tunes,
    training_tunes: Tunes,
    validation_tunes: Tunes,
    train_model: TrainFunction | None = None,
) -> tuple[CurvePoint, ...]:
    """Measure bits per note after 1/32, 1/16, ... and all of the training tunes.

    Args:
        codec: of all tunes.
        tunes: those to predict.
        training_tunes: each part of them contains the smaller ones.
        validation_tunes: the orders and weights of the baselines are chosen on them.
        train_model: trains a network on some tunes; None leaves it out.
    """
    tunes, validation = sort_tunes(tunes), list_ids(validation_tunes)
    training, ids = sorted(training_tunes, key=lambda tune: tune.content), list_ids(tunes)
    notes = max(1, int(count_units(codec, tunes, read_scores(codec, tunes)).notes.sum()))
    points = []
    for halvings in reversed(range(CURVE_POINTS)):
        part = training[:: 2**halvings]
        nats = {
            baseline.name if baseline.name in ("ppm", "bar-copy") else "ngram": sum_nats(
                baseline.surprisal, ids
            )
            for baseline in fit_baselines(codec, list_ids(part), validation)
            if baseline.is_chosen
        }
        if train_model is not None:
            nats[NETWORK] = float(train_model(part)(tunes).nats.sum())
        points += [
            CurvePoint(name, len(part), total / math.log(2) / notes) for name, total in nats.items()
        ]
    return tuple(points)


def sort_tunes(tunes: Tunes) -> list[EncodedTune]:
    """Sort tunes by their ids, so that no figure depends on their order.

    Raises:
        InvalidValue: there are no tunes.
    """
    if not tunes:
        raise InvalidValue("there are no held-out tunes to score: choose another part or data set")
    return sorted(tunes, key=lambda tune: tune.content)


def list_ids(tunes: Tunes) -> list[TokenIds]:
    """Return the ids of tunes: (token,) int16 each."""
    return list(get_id_arrays(tunes))


def estimate_ratio(numerators: FloatArray, denominators: IntArray) -> Estimate:
    """Return a ratio of sums with its interval: (tune,) float64 over (tune,) int64."""
    generator = np.random.default_rng(SEED)
    low, high = bootstrap_ratio(numerators, denominators, generator)
    return Estimate(float(numerators.sum() / max(1, denominators.sum())), low, high)


def measure_calibration(
    confidence: FloatArray, is_top: BoolArray, bins: int = CALIBRATION_BINS
) -> Calibration:
    """Compare the probability of the most likely id with how often it follows.

    The error is sum_b n_b / n |accuracy_b - confidence_b| over bins of equal width (Guo et al.,
    "On Calibration of Modern Neural Networks", 2017).

    Args:
        confidence: (token,) float64, 0 to 1.
        is_top: (token,) bool, whether the most likely id followed.
        bins: number of ranges of confidence; empty ones are left out.
    """
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    sums, hits = (np.bincount(index, values, bins) for values in (confidence, is_top))
    rows = tuple(
        CalibrationBin(float(sums[row] / counts[row]), float(hits[row] / counts[row]), int(count))
        for row, count in enumerate(counts)
        if count
    )
    return Calibration(float(np.abs(sums - hits).sum() / len(confidence)), rows)


def count_units(codec: AnyCodec, tunes: Tunes, scores: Sequence[Score] | None) -> TuneUnits:
    """Count the notes and the written bars of tunes; a pickup does not count as a bar.

    Args:
        codec: of the tunes.
        tunes: in any order.
        scores: the same tunes as `read_scores` returns them; None counts characters.
    """
    if scores is None:
        return TuneUnits("character", np.array([len(tune.ids) - 1 for tune in tunes]), None)
    notes = np.array([len(score.canonical().notes) for score in scores])
    if not (codec.has_bars or codec.unit == "character"):
        return TuneUnits("note", notes, None)
    bars = [max(1, *number_bars(find_bars(score))) for score in scores]
    return TuneUnits("note", notes, np.array(bars))


def read_scores(codec: AnyCodec, tunes: Tunes) -> list[Score] | None:
    """Decode tunes; None if one of them is text that is not one tune in ABC."""
    scores = [read_score(codec, tune) for tune in tunes]
    read = [score for score in scores if score is not None]
    return read if len(read) == len(scores) else None


def read_score(codec: AnyCodec, tune: EncodedTune) -> Score | None:
    """Decode a tune; None for text that is not one tune in ABC."""
    piece = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece
    if isinstance(piece, Score):
        return piece
    scores, refusals = abc.parse(piece.replace(UNKNOWN_TEXT, ""))
    return scores[0] if len(scores) == 1 and not refusals else None
