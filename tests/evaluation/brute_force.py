"""Slow, direct versions of the baselines: dictionaries, one id at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from musicgen.evaluation.ngram_models import estimate_discounts

Context = tuple[int, ...]


class OnlinePartialMatching:
    """PPM-C as an encoder updates it: id by id, with exclusion and update exclusion."""

    def __init__(self, size: int, order: int) -> None:
        self.size, self.order = size, order
        self.counts: defaultdict[Context, Counter[int]] = defaultdict(Counter)

    def learn(self, ids: Sequence[int]) -> None:
        past: Context = (0,)
        for id_ in ids:
            for length in range(min(self.order, len(past)), -1, -1):
                counts = self.counts[past[len(past) - length :]]
                was_known = id_ in counts
                counts[id_] += 1
                if was_known:
                    break  # shorter contexts are not updated
            past = (*past, id_)

    def probability(self, past: Sequence[int], id_: int) -> float:
        context = (0, *past)
        probability, excluded = 1.0, {0}
        for length in range(min(self.order, len(context)), -1, -1):
            counts = self.counts.get(context[len(context) - length :], Counter())
            allowed = {key: count for key, count in counts.items() if key not in excluded}
            if not allowed:
                continue
            is_alphabet_complete = len(excluded) + len(allowed) == self.size
            escapes = 0 if is_alphabet_complete else len(allowed)
            total = sum(allowed.values()) + escapes
            if id_ in allowed:
                return probability * allowed[id_] / total
            probability *= escapes / total
            excluded |= set(allowed)
        return probability / (self.size - len(excluded))


class DirectKneserNey:
    """Interpolated Kneser-Ney, from the definition in `musicgen.evaluation.ngram_models`."""

    def __init__(self, tunes: Sequence[Sequence[int]], size: int, order: int) -> None:
        self.size, self.order = size, order
        occurrences: list[Counter[Context]] = [Counter() for _ in range(order + 1)]
        for ids in tunes:
            padded = (*[0] * (order - 1), *ids)
            for end in range(order - 1, len(padded)):
                for length in range(1, order + 1):
                    occurrences[length][padded[end - length + 1 : end + 1]] += 1
        self.counts: list[dict[Context, int]] = [{}, *occurrences[1:]]
        for length in range(1, order):
            left = Counter(gram[1:] for gram in occurrences[length + 1])
            self.counts[length] = {
                gram: count if gram[0] == 0 else left[gram]
                for gram, count in occurrences[length].items()
            }

    def probability(self, past: Sequence[int], id_: int) -> float:
        context = (*[0] * self.order, *past)
        value = 1 / (self.size - 1)
        for length in range(1, self.order + 1):
            value = self.interpolate(context[len(context) - length + 1 :], id_, length, value)
        return value

    def interpolate(self, context: Context, id_: int, length: int, lower: float) -> float:
        counts = self.counts[length]
        discounts = estimate_discounts(np.array(list(counts.values())))
        here = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        if not here:
            return lower
        mass = sum(discounts[min(count, 3)] for count in here.values())
        count = here.get(id_, 0)
        return float((count - discounts[min(count, 3)] + mass * lower) / sum(here.values()))
