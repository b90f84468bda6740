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
from musicgen.compare.baselines import LARGE_WINDOW, NGRAM, SMALL_WINDOW, UNCLIPPED_SUFFIX
from musicgen.compare.comparison import (
    Comparison,
    ModelResult,
    confidence_interval,
    is_finite_score,
)
from musicgen.compare.diagnostics import GATED_CELLS, GradientDecay, HalfLives
from musicgen.training import plots
from musicgen.training.heldout_loss import HeldOutScore

BOOTSTRAP_SAMPLES: Final = 2000
DECAYED_SHARE: Final = 0.1  # of a gradient: where it is called faded
DIVERGED_BITS: Final = 1000  # bits a note: what a network says that has blown up
MIN_GROWTH_REPORTED: Final = 2  # times: where it is called grown
LONG_HALF_LIFE_BARS: Final = 8  # a part of a dance tune


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """By how many bits a note one rung is above another, and the 95 % interval of that."""

    bits: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the tunes tell the two apart."""
        return self.low > 0 or self.high < 0


def compute_paired_difference(one: HeldOutScore, other: HeldOutScore) -> PairedDifference:
    """Measure how far a score lies above another on the same tunes."""
    chosen = np.random.default_rng(0).integers(0, len(one.nats), (BOOTSTRAP_SAMPLES, len(one.nats)))
    bits = (one.nats - other.nats) / math.log(2)
    drawn = bits[chosen].sum(1) / np.maximum(1, one.notes[chosen].sum(1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return PairedDifference(one.bits_per_note - other.bits_per_note, float(low), float(high))


def format_bits(value: float, digits: int = 3) -> str:
    """Write bits so that a column of them can be read, absurd ones too."""
    if value >= DIVERGED_BITS:
        return f"{value:.0e}"
    return f"{value:.{digits if value < 10 else digits - 1}f}"


def select_score(result: ModelResult) -> HeldOutScore:
    """Return the score that counts: on the test tunes where there are any."""
    return result.test or result.valid


def ranking_key(result: ModelResult) -> float:
    """Return what rungs are ordered by: bits a note; what is no number comes last."""
    held = select_score(result)
    return held.bits_per_note if is_finite_score(held) else math.inf


class ReportText:
    """The sentences under each picture of one comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.unit = comparison.unit
        self.by_name = {result.name: result for result in comparison.results}

    def compare_pair(self, name: str, other: str) -> str:
        """Compare two rungs; empty where one of them is missing."""
        if name not in self.by_name or other not in self.by_name:
            return ""
        scores = [select_score(self.by_name[each]) for each in (name, other)]
        if not all(map(is_finite_score, scores)):
            blown = other if is_finite_score(scores[0]) else name
            return f"{blown} has blown up: on some tune its bits are no number."
        found = compute_paired_difference(*scores)
        if not found.is_significant:
            return f"{name} and {other} cannot be told apart on these tunes."
        way = "more" if found.bits > 0 else "fewer"
        low, high = sorted((abs(found.low), abs(found.high)))
        return (
            f"{name} needs {format_bits(abs(found.bits))} bits a {self.unit} {way} than {other}"
            f" (95 % interval {format_bits(low)} to {format_bits(high)})."
        )

    def describe_ranking(self) -> Iterator[str]:
        """Say what the table shows, rung by rung."""
        small, large = f"window-{SMALL_WINDOW}", f"window-{LARGE_WINDOW}"
        order = sorted(self.list_clipped_results(), key=ranking_key)
        names = ", ".join(result.name for result in order)
        yield f"From the fewest bits a {self.unit} to the most: {names}."
        yield self.compare_with_reason(
            large,
            small,
            f"It sees {LARGE_WINDOW} ids instead of {SMALL_WINDOW}, with weights for each place:"
            " what it has learnt of a place it must learn again for the next.",
        )
        yield self.compare_with_reason(
            "bag",
            small,
            f"It knows everything that has come, and the window only {SMALL_WINDOW} ids,"
            " but not what has just come: a bag has lost the order.",
        )
        yield self.describe_ngram_orders()
        yield self.compare_with_reason(
            "rnn", large, "One matrix serves all places, and its state may keep what a window drops"
            f"{self.describe_missing_gain('rnn', large)}."
        )  # fmt: skip
        yield self.compare_with_reason(
            "lstm",
            "rnn",
            f"Its gates decide what is kept{self.describe_missing_gain('lstm', 'rnn')}.",
        )
        yield self.compare_pair("lstm", NGRAM)

    def describe_missing_gain(self, name: str, other: str) -> str:
        """Return what is added to a reason that would be expected to help, where it did not."""
        pair = [self.by_name[each] for each in (name, other) if each in self.by_name]
        if len(pair) < 2 or ranking_key(pair[0]) < ranking_key(pair[1]):
            return ""
        return ", which has not paid within this budget"

    def compare_with_reason(self, name: str, other: str, reason: str) -> str:
        """Compare two rungs, and say what the first of them has that the other has not."""
        told = self.compare_pair(name, other)
        return f"{told} {reason}" if told else ""

    def describe_ngram_orders(self) -> str:
        """Say which length of grams did best."""
        found = self.by_name[NGRAM]
        lengths = [
            f"{n}: {held.bits_per_note:.2f}"
            for n, (_, held) in enumerate(found.scored_points, start=1)
        ]
        return (
            f"Of the n-grams the one of {found.width} ids did best on the held-out tunes that are"
            f" scored along the way (bits a {self.unit} by length: {', '.join(lengths)})."
        )

    def list_clipped_results(self) -> list[ModelResult]:
        """Return the rungs, without the runs that differ in clipping alone."""
        return [
            result
            for result in self.comparison.results
            if not result.name.endswith(UNCLIPPED_SUFFIX)
        ]

    def describe_learning_curves(self) -> Iterator[str]:
        """Say who learns most from an id, and who from a second."""
        networks = [
            result
            for result in self.list_clipped_results()
            if result.name != NGRAM and result.tokens
        ]
        ids = min(result.tokens for result in networks)
        seconds = min(result.seconds for result in networks)
        by_ids = min(networks, key=lambda result: interpolate_loss(result, "tokens", ids))
        by_clock = min(networks, key=lambda result: interpolate_loss(result, "seconds", seconds))
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

    def describe_gradient_decay(self) -> Iterator[str]:
        """Say how far back an error is felt in each cell."""
        yield (
            "Backpropagation through time multiplies a gradient by one more Jacobian for each id"
            " that it goes back: below one it vanishes, above one it explodes."
        )
        cells = [result for result in self.list_clipped_results() if result.cell]
        for when, fades in (
            ("Before training", [(result.name, result.decay_before_training) for result in cells]),
            ("After training", [(result.name, result.decay_after_training) for result in cells]),
        ):
            told = [f"{name} {describe_decay(fade)}" for name, fade in fades if fade is not None]
            if told:
                yield f"{when}: {'; '.join(told)}."
        yield self.compare_decay("lstm", "rnn")

    def compare_decay(self, name: str, other: str) -> str:
        """Compare what is left of the gradients of two cells far back."""
        pair = [
            self.by_name[cell].decay_after_training
            for cell in (name, other)
            if cell in self.by_name
        ]
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
            f"{furthest} ids back, {name} has {format_share(left[0])} left and {other} has"
            f" {format_share(left[1])}: {verdict}."
        )

    def describe_clipping(self) -> Iterator[str]:
        """Say what clipping does to each cell."""
        for cell, norms in self.comparison.pair_gradient_norms().items():
            cut = 100 * float(np.mean(norms.clipped > norms.clip)) if len(norms.clipped) else 0.0
            free = self.by_name[f"{cell}{UNCLIPPED_SUFFIX}"]
            told = f"{cell}: {cut:.0f} % of the updates were clipped; without clipping "
            if free.fault:
                yield f"{told}the training broke down after {free.tokens:,} ids."
                continue
            usual, most = float(np.median(norms.unclipped)), float(np.max(norms.unclipped))
            yield (
                f"{told}the norm is {usual:.2g} as a rule and {most:.2g} at the most."
                f" {self.compare_pair(free.name, cell)}"
            )
        yield (
            "Clipping keeps a gradient's direction and bounds its length. It guards against the one"
            " step that undoes many; it gives nothing back of what has vanished. AdamW divides each"
            " gradient by its usual size, which hides much of what clipping does for plain descent."
        )

    def describe_half_lives(self) -> Iterator[str]:
        """Say how long gated units remember."""
        yield (
            "A forget gate f keeps the share f of a unit at each id, so half of it is left after"
            " log(1/2) / log(f) ids: its half-life."
        )
        for result in self.list_clipped_results():
            if result.half_lives is not None and result.cell in GATED_CELLS:
                yield f"{result.name}: {summarise_half_lives(result.half_lives)}."


def describe_decay(decay: GradientDecay) -> str:
    """Say where a gradient has faded to a tenth, or grown."""
    mean, faded = decay.mean[-1], decay.first_distance_below(DECAYED_SHARE)
    grown = f", after growing to {mean.max():.2g} times" if mean.max() > MIN_GROWTH_REPORTED else ""
    if faded is not None:
        return f"has a tenth left {faded} {'id' if faded == 1 else 'ids'} back{grown}"
    return f"has {format_share(float(mean[-1]))} left {int(decay.distances[-1])} ids back{grown}"


def format_share(value: float) -> str:
    """Write what is left of a gradient, from many times of it down to next to nothing."""
    if value >= 1:
        return f"{value:.2g} times of it"
    return f"{100 * value:.2g} % of it" if value >= 0.0001 else f"{value:.0e} of it"


def summarise_half_lives(half_lives: HalfLives) -> str:
    """Say how long the units of the last layer remember."""
    in_bars = half_lives.ids_per_bar is not None
    values, unit = (half_lives.bars[-1], "bars") if in_bars else (half_lives.ids[-1], "ids")
    middle, longest = float(np.median(values)), float(np.max(values))
    told = f"half of the units forget half within {middle:.2g} {unit}; the longest takes"
    told += f" {longest:.2g} {unit}" if math.isfinite(longest) else " longer than any tune"
    if in_bars:
        share = 100 * float(np.mean(values > LONG_HALF_LIFE_BARS))
        told += f"; {share:.0f} % take more than {LONG_HALF_LIFE_BARS}"
    return told


def interpolate_loss(result: ModelResult, axis: str, value: float) -> float:
    """Read a loss off a curve."""
    points: Sequence[tuple[float, float]] = [
        (float(getattr(point, axis)), held.loss) for point, held in result.scored_points
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

PAGE_TEMPLATE: Final = """<!doctype html>
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


def render_html_report(comparison: Comparison, *, command: str = "musicgen compare") -> str:
    """Render a finished comparison."""
    words = ReportText(comparison)
    body = [
        *_render_head(comparison),
        *_render_table(comparison, words),
        *_render_figures(comparison, words),
        *_render_footer(comparison, command),
    ]
    return PAGE_TEMPLATE.format(style=STYLE, body="\n".join(body))


def _render_head(comparison: Comparison) -> Iterator[str]:
    parts = comparison.dataset
    sources = escape(", ".join(parts.sources) or "a corpus without a name")
    given = (
        f"{comparison.options.tokens:,} ids for each"
        if comparison.options.tokens
        else f"{comparison.options.minutes:g} minutes of learning in all, shared out evenly"
    )
    yield "<h1>The ladder, measured</h1>"
    yield _render_paragraph(
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


def _render_table(comparison: Comparison, text: ReportText) -> Iterator[str]:
    unit = escape(comparison.unit)
    first = min(text.list_clipped_results(), key=ranking_key)
    yield "<h2>Rung by rung</h2>"
    yield '<div class="wide"><table>'
    yield (
        "<thead><tr><th>rung</th><th>parameters</th><th>tokens a second</th><th>learnt from</th>"
        f"<th>bits a {unit}, held out</th><th>bits a {unit}, test</th><th>nats a token</th></tr>"
        "</thead><tbody>"
    )
    for result in comparison.results:
        yield _render_row(result, is_best=result is first)
    yield "</tbody></table></div>"
    yield _render_paragraph(
        "In brackets the 95 % interval over tunes. A tune counts whole, from its header to its end."
        f" The {NGRAM}'s parameters are the grams that it keeps.",
        "soft",
    )
    yield from _render_section("", [plot_scores(comparison)], text.describe_ranking())


def _render_row(result: ModelResult, *, is_best: bool) -> str:
    cells = [
        f'<td title="{escape(result.title)}">{escape(result.name)}</td>',
        f"<td>{result.parameters:,}</td>",
        f"<td>{result.tokens_per_second:,.0f}</td>",
        f"<td>{result.tokens:,}{'; broke down' if result.fault else ''}</td>",
        f"<td>{_render_bits(result.valid)}</td>",
        f"<td>{_render_bits(result.test)}</td>",
        f"<td>{format_bits(select_score(result).loss)}</td>",
    ]
    return f"<tr{_class_attribute('best' if is_best else '')}>{''.join(cells)}</tr>"


def _render_bits(score: HeldOutScore | None) -> str:
    if score is None:
        return "none"
    low, high = confidence_interval(score)
    bounds = f"[{format_bits(low, 2)}, {format_bits(high, 2)}]"
    return f"{format_bits(score.bits_per_note)} <small>{bounds}</small>"


def _render_figures(comparison: Comparison, text: ReportText) -> Iterator[str]:
    yield from _render_section(
        "Learning", plot_learning_curves(comparison), text.describe_learning_curves()
    )
    if any(result.cell for result in comparison.results):
        yield from _render_section(
            "How far back an error is felt",
            [plot_decay_panels(comparison)],
            text.describe_gradient_decay(),
        )
        yield from _render_section(
            "Clipping", [plot_clipping_norms(comparison)], text.describe_clipping()
        )
    if memories := [
        result.half_lives for result in text.list_clipped_results() if result.half_lives
    ]:
        yield from _render_section(
            "How long gates remember",
            [comparison_plots.plot_half_lives(memories)],
            text.describe_half_lives(),
        )


def _render_section(
    title: str, pictures: Iterable[plots.Picture], sentences: Iterable[str]
) -> Iterator[str]:
    if title:
        yield f"<h2>{escape(title)}</h2>"
    for picture in pictures:
        yield f"<figure>{picture.to_svg()}</figure>"
    yield from map(_render_paragraph, filter(None, sentences))


def plot_scores(comparison: Comparison) -> plots.Picture:
    """Draw the score that counts of each rung; what has blown up is left out."""
    scored = [(result.name, select_score(result)) for result in comparison.results]
    tunes = "test" if comparison.dataset.test else "held-out"
    return comparison_plots.plot_bars(
        [
            comparison_plots.ChartBar(name, held.bits_per_note, *confidence_interval(held))
            for name, held in scored
            if held.bits_per_note < DIVERGED_BITS
        ],
        title=f"The ladder, on {tunes} tunes",
        x_label=f"bits a {comparison.unit}, with 95 % intervals",
    )


def plot_learning_curves(comparison: Comparison) -> Iterator[plots.Picture]:
    """Draw the held-out loss by ids learnt from, and by seconds."""
    for axis, across in (("tokens", "ids learnt from"), ("seconds", "seconds of learning")):
        lines = [
            _make_loss_line(result, axis)
            for result in ReportText(comparison).list_clipped_results()
        ]
        ends = [x for line in lines for x in line.x]
        yield plots.plot_loss_curves(
            [line if len(line.x) > 1 else _make_level_line(line, ends) for line in lines],
            title=f"Loss on held-out tunes, by {across}",
            x_label=across,
        )


def _make_loss_line(result: ModelResult, axis: str) -> plots.Line:
    scored = result.scored_points
    if result.name == NGRAM:  # the best of its lengths
        scored = scored[result.width - 1 : result.width]
    x = [float(getattr(point, axis)) for point, _ in scored]
    return plots.Line(result.name, x, [held.loss for _, held in scored])


def _make_level_line(line: plots.Line, ends: list[float]) -> plots.Line:
    """Draw a single score as a level line, so that curves can be seen to cross it."""
    return plots.Line(line.name, [min(ends), max(ends)], [*line.y] * 2)


def plot_decay_panels(comparison: Comparison) -> plots.Picture:
    """Draw the gradients by distance, before and after training, clipped and not."""
    panels = {
        "before training": [result.decay_before_training for result in comparison.results],
        "after training": [
            result.decay_after_training for result in comparison.results if result.clip
        ],
        "after training, unclipped": [
            result.decay_after_training for result in comparison.results if not result.clip
        ],
    }
    return comparison_plots.plot_gradient_decay(
        {title: [fade for fade in fades if fade] for title, fades in panels.items()}
    )


def plot_clipping_norms(comparison: Comparison) -> plots.Picture:
    """Draw the norms of each cell's gradients, with clipping and without."""
    return comparison_plots.plot_gradient_norms(comparison.pair_gradient_norms())


def _render_footer(comparison: Comparison, command: str) -> Iterator[str]:
    yield "<footer>"
    yield f"<p>Made by <code>{escape(command)}</code>.</p>"
    learnt = ", ".join(f"{name} {tokens:,}" for name, tokens in comparison.budgets.items())
    yield (
        f"<p>Ids planned for each: {escape(learnt)}. Seed {comparison.options.seed}, device"
        f" {escape(str(comparison.device))}, corpus"
        f" <code>{comparison.dataset.fingerprint[:16]}</code>.</p>"
    )
    yield "</footer>"


def _render_paragraph(text: str, css_class: str = "") -> str:
    return f"<p{_class_attribute(css_class)}>{escape(text)}</p>"


def _class_attribute(css_class: str) -> str:
    return f' class="{css_class}"' if css_class else ""
