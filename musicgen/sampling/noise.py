"""Drawing one event: what is cut from the distribution, and the noise that decides.

The noise belongs to a place in the music and to an event, not to a count of draws: the same seed
gives the same event the same luck at the same beat of the same bar, whatever came before it. So a
small change of a setting makes a small change of the tune. An event is drawn by adding a Gumbel
number to each log-probability and taking the greatest sum (Gumbel 1954; Maddison and others 2014),
which draws from exactly that distribution. The sum may leave out what all events share, so that
log-probabilities stand for themselves up to a constant.

The generator counts nothing: a chain of splitmix64 steps (Steele and others 2014) over the seed,
the tune and the place, and one more for the event. `chain` is its form for one place, `chains` for
many at once, with equal bits.
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
from musicgen.tokens.grammar import DecisionContext
from musicgen.tokens.vocabulary import MEASURES

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
TEMPERATURE_RANGE: Final = (0.01, 10)
Filter = Callable[[Floats], Floats]  # log-probabilities, cut ones become -inf


def temperature(value: float) -> Filter:
    """Divide log-probabilities by a temperature: under 1 likelier, over 1 more surprising."""
    low, high = TEMPERATURE_RANGE
    if not low <= value <= high:
        raise InvalidValue(f"temperature {value}: choose {low} to {high}; 1 is the model as it is")
    return lambda logs: logs / value


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


def hash_event_names(names: Iterable[str]) -> Keys:
    """Return a number for each event that follows from its name alone."""
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


@lru_cache(maxsize=1)
def measures_hashes() -> Keys:
    """Return the hashes of the events of `measures`, by their ids."""
    return hash_event_names(MEASURES.names)


@lru_cache(maxsize=256)
def _decision_hash(decision: str) -> int:
    return int(hash_event_names([decision])[0])


_MASK_64: Final = 2**64 - 1
_STEP: Final = 0x9E3779B97F4A7C15
_MIX: Final = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hash_combine(key: int, *numbers: int) -> int:
    """Mix numbers into a key, one after the other; all are of 64 bits."""
    for number in numbers:
        key = (key + number + _STEP) & _MASK_64
        key = ((key ^ (key >> 30)) * _MIX[0]) & _MASK_64
        key = ((key ^ (key >> 27)) * _MIX[1]) & _MASK_64
        key ^= key >> 31
    return key


def hash_combine_arrays(keys: Keys, numbers: Keys) -> Keys:
    """Mix a number into each key, as `chain` does."""
    return _mix_bits(keys + numbers + np.uint64(_STEP))


def _mix_bits(keys: Keys) -> Keys:
    """Mix 64 bits, in place, so that each bit that goes in moves each that comes out."""
    keys ^= keys >> np.uint64(30)
    keys *= np.uint64(_MIX[0])
    keys ^= keys >> np.uint64(27)
    keys *= np.uint64(_MIX[1])
    keys ^= keys >> np.uint64(31)
    return keys


def position_id(context: DecisionContext) -> int:
    """Return the number of a place in its bar: voice, step, and what is decided there."""
    return hash_combine(0, context.voice, context.position, _decision_hash(context.decision))


def gumbel_noise(keys: Keys, hashes: Keys) -> Floats:
    """Return standard Gumbel noise for places and events, whose shapes are broadcast."""
    bits = _mix_bits(keys ^ hashes)
    bits >>= np.uint64(11)
    luck = bits.astype(np.float64)
    luck += 0.5
    luck *= 2.0**-53
    for _ in range(2):
        np.log(luck, out=luck)
        np.negative(luck, out=luck)
    return luck


@dataclass(frozen=True, slots=True)
class Noise:
    """The luck of one tune: a number of its own for each place and event."""

    seed: int
    tune_number: int = 0

    @property
    def key(self) -> int:
        """The number of the tune, of all seeds."""
        return hash_combine(0, self.seed, self.tune_number)

    def gumbel(self, context: DecisionContext, ids: Sequence[int] | Ids) -> Floats:
        """Return standard Gumbel noise for events at a place: shape (ids,)."""
        return self.gumbel_at(context.bar, position_id(context), measures_hashes()[np.asarray(ids)])

    def gumbel_at(self, bar: int, position: int, hashes: Keys) -> Floats:
        """Return standard Gumbel noise for the hashes of events at a place of a bar."""
        return gumbel_noise(np.array(hash_combine(self.key, bar, position), np.uint64), hashes)


def draw(
    logits: npt.NDArray[np.floating],
    ids: Sequence[int] | Ids,
    filters: Sequence[Filter],
    noise: Noise,
    context: DecisionContext,
) -> int:
    """Draw one of the ids: the model's logits over them, cut by the filters, decided by noise."""
    return argmax_with_noise(logits, ids, filters, lambda: noise.gumbel(context, ids))


def argmax_with_noise(
    logits: npt.NDArray[np.floating],
    ids: Sequence[int] | Ids,
    filters: Sequence[Filter],
    make_noise: Callable[[], Floats],
) -> int:
    """Return the id whose log-probability, cut by the filters, and luck are the greatest sum."""
    if len(ids) == 1:
        return int(ids[0])
    logs = logits[np.asarray(ids)].astype(np.float64)
    for cut in filters:
        logs = cut(logs)
    return int(ids[(logs + make_noise()).argmax()])
