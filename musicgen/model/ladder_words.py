"""What a comparison says, in sentences: each states what was measured and nothing else.

Two rungs are told apart by the same tunes: the interval is of the difference, drawn over tunes
(a paired bootstrap), which is narrower than the two intervals side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from musicgen.model.compare import GATED, Comparison, Result, is_number
from musicgen.model.diagnostics import Fade, HalfLives
from musicgen.model.evaluation import Held
from musicgen.model.rungs import FREE, LARGE, NGRAM, SMALL

DRAWS: Final = 2000
LEFT: Final = 0.1  # of a gradient: where it is called faded
ABSURD: Final = 1000  # bits a note: what a network says that has blown up
GROWN: Final = 2  # times: where it is called grown
LONG_BARS: Final = 8  # a part of a dance tune


@dataclass(frozen=True, slots=True)
class Gap:
    """By how many bits a note one rung is above another, and the 95 % interval of that."""

    bits: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether the tunes tell the two apart."""
        return self.low > 0 or self.high < 0


def gap(one: Held, other: Held) -> Gap:
    """Measure how far a score lies above another on the same tunes."""
    chosen = np.random.default_rng(0).integers(0, len(one.nats), (DRAWS, len(one.nats)))
    bits = (one.nats - other.nats) / math.log(2)
    drawn = bits[chosen].sum(1) / np.maximum(1, one.notes[chosen].sum(1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Gap(one.bits_per_note - other.bits_per_note, float(low), float(high))


def bits(value: float, digits: int = 3) -> str:
    """Write bits so that a column of them can be read, absurd ones too."""
    if value >= ABSURD:
        return f"{value:.0e}"
    return f"{value:.{digits if value < 10 else digits - 1}f}"


def judged(result: Result) -> Held:
    """Return the score that counts: on the test tunes where there are any."""
    return result.test or result.valid


def in_order(result: Result) -> float:
    """Return what rungs are ordered by: bits a note; what is no number comes last."""
    held = judged(result)
    return held.bits_per_note if is_number(held) else math.inf


class Words:
    """The sentences under each picture of one comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.unit = comparison.unit
        self.by_name = {result.name: result for result in comparison.results}

    def versus(self, name: str, other: str) -> str:
        """Compare two rungs; empty where one of them is missing."""
        if name not in self.by_name or other not in self.by_name:
            return ""
        scores = [judged(self.by_name[each]) for each in (name, other)]
        if not all(map(is_number, scores)):
            blown = other if is_number(scores[0]) else name
            return f"{blown} has blown up: on some tune its bits are no number."
        found = gap(*scores)
        if not found.is_told:
            return f"{name} and {other} cannot be told apart on these tunes."
        way = "more" if found.bits > 0 else "fewer"
        low, high = sorted((abs(found.low), abs(found.high)))
        return (
            f"{name} needs {bits(abs(found.bits))} bits a {self.unit} {way} than {other}"
            f" (95 % interval {bits(low)} to {bits(high)})."
        )

    def ladder(self) -> Iterator[str]:
        """Say what the table shows, rung by rung."""
        small, large = f"window-{SMALL}", f"window-{LARGE}"
        order = sorted(self.clipped(), key=in_order)
        names = ", ".join(result.name for result in order)
        yield f"From the fewest bits a {self.unit} to the most: {names}."
        yield self.because(
            large, small, f"It sees {LARGE} ids instead of {SMALL}, with weights for each place:"
            " what it has learnt of a place it must learn again for the next."
        )  # fmt: skip
        yield self.because(
            "bag", small, f"It knows everything that has come, and the window only {SMALL} ids,"
            " but not what has just come: a bag has lost the order."
        )  # fmt: skip
        yield self.grams()
        yield self.because(
            "rnn", large, "One matrix serves all places, and its state may keep what a window drops"
            f"{self.unless_paid('rnn', large)}."
        )  # fmt: skip
        yield self.because(
            "lstm", "rnn", f"Its gates decide what is kept{self.unless_paid('lstm', 'rnn')}."
        )
        yield self.versus("lstm", NGRAM)

    def unless_paid(self, name: str, other: str) -> str:
        """Return what is added to a reason that would be expected to help, where it did not."""
        pair = [self.by_name[each] for each in (name, other) if each in self.by_name]
        if len(pair) < 2 or in_order(pair[0]) < in_order(pair[1]):
            return ""
        return ", which has not paid within this budget"

    def because(self, name: str, other: str, reason: str) -> str:
        """Compare two rungs, and say what the first of them has that the other has not."""
        told = self.versus(name, other)
        return f"{told} {reason}" if told else ""

    def grams(self) -> str:
        """Say which length of grams did best."""
        found = self.by_name[NGRAM]
        lengths = [
            f"{n}: {held.bits_per_note:.2f}" for n, (_, held) in enumerate(found.scored, start=1)
        ]
        return (
            f"Of the n-grams the one of {found.width} ids did best on the held-out tunes that are"
            f" scored along the way (bits a {self.unit} by length: {', '.join(lengths)})."
        )

    def clipped(self) -> list[Result]:
        """Return the rungs, without the runs that differ in clipping alone."""
        return [result for result in self.comparison.results if not result.name.endswith(FREE)]

    def curves(self) -> Iterator[str]:
        """Say who learns most from an id, and who from a second."""
        networks = [result for result in self.clipped() if result.name != NGRAM and result.tokens]
        ids = min(result.tokens for result in networks)
        seconds = min(result.seconds for result in networks)
        by_ids = min(networks, key=lambda result: loss_by(result, "tokens", ids))
        by_clock = min(networks, key=lambda result: loss_by(result, "seconds", seconds))
        yield (
            f"After {ids:,} ids, the most that every network has read, {by_ids.name} has the lowest"
            f" loss; after {seconds:,.0f} seconds, {by_clock.name}."
        )
        if by_ids.name != by_clock.name:
            yield "The two differ because a quick network reads more in the same time."
        yield (
            "The upper picture asks what a network makes of the same tunes, the lower what it makes"
            " of the same time; the n-gram counts each tune once and is a level line."
        )

    def fading(self) -> Iterator[str]:
        """Say how far back an error is felt in each cell."""
        yield (
            "Backpropagation through time multiplies a gradient by one more Jacobian for each id"
            " that it goes back: below one it vanishes, above one it explodes."
        )
        cells = [result for result in self.clipped() if result.cell]
        for when, fades in (
            ("Before training", [(result.name, result.fresh) for result in cells]),
            ("After training", [(result.name, result.fade) for result in cells]),
        ):
            told = [f"{name} {reach(fade)}" for name, fade in fades if fade is not None]
            if told:
                yield f"{when}: {'; '.join(told)}."
        yield self.flatter("lstm", "rnn")

    def flatter(self, name: str, other: str) -> str:
        """Compare what is left of the gradients of two cells far back."""
        pair = [self.by_name[cell].fade for cell in (name, other) if cell in self.by_name]
        if len(pair) < 2 or pair[0] is None or pair[1] is None:
            return ""
        furthest = int(min(fade.distances[-1] for fade in pair if fade is not None))
        left = [float(np.interp(furthest, fade.distances, fade.mean[-1])) for fade in pair if fade]
        verdict = (
            f"the curve of {name} is the flatter one, as the lecture says"
            if left[0] > left[1]
            else f"here the curve of {name} is not the flatter one"
        )
        return (
            f"{furthest} ids back, {name} has {share(left[0])} left and {other} has"
            f" {share(left[1])}: {verdict}."
        )

    def clipping(self) -> Iterator[str]:
        """Say what clipping does to each cell."""
        for cell, norms in self.comparison.clipping().items():
            cut = 100 * float(np.mean(norms.clipped > norms.clip)) if len(norms.clipped) else 0.0
            free = self.by_name[f"{cell}{FREE}"]
            told = f"{cell}: {cut:.0f} % of the updates were clipped; without clipping "
            if free.fault:
                yield f"{told}the training broke down after {free.tokens:,} ids."
                continue
            usual, most = float(np.median(norms.free)), float(np.max(norms.free))
            yield (
                f"{told}the norm is {usual:.2g} as a rule and {most:.2g} at the most."
                f" {self.versus(free.name, cell)}"
            )
        yield (
            "Clipping keeps a gradient's direction and bounds its length. It guards against the one"
            " step that undoes many; it gives nothing back of what has vanished. AdamW divides each"
            " gradient by its usual size, which hides much of what clipping does for plain descent."
        )

    def memories(self) -> Iterator[str]:
        """Say how long gated units remember."""
        yield (
            "A forget gate f keeps the share f of a unit at each id, so half of it is left after"
            " log(1/2) / log(f) ids: its half-life."
        )
        for result in self.clipped():
            if result.memory is not None and result.cell in GATED:
                yield f"{result.name}: {lifetimes(result.memory)}."


def reach(fade: Fade) -> str:
    """Say where a gradient has faded to a tenth, or grown."""
    mean, faded = fade.mean[-1], fade.reach(LEFT)
    grown = f", after growing to {mean.max():.2g} times" if mean.max() > GROWN else ""
    if faded is not None:
        return f"has a tenth left {faded} {'id' if faded == 1 else 'ids'} back{grown}"
    return f"has {share(float(mean[-1]))} left {int(fade.distances[-1])} ids back{grown}"


def share(value: float) -> str:
    """Write what is left of a gradient, from many times of it down to next to nothing."""
    if value >= 1:
        return f"{value:.2g} times of it"
    return f"{100 * value:.2g} % of it" if value >= 0.0001 else f"{value:.0e} of it"


def lifetimes(memory: HalfLives) -> str:
    """Say how long the units of the last layer remember."""
    in_bars = memory.ids_per_bar is not None
    values, unit = (memory.bars[-1], "bars") if in_bars else (memory.ids[-1], "ids")
    middle, longest = float(np.median(values)), float(np.max(values))
    told = f"half of the units forget half within {middle:.2g} {unit}; the longest takes"
    told += f" {longest:.2g} {unit}" if math.isfinite(longest) else " longer than any tune"
    if in_bars:
        told += f"; {100 * float(np.mean(values > LONG_BARS)):.0f} % take more than {LONG_BARS}"
    return told


def loss_by(result: Result, axis: str, value: float) -> float:
    """Read a loss off a curve."""
    points: Sequence[tuple[float, float]] = [
        (float(getattr(point, axis)), held.loss) for point, held in result.scored
    ]
    if not points:
        return math.inf
    x, y = zip(*points, strict=True)
    return float(np.interp(value, x, y))
