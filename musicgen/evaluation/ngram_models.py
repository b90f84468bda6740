"""N-gram models of token ids: Kneser-Ney smoothing at a fixed order, and PPM at a variable one.

**Interpolated, modified Kneser-Ney smoothing** (Chen and Goodman, 1999). Each n-gram of ids is
packed into one integer, so that counting is sorting and looking up is bisection.

    p_n(w | h) = max(0, c(hw) - D(c(hw))) / c(h) + gamma(h) p_{n-1}(w | h')
    D depends on whether the count is 1, 2, or 3 or more, and is estimated from the counts of
    counts; below the highest order, c(hw) is the number of different ids that precede hw; below
    the lowest order is the uniform distribution

**Prediction by partial matching** (PPM). The longest context that occurred in the training tunes
predicts; an id that never followed it is predicted by the next shorter context, after an escape.
This is the scheme of Cleary and Witten (1984) with the escapes of method C, exclusion and update
exclusion (Moffat, 1990):

    p(escape | h) = q(h) / (n(h) + q(h)),    p(w | h) = c(hw) / (n(h) + q(h))
    q(h) is the number of different ids that followed h, and n(h) the sum of their counts c; ids
    that followed a longer context are left out of both. In the longest context c(hw) counts
    occurrences, in shorter ones the different ids that precede hw, which is what update exclusion
    leaves. Below the empty context, the ids that never occurred are equally likely. If no such ids
    remain, nothing is left to escape for, and q(h) is dropped.

The contexts form a trie by length. What followed a context also followed its suffixes, so the
counts to exclude depend on the next longer context alone, and are summed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.errors import InvalidValue
from musicgen.evaluation.heldout_score import HeldOutScore, evaluate_surprisal
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, TokenIds

MIN_DISCOUNT: Final = 0.05  # keeps the probability of unseen ids above 0
MAX_CONTEXT: Final = 10  # ids
ABSENT: Final = -1  # the node of a gram that did not occur


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


@dataclass(frozen=True, slots=True)
class GramCounts:
    """The counted grams of one length; a gram's node is its place in these arrays."""

    keys: IntArray  # (gram,) int64, node of the context * vocabulary + last id, ascending
    suffixes: IntArray  # (gram,) int64, node of the gram without its first id
    counts: IntArray  # (gram,) int64, occurrences
    starts: IntArray  # (gram,) int64, occurrences at the start of a tune, which nothing precedes


@dataclass(frozen=True, slots=True)
class TrieLevel:
    """The grams of one length as predictions in their contexts, the grams one shorter."""

    keys: IntArray  # (gram,) int64
    counts: IntArray  # (gram,) int64
    left_counts: IntArray  # (gram,) int64, the different ids before each gram
    totals: IntArray  # (context,) int64, sums of counts
    left_totals: IntArray  # (context,) int64, sums of left counts
    followers: IntArray  # (context,) int64, the different ids after each context
    excluded: IntArray  # (context,) int64, their left counts after the context's suffix


class PartialMatching:
    """PPM-C with contexts of up to `order` ids; the begin event of a tune is one of them.

    Args:
        tunes: (token,) int16 or int64 each, at least one.
        vocabulary_size: events, the begin event included.
        order: ids of the longest context.
    """

    def __init__(
        self, tunes: Sequence[TokenIds], vocabulary_size: int, order: int = MAX_CONTEXT
    ) -> None:
        self.vocabulary_size, self.order = vocabulary_size, order
        self.levels = build_levels(count_grams(tunes, vocabulary_size, order + 1), vocabulary_size)

    def limit_order(self, order: int) -> Self:
        """Return the model with shorter contexts, which shares the counts."""
        model = copy(self)
        model.order = order
        return model

    def surprisal(self, ids: TokenIds) -> FloatArray:
        """Return the nats of each id of a tune: (token,) int16 or int64 to (token,) float64."""
        nodes = self.find_nodes(ids)
        probabilities = np.ones(len(ids))
        is_open = np.ones(len(ids), bool)  # no context so far was followed by the id
        excluded = longer_followers = np.zeros(len(ids), np.int64)
        for order in range(self.order, -1, -1):
            level, contexts, grams = self.levels[order], nodes[order][:-1], nodes[order + 1][1:]
            is_longest = order == self.order
            totals = look_up(level.totals if is_longest else level.left_totals, contexts)
            counts = look_up(level.counts if is_longest else level.left_counts, grams)
            followers = look_up(level.followers, contexts)
            has_context = followers > 0
            escapes = np.where(has_context, followers - longer_followers, 0)
            escapes[followers == self.vocabulary_size - 1] = 0
            weights = np.where(counts > 0, counts, escapes)
            sums = np.where(has_context, totals - excluded + escapes, 0)
            is_used = is_open & (sums > 0)
            probabilities[is_used] *= weights[is_used] / sums[is_used]
            is_open &= counts == 0
            excluded, longer_followers = look_up(level.excluded, contexts), followers
        unseen = self.vocabulary_size - 1 - int(self.levels[0].followers[0])
        probabilities[is_open] /= max(1, unseen)
        return -np.log(probabilities)

    def find_nodes(self, ids: TokenIds) -> list[IntArray]:
        """Return, by gram length from 0, the node of the gram that ends at each id.

        Args:
            ids: (token,) int16 or int64.

        Returns:
            (token + 1,) int64 each, the first that of the begin event.
        """
        sequence = np.append(BEGIN_ID, ids).astype(np.int64)
        nodes = [np.zeros(len(sequence), np.int64)]
        for level in self.levels[: self.order + 1]:
            contexts = np.append(0 if len(nodes) == 1 else ABSENT, nodes[-1][:-1])
            keys = contexts * self.vocabulary_size + sequence
            index, is_counted = find_sorted(level.keys, keys)
            nodes.append(np.where(is_counted & (contexts != ABSENT), index, ABSENT))
        return nodes


def look_up(values: IntArray, nodes: IntArray) -> IntArray:
    """Return the values of nodes, 0 for absent ones: (node,) and (n,) int64 to (n,) int64."""
    found = np.zeros(len(nodes), np.int64)
    is_present = nodes != ABSENT
    found[is_present] = values[nodes[is_present]]
    return found


def count_grams(
    tunes: Sequence[TokenIds], vocabulary_size: int, max_length: int
) -> list[GramCounts]:
    """Count the grams of each length from 1, begin events included.

    Args:
        tunes: (token,) int16 or int64 each.
        vocabulary_size: events, the begin event included.
        max_length: ids of the longest gram.
    """
    ids = np.concatenate([np.append(BEGIN_ID, tune) for tune in tunes]).astype(np.int64)
    places = np.concatenate([np.arange(len(tune) + 1) for tune in tunes])  # in the tune
    nodes = np.zeros(len(ids), np.int64)  # of the gram that ends at each id
    grams = []
    for length in range(1, max_length + 1):
        ends = np.flatnonzero(places >= length - 1)
        contexts = nodes[ends - 1] if length > 1 else nodes
        keys, first, inverse, counts = np.unique(
            contexts * vocabulary_size + ids[ends],
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        starts = np.bincount(inverse[places[ends] == length - 1], minlength=len(keys))
        suffixes = nodes[ends[first]]
        if length == 1:  # the begin event is never predicted
            counts[keys == BEGIN_ID] = starts[keys == BEGIN_ID] = 0
        grams.append(GramCounts(keys, suffixes, counts, starts))
        nodes = np.full(len(ids), ABSENT)
        nodes[ends] = inverse
    return grams


def build_levels(grams: Sequence[GramCounts], vocabulary_size: int) -> list[TrieLevel]:
    """Sum the counts per context; those of the longest grams have no longer context to exclude."""
    levels: list[TrieLevel] = []
    context_count, suffix_counts = 1, np.zeros(1, np.int64)
    for here, longer in pairwise([*grams, None]):
        assert here is not None
        left_counts = here.counts
        if longer is not None:
            left_counts = here.starts + np.bincount(longer.suffixes, minlength=len(here.keys))
        contexts = here.keys // vocabulary_size

        def sum_by_context(
            values: IntArray, contexts: IntArray = contexts, size: int = context_count
        ) -> IntArray:
            return np.bincount(contexts, values, size).astype(np.int64)

        levels.append(
            TrieLevel(
                here.keys, here.counts, left_counts, sum_by_context(here.counts),
                sum_by_context(left_counts), sum_by_context((here.counts > 0).astype(np.int64)),
                sum_by_context(suffix_counts[here.suffixes]),
            )
        )  # fmt: skip
        context_count, suffix_counts = len(here.keys), left_counts
    return levels
