"""A comparison as one HTML page: table, pictures, sentences; no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from musicgen.model import pictures
from musicgen.model.compare import Comparison, Result, interval
from musicgen.model.evaluation import Held
from musicgen.model.ladder_words import ABSURD, Words, bits, in_order, judged
from musicgen.model.rungs import NGRAM

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
            "How long gates remember", [pictures.half_lives(memories)], words.memories()
        )


def _section(
    title: str, drawn: Iterable[pictures.Picture], sentences: Iterable[str]
) -> Iterator[str]:
    if title:
        yield f"<h2>{escape(title)}</h2>"
    for picture in drawn:
        yield f"<figure>{picture.svg()}</figure>"
    yield from map(_paragraph, filter(None, sentences))


def ladder(comparison: Comparison) -> pictures.Picture:
    """Draw the score that counts of each rung; what has blown up is left out."""
    scored = [(result.name, judged(result)) for result in comparison.results]
    tunes = "test" if comparison.dataset.test else "held-out"
    return pictures.bars(
        [
            pictures.Bar(name, held.bits_per_note, *interval(held))
            for name, held in scored
            if held.bits_per_note < ABSURD
        ],
        title=f"The ladder, on {tunes} tunes",
        across=f"bits a {comparison.unit}, with 95 % intervals",
    )


def learning(comparison: Comparison) -> Iterator[pictures.Picture]:
    """Draw the held-out loss by ids learnt from, and by seconds."""
    for axis, across in (("tokens", "ids learnt from"), ("seconds", "seconds of learning")):
        lines = [_line(result, axis) for result in Words(comparison).clipped()]
        ends = [x for line in lines for x in line.x]
        yield pictures.loss_curves(
            [line if len(line.x) > 1 else _level(line, ends) for line in lines],
            title=f"Loss on held-out tunes, by {across}",
            across=across,
        )


def _line(result: Result, axis: str) -> pictures.Line:
    scored = result.scored
    if result.name == NGRAM:  # the best of its lengths
        scored = scored[result.width - 1 : result.width]
    x = [float(getattr(point, axis)) for point, _ in scored]
    return pictures.Line(result.name, x, [held.loss for _, held in scored])


def _level(line: pictures.Line, ends: list[float]) -> pictures.Line:
    """Draw a single score as a level line, so that curves can be seen to cross it."""
    return pictures.Line(line.name, [min(ends), max(ends)], [*line.y] * 2)


def fading(comparison: Comparison) -> pictures.Picture:
    """Draw the gradients by distance, before and after training, clipped and not."""
    panels = {
        "before training": [result.fresh for result in comparison.results],
        "after training": [result.fade for result in comparison.results if result.clip],
        "after training, unclipped": [
            result.fade for result in comparison.results if not result.clip
        ],
    }
    return pictures.fading(
        {title: [fade for fade in fades if fade] for title, fades in panels.items()}
    )


def clipping(comparison: Comparison) -> pictures.Picture:
    """Draw the norms of each cell's gradients, with clipping and without."""
    return pictures.norms(comparison.clipping())


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
