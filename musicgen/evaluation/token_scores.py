"""What a model gives to each id of held-out tunes, computed for many tunes side by side.

Each tune is predicted whole, from its first id to its end event, from the begin event and a zero
state. With the grammar's mask, the probabilities of the legal ids are divided by their sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.errors import InvalidValue, Mismatch
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, TokenIds
from musicgen.sampling.batch_sampler import BatchEngine, NumpyBatchEngine
from musicgen.sampling.engine import Engine, NumpyEngine
from musicgen.tokens.codec import Grammar

LANES: Final = 64


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The scores of all ids of some tunes, one tune after the other."""

    nats: FloatArray  # (token,) float64
    masked_nats: FloatArray  # (token,) float64, those among the legal ids
    is_top: BoolArray  # (token,) whether no id was more likely
    confidence: FloatArray  # (token,) float64, the probability of the most likely id


class LaneStates:
    """Lanes of an engine that steps one tune at a time."""

    def __init__(self, engine: Engine, lanes: int) -> None:
        self.engine = engine
        self.states = [engine.start() for _ in range(lanes)]

    def set_state(self, lane: int, state: object) -> None:
        """Set the state of a lane."""
        self.states[lane] = state

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        self.states = [self.states[lane] for lane in lanes.tolist()]

    def step(self, ids: IntArray) -> FloatArray:
        """Feed one id per lane, (lane,) int64; return the logits (lane, vocabulary) float64."""
        rows = []
        for lane, id_ in enumerate(ids.tolist()):
            logits, self.states[lane] = self.engine.step([id_], self.states[lane])
            rows.append(logits)
        return np.array(rows, np.float64)


def make_lanes(engine: Engine, lanes: int) -> BatchEngine:
    """Start lanes of an engine, side by side if it is one of NumPy."""
    if isinstance(engine, NumpyEngine):
        return NumpyBatchEngine(engine, lanes)
    return LaneStates(engine, lanes)


def score_tokens(
    engine: Engine, tunes: Sequence[TokenIds], grammars: Sequence[Grammar]
) -> TokenScores:
    """Score each id of whole tunes.

    Args:
        engine: the model.
        tunes: (token,) int16 or int64 each, at least one.
        grammars: the grammar of each tune, at its start; they are advanced.

    Raises:
        InvalidValue: there are no tunes, or one has no ids.
        Mismatch: the grammar forbids an id.
    """
    lengths = np.array([len(ids) for ids in tunes], np.int64)
    if not len(lengths) or not lengths.all():
        raise InvalidValue("there is nothing to score: give at least one tune, each with ids")
    offsets = np.cumsum(lengths) - lengths
    columns = np.empty((4, lengths.sum()))
    by_length = np.argsort(-lengths, kind="stable")
    for first in range(0, len(tunes), LANES):
        chosen = by_length[first : first + LANES]
        batch = [tunes[index] for index in chosen]
        masks = GrammarMasks([grammars[index] for index in chosen])
        for step, values in enumerate(iter_step_scores(engine, batch, masks)):
            columns[:, offsets[chosen[: values.shape[1]]] + step] = values
    nats, masked_nats, is_top, confidence = columns
    return TokenScores(nats, masked_nats, is_top > 0, confidence)


def iter_step_scores(
    engine: Engine, tunes: Sequence[TokenIds], masks: GrammarMasks
) -> Iterator[FloatArray]:
    """Yield the scores of the ids of tunes by position; tunes that have ended are left out.

    Args:
        engine: the model.
        tunes: (token,) int16 or int64 each, the longest first.
        masks: of these tunes.

    Yields:
        (4, tune) float64: nats, masked nats, 1 if no id was more likely, highest probability.
    """
    lengths = np.array([len(ids) for ids in tunes])
    padded = np.full((len(tunes), lengths[0] + 1), BEGIN_ID, np.int64)
    for row, ids in zip(padded, tunes, strict=True):
        row[1 : len(ids) + 1] = ids
    lanes, running = make_lanes(engine, len(tunes)), len(tunes)
    for position in range(lengths[0]):
        if (still_running := int(np.count_nonzero(lengths > position))) < running:
            running = still_running
            lanes.select_lanes(np.arange(running))
        logits = lanes.step(padded[:running, position]).astype(np.float64)
        targets = padded[:running, position + 1]
        yield compute_scores(logits, targets, masks.take(targets, logits.shape[1]))


def compute_scores(logits: FloatArray, targets: IntArray, is_legal: BoolArray) -> FloatArray:
    """Compute the scores of one id per tune.

    Args:
        logits: (tune, vocabulary) float64.
        targets: (tune,) int64, the ids that follow.
        is_legal: (tune, vocabulary) bool.

    Returns:
        (4, tune) float64: nats, masked nats, 1 if no id was more likely, highest probability.
    """
    highest = logits.max(axis=1)
    weights = np.exp(logits - highest[:, None])
    below_highest = highest - logits[np.arange(len(targets)), targets]
    sums, legal_sums = weights.sum(axis=1), (weights * is_legal).sum(axis=1)
    return np.array(
        [
            np.log(sums) + below_highest,
            np.log(legal_sums) + below_highest,
            below_highest == 0,
            1 / sums,
        ]
    )


class GrammarMasks:
    """The legal ids of tunes that are written side by side."""

    def __init__(self, grammars: Sequence[Grammar]) -> None:
        self.grammars = grammars
        self.rows: dict[tuple[int, ...], BoolArray] = {}  # by legal ids; they recur

    def take(self, targets: IntArray, vocabulary_size: int) -> BoolArray:
        """Return the mask of the first tunes, and advance these by their next ids.

        Args:
            targets: (tune,) int64.
            vocabulary_size: ids of a mask.

        Returns:
            (tune, vocabulary) bool.

        Raises:
            Mismatch: the grammar forbids an id.
        """
        masks = np.empty((len(targets), vocabulary_size), bool)
        for mask, grammar, id_ in zip(masks, self.grammars, targets.tolist(), strict=False):
            legal_ids = grammar.legal_ids()
            if legal_ids not in self.rows:
                self.rows[legal_ids] = np.isin(np.arange(vocabulary_size), legal_ids)
            mask[:] = self.rows[legal_ids]
            if id_ >= vocabulary_size or not mask[id_]:
                raise Mismatch(
                    f"the grammar forbids id {id_} of a tune: score tunes that were encoded with"
                    " the model's codec"
                )
            grammar.take(id_)
        return masks
