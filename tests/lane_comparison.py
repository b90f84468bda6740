"""Lanes of an engine against the one-tune engine."""

from __future__ import annotations

import numpy as np

from musicgen.sampling.batch_sampler import BatchEngine
from musicgen.sampling.engine import NumpyEngine

LANES = 5
LIVE = [3, 40, 500, 7]
TURNS = 24


def check_lanes(lanes: BatchEngine, engine: NumpyEngine, tolerance: float) -> None:
    """Feed five lanes, later two of them; their logits are those that each has alone."""
    rng = np.random.default_rng(1)
    states = [engine.step([int(n)], engine.start())[1] for n in rng.integers(1, 800, LANES)]
    for lane, state in enumerate(states):
        lanes.set_state(lane, state)
    for turn in range(TURNS):
        if turn == TURNS // 2:
            lanes.select_lanes(np.array([0, 3]))
            states = [states[0], states[3]]
        ids = rng.integers(1, 800, len(states))
        logits = lanes.step(ids)
        for lane, id_ in enumerate(ids.tolist()):
            expected, states[lane] = engine.step([id_], states[lane])
            most = tolerance * (1 + np.abs(expected).max())
            np.testing.assert_allclose(logits[lane], expected, rtol=0, atol=most)
