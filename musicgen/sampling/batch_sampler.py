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
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from musicgen.sampling.compiled_sampler import Begun, Course
from musicgen.sampling.engine import GRU, LSTM, RNN, Cell, NumpyEngine, sigmoid
from musicgen.sampling.generate import Written, held_on_to, write
from musicgen.sampling.generation_state import Draft
from musicgen.sampling.noise import Floats, Ids, Keys, Noise, chains, gumbels
from musicgen.sampling.recipe import Order
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.compiled_grammar import Place

Array = np.ndarray


class Lanes(Protocol):
    """An engine over lanes: tunes that stand at different places, each with its own state."""

    def put(self, lane: int, state: Array) -> None:
        """Set a lane to a state of the one-tune engine, (layer, part, hidden)."""

    def step(self, ids: Ids) -> Array:
        """Feed an id to each lane; return its logits (lane, live)."""

    def keep(self, kept: Ids) -> None:
        """Go on with some of the lanes."""


class Layer(Protocol):
    """One layer over lanes."""

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h and c by the next.

        Args:
            projected: (lane, rows), all of W x + b and, but for a GRU, U h; it is used up.
            own: (lane, hidden), a view: h.
            state: (lane, hidden): c, or a GRU's scratch.
        """


class LSTMLayer:
    """Gates i, f, g, o as half-angle tanh."""

    def __init__(self, cell: LSTM) -> None:
        self.hidden = cell.hidden

    @staticmethod
    def scale(rows: Array) -> Array:
        """Halve the rows of the gates that are sigmoids."""
        scaled, size = rows.copy(), len(rows) // 4
        scaled[: 2 * size] *= 0.5
        scaled[3 * size :] *= 0.5
        return scaled

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h and c by the next."""
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
        np.tanh(state, out=own)
        own *= o
        own *= 0.5


class GRULayer:
    """Its own part of n stands inside the reset gate, and takes a product of its own."""

    def __init__(self, cell: GRU) -> None:
        self.hidden, self.bias = cell.hidden, cell.own_bias
        self.recurrent = np.ascontiguousarray(cell.recurrent.T)

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h by the next."""
        del state
        size, z = self.hidden, projected
        recurrent = own @ self.recurrent
        recurrent += self.bias
        gates, n = z[:, : 2 * size], z[:, 2 * size :]
        gates += recurrent[:, : 2 * size]
        sigmoid(gates)
        recurrent[:, 2 * size :] *= gates[:, :size]
        n += recurrent[:, 2 * size :]
        np.tanh(n, out=n)
        own -= n
        own *= gates[:, size:]
        own += n


class RNNLayer:
    """One product and its squashing."""

    def __init__(self, cell: RNN) -> None:
        self.relu = cell.relu

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h by the next."""
        del state
        if self.relu:
            np.maximum(projected, 0, out=own)
        else:
            np.tanh(projected, out=own)


def _layer(cell: Cell) -> Layer:
    if isinstance(cell, LSTM):
        return LSTMLayer(cell)
    if isinstance(cell, GRU):
        return GRULayer(cell)
    assert isinstance(cell, RNN)
    return RNNLayer(cell)


class NumpyLanes:
    """A model over lanes; it answers for the ids of the engine that it was made from."""

    def __init__(self, engine: NumpyEngine, lanes: int) -> None:
        self.engine = engine
        self.hidden = engine.settings.hidden
        kind = engine.head_bias.dtype
        self.layers = [_layer(cell) for cell in engine.cells]
        self.weights = [_packed(cell, first=not n) for n, cell in enumerate(engine.cells)]
        self.biases = [_scaled(cell, cell.bias) for cell in engine.cells]
        self.outputs: Array = np.zeros((lanes, self.hidden * len(self.layers)), kind)  # each h
        self.states: Array = np.zeros((len(self.layers), lanes, self.hidden), kind)  # each c
        self.table: Array = _scaled(engine.cells[0], engine.whole_table.T).T.copy()
        self.scratch = [np.empty((lanes, len(bias)), kind) for bias in self.biases]

    def put(self, lane: int, state: Array) -> None:
        """Set a lane to a state of the one-tune engine, (layer, part, hidden)."""
        self.outputs[lane] = state[:, 0].ravel()
        if state.shape[1] > 1:
            self.states[:, lane] = state[:, 1]

    def keep(self, kept: Ids) -> None:
        """Go on with some of the lanes."""
        self.outputs, self.states = self.outputs[kept], self.states[:, kept]
        self.scratch = [scratch[: len(kept)] for scratch in self.scratch]

    def step(self, ids: Ids) -> Array:
        """Feed an id to each lane; return its logits (lane, live)."""
        size = self.hidden
        for number, layer in enumerate(self.layers):
            z, own = self.scratch[number], self.outputs[:, number * size : (number + 1) * size]
            if number:
                read = self.outputs[:, (number - 1) * size : number * size]
                if not isinstance(layer, GRULayer):
                    read = self.outputs[:, (number - 1) * size : (number + 1) * size]
                np.dot(read, self.weights[number], out=z)
                z += self.biases[number]
            elif isinstance(layer, GRULayer):
                np.take(self.table, ids, axis=0, out=z)
            else:
                np.dot(own, self.weights[0], out=z)
                z += self.table[ids]
            layer.step(z, own, self.states[number])
        return self.engine.logits_of(own)


def _scaled(cell: Cell, rows: Array) -> Array:
    return LSTMLayer.scale(rows) if isinstance(cell, LSTM) else rows


def _packed(cell: Any, *, first: bool) -> Array:
    """Return what a layer's step multiplies by, (inputs, rows): W, U, or both."""
    parts = [] if first else [cell.inputs]
    if not isinstance(cell, GRU):
        parts.append(cell.recurrent)
    found = _scaled(cell, np.concatenate(parts, axis=1)) if parts else cell.inputs
    return np.ascontiguousarray(found.T)


LANES: Final = 64
TOLERANCE: Final = 1e-4  # of a logit; those of `folk` are off by a tenth of it at most
CHECKED: Final = 64  # one in so many tunes is gone over by the one-tune engine
_PER_LANE: Final = ("numbers", "steps", "ids", "last", "inner", "outer", "border", "tones", "bar",
                    "keys")  # fmt: skip
_ROOM: Final = 256  # ids that a lane has room for at first

Drawn = tuple[int, list[int]]  # the number of a tune and its ids, from the begin event on


class _Unstable(Exception):
    """Rounding grows in this model."""


@dataclass
class Stream:
    """Draws tunes as they are asked for, by number."""

    course: Course
    begin: Callable[[int], Begun]  # by a tune's number
    make_lanes: Callable[[int], Lanes]
    temperature: float
    exact: bool = True  # with the bytes of the one-tune engine
    width: int = LANES

    def draw(self, numbers: Iterable[int]) -> Iterator[Drawn]:
        """Yield the tunes of some numbers as they are finished."""
        waiting = iter(numbers)
        if first := list(islice(waiting, self.width)):
            side_by_side = _SideBySide(self, first, waiting)
            try:
                yield from side_by_side.finished()
            except _Unstable:
                left = [number for number in side_by_side.numbers.tolist() if number >= 0]
                for number in (*left, *waiting):
                    yield number, self.course.finish(self.begin(number))


@dataclass
class _SideBySide:
    """Lanes and where each of them stands."""

    stream: Stream
    first: list[int]
    waiting: Iterator[int]
    lanes: Lanes = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.first)
        self.course, self.automaton = self.stream.course, self.stream.course.automaton
        self.lanes = self.stream.make_lanes(count)
        self.numbers: Ids = np.array(self.first)
        self.begun = [self.stream.begin(number) for number in self.first]
        self.steps: Ids = np.zeros(count, np.int64)  # ids since `begun`
        self.ids: Ids = np.zeros((count, _ROOM), np.int64)  # those
        self.last: Ids = np.zeros(count, np.int64)
        self.inner, self.outer, self.border, self.tones, self.bar = np.zeros((5, count), np.int64)
        self.keys: Keys = np.zeros(count, np.uint64)
        self.done = 0
        self.tolerance = 2 * TOLERANCE / self.stream.temperature
        for lane, begun in enumerate(self.begun):
            self._put(lane, begun)

    def _put(self, lane: int, begun: Begun) -> None:
        """Let a lane go on from where a tune has begun."""
        place = begun.place
        self.begun[lane], self.steps[lane], self.last[lane] = begun, 0, begun.ids[-1]
        self.inner[lane], self.outer[lane] = place.inner, place.outer
        self.border[lane], self.tones[lane] = place.border, place.tones
        self.bar[lane] = place.bar
        self.keys[lane] = begun.key
        self.lanes.put(lane, begun.state)

    def finished(self) -> Iterator[Drawn]:
        """Step until there is nothing left to draw; yield what is finished."""
        while len(self.numbers):
            logits = self.lanes.step(self.last)
            columns = self._drawn(logits)
            self._follow(columns)
            over = np.flatnonzero(self.automaton.flags.array[self.inner, 2])
            if len(over):
                yield from self._taken(over, logits)

    # Drawing

    def _drawn(self, logits: npt.NDArray[np.float32]) -> Ids:
        """Return the column that is drawn in each lane."""
        automaton = self.automaton
        masks = automaton.masks.array[self.inner]
        masks |= automaton.border_masks.array[self.border]
        masks |= automaton.tones.array[self.tones]
        flat = np.flatnonzero(masks)
        lane, column = np.divmod(flat, masks.shape[1])
        luck = gumbels(self._places()[lane], self.course.hashes[column])
        luck += logits.ravel()[flat].astype(np.float64) / self.stream.temperature
        scores = np.full(masks.shape, -np.inf)
        scores.ravel()[flat] = luck
        every = np.arange(len(scores))
        best: Ids = scores.argmax(axis=1)
        if self.stream.exact:
            first = scores[every, best]
            scores[every, best] = -np.inf
            near = first - scores.max(axis=1) < self.tolerance
            for unsure in np.flatnonzero(near).tolist():
                best[unsure] = self._settled(unsure, logits[unsure])
        return best

    def _places(self) -> Keys:
        """Return the key of the noise at each lane's place."""
        automaton = self.automaton
        between = automaton.flags.array[self.inner, 1]
        spots = np.where(between, automaton.border_spots.array[self.border, 0],
                         automaton.spots.array[self.inner, 0])  # fmt: skip
        return chains(chains(self.keys, self.bar.astype(np.uint64)), spots)

    def _settled(self, lane: int, logits: npt.NDArray[np.float32]) -> int:
        """Return what the one-tune engine draws in a lane, which goes on from its state."""
        exact = self._gone_over(lane, logits)
        place = self._place(lane)
        columns, hashes = self.course.legal(place)
        return self.course.decide(exact, columns, hashes, self.begun[lane].key, place)

    def _gone_over(self, lane: int, logits: npt.NDArray[np.float32]) -> Floats:
        """Return the one-tune engine's logits in a lane; raise where the lane's are too far off."""
        ids = self.ids[lane, : self.steps[lane]].tolist()
        exact = self.course.replay(self.begun[lane], ids)
        if not np.abs(exact - logits).max() <= TOLERANCE / 2:
            raise _Unstable
        return exact

    def _place(self, lane: int) -> Place:
        parts = self.inner, self.outer, self.border, self.tones, self.bar
        return Place(*(int(part[lane]) for part in parts))

    # Going on

    def _follow(self, columns: Ids) -> None:
        """Write the drawn ids down, and find where they lead."""
        automaton, before = self.automaton, self.inner
        self.last = automaton.live[columns]
        if self.steps.max() == self.ids.shape[1]:
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)], axis=1)
        self.ids[np.arange(len(self.steps)), self.steps] = self.last
        self.steps += 1
        self.tones = automaton.tones_after.array[automaton.rules_of.array[before, 0], columns]
        self.inner = automaton.next.array[before, columns].astype(np.int64)
        for lane in np.flatnonzero(self.inner < 0).tolist():
            inner, outer, bars = automaton.step(
                int(before[lane]), int(self.outer[lane]), int(self.border[lane]), int(columns[lane])
            )
            self.inner[lane], self.outer[lane] = inner, outer
            self.bar[lane] += bars
        self.border[:] = 0
        for lane in np.flatnonzero(automaton.flags.array[self.inner, 0]).tolist():
            self.border[lane] = automaton.border(int(self.inner[lane]), int(self.outer[lane]))

    def _taken(self, over: Ids, logits: npt.NDArray[np.float32]) -> Iterator[Drawn]:
        """Yield the tunes that are done, and give their lanes to those that wait."""
        found = []
        self._check(over, logits)
        for lane in over.tolist():
            ids = self.ids[lane, : self.steps[lane]].tolist()
            found.append((int(self.numbers[lane]), [*self.begun[lane].ids, *ids]))
            self.numbers[lane] = next(self.waiting, -1)
            if self.numbers[lane] >= 0:
                self._put(lane, self.stream.begin(int(self.numbers[lane])))
        if len(kept := np.flatnonzero(self.numbers >= 0)) < len(self.numbers):
            self._keep(kept)
        yield from found

    def _check(self, over: Ids, logits: npt.NDArray[np.float32]) -> None:
        """Go over one in so many of the tunes that are done, the first of all among them."""
        for lane in over.tolist():
            if self.stream.exact and self.done % CHECKED == 0:
                self.steps[lane] -= 1  # the end was not fed
                self._gone_over(lane, logits[lane])
                self.steps[lane] += 1
            self.done += 1

    def _keep(self, kept: Ids) -> None:
        """Go on with some of the lanes."""
        self.lanes.keep(kept)
        self.begun = [self.begun[lane] for lane in kept.tolist()]
        for name in _PER_LANE:
            setattr(self, name, getattr(self, name)[kept])


def write_many(
    sampler: Sampler,
    order: Order,
    numbers: Iterable[int],
    make_lanes: Callable[[NumpyEngine, int], Lanes] | None = None,
    width: int = LANES,
) -> Iterator[tuple[int, Written]]:
    """Carry an order out for some numbers of tunes, and yield them as they are finished.

    Without lanes of another engine each has the bytes that it has alone. What is given or left out
    along the way, and filters, are for one tune at a time.
    """
    waiting = iter(numbers)
    for number in waiting:
        if not _goes_in_lanes(sampler, order, number):
            yield number, write(sampler, replace(order, number=number))
            continue
        course, drafts = sampler.course(order.wishes), _Drafts(sampler, order)
        lanes = partial(make_lanes or NumpyLanes, cast(NumpyEngine, course.answers))
        stream = Stream(
            course, drafts.begin, lanes, order.wishes.temperature, make_lanes is None, width
        )
        for done, ids in stream.draw(chain((number,), waiting)):
            yield done, drafts.finished(done, ids)


def _goes_in_lanes(sampler: Sampler, order: Order, number: int) -> bool:
    """Tell whether all that follows the headers of an order's tunes is drawn, and drawn freely."""
    if order.keep or order.primer or len(order.wishes.filters) > 1:
        return False
    known = isinstance(sampler.engine, NumpyEngine)
    noise = Noise(order.seed, number)
    return known and sampler.begun(order.wishes, noise, held_on_to(order)).is_free


@dataclass
class _Drafts:
    """The headers of the tunes that are under way."""

    sampler: Sampler
    order: Order
    drafts: dict[int, Draft] = field(default_factory=dict)

    def begin(self, number: int) -> Begun:
        """Draw the header of a tune."""
        noise, start = Noise(self.order.seed, number), held_on_to(self.order)
        draft = self.sampler.begun(self.order.wishes, noise, start)
        self.drafts[number] = draft
        return self.sampler.course(self.order.wishes).begun(draft)

    def finished(self, number: int, ids: list[int]) -> Written:
        """Return a tune that is whole."""
        draft = self.drafts.pop(number)
        draft.ids = ids
        wishes, start = self.order.wishes, held_on_to(self.order)
        return Written(self.sampler.finished(draft, wishes, start))
