"""The frame of a report: one HTML page with plots and tables, no script, nothing loaded.

The head of each kind of report is its own, by which a command tells the files that it wrote.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from musicgen.files import prepare_outputs, refuse_foreign

COMPARISON_TITLE: Final = "The ladder, measured"
SCORE_CARD_TITLE: Final = "The score card"

_STYLE: Final = """
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

_TEMPLATE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def format_page(title: str, body: str) -> str:
    """Return a page with a title; the body is HTML."""
    return _TEMPLATE.format(title=escape(title), style=_STYLE, body=body)


def prepare_page(path: Path, title: str, command: str, *, force: bool) -> None:
    """Check the output of a report before any work.

    Args:
        path: the page to write.
        title: of the page.
        command: that writes such pages, for the message.
        force: whether to replace an earlier page of that command.

    Raises:
        OutputExists: the file exists and `force` is false, or another program wrote it.
    """
    prepare_outputs([path], force=force)
    head = format_page(title, "").partition("<style>")[0].encode()
    refuse_foreign(path, head, f"a page of {command}")
