"""Figures as SVG: no plotting library, no fixed colours (the page's style sheet gives them).

A figure is drawn for a width in CSS pixels and shown at that width, so that text keeps its size on a phone. Where its
parts lie is worked out here; templates write them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from sslpipe.report import rendering

WIDE, NARROW = 820, 350  # CSS pixels a figure is drawn for: a desktop's column, a phone's
#: A row of dots: its name, whether that is in bold, and a value for each CSS class that colours a dot.
Dots = tuple[str, bool, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart. `style` is the CSS class that colours it, `spread` half the height of its bars."""

    style: str
    x: np.ndarray  # [N]
    y: np.ndarray  # [N], NaN breaks the line
    spread: np.ndarray | None = None
    marks: str | None = None  # "circle" or "diamond"
    values: Callable[[float], str] | None = None  # writes each value beside its mark

    @property
    def known(self) -> np.ndarray:
        """Indices of the points that are drawn."""
        return np.flatnonzero(np.isfinite(self.y))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale: its ends, its ticks (value, text), and whether it is logarithmic."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return ((math.log(value) if self.log else value) - low) / ((high - low) or 1.0)


@dataclass(frozen=True)
class Chart:
    """Lines over two axes, the last on top. The label stands under the horizontal axis, the title is said."""

    lines: Sequence[Line]
    x_axis: Axis
    y_axis: Axis
    title: str
    x_label: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure drawn for a desktop and for a phone; the style sheet shows one."""

    wide: Markup
    narrow: Markup
    caption: str = ""
    value: str = ""  # beside the caption


def figure(draw: Callable[[int], Markup]) -> Figure:
    """A figure as wide as the page's column, from what draws it for a width."""
    return Figure(wide=draw(WIDE), narrow=draw(NARROW))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that span [low, high], about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("ticks need finite ends")
    if high <= low:
        low, high = low - (abs(low) * 0.1 or 0.5), low + (abs(low) * 0.1 or 0.5)
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def axis(low: float, high: float, count: int = 5, write: Callable[[float], str] | None = None) -> Axis:
    """A linear axis that ends on round numbers."""
    ticks = nice_ticks(low, high, count)
    texts = [write(tick) for tick in ticks] if write else plain(ticks)
    return Axis(low=ticks[0], high=ticks[-1], ticks=list(zip(ticks, texts, strict=True)))


def plain(ticks: Sequence[float]) -> list[str]:
    """Numbers as short text, all with the same decimals; powers of ten for the very small and large."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest and (largest < 1e-2 or largest >= 1e5):
        return [
            "0" if tick == 0 else f"{tick:.2g}".replace("e-0", "e-").replace("e+0", "e") for tick in ticks
        ]
    digits = next((d for d in range(6) if all(abs(round(tick, d) - tick) < 1e-9 for tick in ticks)), 6)
    return [f"{tick:.{digits}f}".replace("-", "\u2212") for tick in ticks]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean that ignores NaN; the window shrinks towards both ends. float [N] -> [N]."""
    half = max(0, window // 2)
    good = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    total = sums[index + reach + 1] - sums[index - reach]
    number = counts[index + reach + 1] - counts[index - reach]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def thin(x: np.ndarray, y: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `limit` points of a line: the lowest and highest of each stretch, so no spike is lost."""
    if len(x) <= limit:
        return x, y
    kept = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(len(x)), max(1, limit // 2)):
        values = y[stretch]
        if np.isfinite(values).any():
            kept.update((int(stretch[np.nanargmin(values)]), int(stretch[np.nanargmax(values)])))
    indices = sorted(kept)
    return x[indices], y[indices]


def line_chart(chart: Chart, width: int, height: int) -> Markup:
    """A chart of lines."""
    left = 12 + 7 * max(len(text) for _, text in chart.y_axis.ticks)
    right, top, bottom = 14, 14, 42 if chart.x_label else 26

    def x(value: float) -> float:
        return left + chart.x_axis.at(value) * (width - left - right)

    def y(value: float) -> float:
        return top + (1 - chart.y_axis.at(value)) * (height - top - bottom)

    def path(line: Line) -> str:
        # The pen is lifted where a value is missing.
        pens = ["L" if n and math.isfinite(line.y[n - 1]) else "M" for n in line.known]
        return "".join(
            f"{pen}{x(line.x[n]):.1f} {y(line.y[n]):.1f}" for pen, n in zip(pens, line.known, strict=True)
        )

    context = {"chart": chart, "left": left, "right": right, "bottom": bottom, "x": x, "y": y, "path": path}
    return _drawn("lines", width, height, chart.title, context)


def dots(rows: Sequence[Dots], x_axis: Axis, *, width: int, title: str) -> Markup:
    """A line of dots for each row, one dot a series, the stretch between them drawn."""
    left, right, pitch, top = 16 + 7 * max(len(name) for name, *_ in rows), 14, 30, 6
    bottom = top + pitch * len(rows)

    def x(value: float) -> float:
        return left + x_axis.at(value) * (width - left - right)

    places = {"left": left, "top": top, "pitch": pitch, "bottom": bottom, "x": x}
    return _drawn("dots", width, bottom + 26, title, {"rows": rows, "x_axis": x_axis, **places})


def confusion(matrix: np.ndarray, names: Sequence[str], *, width: int, title: str) -> Markup:
    """A confusion matrix: int [K, K], rows are the true classes, columns what was predicted; K names."""
    short = [_shortened(name, 14 if width > 500 else 9) for name in names]
    longest = max(map(len, short))
    upright = longest <= max(1, int((width - 60) / len(names) / 8))
    left, top = 32 + 7 * longest, 44 if upright else 34 + round(6.6 * longest)
    side = (width - left - 2) / len(names)
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    worst = float((fractions * (1 - np.eye(len(names)))).max())
    context = {
        "matrix": matrix.tolist(), "fractions": fractions.tolist(), "worst": worst,
        "names": names, "short": short, "upright": upright, "left": left, "top": top, "side": side,
    }  # fmt: skip
    return _drawn("matrix", width, round(top + side * len(names) + 2), title, context)


def scatter(
    points: np.ndarray, groups: np.ndarray, names: Mapping[int, str], *, size: int, radius: float, text: int, title: str
) -> Markup:  # fmt: skip
    """Points of a plane coloured by group, each group named where most of it lies.

    Args:
        points: [N, 2], about within the unit circle.
        groups: int [N]; -1 for points of no group.
        names: by group.
        size: width and height in CSS pixels.
        radius: of a point, in CSS pixels.
        text: size of the names in CSS pixels; 0: none are written.
        title: said by screen readers.
    """
    # Far stragglers would shrink the rest: they are kept at the edge.
    pad = 1.12
    xy = (np.clip(points, -pad, pad) / pad * (0.5 * size - radius - 1)) + 0.5 * size
    members = {int(group): np.flatnonzero(groups == group).tolist() for group in np.unique(groups)}
    named = _names(xy, groups, names, size, text) if text else []
    context = {"xy": xy.tolist(), "groups": members, "radius": radius, "names": named, "text": text}
    return _drawn("scatter", size, size, title, {**context, "style": "map"})


def _names(
    xy: np.ndarray, groups: np.ndarray, names: Mapping[int, str], size: int, text: int
) -> list[tuple[str, float, float]]:
    """Names and their places on their groups, the largest group first; one that would cover another is left out."""
    found: list[tuple[str, float, float]] = []
    for group in sorted(names, key=lambda group: -int((groups == group).sum())):
        members = xy[groups == group]
        if not len(members):
            continue
        name = _shortened(names[group], 18)
        half = _half_width(name, text)
        x, y = _densest(members)
        x = min(max(x, half + 4), size - half - 4)
        if not any(
            abs(x - other_x) < half + _half_width(other, text) and abs(y - other_y) < text
            for other, other_x, other_y in found
        ):
            found.append((name, x, y))
    return found


def _half_width(name: str, text: int) -> float:
    return 0.31 * text * len(name) + 2


def _densest(members: np.ndarray) -> tuple[float, float]:
    """The member with the most others near it: a name there sits on its cluster even when a class has two."""
    sample = members[:: max(1, len(members) // 200)]
    distance = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    scale = max(float(np.median(distance)) / 2, 1e-9)
    best = int(np.exp(-((distance / scale) ** 2)).sum(axis=1).argmax())
    return float(sample[best, 0]), float(sample[best, 1])


def _shortened(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"


@functools.cache
def _templates() -> Environment:
    return rendering.environment()


def _drawn(template: str, width: int, height: int, title: str, context: Mapping[str, Any]) -> Markup:
    frame = {"width": width, "height": height, "title": title, "style": "chart"}
    return rendering.part(_templates(), template, frame | dict(context))
