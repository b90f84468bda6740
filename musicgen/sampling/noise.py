"""The draw of one event: temperature, top-k, top-p and min-p, and noise keyed by position.

The noise depends on the seed, the position in the music and the event, not on the number of draws
before, so a small change of an option changes the tune little. An event is sampled by the
Gumbel-max method: add Gumbel noise to each log-probability and take the largest sum (Gumbel, 1954;
Maddison et al., 2014), which samples from exactly that distribution. A constant added to all
log-probabilities has no effect.

The noise generator has no state: a chain of splitmix64 steps (Steele et al., 2014) mixes the seed,
the tune and the position, and one more step mixes the event. `hash_combine` does so for one
position, `hash_combine_arrays` for many at once, with the same bits.
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
    """Divide log-probabilities by a temperature: below 1 favours likely events.

    Raises:
        InvalidValue: the temperature is out of range.
    """
    low, high = TEMPERATURE_RANGE
    if not low <= value <= high:
        raise InvalidValue(f"temperature {value}: choose {low} to {high}; 1 is the model as it is")
    return lambda logs: logs / value


def top_k(count: int) -> Filter:
    """Keep the `count` most likely events, and those as likely as the last of them.

    Raises:
        InvalidValue: the count is below 1.
    """
    if count < 1:
        raise InvalidValue(f"top-k {count}: keep 1 event or more")

    def cut(logs: Floats) -> Floats:
        if count >= len(logs):
            return logs
        least = np.partition(logs, -count)[-count]
        return np.where(logs >= least, logs, -np.inf)

    return cut


def top_p(mass: float) -> Filter:
    """Keep the nucleus: the smallest set of events with the probability (Holtzman et al., 2019).

    Raises:
        InvalidValue: the probability is not in (0, 1].
    """
    if not 0 < mass <= 1:
        raise InvalidValue(f"top-p {mass}: choose a probability over 0 and up to 1")

    def cut(logs: Floats) -> Floats:
        order = np.argsort(-logs, kind="stable")
        probabilities = np.exp(log_softmax(logs)[order])
        before = np.cumsum(probabilities) - probabilities
        filtered = np.full_like(logs, -np.inf)
        nucleus = order[before < mass]
        filtered[nucleus] = logs[nucleus]
        return filtered

    return cut


def min_p(share: float) -> Filter:
    """Keep events at least `share` times as likely as the most likely (Nguyen et al., 2024).

    Raises:
        InvalidValue: the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise InvalidValue(f"min-p {share}: choose a share from 0 to 1")
    return lambda logs: np.where(logs >= logs.max() + np.log(max(share, 1e-300)), logs, -np.inf)


def log_softmax(logits: Floats) -> Floats:
    """Return the log-probabilities (ids,) float64 of logits; -inf stays."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def hash_event_names(names: Iterable[str]) -> Keys:
    """Return a hash for each event name: (names,) uint64."""
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


@lru_cache(maxsize=1)
def measures_hashes() -> Keys:
    """Return the hashes of the `measures` vocabulary by id: (vocabulary,) uint64."""
    return hash_event_names(MEASURES.names)


@lru_cache(maxsize=256)
def _decision_hash(decision: str) -> int:
    return int(hash_event_names([decision])[0])


_MASK_64: Final = 2**64 - 1
_STEP: Final = 0x9E3779B97F4A7C15
_MIX: Final = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hash_combine(key: int, *numbers: int) -> int:
    """Mix 64-bit numbers into a 64-bit key, one after the other."""
    for number in numbers:
        key = (key + number + _STEP) & _MASK_64
        key = ((key ^ (key >> 30)) * _MIX[0]) & _MASK_64
        key = ((key ^ (key >> 27)) * _MIX[1]) & _MASK_64
        key ^= key >> 31
    return key


def hash_combine_arrays(keys: Keys, numbers: Keys) -> Keys:
    """Mix a number into each key, as `hash_combine` does: (n,) uint64 both."""
    return _mix_bits(keys + numbers + np.uint64(_STEP))


def _mix_bits(keys: Keys) -> Keys:
    """Mix 64 bits in place, so that each input bit affects each output bit."""
    keys ^= keys >> np.uint64(30)
    keys *= np.uint64(_MIX[0])
    keys ^= keys >> np.uint64(27)
    keys *= np.uint64(_MIX[1])
    keys ^= keys >> np.uint64(31)
    return keys


def position_id(context: DecisionContext) -> int:
    """Return a hash of a position in its bar: voice, step, and the kind of decision."""
    return hash_combine(0, context.voice, context.position, _decision_hash(context.decision))


def gumbel_noise(keys: Keys, hashes: Keys) -> Floats:
    """Return standard Gumbel noise for positions and events.

    Args:
        keys: (n,) uint64 hashes of positions.
        hashes: (n,) uint64 hashes of events; the shapes are broadcast.

    Returns:
        (n,) float64 noise.
    """
    bits = _mix_bits(keys ^ hashes)
    bits >>= np.uint64(11)
    noise = bits.astype(np.float64)
    noise += 0.5
    noise *= 2.0**-53
    for _ in range(2):
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one tune, keyed by musical position and event."""

    seed: int
    tune_number: int = 0

    @property
    def key(self) -> int:
        """The 64-bit key of the seed and the tune."""
        return hash_combine(0, self.seed, self.tune_number)

    def gumbel(self, context: DecisionContext, ids: Sequence[int] | Ids) -> Floats:
        """Return standard Gumbel noise for ids at a position: (ids,) float64."""
        return self.gumbel_at(context.bar, position_id(context), measures_hashes()[np.asarray(ids)])

    def gumbel_at(self, bar: int, position: int, hashes: Keys) -> Floats:
        """Return standard Gumbel noise for hashes at a position of a bar: (ids,) float64."""
        return gumbel_noise(np.array(hash_combine(self.key, bar, position), np.uint64), hashes)


def draw(
    logits: npt.NDArray[np.floating],
    ids: Sequence[int] | Ids,
    filters: Sequence[Filter],
    noise: Noise,
    context: DecisionContext,
) -> int:
    """Sample one id by the Gumbel-max method.

    Args:
        logits: (vocabulary,) logits of the model, float32 or float64.
        ids: the legal ids.
        filters: applied in order to the log-probabilities of the legal ids.
        noise: the noise of the tune.
        context: the musical position, which keys the noise.
    """
    return argmax_with_noise(logits, ids, filters, lambda: noise.gumbel(context, ids))


def argmax_with_noise(
    logits: npt.NDArray[np.floating],
    ids: Sequence[int] | Ids,
    filters: Sequence[Filter],
    make_noise: Callable[[], Floats],
) -> int:
    """Return the id with the largest sum of filtered log-probability and noise.

    Args:
        logits: (vocabulary,) logits of the model, float32 or float64.
        ids: the legal ids.
        filters: applied in order to the log-probabilities of the legal ids.
        make_noise: returns (ids,) float64 Gumbel noise; not called for a single id.
    """
    if len(ids) == 1:
        return int(ids[0])
    logs = logits[np.asarray(ids)].astype(np.float64)
    for cut in filters:
        logs = cut(logs)
    return int(ids[(logs + make_noise()).argmax()])
