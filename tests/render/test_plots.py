from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from musicgen.compare.comparison_plots import (
    ChartBar,
    plot_bars,
    plot_gradient_decay,
    plot_gradient_norms,
    plot_half_lives,
)
from musicgen.compare.diagnostics import GradientDecay, GradientNorms, HalfLives
from musicgen.render.plots import CELL_STYLES, Line, Picture, plot_loss_curves

HOSTILE_TEXT = '<script>alert("1")</script> & $\\frac{1}{2}$ --> ]]> \x1b[2J'


def make_decay(cell: str, factor: float, reach: int = 40) -> GradientDecay:
    mean = factor ** np.arange(reach + 1.0)[np.newaxis]
    return GradientDecay(cell, np.arange(reach + 1), mean, mean / 2, mean * 2)


def make_half_lives(cell: str, ids_per_bar: float | None = 8.0) -> HalfLives:
    return HalfLives(cell, (np.geomspace(0.3, 40, 9), np.geomspace(1, 1e7, 9)), ids_per_bar)


def run(unclipped: list[float]) -> GradientNorms:
    return GradientNorms(1.0, np.array([2.0, 0.5, 0.7]), np.array(unclipped))


PICTURES: dict[str, Callable[[str], Picture]] = {
    "loss_curves": lambda title: plot_loss_curves(
        [Line(title, [0, 5e5, 1e6], [3, 2, 1]), Line("each", [0, 1e6], [4, 0], faint=True)],
        title=title,
    ),
    "fading": lambda title: plot_gradient_decay(
        {
            title: [make_decay("rnn", 0.5), make_decay("lstm", 0.97)],
            "after": [make_decay(title, 1.01)],
        },
        title=title,
    ),
    "half_lives": lambda title: plot_half_lives(
        [make_half_lives("lstm"), make_half_lives(title)], title=title
    ),
    "norms": lambda title: plot_gradient_norms(
        {title: run([2, 9, np.inf]), "other": run([1, 2, 3])}, title=title
    ),
    "shares": lambda title: plot_loss_curves(
        [Line(title, [0], [3])], title=title, share_lines=[Line(title, [0], [0.5])]
    ),
    "bars": lambda title: plot_bars(
        [ChartBar(title, 3.25, 3, 3.5), ChartBar("bare", 4)], title=title
    ),
}
EMPTY = {
    "loss_curves": plot_loss_curves([]),
    "fading": plot_gradient_decay({}),
    "half_lives": plot_half_lives([]),
    "norms": plot_gradient_norms({}),
    "bars": plot_bars([]),
}


def drawn(picture: Picture) -> list[Axes]:
    """Draw a picture, and return its axes."""
    figure = Figure()
    picture.draw(figure)
    return figure.axes


def points(axes: Axes, line: int) -> np.ndarray:
    """Return the points of a curve, (point, x and y)."""
    return np.asarray(axes.get_lines()[line].get_xydata(), float)


def legend_of(picture: Picture) -> list[str]:
    figure = Figure()
    picture.draw(figure)
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@cache
def render_svg(name: str) -> str:
    return PICTURES[name](HOSTILE_TEXT).to_svg()


def elements(text: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text).iter())


def tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


@pytest.mark.parametrize("name", PICTURES)
def test_svg_is_self_contained_and_escapes_text(name: str) -> None:
    """Titles and names cannot insert tags, formulas or control characters."""
    root, *others = elements(render_svg(name))
    assert tag(root) == "svg"
    assert root.get("role") == "img"
    titles = [element.text for element in others if tag(element) == "title"]
    assert titles == [HOSTILE_TEXT.replace("\x1b", "\\x1b")]
    assert {tag(element) for element in others}.isdisjoint({"script", "font-face", "image", "text"})
    for element in others:
        for attribute, value in element.attrib.items():
            assert "href" not in attribute or value.startswith("#")


def test_name_with_leading_underscore_is_in_the_legend() -> None:
    assert legend_of(plot_loss_curves([Line("_mine", [0, 1], [1, 2])])) == [" _mine"]


def test_shares_are_percent_in_a_second_panel() -> None:
    losses = [Line("held-out", [0, 100], [3, 2])]
    assert len(drawn(plot_loss_curves(losses))) == 1
    picture = plot_loss_curves(losses, share_lines=[Line("sections", [50, 100], [0.25, 0.5])])
    top, bottom = drawn(picture)
    assert points(top, 0).tolist() == [[0, 3], [100, 2]]
    assert points(bottom, 0).tolist() == [[50, 25], [100, 50]]
    assert top.get_xlim() == bottom.get_xlim()
    assert picture.height > plot_loss_curves(losses).height


@pytest.mark.parametrize("name", PICTURES)
def test_svg_is_deterministic(name: str) -> None:
    assert PICTURES[name](HOSTILE_TEXT).to_svg() == render_svg(name)
    assert not re.search(r"20\d\d-\d\d|Matplotlib|Date", render_svg(name))


def test_png_is_deterministic() -> None:
    assert PICTURES["bars"]("once").to_png() == PICTURES["bars"]("once").to_png()
    assert PICTURES["bars"]("once").to_png() != PICTURES["bars"]("twice").to_png()


def test_other_process_gives_the_same_bytes_without_display_or_torch() -> None:
    code = """
import sys
from musicgen.render.plots import Line, plot_loss_curves
print(plot_loss_curves([Line("lstm", [0, 1], [2, 1])]).to_svg(), end="")
assert not {"matplotlib.pyplot", "torch"} & set(sys.modules)
"""
    stdout = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "2"},
                           capture_output=True, check=True).stdout  # fmt: skip
    assert stdout.decode() == plot_loss_curves([Line("lstm", [0, 1], [2, 1])]).to_svg()


def test_user_settings_are_neither_read_nor_changed() -> None:
    expected = PICTURES["bars"]("same").to_svg()
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 20, "svg.fonttype": "none"}):
        settings = dict(mpl.rcParams)
        assert PICTURES["bars"]("same").to_svg() == expected
        assert dict(mpl.rcParams) == settings


def test_ids_of_pictures_are_unique_within_a_page() -> None:
    pictures = [*map(render_svg, PICTURES), plot_loss_curves([], title=HOSTILE_TEXT).to_svg()]
    ids = [element.get("id") for picture in pictures for element in elements(picture)]
    named = [id_ for id_ in ids if id_ is not None]
    assert len(named) == len(set(named))
    for picture in pictures:
        links = re.findall(r'(?:href="#|url\(#)([^")]+)', picture)
        assert links
        assert set(links) <= {element.get("id") for element in elements(picture)}


@pytest.mark.parametrize("name", PICTURES)
def test_png_has_the_requested_resolution(name: str) -> None:
    picture = PICTURES[name]("pixels")
    data = picture.to_png(50)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    size = [int.from_bytes(data[16:20]), int.from_bytes(data[20:24])]
    assert size == pytest.approx([50 * picture.width, 50 * picture.height], abs=1)


@pytest.mark.parametrize("name", EMPTY)
def test_empty_picture_is_valid(name: str) -> None:
    assert tag(elements(EMPTY[name].to_svg())[0]) == "svg"


@pytest.mark.parametrize("name", PICTURES)
def test_axes_have_labels(name: str) -> None:
    figure = Figure()
    PICTURES[name]("axes").draw(figure)
    across = [axes.get_xlabel() for axes in figure.axes] + [figure.get_supxlabel()]
    up = [axes.get_ylabel() for axes in figure.axes] + [figure.get_supylabel()]
    assert any(across)
    assert any(up) or name == "bars"  # its rows are labelled


def test_losses_are_drawn_and_noisy_lines_are_faint() -> None:
    (axes,) = drawn(PICTURES["loss_curves"]("held-out"))
    line, noisy = axes.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[0, 3], [5e5, 2], [1e6, 1]])
    assert noisy.get_linewidth() < line.get_linewidth()
    assert noisy.get_zorder() < line.get_zorder()


def test_high_initial_losses_are_cut_off() -> None:
    steep = Line("steep", range(9), [100, 3, 2.5, 2, 1.8, 1.6, 1.4, 1.2, 1])
    noise = Line("noise", [0, 1], [200, 0.5], faint=True)
    (axes,) = drawn(plot_loss_curves([steep, noise]))
    low, high = axes.get_ylim()
    assert high == pytest.approx(1 + 4 * 1.5)
    assert 0 < low < 0.5
    for gentle in ([2, 1.5, 1], [1, 1, 1], [1], [np.nan, 2, 1], []):
        (axes,) = drawn(plot_loss_curves([Line("gentle", range(len(gentle)), gentle)]))
        assert axes.get_ylim()[1] > np.nanmax([*gentle, 0])


def test_decay_panels_share_a_logarithmic_scale() -> None:
    picture = plot_gradient_decay(
        {"before": [make_decay("rnn", 0.5)], "none": [], "after": [make_decay("rnn", 1.05)]}
    )
    first, second = drawn(picture)
    assert [axes.get_title("left") for axes in (first, second)] == ["before", "after"]
    assert first.get_yscale() == second.get_yscale() == "log"
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[1] > 1.05**40 * 2  # what explodes is in the picture
    np.testing.assert_allclose(points(first, 0)[:, 1], 0.5 ** np.arange(41.0))
    assert legend_of(picture) == ["rnn"]


def test_any_layer_can_be_plotted() -> None:
    both = GradientDecay("gru", np.arange(2), *[np.array([[1, 0.5], [1, 0.25]])] * 3)
    for layer, end in ((0, 0.5), (1, 0.25), (-1, 0.25)):
        (axes,) = drawn(plot_gradient_decay({"": [both]}, layer=layer))
        assert points(axes, 0)[-1, 1] == end


@pytest.mark.parametrize("cell", CELL_STYLES)
def test_cells_have_the_same_colour_in_all_pictures(cell: str) -> None:
    for picture in (
        plot_gradient_decay({"": [make_decay("other", 1), make_decay(cell, 1)]}),
        plot_loss_curves([Line("other", [1], [1]), Line(cell, [1], [1])]),
        plot_half_lives([HalfLives(name, (np.ones(3),), None) for name in ("other", cell)]),
    ):
        (axes,) = drawn(picture)
        colors = [to_hex(line.get_color()) for line in axes.get_lines()]
        assert colors[1] == CELL_STYLES[cell][0] != colors[0]


def test_half_lives_are_in_bars_if_all_have_bars() -> None:
    (axes,) = drawn(plot_half_lives([make_half_lives("lstm", 8.0)]))
    assert axes.get_ylabel() == "half-life, in bars"
    np.testing.assert_allclose(points(axes, 0)[:, 1], np.geomspace(0.3, 40, 9) / 8)
    (axes,) = drawn(plot_half_lives([make_half_lives("lstm", 8.0), make_half_lives("gru", None)]))
    assert axes.get_ylabel() == "half-life, in ids"
    np.testing.assert_allclose(points(axes, 0)[:, 1], np.geomspace(0.3, 40, 9))
    assert legend_of(plot_half_lives([make_half_lives("gru")])) == ["gru, layer 1", "gru, layer 2"]


def test_four_or_more_panels_are_in_two_columns() -> None:
    for count, expected in ((1, [1]), (3, [3]), (4, [2, 2]), (5, [2, 2, 1])):
        panels = drawn(
            plot_gradient_norms({str(number): run([1, 2, 3]) for number in range(count)})
        )
        rows = [round(axes.get_position().y0, 3) for axes in panels]
        assert [rows.count(y) for y in dict.fromkeys(rows)] == expected


def test_divergence_is_marked() -> None:
    first, second = drawn(plot_gradient_norms({"rnn": run([2, 9, np.inf]), "lstm": run([2, 1, 1])}))
    (mark,) = (at for at, line in enumerate(first.get_lines()) if line.get_label() == "diverged")
    np.testing.assert_array_equal(points(first, mark), [[2, 9]])
    assert all(line.get_label() != "diverged" for line in second.get_lines())
    assert "diverged" in legend_of(plot_gradient_norms({"rnn": run([2, 9, np.inf])}))


def test_bars_start_at_zero_and_show_intervals() -> None:
    (axes,) = drawn(plot_bars([ChartBar("one", 3.25, 3, 3.5), ChartBar("two", 4)]))
    drawn_bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in drawn_bars] == [3.25, 4]
    assert axes.get_xlim()[0] == 0
    (interval,) = axes.get_lines()
    np.testing.assert_array_equal(interval.get_xydata(), [[3, 0], [3.5, 0]])
    assert [text.get_text() for text in axes.texts] == ["3.25", "4.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
