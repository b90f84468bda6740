"""The report of a comparison: an HTML page with a table, figures and sentences about the results.

Two models are compared by the interval of their difference on the same tunes (paired bootstrap over
tunes), which is narrower than two separate intervals. The page has no script and loads nothing.
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
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.render import plots
from musicgen.render.report_page import COMPARISON_TITLE, format_page

BOOTSTRAP_SAMPLES: Final = 2000
DECAYED_SHARE: Final = 0.1  # the decay distance is where this share of a gradient is left
DIVERGED_BITS: Final = 1000  # bits per note from which on a network has diverged
MIN_GROWTH_REPORTED: Final = 2  # growth of a gradient, as a factor
LONG_HALF_LIFE_BARS: Final = 8  # the length of one part of a dance tune


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The difference of two models, and its 95 % interval."""

    bits: float  # bits per note
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def compute_paired_difference(score: HeldOutScore, reference: HeldOutScore) -> PairedDifference:
    """Return the difference of two scores on the same tunes, with a fixed seed."""
    samples = np.random.default_rng(0).integers(
        0, len(score.nats), (BOOTSTRAP_SAMPLES, len(score.nats))
    )
    bits = (score.nats - reference.nats) / math.log(2)
    bootstrap_bits = bits[samples].sum(1) / np.maximum(1, score.notes[samples].sum(1))
    low, high = np.quantile(bootstrap_bits, [0.025, 0.975])
    return PairedDifference(score.bits_per_note - reference.bits_per_note, float(low), float(high))


def format_bits(value: float, digits: int = 3) -> str:
    """Format bits for a column of a table; huge values in scientific notation."""
    if value >= DIVERGED_BITS:
        return f"{value:.0e}"
    return f"{value:.{digits if value < 10 else digits - 1}f}"


def select_score(result: ModelResult) -> HeldOutScore:
    """Return the score on the test tunes if there are any, otherwise on the validation tunes."""
    return result.test or result.valid


def ranking_key(result: ModelResult) -> float:
    """Return the sort key of models: bits per note, infinite if diverged."""
    score = select_score(result)
    return score.bits_per_note if is_finite_score(score) else math.inf


class ReportText:
    """The sentences about the results of one comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.unit = comparison.unit
        self.by_name = {result.name: result for result in comparison.results}

    def compare_pair(self, name: str, reference: str) -> str:
        """Compare two models; "" if one of them is missing."""
        if name not in self.by_name or reference not in self.by_name:
            return ""
        scores = [select_score(self.by_name[model_name]) for model_name in (name, reference)]
        if not all(map(is_finite_score, scores)):
            diverged_name = reference if is_finite_score(scores[0]) else name
            return f"{diverged_name} diverged: its score on some tune is not finite."
        difference = compute_paired_difference(*scores)
        if not difference.is_significant:
            return f"{name} and {reference} do not differ significantly on these tunes."
        direction = "more" if difference.bits > 0 else "fewer"
        low, high = sorted((abs(difference.low), abs(difference.high)))
        return (
            f"{name} needs {format_bits(abs(difference.bits))} bits per {self.unit} {direction}"
            f" than {reference} (95 % interval {format_bits(low)} to {format_bits(high)})."
        )

    def describe_ranking(self) -> Iterator[str]:
        """Describe the ranking of the models."""
        small, large = f"window-{SMALL_WINDOW}", f"window-{LARGE_WINDOW}"
        ranking = sorted(self.list_clipped_results(), key=ranking_key)
        names = ", ".join(result.name for result in ranking)
        yield f"From the fewest bits per {self.unit} to the most: {names}."
        yield self.compare_with_reason(
            large,
            small,
            f"It sees {LARGE_WINDOW} ids instead of {SMALL_WINDOW}, with separate weights for each"
            " position: what it learns at one position does not apply to the next.",
        )
        yield self.compare_with_reason(
            "bag",
            small,
            f"It sees all previous ids, the window only {SMALL_WINDOW}, but without their order, so"
            " not which of them were the last.",
        )
        yield self.describe_ngram_orders()
        yield self.compare_with_reason(
            "rnn", large, "It uses one matrix at all positions, and its state can keep older ids"
            f"{self.describe_missing_gain('rnn', large)}."
        )  # fmt: skip
        yield self.compare_with_reason(
            "lstm",
            "rnn",
            f"Its gates control what is kept{self.describe_missing_gain('lstm', 'rnn')}.",
        )
        yield self.compare_pair("lstm", NGRAM)
        yield self.compare_with_reason(
            "lstm position", "lstm", "Ids alone do not say which bar of the section comes next."
        )
        yield self.compare_with_reason(
            "lstm look-back",
            "lstm",
            "Its state does not hold bars note for note; here it is shown what stood at the same"
            " place of earlier bars.",
        )

    def describe_missing_gain(self, name: str, reference: str) -> str:
        """Return an addition to a reason that did not lead to a better score, otherwise ""."""
        results = [
            self.by_name[model_name]
            for model_name in (name, reference)
            if model_name in self.by_name
        ]
        if len(results) < 2 or ranking_key(results[0]) < ranking_key(results[1]):
            return ""
        return ", which did not help within this budget"

    def compare_with_reason(self, name: str, reference: str, reason: str) -> str:
        """Compare two models, and explain what the first one has that the other one lacks."""
        sentence = self.compare_pair(name, reference)
        return f"{sentence} {reason}" if sentence else ""

    def describe_ngram_orders(self) -> str:
        """Describe the scores of the n-gram orders."""
        ngram = self.by_name[NGRAM]
        scores = [
            f"{order}: {score.bits_per_note:.2f}"
            for order, (_, score) in enumerate(ngram.scored_points, start=1)
        ]
        return (
            f"Of the n-grams, order {ngram.width} scored best on the validation tunes scored during"
            f" training (bits per {self.unit} by order: {', '.join(scores)})."
        )

    def list_clipped_results(self) -> list[ModelResult]:
        """Return the results without the runs that only differ in clipping."""
        return [
            result
            for result in self.comparison.results
            if not result.name.endswith(UNCLIPPED_SUFFIX)
        ]

    def describe_learning_curves(self) -> Iterator[str]:
        """Name the models that learn most per token and per second."""
        networks = [
            result
            for result in self.list_clipped_results()
            if result.name != NGRAM and result.tokens
        ]
        tokens = min(result.tokens for result in networks)
        seconds = min(result.seconds for result in networks)
        best_by_tokens = min(
            networks, key=lambda result: interpolate_loss(result, "tokens", tokens)
        )
        best_by_time = min(
            networks, key=lambda result: interpolate_loss(result, "seconds", seconds)
        )
        yield (
            f"After {tokens:,} tokens, the most that every network has read, {best_by_tokens.name}"
            f" has the lowest loss; after {seconds:,.0f} seconds, {best_by_time.name}."
        )
        if best_by_tokens.name != best_by_time.name:
            yield "The two differ because a fast network reads more tokens in the same time."
        yield (
            "The upper figure compares networks after the same tokens, the lower one after the same"
            " time; the n-gram counts each tune once and is a horizontal line."
        )

    def describe_gradient_decay(self) -> Iterator[str]:
        """Describe the gradient decay of each cell."""
        yield (
            "Backpropagation through time multiplies a gradient by one Jacobian per id: with norms"
            " below one it vanishes, above one it explodes."
        )
        results = [result for result in self.list_clipped_results() if result.cell]
        for heading, decays in (
            (
                "Before training",
                [(result.name, result.decay_before_training) for result in results],
            ),
            ("After training", [(result.name, result.decay_after_training) for result in results]),
        ):
            descriptions = [
                f"{name} {describe_decay(decay)}" for name, decay in decays if decay is not None
            ]
            if descriptions:
                yield f"{heading}: {'; '.join(descriptions)}."
        yield self.compare_decay("lstm", "rnn")

    def compare_decay(self, name: str, reference: str) -> str:
        """Compare the remaining gradients of two cells at the largest distance."""
        decays = [
            self.by_name[cell].decay_after_training
            for cell in (name, reference)
            if cell in self.by_name
        ]
        if len(decays) < 2 or decays[0] is None or decays[1] is None:
            return ""
        distance = int(min(decay.distances[-1] for decay in decays if decay is not None))
        remaining = [
            float(np.interp(distance, decay.distances, decay.mean[-1])) for decay in decays if decay
        ]
        verdict = (
            f"the curve of {name} is the flatter one, as expected"
            if remaining[0] > remaining[1]
            else f"here the curve of {name} is not the flatter one"
        )
        return (
            f"{distance} ids back, {name} has {format_share(remaining[0])} left and {reference} has"
            f" {format_share(remaining[1])}: {verdict}."
        )

    def describe_clipping(self) -> Iterator[str]:
        """Describe the effect of clipping on each cell."""
        for cell, norms in self.comparison.pair_gradient_norms().items():
            clipped_percent = (
                100 * float(np.mean(norms.clipped > norms.clip)) if len(norms.clipped) else 0.0
            )
            unclipped = self.by_name[f"{cell}{UNCLIPPED_SUFFIX}"]
            sentence = (
                f"{cell}: {clipped_percent:.0f} % of the updates were clipped; without clipping "
            )
            if unclipped.fault:
                yield f"{sentence}training diverged after {unclipped.tokens:,} tokens."
                continue
            median, maximum = float(np.median(norms.unclipped)), float(np.max(norms.unclipped))
            yield (
                f"{sentence}the norm has a median of {median:.2g} and a maximum of {maximum:.2g}."
                f" {self.compare_pair(unclipped.name, cell)}"
            )
        yield (
            "Clipping keeps the direction of a gradient and bounds its norm. It prevents single"
            " steps that undo many others, but does not restore vanished gradients. AdamW divides"
            " each gradient by its usual size, so clipping matters less than for plain SGD."
        )

    def describe_half_lives(self) -> Iterator[str]:
        """Describe the half-lives of gated units."""
        yield (
            "A forget gate keeps the share f of a unit at each id, so half of it is left after"
            " log(1/2) / log(f) ids: its half-life."
        )
        for result in self.list_clipped_results():
            if result.half_lives is not None and result.cell in GATED_CELLS:
                yield f"{result.name}: {summarise_half_lives(result.half_lives)}."


def describe_decay(decay: GradientDecay) -> str:
    """Describe where a gradient has decayed to a tenth, and whether it has grown."""
    mean, distance = decay.mean[-1], decay.first_distance_below(DECAYED_SHARE)
    growth = (
        f", after growing to {mean.max():.2g} times" if mean.max() > MIN_GROWTH_REPORTED else ""
    )
    if distance is not None:
        return f"has a tenth left {distance} {'id' if distance == 1 else 'ids'} back{growth}"
    return f"has {format_share(float(mean[-1]))} left {int(decay.distances[-1])} ids back{growth}"


def format_share(value: float) -> str:
    """Format the remaining share of a gradient, from large multiples to tiny shares."""
    if value >= 1:
        return f"{value:.2g} times of it"
    return f"{100 * value:.2g} % of it" if value >= 0.0001 else f"{value:.0e} of it"


def summarise_half_lives(half_lives: HalfLives) -> str:
    """Summarise the half-lives of the last layer."""
    in_bars = half_lives.ids_per_bar is not None
    values, unit = (half_lives.bars[-1], "bars") if in_bars else (half_lives.ids[-1], "ids")
    median, longest = float(np.median(values)), float(np.max(values))
    sentence = f"the median half-life is {median:.2g} {unit}; the longest is"
    sentence += f" {longest:.2g} {unit}" if math.isfinite(longest) else " longer than any tune"
    if in_bars:
        share = 100 * float(np.mean(values > LONG_HALF_LIFE_BARS))
        sentence += f"; {share:.0f} % are above {LONG_HALF_LIFE_BARS}"
    return sentence


def interpolate_loss(result: ModelResult, axis: str, value: float) -> float:
    """Interpolate the loss on a learning curve; infinite without points."""
    points: Sequence[tuple[float, float]] = [
        (float(getattr(point, axis)), score.loss) for point, score in result.scored_points
    ]
    if not points:
        return math.inf
    x, y = zip(*points, strict=True)
    return float(np.interp(value, x, y))


def render_html_report(comparison: Comparison, *, command: str = "musicgen compare") -> str:
    """Render a finished comparison as an HTML page; `command` is shown in the footer."""
    text = ReportText(comparison)
    body = [
        *_render_head(comparison),
        *_render_table(comparison, text),
        *_render_figures(comparison, text),
        *_render_footer(comparison, command),
    ]
    return format_page(COMPARISON_TITLE, "\n".join(body))


def _render_head(comparison: Comparison) -> Iterator[str]:
    dataset = comparison.dataset
    sources = escape(", ".join(dataset.sources) or "an unnamed corpus")
    budget = (
        f"{comparison.options.tokens:,} training tokens per model"
        if comparison.options.tokens
        else f"{comparison.options.minutes:g} minutes of training, divided evenly among the models"
    )
    yield f"<h1>{COMPARISON_TITLE}</h1>"
    yield _render_paragraph(
        "A fixed window forgets, a bag of words loses the order, and a large window shares no"
        " weights between its positions. A recurrent cell shares them, but its gradients vanish or"
        " explode, which gates and clipping correct. Here all of these models are trained on the"
        " same tunes to predict the next id."
    )
    yield (
        f'<p class="soft">{sources}: {len(dataset.train):,} training,'
        f" {len(dataset.valid):,} validation and {len(dataset.test):,} test tunes, which are read"
        f" once; {escape(budget)}; about {comparison.options.parameters:,} weights per network.</p>"
    )


def _render_table(comparison: Comparison, text: ReportText) -> Iterator[str]:
    unit = escape(comparison.unit)
    best = min(text.list_clipped_results(), key=ranking_key)
    yield "<h2>Scores</h2>"
    yield '<div class="wide"><table>'
    yield (
        "<thead><tr><th>model</th><th>parameters</th><th>tokens/s</th><th>training tokens</th>"
        f"<th>bits per {unit}, validation</th><th>bits per {unit}, test</th>"
        "<th>nats per token</th></tr>"
        "</thead><tbody>"
    )
    for result in comparison.results:
        yield _render_row(result, is_best=result is best)
    yield "</tbody></table></div>"
    yield _render_paragraph(
        "The 95 % interval over tunes is in brackets. Tunes are scored whole, from header to end."
        f" The parameters of the {NGRAM} are its grams.",
        "soft",
    )
    yield from _render_section("", [plot_scores(comparison)], text.describe_ranking())


def _render_row(result: ModelResult, *, is_best: bool) -> str:
    cells = [
        f'<td title="{escape(result.title)}">{escape(result.name)}</td>',
        f"<td>{result.parameters:,}</td>",
        f"<td>{result.tokens_per_second:,.0f}</td>",
        f"<td>{result.tokens:,}{'; diverged' if result.fault else ''}</td>",
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
        "Learning curves", plot_learning_curves(comparison), text.describe_learning_curves()
    )
    if any(result.cell for result in comparison.results):
        yield from _render_section(
            "Gradient decay over distance",
            [plot_decay_panels(comparison)],
            text.describe_gradient_decay(),
        )
        yield from _render_section(
            "Clipping", [plot_clipping_norms(comparison)], text.describe_clipping()
        )
    if half_lives := [
        result.half_lives for result in text.list_clipped_results() if result.half_lives
    ]:
        yield from _render_section(
            "Half-lives of gated units",
            [comparison_plots.plot_half_lives(half_lives)],
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
    """Plot the score of each model that did not diverge."""
    scored = [(result.name, select_score(result)) for result in comparison.results]
    tunes = "test" if comparison.dataset.test else "held-out"
    return comparison_plots.plot_bars(
        [
            comparison_plots.ChartBar(name, score.bits_per_note, *confidence_interval(score))
            for name, score in scored
            if score.bits_per_note < DIVERGED_BITS
        ],
        title=f"The ladder, on {tunes} tunes",
        x_label=f"bits per {comparison.unit}, with 95 % intervals",
    )


def plot_learning_curves(comparison: Comparison) -> Iterator[plots.Picture]:
    """Plot the held-out loss by training tokens, and by training time."""
    for axis, across in (("tokens", "training tokens"), ("seconds", "training time in seconds")):
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
    if result.name == NGRAM:  # its best order
        scored = scored[result.width - 1 : result.width]
    x = [float(getattr(point, axis)) for point, _ in scored]
    return plots.Line(result.name, x, [score.loss for _, score in scored])


def _make_level_line(line: plots.Line, ends: list[float]) -> plots.Line:
    """Extend a single score to a horizontal line, to compare curves with it."""
    return plots.Line(line.name, [min(ends), max(ends)], [*line.y] * 2)


def plot_decay_panels(comparison: Comparison) -> plots.Picture:
    """Plot gradient decay before and after training, with and without clipping."""
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
        {title: [decay for decay in decays if decay] for title, decays in panels.items()}
    )


def plot_clipping_norms(comparison: Comparison) -> plots.Picture:
    """Plot the gradient norms of each cell, with and without clipping."""
    return comparison_plots.plot_gradient_norms(comparison.pair_gradient_norms())


def _render_footer(comparison: Comparison, command: str) -> Iterator[str]:
    yield "<footer>"
    yield f"<p>Made by <code>{escape(command)}</code>.</p>"
    budgets = ", ".join(f"{name} {tokens:,}" for name, tokens in comparison.budgets.items())
    yield (
        f"<p>Planned training tokens: {escape(budgets)}. Seed {comparison.options.seed}, device"
        f" {escape(str(comparison.device))}, corpus"
        f" <code>{comparison.dataset.fingerprint[:16]}</code>.</p>"
    )
    yield "</footer>"


def _render_paragraph(text: str, css_class: str = "") -> str:
    return f"<p{_class_attribute(css_class)}>{escape(text)}</p>"


def _class_attribute(css_class: str) -> str:
    return f' class="{css_class}"' if css_class else ""
