"""The n-gram: what counting all windows of a few ids can predict.

`KneserNey` is the interpolated, modified n-gram of Chen and Goodman (1999), here with ids packed
into one integer a gram, so that counting is sorting and looking up is bisection.

    p_n(w | h) = max(0, c(hw) - D(c(hw))) / c(h) + gamma(h) p_{n-1}(w | h')
    D by count 1, 2, 3 or more, from the counts of counts; below the highest order, c counts the
    different ids before a gram; below the lowest stands the uniform distribution
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.errors import InvalidValue
from musicgen.training.heldout_loss import HeldOutScore, evaluate_surprisal

MIN_DISCOUNT = 0.05  # an unseen id is never impossible


@dataclass(frozen=True, slots=True)
class NgramOrder:
    """All grams of one length, and the contexts that they stand in."""

    grams: np.ndarray  # (gram,) packed ids, ascending
    counts: np.ndarray  # (gram,)
    discounts: np.ndarray  # (4,): for counts 0, 1, 2, 3 or more
    contexts: np.ndarray  # (context,) packed ids, ascending
    totals: np.ndarray  # (context,)
    backoff_mass: np.ndarray  # (context,): what the discounts leave to the order below

    def interpolate(
        self, grams: np.ndarray, vocabulary_size: int, lower_probabilities: np.ndarray
    ) -> np.ndarray:
        """Return the probability of each gram's last id, given what the order below says."""
        place, known = find_sorted(self.contexts, grams // vocabulary_size)
        at, seen = find_sorted(self.grams, grams)
        counts = np.where(seen, self.counts[at], 0)
        kept = counts - self.discounts[np.minimum(counts, 3)]
        mixed = (kept + self.backoff_mass[place] * lower_probabilities) / self.totals[place]
        return np.where(known, mixed, lower_probabilities)


class KneserNey:
    """An n-gram model of ids; the begin event pads what stands before a tune."""

    def __init__(self, tunes: Sequence[np.ndarray], vocabulary_size: int, order: int = 5) -> None:
        if order < 1 or vocabulary_size**order >= 2**63:
            raise InvalidValue(
                f"order {order} with {vocabulary_size} events does not fit: choose a lower order"
            )
        self.vocabulary_size, self.order = vocabulary_size, order
        packed = np.concatenate([self.pack_grams(ids) for ids in tunes])
        self.orders = self.count_orders(packed)

    def pack_grams(self, ids: np.ndarray) -> np.ndarray:
        """Return, for each id of a tune, the gram that ends with it."""
        padded = np.concatenate([np.full(self.order - 1, BEGIN_ID), ids]).astype(np.int64)
        grams = np.zeros(len(ids), np.int64)
        for offset in range(self.order):
            grams = grams * self.vocabulary_size + padded[offset : offset + len(ids)]
        return grams

    def count_orders(self, packed: np.ndarray) -> list[NgramOrder]:
        """Count the grams of every length, the shortest first."""
        above, counts = np.unique(packed, return_counts=True)
        orders = [make_ngram_order(above, counts, self.vocabulary_size)]
        for length in range(self.order - 1, 0, -1):
            power = self.vocabulary_size**length
            raw, occurrences = np.unique(packed % power, return_counts=True)
            _, preceded = np.unique(above % power, return_counts=True)
            opens = (
                raw // (power // self.vocabulary_size) == BEGIN_ID
            )  # nothing can stand before it
            orders.append(
                make_ngram_order(raw, np.where(opens, occurrences, preceded), self.vocabulary_size)
            )
            above = raw
        return orders[::-1]

    def probabilities(self, grams: np.ndarray) -> np.ndarray:
        """Return the probability of the last id of each packed gram."""
        values = np.where(
            grams % self.vocabulary_size == BEGIN_ID, 0.0, 1.0 / (self.vocabulary_size - 1)
        )
        for length, order in enumerate(self.orders, start=1):
            values = order.interpolate(
                grams % self.vocabulary_size**length, self.vocabulary_size, values
            )
        return values

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Return the probability of every id (vocabulary,) after the ids of a tune so far."""
        last = self.pack_grams(np.array([*context, BEGIN_ID]))[-1]
        return self.probabilities(last + np.arange(self.vocabulary_size))

    def surprisal(self, ids: np.ndarray) -> np.ndarray:
        """Return the nats of each id of a tune."""
        nats: np.ndarray = -np.log(self.probabilities(self.pack_grams(ids)))
        return nats

    def score(
        self, tunes: Sequence[np.ndarray], notes: Sequence[int] | None = None
    ) -> HeldOutScore:
        """Score whole tunes, as networks are scored."""
        return evaluate_surprisal(self.surprisal, tunes, notes)


def make_ngram_order(grams: np.ndarray, counts: np.ndarray, vocabulary_size: int) -> NgramOrder:
    """Put the discounts and the sums of each context beside the counts."""
    discounts = estimate_discounts(counts)
    contexts, first = np.unique(grams // vocabulary_size, return_index=True)
    totals = np.add.reduceat(counts, first).astype(float)
    freed = np.add.reduceat(discounts[np.minimum(counts, 3)], first)
    return NgramOrder(grams, counts, discounts, contexts, totals, freed)


def estimate_discounts(counts: np.ndarray) -> np.ndarray:
    """Return the discounts for counts 0, 1, 2, 3 or more, from how many grams have each count."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    share = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5
    found = [0.0]
    for count in (1, 2, 3):
        known = n[count] and n[count + 1]  # else too few grams: one discount for all counts
        discount = count - (count + 1) * share * n[count + 1] / n[count] if known else share
        found.append(float(np.clip(discount, MIN_DISCOUNT, count)))
    return np.array(found)


def find_sorted(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each key stands among the sorted ones, and whether it does."""
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return place, sorted_keys[place] == keys
