from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslpipe.report import plots

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ElementTree.Element:
    """As XML, which is stricter than HTML."""
    return ElementTree.fromstring(svg)


def numbers(path: str) -> list[tuple[float, float]]:
    points = path.replace("M", " ").replace("L", " | ").split("|")
    return [tuple(map(float, point.split())) for point in points]  # type: ignore[misc]


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6), st.integers(2, 8))
def test_ticks_span_the_range_in_round_equal_steps(low: float, size: float, count: int) -> None:
    ticks = plots.nice_ticks(low, low + size, count)
    steps = np.diff(ticks)
    assert ticks[0] <= low + 1e-6 * size
    assert ticks[-1] >= low + size - 1e-6 * size
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert 2 <= len(ticks) <= count + 2
    mantissa = steps[0] / 10.0 ** np.floor(np.log10(steps[0] * (1 + 1e-6)))
    assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-3


def test_ticks_of_a_constant_still_span_it() -> None:
    ticks = plots.nice_ticks(2.0, 2.0)
    assert ticks[0] < 2.0 < ticks[-1]


def test_ticks_refuse_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        plots.nice_ticks(0.0, float("nan"))


def test_tick_texts_share_their_decimals() -> None:
    assert plots.plain([0.0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert plots.plain([-10.0, 0.0]) == ["\u221210", "0"]
    assert plots.plain([0.0, 1e-5]) == ["0", "1e-5"]


def test_smoothing_is_the_mean_of_the_window() -> None:
    values = np.random.default_rng(0).normal(size=30)
    values[[4, 17]] = np.nan
    smoothed = plots.smooth(values, 7)
    for n in range(30):
        reach = min(3, n, 29 - n)
        np.testing.assert_allclose(smoothed[n], np.nanmean(values[n - reach : n + reach + 1]))


def test_thinning_keeps_ends_and_spikes() -> None:
    y = np.random.default_rng(0).normal(size=10_000)
    y[4321], y[8765] = 50.0, -50.0
    y[100:200] = np.nan
    x, thinned = plots.thin(np.arange(10_000.0), y, 200)
    assert len(x) <= 202
    assert {0.0, 4321.0, 8765.0, 9999.0} <= set(x)
    np.testing.assert_array_equal(thinned, y[x.astype(int)])


def test_a_line_goes_where_its_numbers_say() -> None:
    line = plots.Line(
        style="encoder", x=np.array([0.0, 5.0, 10.0]), y=np.array([0.0, 1.0, 0.5]), marks="circle"
    )
    horizontal = plots.Axis(low=0, high=10, ticks=[(0, "0"), (10, "10")])
    chart = plots.Chart([line], horizontal, plots.axis(0, 1, 2), "t")
    svg = parse(plots.line_chart(chart, 300, 200))
    path = next(e for e in svg.iter("path")).get("d") or ""
    (x0, y0), (x1, y1), (x2, y2) = numbers(path)
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y1 < y2 < y0  # the SVG's y axis points down
    assert y2 == pytest.approx((y0 + y1) / 2)
    grid = sorted(float(e.get("y1") or 0) for e in svg.iter("line"))
    assert grid == pytest.approx([y1, y0])


def test_a_gap_breaks_the_line_and_a_single_point_is_a_mark() -> None:
    y = np.array([0.0, 1.0, np.nan, 1.0])
    line = plots.Line(style="plain", x=np.arange(4.0), y=y)
    alone = plots.Line(style="plain", x=np.array([2.0]), y=np.array([1.0]))
    horizontal = plots.Axis(low=0, high=3, ticks=[(0, "0")])
    svg = parse(plots.line_chart(plots.Chart([line, alone], horizontal, plots.axis(0, 1), "t"), 300, 200))
    assert next(e for e in svg.iter("path")).get("d", "").count("M") == 2
    assert len(list(svg.iter("circle"))) == 1


def test_a_logarithmic_axis_has_equal_ratios_at_equal_distances() -> None:
    axis = plots.Axis(low=100, high=10_000, ticks=[], log=True)
    assert [axis.at(100), axis.at(1000), axis.at(10_000)] == pytest.approx([0, 0.5, 1])


def test_confusion_writes_every_count_and_escapes_names() -> None:
    matrix = np.array([[5, 2, 0], [1, 7, 0], [0, 0, 0]])
    svg = parse(plots.confusion(matrix, ["<a>", "b&c", "d"], width=400, title='say "it"'))
    said = [title.text for rect in svg.iter("rect") for title in rect.iter("title")]
    assert said == [
        "<a>: 5 of 7 right", "<a> taken for b&c: 2 of 7", "<a> taken for d: 0 of 7",
        "b&c taken for <a>: 1 of 8", "b&c: 7 of 8 right", "b&c taken for d: 0 of 8",
        "d taken for <a>: 0 of 0", "d taken for b&c: 0 of 0", "d: 0 of 0 right",
    ]  # fmt: skip
    counts = [e.text for e in svg.iter("text") if "count" in (e.get("class") or "")]
    assert counts == ["5", "2", "1", "7"]
    assert svg.get("aria-label") == 'say "it"'


@pytest.mark.parametrize("width", [350, 560])
def test_confusion_stays_inside_its_width(width: int) -> None:
    names = [f"a rather long class name {n}" for n in range(20)]
    svg = parse(plots.confusion(np.ones((20, 20), dtype=int), names, width=width, title="t"))
    for rect in svg.iter("rect"):
        assert 0 <= float(rect.get("x") or 0) <= width - float(rect.get("width") or 0)


def test_scatter_puts_every_point_in_its_group_and_inside() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2)) * 3
    groups = np.arange(50) % 3 - 1
    svg = parse(plots.scatter(points, groups, {0: "a", 1: "<b>"}, size=300, radius=2, title="t", text=12))
    for group, style in ((-1, "none"), (0, "k0"), (1, "k1")):
        members = next(e for e in svg.iter("g") if e.get("class") == style).iter("circle")
        assert [int(e.get("data-n") or -1) for e in members] == np.flatnonzero(groups == group).tolist()
    for circle in svg.iter("circle"):
        assert 2 <= float(circle.get("cx") or 0) <= 298
        assert 2 <= float(circle.get("cy") or 0) <= 298


def test_names_do_not_cover_each_other() -> None:
    points = np.zeros((40, 2))
    groups = np.arange(40) % 4
    svg = parse(
        plots.scatter(points, groups, dict(enumerate("abcd")), size=300, radius=2, title="t", text=12)
    )
    assert len(list(svg.iter("text"))) == 1
