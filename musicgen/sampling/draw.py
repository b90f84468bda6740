"""Drawing one event: what is cut from the distribution, and the noise that decides.

The noise belongs to a place in the music and to an event, not to a count of draws: the same seed
gives the same event the same luck at the same beat of the same bar, whatever came before it. So a
small change of a setting makes a small change of the tune. An event is drawn by adding a Gumbel
number to each log-probability and taking the greatest sum (Gumbel 1954; Maddison and others 2014),
which draws from exactly that distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from musicgen.errors import InvalidValue
from musicgen.tokens.grammar import Context
from musicgen.tokens.vocabulary import MEASURES

Floats = npt.NDArray[np.float64]
Filter = Callable[[Floats], Floats]  # log-probabilities, cut ones become -inf


def temperature(value: float) -> Filter:
    """Divide log-probabilities by a temperature: under 1 likelier, over 1 more surprising."""
    if not 0.01 <= value <= 10:
        raise InvalidValue(f"temperature {value}: choose 0.01 to 10; 1 is the model as it is")
    return lambda logs: log_softmax(logs / value)


def top_k(count: int) -> Filter:
    """Keep the most likely events, as many as count (and those as likely as the last of them)."""
    if count < 1:
        raise InvalidValue(f"top-k {count}: keep 1 event or more")

    def cut(logs: Floats) -> Floats:
        if count >= len(logs):
            return logs
        least = np.partition(logs, -count)[-count]
        return np.where(logs >= least, logs, -np.inf)

    return cut


def top_p(mass: float) -> Filter:
    """Keep the smallest set of events that holds the mass (Holtzman and others 2019)."""
    if not 0 < mass <= 1:
        raise InvalidValue(f"top-p {mass}: choose a mass over 0 and up to 1")

    def cut(logs: Floats) -> Floats:
        order = np.argsort(-logs, kind="stable")
        probabilities = np.exp(log_softmax(logs)[order])
        before = np.cumsum(probabilities) - probabilities
        kept = np.full_like(logs, -np.inf)
        chosen = order[before < mass]
        kept[chosen] = logs[chosen]
        return kept

    return cut


def min_p(share: float) -> Filter:
    """Keep events at least a share as likely as the likeliest (Nguyen and others 2024)."""
    if not 0 <= share <= 1:
        raise InvalidValue(f"min-p {share}: choose a share from 0 to 1")
    return lambda logs: np.where(logs >= logs.max() + np.log(max(share, 1e-300)), logs, -np.inf)


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities; -inf stays."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def event_hashes(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a number for each event that follows from its name alone."""
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


@lru_cache(maxsize=1)
def _event_hashes() -> npt.NDArray[np.uint64]:
    return event_hashes(MEASURES.names)


_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Noise:
    """The luck of one tune: a number of its own for each place and event."""

    seed: int
    tune: int = 0

    def gumbel(self, context: Context, ids: Sequence[int]) -> Floats:
        """Return standard Gumbel noise for events at a place: shape (ids,)."""
        place = f"{context.voice}/{context.bar}/{context.position}/{context.decision}"
        return self.at(place, _event_hashes()[list(ids)])

    def at(self, place: str, hashes: npt.NDArray[np.uint64]) -> Floats:
        """Return standard Gumbel noise for the hashes of events at a named place."""
        digest = blake2b(f"{self.seed}/{self.tune}/{place}".encode(), digest_size=8).digest()
        key = np.uint64(int.from_bytes(digest, "little"))
        uniform = (_splitmix(hashes ^ key) >> np.uint64(11)).astype(np.float64)
        return -np.log(-np.log((uniform + 0.5) * 2.0**-53))


def _splitmix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64 bits so that each input bit moves each output bit (Steele and others 2014)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def draw(
    logits: npt.NDArray[np.floating],
    ids: Sequence[int],
    filters: Sequence[Filter],
    noise: Noise,
    context: Context,
) -> int:
    """Draw one of the ids: the model's logits over them, cut by the filters, decided by noise."""
    return luckiest(logits, ids, filters, lambda: noise.gumbel(context, ids))


def luckiest(
    logits: npt.NDArray[np.floating],
    ids: Sequence[int],
    filters: Sequence[Filter],
    luck: Callable[[], Floats],
) -> int:
    """Return the id whose log-probability, cut by the filters, and luck are the greatest sum."""
    if len(ids) == 1:
        return ids[0]
    logs = log_softmax(np.asarray(logits, dtype=np.float64)[list(ids)])
    for cut in filters:
        logs = cut(logs)
    return ids[int(np.argmax(logs + luck()))]
