"""The report of a comparison: its findings as sentences, and one HTML page with table and figures.

Each sentence states what was measured. Two models are compared on the same tunes: the interval is
of their difference (a paired bootstrap over tunes), which is narrower than two separate intervals.
The page has no script and loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

from musicgen.compare import comparison_plots
from musicgen.compare.baselines import FREE, LARGE, NGRAM, SMALL
from musicgen.compare.comparison import GATED, Comparison, Result, interval, is_number
from musicgen.compare.diagnostics import Fade, HalfLives
from musicgen.training import plots
from musicgen.training.heldout_loss import Held

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


STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #5c5c66; --paper: #fdfdfb;
  --line: #d9d9d2; --card: #ffffff; --best: #e8f1e4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e7ea; --soft: #a3a3ad; --paper: #17171a; --line: #3a3a41; --card: #1f1f23;
    --best: #26331f }
  figure svg { filter: invert(0.92) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 54rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.6rem 0 }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem }
p { margin: 0.5rem 0 }
.soft, caption, footer { color: var(--soft); font-size: 0.9rem }
.wide, figure { border: 1px solid var(--line); border-radius: 8px; background: var(--card) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem }
th, td { padding: 0.4rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card) }
tr.best td { background: var(--best) }
tr:last-child td { border-bottom: 0 }
td small { color: var(--soft) }
figure { margin: 0.8rem 0; padding: 0.4rem; overflow-x: auto }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 0.8rem }
code { font-size: 0.92em }
""".strip()

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'">
<title>The ladder, measured</title>
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def ladder_page(comparison: Comparison, *, command: str = "musicgen compare") -> str:
    """Render a finished comparison."""
    words = Words(comparison)
    body = [
        *_head(comparison),
        *_table(comparison, words),
        *_pictures(comparison, words),
        *_foot(comparison, command),
    ]
    return PAGE.format(style=STYLE, body="\n".join(body))


def _head(comparison: Comparison) -> Iterator[str]:
    parts = comparison.dataset
    sources = escape(", ".join(parts.sources) or "a corpus without a name")
    given = (
        f"{comparison.options.tokens:,} ids for each"
        if comparison.options.tokens
        else f"{comparison.options.minutes:g} minutes of learning in all, shared out evenly"
    )
    yield "<h1>The ladder, measured</h1>"
    yield _paragraph(
        "A fixed window forgets, a bag of words loses order, a large window shares nothing between"
        " its places; a recurrent cell does, its gradients vanish or explode, and clipping and"
        " gates mend that. Here each of these learns the same tunes and is asked for what comes"
        " next."
    )
    yield (
        f'<p class="soft">{sources}: {len(parts.train):,} tunes to learn from,'
        f" {len(parts.valid):,} held out, {len(parts.test):,} for the test, read once;"
        f" {escape(given)}; about {comparison.options.parameters:,} weights a network.</p>"
    )


def _table(comparison: Comparison, words: Words) -> Iterator[str]:
    unit = escape(comparison.unit)
    first = min(words.clipped(), key=in_order)
    yield "<h2>Rung by rung</h2>"
    yield '<div class="wide"><table>'
    yield (
        "<thead><tr><th>rung</th><th>parameters</th><th>tokens a second</th><th>learnt from</th>"
        f"<th>bits a {unit}, held out</th><th>bits a {unit}, test</th><th>nats a token</th></tr>"
        "</thead><tbody>"
    )
    for result in comparison.results:
        yield _row(result, is_best=result is first)
    yield "</tbody></table></div>"
    yield _paragraph(
        "In brackets the 95 % interval over tunes. A tune counts whole, from its header to its end."
        f" The {NGRAM}'s parameters are the grams that it keeps.",
        "soft",
    )
    yield from _section("", [ladder(comparison)], words.ladder())


def _row(result: Result, *, is_best: bool) -> str:
    cells = [
        f'<td title="{escape(result.title)}">{escape(result.name)}</td>',
        f"<td>{result.parameters:,}</td>",
        f"<td>{result.rate:,.0f}</td>",
        f"<td>{result.tokens:,}{'; broke down' if result.fault else ''}</td>",
        f"<td>{_bits(result.valid)}</td>",
        f"<td>{_bits(result.test)}</td>",
        f"<td>{bits(judged(result).loss)}</td>",
    ]
    return f"<tr{_kind('best' if is_best else '')}>{''.join(cells)}</tr>"


def _bits(held: Held | None) -> str:
    if held is None:
        return "none"
    low, high = interval(held)
    return f"{bits(held.bits_per_note)} <small>[{bits(low, 2)}, {bits(high, 2)}]</small>"


def _pictures(comparison: Comparison, words: Words) -> Iterator[str]:
    yield from _section("Learning", learning(comparison), words.curves())
    if any(result.cell for result in comparison.results):
        yield from _section("How far back an error is felt", [fading(comparison)], words.fading())
        yield from _section("Clipping", [clipping(comparison)], words.clipping())
    if memories := [result.memory for result in words.clipped() if result.memory]:
        yield from _section(
            "How long gates remember", [comparison_plots.half_lives(memories)], words.memories()
        )


def _section(title: str, drawn: Iterable[plots.Picture], sentences: Iterable[str]) -> Iterator[str]:
    if title:
        yield f"<h2>{escape(title)}</h2>"
    for picture in drawn:
        yield f"<figure>{picture.svg()}</figure>"
    yield from map(_paragraph, filter(None, sentences))


def ladder(comparison: Comparison) -> plots.Picture:
    """Draw the score that counts of each rung; what has blown up is left out."""
    scored = [(result.name, judged(result)) for result in comparison.results]
    tunes = "test" if comparison.dataset.test else "held-out"
    return comparison_plots.bars(
        [
            comparison_plots.Bar(name, held.bits_per_note, *interval(held))
            for name, held in scored
            if held.bits_per_note < ABSURD
        ],
        title=f"The ladder, on {tunes} tunes",
        across=f"bits a {comparison.unit}, with 95 % intervals",
    )


def learning(comparison: Comparison) -> Iterator[plots.Picture]:
    """Draw the held-out loss by ids learnt from, and by seconds."""
    for axis, across in (("tokens", "ids learnt from"), ("seconds", "seconds of learning")):
        lines = [_line(result, axis) for result in Words(comparison).clipped()]
        ends = [x for line in lines for x in line.x]
        yield plots.loss_curves(
            [line if len(line.x) > 1 else _level(line, ends) for line in lines],
            title=f"Loss on held-out tunes, by {across}",
            across=across,
        )


def _line(result: Result, axis: str) -> plots.Line:
    scored = result.scored
    if result.name == NGRAM:  # the best of its lengths
        scored = scored[result.width - 1 : result.width]
    x = [float(getattr(point, axis)) for point, _ in scored]
    return plots.Line(result.name, x, [held.loss for _, held in scored])


def _level(line: plots.Line, ends: list[float]) -> plots.Line:
    """Draw a single score as a level line, so that curves can be seen to cross it."""
    return plots.Line(line.name, [min(ends), max(ends)], [*line.y] * 2)


def fading(comparison: Comparison) -> plots.Picture:
    """Draw the gradients by distance, before and after training, clipped and not."""
    panels = {
        "before training": [result.fresh for result in comparison.results],
        "after training": [result.fade for result in comparison.results if result.clip],
        "after training, unclipped": [
            result.fade for result in comparison.results if not result.clip
        ],
    }
    return comparison_plots.fading(
        {title: [fade for fade in fades if fade] for title, fades in panels.items()}
    )


def clipping(comparison: Comparison) -> plots.Picture:
    """Draw the norms of each cell's gradients, with clipping and without."""
    return comparison_plots.norms(comparison.clipping())


def _foot(comparison: Comparison, command: str) -> Iterator[str]:
    yield "<footer>"
    yield f"<p>Made by <code>{escape(command)}</code>.</p>"
    learnt = ", ".join(f"{name} {tokens:,}" for name, tokens in comparison.budgets.items())
    yield (
        f"<p>Ids planned for each: {escape(learnt)}. Seed {comparison.options.seed}, device"
        f" {escape(str(comparison.device))}, corpus"
        f" <code>{comparison.dataset.fingerprint[:16]}</code>.</p>"
    )
    yield "</footer>"


def _paragraph(text: str, kind: str = "") -> str:
    return f"<p{_kind(kind)}>{escape(text)}</p>"


def _kind(name: str) -> str:
    return f' class="{name}"' if name else ""
