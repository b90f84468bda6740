"""Models without training loss, fitted on the training tunes: what a network must improve on.

- **ngram-1 to ngram-6**: interpolated Kneser-Ney smoothing (`evaluation.ngram`); an order whose
  grams do not fit 64 bits is left out.
- **ppm**: a context of variable length (`evaluation.ppm`).
- **bar-copy**: the bar of four bars ago, mixed with the best n-gram (`evaluation.bar_copy`); only
  for codecs with bars.

Orders and weights are chosen on validation tunes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.evaluation.bar_copy import BarCopy
from musicgen.evaluation.heldout_score import SurprisalFunction
from musicgen.evaluation.ngram import KneserNey
from musicgen.evaluation.ppm import PartialMatching
from musicgen.music.arrays import TokenIds
from musicgen.tokens.codec import AnyCodec

NGRAM_ORDERS: Final = range(1, 7)
MAX_PACKED: Final = 2**63


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fitted model."""

    name: str
    title: str
    surprisal: SurprisalFunction
    is_chosen: bool = True  # False for n-grams of other orders than the best on validation tunes


def fit_baselines(
    codec: AnyCodec, training: Sequence[TokenIds], validation: Sequence[TokenIds]
) -> tuple[Baseline, ...]:
    """Fit all baselines, and choose their orders and weights.

    Args:
        codec: of the ids.
        training: (token,) int16 or int64 each.
        validation: (token,) int16 or int64 each.

    Raises:
        InvalidValue: there are no training or no validation tunes.
    """
    if not training or not validation:
        missing = "validation" if training else "training"
        raise InvalidValue(f"there are no {missing} tunes: the baselines need both parts")
    ngrams, best = fit_ngrams(len(codec.vocabulary), training, validation)
    return (*ngrams, *_fit_others(codec, training, validation, best))


def fit_ngrams(
    vocabulary_size: int, training: Sequence[TokenIds], validation: Sequence[TokenIds]
) -> tuple[list[Baseline], KneserNey]:
    """Fit n-grams of all orders; return them with the one that predicts validation tunes best.

    Args:
        vocabulary_size: events, the begin event included.
        training: (token,) int16 or int64 each.
        validation: (token,) int16 or int64 each.
    """
    orders = takewhile(lambda order: vocabulary_size**order < MAX_PACKED, NGRAM_ORDERS)
    models = [KneserNey(training, vocabulary_size, order) for order in orders]
    best = min(models, key=lambda model: sum_nats(model.surprisal, validation))
    return [
        Baseline(
            f"ngram-{model.order}", f"Kneser-Ney {model.order}-gram", model.surprisal, model is best
        )
        for model in models
    ], best


def fit_ppm(
    vocabulary_size: int, training: Sequence[TokenIds], validation: Sequence[TokenIds]
) -> PartialMatching:
    """Fit PPM-C, with longer contexts as long as they predict validation tunes better.

    Args:
        vocabulary_size: events, the begin event included.
        training: (token,) int16 or int64 each.
        validation: (token,) int16 or int64 each.
    """
    model = PartialMatching(training, vocabulary_size)
    best, lowest = model, float("inf")
    for order in range(model.order + 1):
        shorter = model.limit_order(order)
        if (nats := sum_nats(shorter.surprisal, validation)) >= lowest:
            break
        best, lowest = shorter, nats
    return best


def _fit_others(
    codec: AnyCodec,
    training: Sequence[TokenIds],
    validation: Sequence[TokenIds],
    ngram: KneserNey,
) -> Iterator[Baseline]:
    ppm = fit_ppm(len(codec.vocabulary), training, validation)
    yield Baseline("ppm", f"PPM-C, contexts of up to {ppm.order}", ppm.surprisal)
    if codec.has_bars:
        bar_copy = BarCopy.fit(ngram.surprisal, validation, codec.vocabulary.id("bar"))
        title = f"the bar {bar_copy.lag} bars ago, mixed with the {ngram.order}-gram"
        yield Baseline("bar-copy", title, bar_copy.surprisal)


def sum_nats(surprisal: SurprisalFunction, tunes: Sequence[TokenIds]) -> float:
    """Return the nats of all tunes, (token,) int16 or int64 each."""
    return sum(float(surprisal(ids).sum()) for ids in tunes)
