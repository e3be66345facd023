"""What the features look like: rank, spectrum, alignment, uniformity, purity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sslpipe.report import charts
from sslpipe.report.plots import Axis, Chart, Figure, Line
from sslpipe.report.run import Context, Run, table
from sslpipe.report.series import MARKS, PREFIX, SERIES
from sslpipe.report.words import integer, is_number, percent

ORDER = 60
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


def context(run: Run) -> Context:
    """What the template shows; None where nothing was measured."""
    metrics = run.metrics.get("diagnostics", {})
    rows = [
        (title, said, {series: metrics.get(prefix + name) for series, prefix in PREFIX.items()}, name)
        for name, title, said in _ROWS
    ]
    columns = [series for series in SERIES if any(is_number(values[series]) for *_, values, _ in rows)]
    if not columns:
        return None
    read: dict[str, np.ndarray] = run.load("plots/diagnostics/eigenspectrum.csv", _spectra, {})
    spectra = {series: read[series] for series in SERIES if len(read.get(series, ())) > 1}
    return {
        "columns": columns,
        "rows": [
            (title, said, [_said(name, values[series]) for series in columns])
            for title, said, values, name in rows
            if any(map(is_number, values.values()))
        ],
        "spectra": list(spectra),
        "chart": _spectrum(spectra),
    }


def _spectra(path: Path) -> dict[str, np.ndarray]:
    """By series the fractions of the variance, the largest first."""
    rows = [(row["series"], float(row["share"])) for row in table(path)]
    return {series: np.array([fraction for name, fraction in rows if name == series]) for series in SERIES}


def _said(name: str, value: Any) -> str:
    if not is_number(value):
        return "\u2013"
    if name == "nn_purity":
        return percent(value)
    if name in ("dead_dimensions", "dimensions"):
        return integer(value)
    return f"{value:.{1 if name in ('rankme', 'lidar', 'lidar_unbiased') else 2}f}".replace("-", "\u2212")


def _spectrum(spectra: dict[str, np.ndarray]) -> Figure | None:
    """Eigenvalues of the covariance by rank, both on logarithmic scales."""
    highest = max((fractions.max() for fractions in spectra.values()), default=0)
    if not highest > 0:
        return None
    floor = highest * 1e-7  # what lies below is rounding
    longest = max(map(len, spectra.values()))
    powers = range(int(np.floor(np.log10(floor))), int(np.ceil(np.log10(highest))) + 1)
    ranks = [(n, integer(n)) for n in (1, 3, 10, 30, 100, 300, 1000) if n <= longest]
    ticks = [(10.0**p, f"{100 * 10.0**p:g}%" if p >= -4 else f"1e{p + 2}%") for p in powers if p % 2 == 0]
    lines = [_line(name, spectra[name], floor) for name in reversed(spectra)]
    x_axis = Axis(low=1, high=longest, ticks=ranks, log=True)
    y_axis = Axis(low=10.0 ** powers[0], high=10.0 ** powers[-1], ticks=ticks, log=True)
    title = "Share of the features' variance by direction, the largest first"
    return charts.wide(Chart(lines, x_axis, y_axis, title, "rank"))


def _line(series: str, fractions: np.ndarray, floor: float) -> Line:
    rank = np.unique(np.rint(np.geomspace(1, len(fractions), 160)).astype(int))
    fractions = fractions[rank - 1]
    return Line(style=MARKS[series], x=rank, y=np.where(fractions >= floor, fractions, np.nan))
