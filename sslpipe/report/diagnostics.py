"""The part of the page on what the features look like: rank, spectrum, alignment, uniformity, purity."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from sslpipe.report import plots
from sslpipe.report.parts import MARKS, WIDE, both, heads, legend, section
from sslpipe.report.results import PREFIX, SERIES, integer, is_number, percent
from sslpipe.report.run import Run

#: Name, title, how to read it.
_ROWS = (
    ("rankme", "RankMe", "how many directions the features fill"),
    ("lidar", "LiDAR", "the same of what tells images from their own views"),
    ("lidar_unbiased", "LiDAR, unbiased", "less what few views add by chance; hardly depends on their number"),
    ("alpha_req", "\u03b1-ReQ", "exponent of the spectrum\u2019s decay; near 1 serves best, far above: few directions"),
    ("alignment", "Alignment", "squared distance between two views of an image, 0 to 4; lower ignores the views more"),
    ("uniformity", "Uniformity", "0: all features in one place, \u22124: spread evenly over the sphere"),
    ("nn_purity", "Neighbour purity", "share of the nearest training images that have a test image\u2019s class"),
    ("feature_std", "Spread", "deviation of the normalised features; 1: spread over the sphere, 0: all equal"),
    ("dead_dimensions", "Dead features", "features that are the same for every image"),
    ("dimensions", "Features", ""),
)  # fmt: skip


def geometry(run: Run) -> str:
    """A table of the numbers beside the baselines', and the eigenspectra."""
    metrics = run.metrics.get("diagnostics", {})
    columns = [
        name for name in SERIES if any(is_number(metrics.get(PREFIX[name] + row)) for row, *_ in _ROWS)
    ]
    if not columns:
        return ""
    body = "".join(_row(metrics, columns, *row) for row in _ROWS)
    note = (
        "<p>Numbers that need no training, and all but the purity no labels. They tell collapse from health.</p>"
        "<p>Of two runs of one method the one with the higher RankMe and LiDAR is often the better. Between methods, "
        "and beside random weights, a rank says little: random features are spread, too.</p>"
    )
    table = f'<table class="numbers"><thead><tr><th></th>{heads(columns)}</tr></thead><tbody>{body}</tbody></table>'
    return section("diagnostics", "What the features look like", note, table + _spectrum(run))


def _row(metrics: Mapping[str, Any], columns: list[str], name: str, title: str, said: str) -> str:
    values = [metrics.get(PREFIX[series] + name) for series in columns]
    if not any(is_number(value) for value in values):
        return ""
    cells = "".join(f"<td>{_said(name, value)}</td>" for value in values)
    small = f"<small>{escape(said)}</small>" if said else ""
    return f'<tr><th scope="row">{escape(title)}{small}</th>{cells}</tr>'


def _said(name: str, value: Any) -> str:
    if not is_number(value):
        return "\u2013"
    if name == "nn_purity":
        return percent(value)
    if name in ("dead_dimensions", "dimensions"):
        return integer(value)
    return f"{value:.{1 if name in ('rankme', 'lidar', 'lidar_unbiased') else 2}f}".replace("-", "\u2212")


def _spectrum(run: Run) -> str:
    """Eigenvalues of the covariance by rank, both on logarithmic scales."""
    found = {name: run.spectra[name] for name in SERIES if len(run.spectra.get(name, ())) > 1}
    if not found:
        return ""
    highest = max(shares.max() for shares in found.values())
    if not highest > 0:
        return ""
    floor = highest * 1e-7  # what lies below is rounding
    longest = max(len(shares) for shares in found.values())
    powers = range(int(np.floor(np.log10(floor))), int(np.ceil(np.log10(highest))) + 1)
    y_axis = plots.Axis(
        low=10.0 ** powers[0], high=10.0 ** powers[-1], log=True,
        ticks=[(10.0**p, f"{100 * 10.0**p:g}%" if p >= -4 else f"1e{p + 2}%") for p in powers if p % 2 == 0],
    )  # fmt: skip
    marks = [n for n in (1, 3, 10, 30, 100, 300, 1000) if n <= longest]
    x_axis = plots.Axis(low=1, high=longest, log=True, ticks=[(n, integer(n)) for n in marks])
    lines = [_line(name, found[name], floor) for name in reversed(found)]

    def draw(width: int) -> str:
        return plots.line_chart(
            lines, x_axis, y_axis, width=width, height=300 if width == WIDE else 240, x_label="rank",
            title="Share of the features' variance by direction, the largest first",
        )  # fmt: skip

    words = "Share of the variance by direction, the largest first; a straight line is a power law"
    return f"<div><h3>{words}</h3>{legend(list(found))}{both(draw)}</div>"


def _line(series: str, shares: np.ndarray, floor: float) -> plots.Line:
    rank = np.unique(np.rint(np.geomspace(1, len(shares), 160)).astype(int))
    shares = shares[rank - 1]
    return plots.Line(style=MARKS[series], x=rank, y=np.where(shares >= floor, shares, np.nan))
