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

from musicgen.config import BEGIN
from musicgen.errors import InvalidValue
from musicgen.training.heldout_loss import Held, evaluate_by

LEAST_DISCOUNT = 0.05  # an unseen id is never impossible


@dataclass(frozen=True, slots=True)
class Order:
    """All grams of one length, and the contexts that they stand in."""

    grams: np.ndarray  # (gram,) packed ids, ascending
    counts: np.ndarray  # (gram,)
    discounts: np.ndarray  # (4,): for counts 0, 1, 2, 3 or more
    contexts: np.ndarray  # (context,) packed ids, ascending
    totals: np.ndarray  # (context,)
    freed: np.ndarray  # (context,): what the discounts leave to the order below

    def interpolated(self, grams: np.ndarray, size: int, below: np.ndarray) -> np.ndarray:
        """Return the probability of each gram's last id, given what the order below says."""
        place, known = find(self.contexts, grams // size)
        at, seen = find(self.grams, grams)
        counts = np.where(seen, self.counts[at], 0)
        kept = counts - self.discounts[np.minimum(counts, 3)]
        mixed = (kept + self.freed[place] * below) / self.totals[place]
        return np.where(known, mixed, below)


class KneserNey:
    """An n-gram model of ids; the begin event pads what stands before a tune."""

    def __init__(self, tunes: Sequence[np.ndarray], vocabulary_size: int, order: int = 5) -> None:
        if order < 1 or vocabulary_size**order >= 2**63:
            raise InvalidValue(
                f"order {order} with {vocabulary_size} events does not fit: choose a lower order"
            )
        self.size, self.order = vocabulary_size, order
        packed = np.concatenate([self.pack(ids) for ids in tunes])
        self.orders = self.count(packed)

    def pack(self, ids: np.ndarray) -> np.ndarray:
        """Return, for each id of a tune, the gram that ends with it."""
        padded = np.concatenate([np.full(self.order - 1, BEGIN), ids]).astype(np.int64)
        grams = np.zeros(len(ids), np.int64)
        for offset in range(self.order):
            grams = grams * self.size + padded[offset : offset + len(ids)]
        return grams

    def count(self, packed: np.ndarray) -> list[Order]:
        """Count the grams of every length, the shortest first."""
        above, counts = np.unique(packed, return_counts=True)
        orders = [make_order(above, counts, self.size)]
        for length in range(self.order - 1, 0, -1):
            power = self.size**length
            raw, occurrences = np.unique(packed % power, return_counts=True)
            _, preceded = np.unique(above % power, return_counts=True)
            opens = raw // (power // self.size) == BEGIN  # nothing can stand before it
            orders.append(make_order(raw, np.where(opens, occurrences, preceded), self.size))
            above = raw
        return orders[::-1]

    def probabilities(self, grams: np.ndarray) -> np.ndarray:
        """Return the probability of the last id of each packed gram."""
        values = np.where(grams % self.size == BEGIN, 0.0, 1.0 / (self.size - 1))
        for length, order in enumerate(self.orders, start=1):
            values = order.interpolated(grams % self.size**length, self.size, values)
        return values

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Return the probability of every id (vocabulary,) after the ids of a tune so far."""
        last = self.pack(np.array([*context, BEGIN]))[-1]
        return self.probabilities(last + np.arange(self.size))

    def surprise(self, ids: np.ndarray) -> np.ndarray:
        """Return the nats of each id of a tune."""
        nats: np.ndarray = -np.log(self.probabilities(self.pack(ids)))
        return nats

    def score(self, tunes: Sequence[np.ndarray], notes: Sequence[int] | None = None) -> Held:
        """Score whole tunes, as networks are scored."""
        return evaluate_by(self.surprise, tunes, notes)


def make_order(grams: np.ndarray, counts: np.ndarray, size: int) -> Order:
    """Put the discounts and the sums of each context beside the counts."""
    discounts = estimate_discounts(counts)
    contexts, first = np.unique(grams // size, return_index=True)
    totals = np.add.reduceat(counts, first).astype(float)
    freed = np.add.reduceat(discounts[np.minimum(counts, 3)], first)
    return Order(grams, counts, discounts, contexts, totals, freed)


def estimate_discounts(counts: np.ndarray) -> np.ndarray:
    """Return the discounts for counts 0, 1, 2, 3 or more, from how many grams have each count."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    share = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5
    found = [0.0]
    for count in (1, 2, 3):
        known = n[count] and n[count + 1]  # else too few grams: one discount for all counts
        discount = count - (count + 1) * share * n[count + 1] / n[count] if known else share
        found.append(float(np.clip(discount, LEAST_DISCOUNT, count)))
    return np.array(found)


def find(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each key stands among the sorted ones, and whether it does."""
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return place, sorted_keys[place] == keys
