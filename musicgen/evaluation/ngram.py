"""The n-gram baseline: interpolated, modified Kneser-Ney smoothing (Chen and Goodman, 1999).

Each n-gram of ids is packed into one integer, so that counting is sorting and looking up is
bisection.

    p_n(w | h) = max(0, c(hw) - D(c(hw))) / c(h) + gamma(h) p_{n-1}(w | h')
    D depends on whether the count is 1, 2, or 3 or more, and is estimated from the counts of
    counts; below the highest order, c(hw) is the number of different ids that precede hw; below
    the lowest order is the uniform distribution
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.errors import InvalidValue
from musicgen.evaluation.heldout_score import HeldOutScore, evaluate_surprisal
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, TokenIds

MIN_DISCOUNT: Final = 0.05  # keeps the probability of unseen ids above 0


@dataclass(frozen=True, slots=True)
class NgramOrder:
    """The counted grams of one length, and their contexts."""

    grams: IntArray  # (gram,) int64, packed ids, ascending
    counts: IntArray  # (gram,) int64
    discounts: FloatArray  # (4,) float64, for counts 0, 1, 2, and 3 or more
    contexts: IntArray  # (context,) int64, packed ids, ascending
    totals: FloatArray  # (context,) float64, sum of the counts
    backoff_mass: FloatArray  # (context,) float64, sum of the discounts

    def interpolate(
        self, grams: IntArray, vocabulary_size: int, lower_probabilities: FloatArray
    ) -> FloatArray:
        """Return the probability of the last id of each gram.

        Args:
            grams: (n,) int64, packed ids.
            vocabulary_size: the base of the packing.
            lower_probabilities: (n,) float64, those of the next lower order.

        Returns:
            (n,) float64.
        """
        context_index, has_context = find_sorted(self.contexts, grams // vocabulary_size)
        gram_index, is_counted = find_sorted(self.grams, grams)
        counts = np.where(is_counted, self.counts[gram_index], 0)
        discounted = counts - self.discounts[np.minimum(counts, 3)]
        interpolated = (
            discounted + self.backoff_mass[context_index] * lower_probabilities
        ) / self.totals[context_index]
        return np.where(has_context, interpolated, lower_probabilities)


class KneserNey:
    """An n-gram model of token ids; the contexts of the first ids are padded with begin events.

    Args:
        tunes: (token,) int16 or int64 each.
        vocabulary_size: events, the begin event included.
        order: ids per gram.

    Raises:
        InvalidValue: a gram does not fit a 64-bit integer.
    """

    def __init__(self, tunes: Sequence[TokenIds], vocabulary_size: int, order: int = 5) -> None:
        if order < 1 or vocabulary_size**order >= 2**63:
            raise InvalidValue(
                f"order {order} with {vocabulary_size} events does not fit: choose a lower order"
            )
        self.vocabulary_size, self.order = vocabulary_size, order
        packed = np.concatenate([self.pack_grams(ids) for ids in tunes])
        self.orders = self.count_orders(packed)

    def pack_grams(self, ids: TokenIds) -> IntArray:
        """Return the packed gram that ends at each id of a tune: (token,) to (token,) int64."""
        padded = np.concatenate([np.full(self.order - 1, BEGIN_ID), ids]).astype(np.int64)
        grams = np.zeros(len(ids), np.int64)
        for offset in range(self.order):
            grams = grams * self.vocabulary_size + padded[offset : offset + len(ids)]
        return grams

    def count_orders(self, packed: IntArray) -> list[NgramOrder]:
        """Count the grams of every length from the packed grams (n,) int64, the shortest first."""
        higher_grams, counts = np.unique(packed, return_counts=True)
        orders = [make_ngram_order(higher_grams, counts, self.vocabulary_size)]
        for length in range(self.order - 1, 0, -1):
            packed_size = self.vocabulary_size**length
            grams, occurrences = np.unique(packed % packed_size, return_counts=True)
            _, left_contexts = np.unique(higher_grams % packed_size, return_counts=True)
            # nothing precedes a gram that starts with the begin event: count its occurrences
            starts_tune = grams // (packed_size // self.vocabulary_size) == BEGIN_ID
            orders.append(
                make_ngram_order(
                    grams, np.where(starts_tune, occurrences, left_contexts), self.vocabulary_size
                )
            )
            higher_grams = grams
        return orders[::-1]

    def probabilities(self, grams: IntArray) -> FloatArray:
        """Return the probability of the last id of packed grams: (n,) int64 to (n,) float64."""
        values = np.where(
            grams % self.vocabulary_size == BEGIN_ID, 0.0, 1.0 / (self.vocabulary_size - 1)
        )
        for length, order in enumerate(self.orders, start=1):
            values = order.interpolate(
                grams % self.vocabulary_size**length, self.vocabulary_size, values
            )
        return values

    def distribution(self, context: Sequence[int]) -> FloatArray:
        """Return the probability of each next id, (vocabulary,) float64, given a tune so far."""
        first_gram = self.pack_grams(np.array([*context, BEGIN_ID]))[-1]
        return self.probabilities(first_gram + np.arange(self.vocabulary_size))

    def surprisal(self, ids: TokenIds) -> FloatArray:
        """Return the nats of each id of a tune: (token,) int16 or int64 to (token,) float64."""
        nats: FloatArray = -np.log(self.probabilities(self.pack_grams(ids)))
        return nats

    def score(self, tunes: Sequence[TokenIds], notes: Sequence[int] | None = None) -> HeldOutScore:
        """Score whole tunes, (token,) int16 or int64 each, given the notes of each."""
        return evaluate_surprisal(self.surprisal, tunes, notes)


def make_ngram_order(grams: IntArray, counts: IntArray, vocabulary_size: int) -> NgramOrder:
    """Compute the discounts, and the sums per context, from sorted grams and counts (n,) int64."""
    discounts = estimate_discounts(counts)
    contexts, first_index = np.unique(grams // vocabulary_size, return_index=True)
    totals = np.add.reduceat(counts, first_index).astype(float)
    discounted_mass = np.add.reduceat(discounts[np.minimum(counts, 3)], first_index)
    return NgramOrder(grams, counts, discounts, contexts, totals, discounted_mass)


def estimate_discounts(counts: IntArray) -> FloatArray:
    """Estimate the discounts of modified Kneser-Ney smoothing (Chen and Goodman, 1999).

    Args:
        counts: (gram,) int64.

    Returns:
        (4,) float64, for counts 0, 1, 2, and 3 or more.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    share = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5
    discounts = [0.0]
    for count in (1, 2, 3):
        has_both = n[count] and n[count + 1]  # otherwise too few grams: the same for all
        discount = count - (count + 1) * share * n[count + 1] / n[count] if has_both else share
        discounts.append(float(np.clip(discount, MIN_DISCOUNT, count)))
    return np.array(discounts)


def find_sorted(sorted_keys: IntArray, keys: IntArray) -> tuple[IntArray, BoolArray]:
    """Look keys up in sorted keys.

    Args:
        sorted_keys: (m,) int64, ascending.
        keys: (n,) int64.

    Returns:
        The index of each key, (n,) int64, and whether it was found, (n,) bool.
    """
    if not sorted_keys.size:
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    index = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return index, sorted_keys[index] == keys
