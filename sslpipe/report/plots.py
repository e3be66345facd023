"""Figures as SVG: no plotting library, no fixed colours (the page's style sheet gives them).

A figure is drawn for a width in CSS pixels and shown at that width, so that text keeps its size on a phone. Whatever
text comes in is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    for value, text in x_axis.ticks:
        anchor = "end" if px(value) > width - right - 12 and len(text) > 2 else "middle"
        x = min(px(value) + (right if anchor == "end" else 0), width)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - bottom + 18}" '
            f'text-anchor="{anchor}">{escape(text)}</text>'
        )
    if x_label:
        parts.append(
            f'<text class="axis" x="{width}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>'
        )
    for line in lines:
        parts.append(_line(line, px, py))
    return _svg(width, height, title, parts)


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
        x = f"{px(value):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>'
        )
    for n, (name, bold, values) in enumerate(rows):
        y = top + pitch * (n + 0.5)
        weight = ' font-weight="700"' if bold else ""
        parts.append(
            f'<text class="axis" x="{left - 14}" y="{y + 4:.1f}" text-anchor="end"{weight}>{escape(name)}</text>'
        )
        if len(values) > 1:
            ends = sorted(px(value) for value in values.values())
            parts.append(
                f'<line class="stretch" x1="{ends[0]:.1f}" x2="{ends[-1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        for style, value in values.items():
            said = f"<title>{escape(name)}: {value:.2f}</title>"
            mark = _mark("circle", px(value), y)
            parts.append(f'<g class="line {style}">{said}{mark}</g>')
    return _svg(width, bottom + 26, title, parts)


def confusion(matrix: np.ndarray, names: Sequence[str], *, width: int, title: str) -> Markup:
    """A confusion matrix whose errors stand out: the diagonal is a quiet tint, every error a warm cell.

    Args:
        matrix: int [K, K], rows are the true classes, columns what was predicted.
        names: [K] class names.
        width: in CSS pixels.
        title: said by screen readers.
    """
    count = len(names)
    limit = 14 if width > 500 else 9
    short = [_shortened(name, limit) for name in names]
    longest = max(len(name) for name in short)
    upright = longest <= max(1, int((width - 60) / count / 8))
    left = 32 + 7 * longest
    top = 44 if upright else 34 + round(6.6 * longest)
    cell = (width - left - 2) / count
    height = round(top + cell * count + 2)
    totals = matrix.sum(axis=1)
    worst = max(
        (matrix[r, c] / totals[r] for r in range(count) for c in range(count) if r != c and totals[r]),
        default=0,
    )
    parts = [
        f'<text class="axis" x="{left}" y="12">Predicted</text>',
        f'<text class="axis" x="12" y="{top + cell * count / 2:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {top + cell * count / 2:.1f})">Actual</text>',
    ]
    for n, name in enumerate(short):
        middle = left + cell * (n + 0.5)
        x = middle if upright else middle + 4
        turn = "" if upright else f' transform="rotate(-90 {x:.1f} {top - 8})"'
        anchor = "middle" if upright else "start"
        full = f"<title>{escape(names[n])}</title>"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{top - 8}" text-anchor="{anchor}"{turn}>'
            f"{escape(name)}{full}</text>"
        )
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{top + cell * (n + 0.5) + 4:.1f}" text-anchor="end">'
            f"{escape(name)}{full}</text>"
        )
    for r in range(count):
        for c in range(count):
            parts.append(_cell(matrix, names, totals, worst, r, c, left + c * cell, top + r * cell, cell))
    return _svg(width, height, title, parts)


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
        dots = "".join(
            f'<circle cx="{xy[n, 0]:.1f}" cy="{xy[n, 1]:.1f}" r="{radius}" data-n="{n}"/>'
            for n in np.flatnonzero(groups == group)
        )
        parts.append(f'<g class="k{group}">{dots}</g>' if group >= 0 else f'<g class="none">{dots}</g>')
    if text:
        parts += _names(xy, groups, names, size, text)
    return _svg(size, size, title, parts, style="map")


def _names(xy: np.ndarray, groups: np.ndarray, names: Mapping[int, str], size: int, text: int) -> list[str]:
    """Names on their groups, the largest group first; one that would cover another is left out."""
    parts: list[str] = []
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
        parts.append(
            f'<text class="name" font-size="{text}" x="{x:.1f}" y="{y + 0.35 * text:.1f}" '
            f'text-anchor="middle">{escape(name)}</text>'
        )
    return parts


def _line(line: Line, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    parts, path, pen = [], [], "M"
    good = [n for n in range(len(line.x)) if math.isfinite(line.y[n])]
    for n in range(len(line.x)):
        if not math.isfinite(line.y[n]):
            pen = "M"
            continue
        path.append(f"{pen}{px(line.x[n]):.1f} {py(line.y[n]):.1f}")
        pen = "L"
    parts.append(f'<path d="{"".join(path)}"/>')
    if line.spread is not None:
        for n in good:
            if line.spread[n] > 0:
                x, high, low = px(line.x[n]), py(line.y[n] + line.spread[n]), py(line.y[n] - line.spread[n])
                parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{high:.1f}" y2="{low:.1f}"/>')
    if line.marks or len(good) == 1:
        parts += [_mark(line.marks or "circle", px(line.x[n]), py(line.y[n])) for n in good]
    if line.values is not None:
        for n in good:
            text = escape(line.values(line.y[n]))
            parts.append(
                f'<text x="{px(line.x[n]):.1f}" y="{py(line.y[n]) - 11:.1f}" '
                f'text-anchor="middle">{text}</text>'
            )
    return f'<g class="line {line.style}">{"".join(parts)}</g>'


def _mark(shape: str, x: float, y: float) -> str:
    if shape == "diamond":
        return f'<path class="dot" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _cell(
    matrix: np.ndarray,
    names: Sequence[str],
    totals: np.ndarray,
    worst: float,
    r: int,
    c: int,
    x: float,
    y: float,
    side: float,
) -> str:
    value = int(matrix[r, c])
    share = value / totals[r] if totals[r] else 0.0
    if r == c:
        style, strength = "right", 0.08 + 0.22 * share
    else:  # the square root keeps single errors visible beside the worst pair
        style, strength = "wrong", 0.85 * math.sqrt(share / worst) if value and worst else 0.0
    actual, predicted = isolated(names[r]), isolated(names[c])
    said = (
        f"{actual} taken for {predicted}: {value} of {int(totals[r])}"
        if r != c
        else f"{actual}: {value} of {int(totals[r])} right"
    )
    if not value and r != c:
        style, strength = "empty", 1.0
    rect = (
        f'<rect class="{style}" x="{x + 1:.1f}" y="{y + 1:.1f}" '
        f'width="{side - 2:.1f}" height="{side - 2:.1f}" rx="2" '
        f'fill-opacity="{strength:.2f}"><title>{escape(said)}</title></rect>'
    )
    if not value or side < 17:
        return rect
    shade = " deep" if r != c and strength > 0.7 else ""
    return rect + (
        f'<text class="count {style}{shade}" x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}" '
        f'text-anchor="middle">{value}</text>'
    )


def _densest(members: np.ndarray) -> tuple[float, float]:
    """The member with the most others near it: a name there sits on its cluster even when a class has two."""
    sample = members[:: max(1, len(members) // 200)]
    distance = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    scale = max(float(np.median(distance)) / 2, 1e-9)
    best = int(np.exp(-((distance / scale) ** 2)).sum(axis=1).argmax())
    return float(sample[best, 0]), float(sample[best, 1])


def _shortened(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"


def _svg(width: int, height: int, title: str, parts: Sequence[str], style: str = "chart") -> Markup:
    return Markup(
        f'<svg class="{style}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(parts)}</svg>'
    )
