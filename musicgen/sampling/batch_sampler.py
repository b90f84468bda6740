"""Many tunes side by side, each with the same bytes as when it is sampled alone.

Lanes step together: one matrix product per layer for all of them; the masks of the grammar and the
draws are arrays. The weights are packed once, so that a layer's input and its own state are one
product. A sigmoid is half a tanh plus a half, so that all gates of an LSTM pass through one tanh;
the halves are powers of two and change no digit of the weights.

Sums are taken in another order than in the one-tune engine, so logits differ by rounding. Where the
best and the second-best candidate of a draw are closer than TOLERANCE, the one-tune engine
recomputes the lane's ids and decides. The actual difference is checked at each such decision and at
the end of some tunes: a model in which rounding grows too far has its tunes drawn one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from musicgen.music.arrays import BoolArray
from musicgen.sampling.engine import GRU, LSTM, RNN, Cell, EngineState, NumpyEngine, sigmoid
from musicgen.sampling.generate import Generated, generate_tune, get_pinned_start
from musicgen.sampling.generation_state import CompiledSampler, GenerationState, HeaderState
from musicgen.sampling.noise import Floats, Ids, Keys, Noise, gumbel_noise, hash_combine_arrays
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.compiled_grammar import GrammarPosition

Array = np.ndarray


class BatchEngine(Protocol):
    """An engine over lanes: tunes at different positions, each with its own state."""

    def set_state(self, lane: int, state: EngineState) -> None:
        """Set a lane to a state of the one-tune engine."""

    def step(self, ids: Ids) -> Array:
        """Feed one id per lane, (lane,) int64; return the logits (lane, live) float32."""

    def select_lanes(self, lanes: Ids) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""


class Layer(Protocol):
    """One recurrent layer over lanes."""

    def step(self, projected: Array, h: Array, state: Array) -> None:
        """Advance h and c in place by one step.

        Args:
            projected: (lane, rows) float32, W x + b and, except for a GRU, U h; it is overwritten.
            h: (lane, hidden) float32, a view.
            state: (lane, hidden) float32: c of an LSTM; the other layers do not use it.
        """


class LSTMLayer:
    """Gates i, f, g, o as half-angle tanh."""

    def __init__(self, cell: LSTM) -> None:
        self.hidden = cell.hidden

    @staticmethod
    def scale(rows: Array) -> Array:
        """Halve the rows of the sigmoid gates: (rows, any) float32."""
        scaled, size = rows.copy(), len(rows) // 4
        scaled[: 2 * size] *= 0.5
        scaled[3 * size :] *= 0.5
        return scaled

    def step(self, projected: Array, h: Array, state: Array) -> None:
        """Replace h and c in place: projected (lane, rows), h and state (lane, hidden), float32."""
        size, z = self.hidden, projected
        np.tanh(z, out=z)
        i, f, g, o = (z[:, n * size : (n + 1) * size] for n in range(4))
        sigmoids = z[:, : 2 * size]
        sigmoids += 1.0
        o += 1.0
        g *= i
        state *= f
        state += g
        state *= 0.5
        np.tanh(state, out=h)
        h *= o
        h *= 0.5


class GRULayer:
    """A layer whose recurrent sum is a separate product, since the reset gate multiplies it."""

    def __init__(self, cell: GRU) -> None:
        self.hidden, self.bias = cell.hidden, cell.recurrent_bias
        self.recurrent = np.ascontiguousarray(cell.recurrent.T)

    def step(self, projected: Array, h: Array, state: Array) -> None:
        """Replace h in place: projected (lane, rows), h and state (lane, hidden), float32."""
        del state
        size, z = self.hidden, projected
        recurrent = h @ self.recurrent
        recurrent += self.bias
        gates, n = z[:, : 2 * size], z[:, 2 * size :]
        gates += recurrent[:, : 2 * size]
        sigmoid(gates)
        recurrent[:, 2 * size :] *= gates[:, :size]
        n += recurrent[:, 2 * size :]
        np.tanh(n, out=n)
        h -= n
        h *= gates[:, size:]
        h += n


class RNNLayer:
    """A layer of one product and its non-linearity."""

    def __init__(self, cell: RNN) -> None:
        self.relu = cell.relu

    def step(self, projected: Array, h: Array, state: Array) -> None:
        """Replace h in place: projected (lane, rows), h and state (lane, hidden), float32."""
        del state
        if self.relu:
            np.maximum(projected, 0, out=h)
        else:
            np.tanh(projected, out=h)


def _make_layer(cell: Cell) -> Layer:
    if isinstance(cell, LSTM):
        return LSTMLayer(cell)
    if isinstance(cell, GRU):
        return GRULayer(cell)
    assert isinstance(cell, RNN)
    return RNNLayer(cell)


class NumpyBatchEngine:
    """A model over lanes; its logits are those of the engine that it was made from."""

    def __init__(self, engine: NumpyEngine, lanes: int) -> None:
        self.engine = engine
        self.hidden = engine.settings.hidden
        kind = engine.head_bias.dtype
        self.layers = [_make_layer(cell) for cell in engine.cells]
        self.weights = [_pack_weights(cell, first=not n) for n, cell in enumerate(engine.cells)]
        self.biases = [_scale_rows(cell, cell.bias) for cell in engine.cells]
        self.outputs: Array = np.zeros((lanes, self.hidden * len(self.layers)), kind)  # each h
        self.states: Array = np.zeros((len(self.layers), lanes, self.hidden), kind)  # each c
        first, source = engine.cells[0], engine.context_source
        self.table: Array = _scale_rows(first, engine.event_rows.whole.T).T.copy()
        self.contexts = None if source is None else source.start_lanes(lanes)
        self.context_tables: list[tuple[int, Array]] = [
            (index, _scale_rows(first, rows.whole.T).T.copy())
            for index, rows in engine.context_rows
        ]
        self.multi_hot_rows = copy(engine.multi_hot_rows)
        if self.multi_hot_rows is not None:
            self.multi_hot_rows.whole = _scale_rows(first, self.multi_hot_rows.whole.T).T.copy()
        self.scratch = [np.empty((lanes, len(bias)), kind) for bias in self.biases]

    def set_state(self, lane: int, state: EngineState) -> None:
        """Set a lane to a state of the one-tune engine."""
        self.outputs[lane] = state.layers[:, 0].ravel()
        if state.layers.shape[1] > 1:
            self.states[:, lane] = state.layers[:, 1]
        if self.contexts is not None and state.context is not None:
            self.contexts.set_context(lane, state.context)

    def select_lanes(self, lanes: Ids) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        self.outputs, self.states = self.outputs[lanes], self.states[:, lanes]
        self.scratch = [scratch[: len(lanes)] for scratch in self.scratch]
        if self.contexts is not None:
            self.contexts.select_lanes(lanes)

    def step(self, ids: Ids) -> Array:
        """Feed one id per lane, (lane,) int64; return the logits (lane, live) float32."""
        size = self.hidden
        rows = self.table[ids]
        if self.contexts is not None:
            self.contexts.take(ids)
            fields = self.contexts.compute_fields()
            for index, table in self.context_tables:
                rows += table[fields[:, index]]
            if self.multi_hot_rows is not None:
                rows += self.multi_hot_rows.project(fields)
        for number, layer in enumerate(self.layers):
            z, output = self.scratch[number], self.outputs[:, number * size : (number + 1) * size]
            if number:
                inputs = self.outputs[:, (number - 1) * size : number * size]
                if not isinstance(layer, GRULayer):
                    inputs = self.outputs[:, (number - 1) * size : (number + 1) * size]
                np.dot(inputs, self.weights[number], out=z)
                z += self.biases[number]
            elif isinstance(layer, GRULayer):
                z[:] = rows
            else:
                np.dot(output, self.weights[0], out=z)
                z += rows
            layer.step(z, output, self.states[number])
        logits = self.engine.logits_of(output)
        if self.engine.gates is not None:
            add_gates(logits, self.engine, output, fields)
        return logits


def add_gates(logits: Array, engine: NumpyEngine, outputs: Array, fields: Ids) -> None:
    """Add to the logits of the events that lags looked up what the gates of the lags say.

    Args:
        logits: (lane, live) float32, changed in place.
        engine: with gates.
        outputs: (lane, hidden) float32 of the last layer.
        fields: (lane, field) int64, the score contexts.
    """
    assert engine.gates is not None
    gates = outputs @ engine.gates.T + engine.gate_bias
    for lag, index in enumerate(engine.lag_indices):
        columns = engine.columns[fields[:, index]]
        lanes = np.flatnonzero(columns >= 0)
        logits[lanes, columns[lanes]] += gates[lanes, lag]


def _scale_rows(cell: Cell, rows: Array) -> Array:
    return LSTMLayer.scale(rows) if isinstance(cell, LSTM) else rows


def _pack_weights(cell: Any, *, first: bool) -> Array:
    """Return what a layer's step multiplies by, (inputs, rows): W, U, or both."""
    parts = [] if first else [cell.inputs]
    if not isinstance(cell, GRU):
        parts.append(cell.recurrent)
    packed = _scale_rows(cell, np.concatenate(parts, axis=1)) if parts else cell.inputs
    return np.ascontiguousarray(packed.T)


DEFAULT_LANES: Final = 64
TOLERANCE: Final = 1e-4  # of a logit; those of `folk` are off by a tenth of it at most
CHECK_INTERVAL: Final = 64  # one in so many tunes is checked against the one-tune engine
_PER_LANE: Final = ("numbers", "steps", "ids", "last", "inner", "outer", "border", "tones", "bar",
                    "keys", "has_lineup")  # fmt: skip
_INITIAL_CAPACITY: Final = 256  # ids that a lane has room for at first

NumberedIds = tuple[int, list[int]]  # the number of a tune and its ids, from the begin event on


class _UnstableRounding(Exception):
    """Rounding grows in this model."""


@dataclass
class BatchSampler:
    """Samples tunes by number, side by side in lanes."""

    sampler: CompiledSampler
    begin: Callable[[int], HeaderState]  # by a tune's number
    make_engine: Callable[[int], BatchEngine]
    temperature: float
    is_exact: bool = True  # with the bytes of the one-tune engine
    width: int = DEFAULT_LANES
    min_p: float | None = None

    def draw(self, numbers: Iterable[int]) -> Iterator[NumberedIds]:
        """Yield the tunes of some numbers as they are finished."""
        waiting = iter(numbers)
        if first := list(islice(waiting, self.width)):
            side_by_side = _LaneBatch(self, first, waiting)
            try:
                yield from side_by_side.draw_tunes()
            except _UnstableRounding:
                left = [number for number in side_by_side.numbers.tolist() if number >= 0]
                for number in (*left, *waiting):
                    yield number, self.sampler.finish(self.begin(number))


@dataclass
class _LaneBatch:
    """Lanes, and the position of each in its tune."""

    batch_sampler: BatchSampler
    first: list[int]
    waiting: Iterator[int]
    engine: BatchEngine = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.first)
        self.sampler, self.grammar = self.batch_sampler.sampler, self.batch_sampler.sampler.grammar
        self.engine = self.batch_sampler.make_engine(count)
        self.numbers: Ids = np.array(self.first)
        self.headers = [self.batch_sampler.begin(number) for number in self.first]
        self.steps: Ids = np.zeros(count, np.int64)  # ids since `begun`
        self.ids: Ids = np.zeros((count, _INITIAL_CAPACITY), np.int64)  # those
        self.last: Ids = np.zeros(count, np.int64)
        self.inner, self.outer, self.border, self.tones, self.bar = np.zeros((5, count), np.int64)
        self.keys: Keys = np.zeros(count, np.uint64)
        self.has_lineup: BoolArray = np.zeros(count, bool)
        self.finished_count = 0
        self.tolerance = 2 * TOLERANCE / self.batch_sampler.temperature
        for lane, begun in enumerate(self.headers):
            self._start_lane(lane, begun)

    def _start_lane(self, lane: int, header: HeaderState) -> None:
        """Let a lane go on from where a tune has begun."""
        place = header.place
        self.headers[lane], self.steps[lane], self.last[lane] = header, 0, header.ids[-1]
        self.inner[lane], self.outer[lane] = place.inner, place.outer
        self.border[lane], self.tones[lane] = place.border, place.tones
        self.bar[lane] = place.bar
        self.keys[lane] = header.key
        self.has_lineup[lane] = self.sampler.has_lineup(place.inner)
        self.engine.set_state(lane, header.state)

    def draw_tunes(self) -> Iterator[NumberedIds]:
        """Step until there is nothing left to draw; yield what is finished."""
        while len(self.numbers):
            logits = self.engine.step(self.last)
            columns = self._draw_columns(logits)
            self._advance(columns)
            over = np.flatnonzero(self.grammar.inner["is_done"][self.inner])
            if len(over):
                yield from self._finish_lanes(over, logits)

    # Drawing

    def _draw_columns(self, logits: npt.NDArray[np.float32]) -> Ids:
        """Return the column that is drawn in each lane."""
        automaton = self.grammar
        masks = automaton.inner["mask"][self.inner]
        masks |= automaton.borders["mask"][self.border]
        masks |= automaton.tones["mask"][self.tones]
        flat = np.flatnonzero(masks)
        lane, column = np.divmod(flat, masks.shape[1])
        logs = np.full(masks.shape, -np.inf)
        logs.ravel()[flat] = logits.ravel()[flat].astype(np.float64)
        self._keep_border_weight(logs, logits)
        logs /= self.batch_sampler.temperature
        margins = self._cut_unlikely(logs)
        scores = np.full(masks.shape, -np.inf)
        scores.ravel()[flat] = gumbel_noise(
            self._compute_noise_keys()[lane], self.sampler.hashes[column]
        )
        scores += logs
        every = np.arange(len(scores))
        best: Ids = scores.argmax(axis=1)
        if self.batch_sampler.is_exact:
            first = scores[every, best]
            scores[every, best] = -np.inf
            near = first - scores.max(axis=1) < self.tolerance
            near |= margins[every, best] < self.tolerance
            for unsure in np.flatnonzero(near).tolist():
                best[unsure] = self._decide_exactly(unsure, logits[unsure])
        return best

    def _keep_border_weight(self, logs: Floats, logits: npt.NDArray[np.float32]) -> None:
        """Add `border_gain` to the borders that are legal in each lane.

        Args:
            logs: (lane, live) float64 logits, -inf for what is not legal, changed in place.
            logits: (lane, live) float32 of all.
        """
        lanes = np.flatnonzero((self.border > 0) & self.has_lineup)
        if not len(lanes):
            return
        places = lanes[:, None], self.sampler.borders
        legal = logs[places]
        joined = np.logaddexp.reduce(logits[places].astype(np.float64), axis=1)
        logs[places] = legal + (joined - np.logaddexp.reduce(legal, axis=1))[:, None]

    def _cut_unlikely(self, logs: Floats) -> Floats:
        """Apply min-p: the ids that are clearly too unlikely become -inf.

        Args:
            logs: (lane, live) float64, log-probabilities up to a constant, changed in place.

        Returns:
            (lane, live) float64, how far each id is above the limit; inf without a limit.
        """
        if not self.batch_sampler.min_p:
            return np.broadcast_to(np.inf, logs.shape)
        limits = logs.max(axis=1) + np.log(self.batch_sampler.min_p)
        margins: Floats = logs - limits[:, None]
        logs[margins < (-self.tolerance if self.batch_sampler.is_exact else 0)] = -np.inf
        return margins

    def _compute_noise_keys(self) -> Keys:
        """Return the key of the noise at each lane's position."""
        automaton = self.grammar
        between = automaton.inner["is_between_bars"][self.inner]
        spots = np.where(between, automaton.borders["position_id"][self.border],
                         automaton.inner["position_id"][self.inner])  # fmt: skip
        return hash_combine_arrays(
            hash_combine_arrays(self.keys, self.bar.astype(np.uint64)), spots
        )

    def _decide_exactly(self, lane: int, logits: npt.NDArray[np.float32]) -> int:
        """Return what the one-tune engine draws in a lane, which goes on from its state."""
        exact = self._recompute_logits(lane, logits)
        position = self._get_place(lane)
        legal = self.sampler.legal_columns(position)
        return self.sampler.decide(exact, legal, self.headers[lane].key, position)

    def _recompute_logits(self, lane: int, logits: npt.NDArray[np.float32]) -> Floats:
        """Return the one-tune engine's logits in a lane; raise where the lane's are too far off."""
        ids = self.ids[lane, : self.steps[lane]].tolist()
        exact = self.sampler.replay(self.headers[lane], ids)
        if not np.abs(exact - logits).max() <= TOLERANCE / 2:
            raise _UnstableRounding
        return exact

    def _get_place(self, lane: int) -> GrammarPosition:
        parts = self.inner, self.outer, self.border, self.tones, self.bar
        return GrammarPosition(*(int(part[lane]) for part in parts))

    # Going on

    def _advance(self, columns: Ids) -> None:
        """Write the drawn ids down, and find where they lead."""
        automaton, before = self.grammar, self.inner
        self.last = automaton.allowed_ids[columns]
        if self.steps.max() == self.ids.shape[1]:
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)], axis=1)
        self.ids[np.arange(len(self.steps)), self.steps] = self.last
        self.steps += 1
        self.tones = np.where(
            automaton.is_level[columns],
            automaton.tones["after_level"][self.tones],
            automaton.tones_after["tones"][automaton.inner["rules"][before], columns],
        )
        self.inner = automaton.inner["next"][before, columns].astype(np.int64)
        for lane in np.flatnonzero(self.inner < 0).tolist():
            inner, outer, bars = automaton.step(
                int(before[lane]), int(self.outer[lane]), int(self.border[lane]), int(columns[lane])
            )
            self.inner[lane], self.outer[lane] = inner, outer
            self.bar[lane] += bars
        self.border[:] = 0
        for lane in np.flatnonzero(automaton.inner["can_leave_bar"][self.inner]).tolist():
            self.border[lane] = automaton.find_border(int(self.inner[lane]), int(self.outer[lane]))

    def _finish_lanes(
        self, finished_lanes: Ids, logits: npt.NDArray[np.float32]
    ) -> Iterator[NumberedIds]:
        """Yield the tunes that are done, and give their lanes to those that wait."""
        finished = []
        self._check_rounding(finished_lanes, logits)
        for lane in finished_lanes.tolist():
            ids = self.ids[lane, : self.steps[lane]].tolist()
            finished.append((int(self.numbers[lane]), [*self.headers[lane].ids, *ids]))
            self.numbers[lane] = next(self.waiting, -1)
            if self.numbers[lane] >= 0:
                self._start_lane(lane, self.batch_sampler.begin(int(self.numbers[lane])))
        if len(remaining := np.flatnonzero(self.numbers >= 0)) < len(self.numbers):
            self._keep_lanes(remaining)
        yield from finished

    def _check_rounding(self, finished_lanes: Ids, logits: npt.NDArray[np.float32]) -> None:
        """Go over one in so many of the tunes that are done, the first of all among them."""
        for lane in finished_lanes.tolist():
            if self.batch_sampler.is_exact and self.finished_count % CHECK_INTERVAL == 0:
                self.steps[lane] -= 1  # the end was not fed
                self._recompute_logits(lane, logits[lane])
                self.steps[lane] += 1
            self.finished_count += 1

    def _keep_lanes(self, lanes: Ids) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        self.engine.select_lanes(lanes)
        self.headers = [self.headers[lane] for lane in lanes.tolist()]
        for name in _PER_LANE:
            setattr(self, name, getattr(self, name)[lanes])


def generate_tunes(
    sampler: Sampler,
    request: GenerationRequest,
    numbers: Iterable[int],
    make_engine: Callable[[NumpyEngine, int], BatchEngine] | None = None,
    width: int = DEFAULT_LANES,
) -> Iterator[tuple[int, Generated]]:
    """Generate some tunes of a request by number, and yield each once it is finished.

    Without lanes of another engine each has the bytes that it has alone. What is given or left out
    along the way, and the filters other than min-p, are for one tune at a time.
    """
    waiting = iter(numbers)
    for number in waiting:
        if not _is_batchable(sampler, request, number):
            yield number, generate_tune(sampler, replace(request, number=number))
            continue
        compiled, drafts = (
            sampler.get_compiled_sampler(request.options),
            _PendingTunes(sampler, request),
        )
        lanes = partial(
            make_engine or NumpyBatchEngine, cast(NumpyEngine, compiled.restricted_engine)
        )
        stream = BatchSampler(
            compiled,
            drafts.begin,
            lanes,
            request.options.temperature,
            make_engine is None,
            width,
            request.options.min_p,
        )
        for done, ids in stream.draw(chain((number,), waiting)):
            yield done, drafts.finish_tune(done, ids)


def _is_batchable(sampler: Sampler, request: GenerationRequest, number: int) -> bool:
    """Return whether a request leaves all ids after the header to unconstrained sampling."""
    options = request.options
    if (
        request.keep
        or request.given
        or request.primer
        or options.top_k is not None
        or options.top_p is not None
    ):
        return False
    legal = isinstance(sampler.engine, NumpyEngine)
    noise = Noise(request.seed, number)
    return (
        legal
        and sampler.start_tune(request.options, noise, get_pinned_start(request)).is_unconstrained
    )


@dataclass
class _PendingTunes:
    """The headers of the tunes that are under way."""

    sampler: Sampler
    order: GenerationRequest
    states: dict[int, GenerationState] = field(default_factory=dict)

    def begin(self, number: int) -> HeaderState:
        """Draw the header of a tune."""
        noise, start = Noise(self.order.seed, number), get_pinned_start(self.order)
        generation = self.sampler.start_tune(self.order.options, noise, start)
        self.states[number] = generation
        return self.sampler.get_compiled_sampler(self.order.options).capture_header(generation)

    def finish_tune(self, number: int, ids: list[int]) -> Generated:
        """Return a tune that is whole."""
        generation = self.states.pop(number)
        generation.ids = ids
        options, start = self.order.options, get_pinned_start(self.order)
        return Generated(self.sampler.finish_tune(generation, options, start))
