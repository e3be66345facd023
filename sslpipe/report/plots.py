"""Figures as SVG: no plotting library, no fixed colours (the page's style sheet gives them).

A figure is drawn for a width in CSS pixels and shown at that width, so that text keeps its size on a phone. Whatever
text comes in is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from sslpipe.report.words import isolated

WIDE, NARROW = 820, 350  # CSS pixels a figure is drawn for: a desktop's column, a phone's


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart. `style` is the CSS class that colours it, `spread` half the height of its bars."""

    style: str
    x: np.ndarray  # [N]
    y: np.ndarray  # [N], NaN breaks the line
    spread: np.ndarray | None = None
    marks: str | None = None  # "circle" or "diamond"
    values: Callable[[float], str] | None = None  # writes each value beside its mark


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


def small(draw: Callable[[int], Markup], caption: str, value: str = "") -> Figure:
    """One of the small figures that stand beside each other, from what draws it for a width."""
    return Figure(wide=draw(250), narrow=draw(NARROW), caption=caption, value=value)


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
    place = np.arange(len(values))
    reach = np.minimum(half, np.minimum(place, len(values) - 1 - place))
    total = sums[place + reach + 1] - sums[place - reach]
    number = counts[place + reach + 1] - counts[place - reach]
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
    places = sorted(kept)
    return x[places], y[places]


def line_chart(
    lines: Sequence[Line],
    x_axis: Axis,
    y_axis: Axis,
    *,
    width: int,
    height: int,
    title: str,
    x_label: str = "",
) -> Markup:
    """Lines over two axes.

    Args:
        lines: drawn in order, the last on top.
        x_axis: horizontal scale.
        y_axis: vertical scale.
        width: in CSS pixels.
        height: in CSS pixels.
        title: said by screen readers.
        x_label: under the axis, at its right end.
    """
    left = 12 + 7 * max(len(text) for _, text in y_axis.ticks)
    right, top, bottom = 14, 14, 42 if x_label else 26

    def px(value: float) -> float:
        return left + x_axis.at(value) * (width - left - right)

    def py(value: float) -> float:
        return top + (1 - y_axis.at(value)) * (height - top - bottom)

    parts = []
    for value, text in y_axis.ticks:
        y = py(value)
        parts.append(_tag("line", class_="grid", x1=left, x2=width - right, y1=y, y2=y))
        parts.append(_text(left - 8, y + 4, text, "tick", "end"))
    for value, text in x_axis.ticks:
        anchor = "end" if px(value) > width - right - 12 and len(text) > 2 else "middle"
        x = min(px(value) + (right if anchor == "end" else 0), width)
        parts.append(_text(x, height - bottom + 18, text, "tick", anchor))
    if x_label:
        parts.append(_text(width, height - 4, x_label, "axis", "end"))
    return _svg(width, height, title, [*parts, *(_line(line, px, py) for line in lines)])


def dots(
    rows: Sequence[tuple[str, bool, Mapping[str, float]]], x_axis: Axis, *, width: int, title: str
) -> Markup:
    """A line of dots for each row, one dot a series, the stretch between them drawn.

    Args:
        rows: a name, whether it is written in bold, and a value for each CSS class that colours a dot.
        x_axis: horizontal scale.
        width: in CSS pixels.
        title: said by screen readers.
    """
    left, right, pitch, top = 16 + 7 * max(len(name) for name, *_ in rows), 14, 30, 6
    bottom = top + pitch * len(rows)
    parts = []

    def px(value: float) -> float:
        return left + x_axis.at(value) * (width - left - right)

    for value, text in x_axis.ticks:
        parts.append(_tag("line", class_="grid", x1=px(value), x2=px(value), y1=top, y2=bottom))
        parts.append(_text(px(value), bottom + 18, text, "tick"))
    for n, (name, bold, values) in enumerate(rows):
        y = top + pitch * (n + 0.5)
        parts.append(_text(left - 14, y + 4, name, "axis", "end", font_weight=700 if bold else None))
        if len(values) > 1:
            ends = sorted(px(value) for value in values.values())
            parts.append(_tag("line", class_="stretch", x1=ends[0], x2=ends[-1], y1=y, y2=y))
        for style, value in values.items():
            said = _tag("title", f"{name}: {value:.2f}")
            parts.append(_tag("g", said, _mark("circle", px(value), y), class_=f"line {style}"))
    return _svg(width, bottom + 26, title, parts)


def confusion(matrix: np.ndarray, names: Sequence[str], *, width: int, title: str) -> Markup:
    """A confusion matrix whose errors stand out: the diagonal is a quiet tint, every error a warm cell.

    Args:
        matrix: int [K, K], rows are the true classes, columns what was predicted.
        names: [K] class names.
        width: in CSS pixels.
        title: said by screen readers.
    """
    count, limit = len(names), 14 if width > 500 else 9
    short = [_shortened(name, limit) for name in names]
    longest = max(map(len, short))
    upright = longest <= max(1, int((width - 60) / count / 8))
    left, top = 32 + 7 * longest, 44 if upright else 34 + round(6.6 * longest)
    side = (width - left - 2) / count
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    worst = float((shares * (1 - np.eye(count))).max())
    middle = top + side * count / 2
    parts = [
        _text(left, 12, "Predicted", "axis", None),
        _text(12, middle, "Actual", "axis", transform=f"rotate(-90 12 {middle:.1f})"),
    ]
    for n, name in enumerate(names):
        along, full = side * (n + 0.5), _tag("title", name)
        x = left + along + (0 if upright else 4)
        turn = None if upright else f"rotate(-90 {x:.1f} {top - 8})"
        anchor = "middle" if upright else "start"
        parts.append(_text(x, top - 8, short[n], "tick", anchor, full, transform=turn))
        parts.append(_text(left - 8, top + along + 4, short[n], "tick", "end", full))
    for r, c in np.ndindex(count, count):
        of = f"{matrix[r, c]} of {matrix[r].sum()}"
        actual, predicted = isolated(names[r]), isolated(names[c])
        said = f"{actual}: {of} right" if r == c else f"{actual} taken for {predicted}: {of}"
        style, strength = _shade(r == c, float(shares[r, c]), worst)
        parts += _cell(int(matrix[r, c]), said, style, strength, left + c * side, top + r * side, side)
    return _svg(width, round(top + side * count + 2), title, parts)


def _shade(right: bool, share: float, worst: float) -> tuple[str, float]:
    """The colour of a cell by the share of its class that it holds, and how strong it is."""
    if right:
        return "right", 0.08 + 0.22 * share
    if not share:
        return "empty", 1.0
    return "wrong", 0.85 * math.sqrt(
        share / worst
    )  # the root keeps single errors visible beside the worst pair


def _cell(
    value: int, said: str, style: str, strength: float, x: float, y: float, side: float
) -> list[Markup]:
    inner = side - 2
    place = {"x": x + 1, "y": y + 1, "width": inner, "height": inner, "rx": 2}
    cell = _tag("rect", _tag("title", said), class_=style, fill_opacity=f"{strength:.2f}", **place)
    if not value or side < 17:
        return [cell]
    deep = " deep" if style == "wrong" and strength > 0.7 else ""
    return [cell, _text(x + side / 2, y + side / 2 + 4, str(value), f"count {style}{deep}")]


def scatter(
    points: np.ndarray,
    groups: np.ndarray,
    names: Mapping[int, str],
    *,
    size: int,
    radius: float,
    title: str,
    text: int,
) -> Markup:
    """Points of a plane coloured by group, each group named where most of it lies.

    Args:
        points: [N, 2], about within the unit circle.
        groups: int [N]; -1 for points of no group.
        names: group -> name.
        size: width and height in CSS pixels.
        radius: of a point, in CSS pixels.
        title: said by screen readers.
        text: size of the names in CSS pixels; 0: none are written.
    """
    # Far stragglers would shrink the rest: they are kept at the edge.
    pad = 1.12
    xy = (np.clip(points, -pad, pad) / pad * (0.5 * size - radius - 1)) + 0.5 * size
    parts = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        dots = [_tag("circle", cx=xy[n, 0], cy=xy[n, 1], r=radius, data_n=n) for n in members]
        parts.append(_tag("g", *dots, class_=f"k{group}" if group >= 0 else "none"))
    if text:
        parts += _names(xy, groups, names, size, text)
    return _svg(size, size, title, parts, style="map")


def _names(
    xy: np.ndarray, groups: np.ndarray, names: Mapping[int, str], size: int, text: int
) -> list[Markup]:
    """Names on their groups, the largest group first; one that would cover another is left out."""
    parts: list[Markup] = []
    taken: list[tuple[float, float, float]] = []  # centre and half the width
    for group in sorted(names, key=lambda group: -int((groups == group).sum())):
        members = xy[groups == group]
        if not len(members):
            continue
        name = _shortened(names[group], 18)
        half = 0.31 * text * len(name) + 2
        x, y = _densest(members)
        x = min(max(x, half + 4), size - half - 4)
        if any(abs(x - other) < half + width and abs(y - height) < text for other, height, width in taken):
            continue
        taken.append((x, y, half))
        parts.append(_text(x, y + 0.35 * text, name, "name", font_size=text))
    return parts


def _line(line: Line, px: Callable[[float], float], py: Callable[[float], float]) -> Markup:
    good = [n for n in range(len(line.x)) if math.isfinite(line.y[n])]
    # The pen is lifted where a value is missing.
    pens = ["L" if n and math.isfinite(line.y[n - 1]) else "M" for n in good]
    steps = [f"{pen}{px(line.x[n]):.1f} {py(line.y[n]):.1f}" for pen, n in zip(pens, good, strict=True)]
    parts = [_tag("path", d="".join(steps))]
    for n in good:
        x, y, spread = px(line.x[n]), line.y[n], line.spread[n] if line.spread is not None else 0
        if spread > 0:
            parts.append(_tag("line", class_="bar", x1=x, x2=x, y1=py(y + spread), y2=py(y - spread)))
        if line.marks or len(good) == 1:
            parts.append(_mark(line.marks or "circle", x, py(y)))
        if line.values is not None:
            parts.append(_text(x, py(y) - 11, line.values(y), None))
    return _tag("g", *parts, class_=f"line {line.style}")


def _mark(shape: str, x: float, y: float) -> Markup:
    if shape == "diamond":
        return _tag("path", class_="dot", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z")
    return _tag("circle", cx=x, cy=y, r=4.5)


def _densest(members: np.ndarray) -> tuple[float, float]:
    """The member with the most others near it: a name there sits on its cluster even when a class has two."""
    sample = members[:: max(1, len(members) // 200)]
    distance = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    scale = max(float(np.median(distance)) / 2, 1e-9)
    best = int(np.exp(-((distance / scale) ** 2)).sum(axis=1).argmax())
    return float(sample[best, 0]), float(sample[best, 1])


def _shortened(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"


def _text(
    x: float,
    y: float,
    text: str,
    style: str | None,
    anchor: str | None = "middle",
    *inside: Markup,
    **more: Any,
) -> Markup:
    return _tag("text", text, *inside, class_=style, x=x, y=y, text_anchor=anchor, **more)


def _svg(width: int, height: int, title: str, parts: Sequence[Markup], style: str = "chart") -> Markup:
    box = f"0 0 {width} {height}"
    size = {"viewBox": box, "width": width, "height": height}
    return _tag("svg", *parts, class_=style, role="img", aria_label=title, **size)


def _tag(name: str, *inside: str, **attributes: Any) -> Markup:
    """An element: text inside is escaped, attributes that are None are left out, places are written to a tenth."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{f"{value:.1f}" if isinstance(value, float) else escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(map(escape, inside))}</{name}>")
