"""Models without training loss, fitted on the training tunes: what a network must improve on.

- **ngram-1 to ngram-6**: interpolated Kneser-Ney smoothing (`evaluation.ngram_models`); an order
  whose grams do not fit 64 bits is left out.
- **ppm**: a context of variable length (`evaluation.ngram_models`).
- **bar-copy**: the event at the same place some bars ago, mixed with the best n-gram; only for
  codecs with bars.

      p(w | h) = lambda_m [w = copy(h)] + (1 - lambda_m) p_0(w | h)
      copy(h) is the id as many ids after the start of the bar `lag` full bars ago as the next id is
      after the start of its own bar, m the number of ids just before that equal their copies

  The weights lambda maximise the likelihood of held-out tunes, by expectation maximisation (deleted
  interpolation: Jelinek and Mercer, 1980). Without a bar so long ago, p_0 alone predicts.

Orders and weights are chosen on validation tunes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Self

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.errors import InvalidValue
from musicgen.evaluation.heldout_score import SurprisalFunction
from musicgen.evaluation.ngram_models import KneserNey, PartialMatching
from musicgen.music.arrays import FloatArray, IntArray, TokenIds
from musicgen.tokens.codec import AnyCodec

LAG: Final = 4  # bars: half of the usual section
MAX_MATCH: Final = 16  # ids; longer matches share a weight
STEPS: Final = 100  # of expectation maximisation
NGRAM_ORDERS: Final = range(1, 7)
MAX_PACKED: Final = 2**63


def find_copies(ids: TokenIds, bar_id: int, lag: int = LAG) -> tuple[IntArray, IntArray]:
    """Find the copy of each id, and how many ids before it equal their copies.

    Args:
        ids: (token,) int16 or int64.
        bar_id: the event that opens a full bar.
        lag: bars.

    Returns:
        The copies, (token,) int64, BEGIN_ID without a bar so long ago; and the matches, (token,)
        int64, at most MAX_MATCH.
    """
    positions = np.arange(len(ids))
    starts = np.flatnonzero(ids == bar_id)
    bars = np.searchsorted(starts, positions) - 1  # the last bar that opened before each id
    has_copy = bars >= lag
    shifts = starts[bars[has_copy]] - starts[bars[has_copy] - lag]
    copies = np.full(len(ids), BEGIN_ID, np.int64)
    copies[has_copy] = ids[positions[has_copy] - shifts]
    mismatches = np.append(-1, np.where(copies == ids, -1, positions)[:-1])
    return copies, np.minimum(positions - 1 - np.maximum.accumulate(mismatches), MAX_MATCH)


@dataclass(frozen=True, slots=True)
class BarCopy:
    """The mixture; its weights are fitted by `fit`."""

    base: SurprisalFunction
    bar_id: int
    weights: FloatArray  # (MAX_MATCH + 1,) float64, by number of matches
    lag: int = LAG

    @classmethod
    def fit(
        cls, base: SurprisalFunction, tunes: Sequence[TokenIds], bar_id: int, lag: int = LAG
    ) -> Self:
        """Choose the weights on held-out tunes.

        Args:
            base: a model fitted on other tunes.
            tunes: (token,) int16 or int64 each.
            bar_id: the event that opens a full bar.
            lag: bars.
        """
        pairs = [find_copies(ids, bar_id, lag) for ids in tunes]
        copies, matches = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        nats = np.concatenate([base(ids) for ids in tunes])
        has_copy = copies != BEGIN_ID
        is_equal = (copies == np.concatenate(tunes))[has_copy]
        others, matches = np.exp(-nats)[has_copy], matches[has_copy]
        counts = np.maximum(1, np.bincount(matches, minlength=MAX_MATCH + 1))
        weights = np.full(MAX_MATCH + 1, 0.5)
        for _ in range(STEPS):
            copied = weights[matches] * is_equal
            shares = copied / (copied + (1 - weights[matches]) * others)
            weights = np.bincount(matches, shares, MAX_MATCH + 1) / counts
        return cls(base, bar_id, np.minimum(weights, 1 - 1 / (counts + 1)), lag)

    def surprisal(self, ids: TokenIds) -> FloatArray:
        """Return the nats of each id of a tune: (token,) int16 or int64 to (token,) float64."""
        copies, matches = find_copies(ids, self.bar_id, self.lag)
        weights = np.where(copies == BEGIN_ID, 0.0, self.weights[matches])
        nats: FloatArray = -np.log(
            weights * (copies == ids) + (1 - weights) * np.exp(-self.base(ids))
        )
        return nats


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
