"""The page of a score card: verdicts, plots over those of real tunes, and tunes engraved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.evaluation.card_plots import find_extremes, list_pictures, plot_learning_curve
from musicgen.evaluation.figures import Figure
from musicgen.evaluation.likelihood import NETWORK_NOTE
from musicgen.evaluation.score_card import Column, ScoreCard
from musicgen.music.score import Score
from musicgen.render.report_page import SCORE_CARD_TITLE, format_page

_HEADINGS: Final = ("figure", "tunes", "real", "95 % of real", "verdict")
_MODEL_HEADINGS: Final = ("figure", "held-out tunes", "95 % interval")


def render_card(card: ScoreCard, *, command: str = "musicgen evaluate") -> str:
    """Render a score card as an HTML page; `command` is shown in the footer."""
    body = [f"<h1>{SCORE_CARD_TITLE}</h1>", _render_introduction(card)]
    if card.model_figures:
        body += ["<h2>How well the model predicts real tunes</h2>"]
        shown = [figure.format_model_row() for figure in card.model_figures if not figure.is_detail]
        body += _render_rows(_MODEL_HEADINGS, [(row, False) for row in shown])
    if card.likelihood and card.likelihood.learning_curve:
        body.append(f"<figure>{plot_learning_curve(card.likelihood).to_svg()}</figure>")
        body.append(f'<p class="soft">{NETWORK_NOTE}</p>')
    for column in card.columns:
        body += _render_column(column)
    body.append("<h2>Form and notes</h2>")
    body += [f"<figure>{picture.to_svg()}</figure>" for picture in list_pictures(card)]
    for column in card.columns:
        body += _render_extremes(column)
    body.append(f"<footer><p>Made by <code>{escape(command)}</code>.</p></footer>")
    return format_page(SCORE_CARD_TITLE, "\n".join(body))


def _render_introduction(card: ScoreCard) -> str:
    names = " and ".join(f"{len(c.tunes):,} tunes, {c.tunes.name}," for c in card.columns)
    return (
        f"<p>{escape(names)} beside the {len(card.real):,} real tunes of {escape(card.real.name)}."
        " A figure is inside if 95 of 100 sets of as many real tunes would score as near to the"
        " real value; otherwise the distance to that range is given.</p>"
    )


def _render_column(column: Column) -> Iterator[str]:
    shown = [figure for figure in column.figures if not figure.is_detail]
    known = [figure for figure in shown if figure.verdict != "not known"]
    inside = sum(figure.is_inside for figure in known)
    yield f"<h2>{escape(column.tunes.name)}: {inside} of {len(known)} figures inside</h2>"
    yield from _render_table(shown)
    if column.judgement.telltales:
        yield "<p>What gives these tunes away, the clearest first:</p><ul>"
        yield from (f"<li>{escape(str(line))}</li>" for line in column.judgement.telltales)
        yield "</ul>"
    yield from (f'<p class="soft">{escape(note)}</p>' for note in column.notes)


def _render_table(figures: Sequence[Figure]) -> Iterator[str]:
    rows = [(figure.format_row(), figure.verdict == "inside") for figure in figures]
    yield from _render_rows(_HEADINGS, rows)


def _render_rows(
    headings: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]
) -> Iterator[str]:
    """Render rows of texts, some of them marked as good."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
    for texts, is_good in rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        style = ' class="best"' if is_good else ""
        yield f"<tr{style}>{cells}</tr>"
    yield "</tbody></table></div>"


def _render_extremes(column: Column) -> Iterator[str]:
    """Engrave the tunes whose figures are nearest to and farthest from those of real tunes."""
    for name, index in zip(("most", "least"), find_extremes(column), strict=True):
        score = column.tunes.scores[index]
        yield f"<h2>{escape(column.tunes.name)}: the {name} typical tune</h2>"
        yield (
            f'<p class="soft">Tune {index + 1}: its figures are {column.distances[index]:.2f}'
            " standard deviations from the mean of real tunes, on average.</p>"
        )
        yield f'<div class="wide">{_engrave(score)}</div>'


def _engrave(score: Score) -> str:
    from musicgen.notation.score_images import engrave

    try:
        return engrave(score)
    except InvalidValue as fault:
        return f"<p>{escape(str(fault))}</p>"
