"""The part of the page on how it was made: views, loss, the method's own pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from sslpipe.report import plots
from sslpipe.report.parts import NARROW, WIDE, both, method_name, picture, section
from sslpipe.report.run import Run
from sslpipe.views.operations import in_words

_PICTURES = 4  # of the method's own, so that the page stays small


def views(run: Run) -> str:
    """The contact sheet of views, and their recipe in words."""
    sheet = picture(run, "plots/views/sheet.png", "Contact sheet: originals and the views drawn from them")
    specs = run.recipe.get("views")
    words = (
        "".join(f"<li>{_spec(spec)}</li>" for spec in specs if isinstance(spec, Mapping))
        if isinstance(specs, list)
        else ""
    )
    if not sheet and not words:
        return ""
    note = (
        "<p>Each original with the outlines of its crops, then the views that the method is trained on.</p>"
    )
    return section(
        "views",
        "What the method saw",
        note if sheet else "",
        sheet + (f'<ul class="specs">{words}</ul>' if words else ""),
    )


def _spec(spec: Mapping[str, Any]) -> str:
    """A ViewSpec in words, only what it does."""
    name = f"{spec.get('count', 1)}\u202f\u00d7\u202f{spec.get('name', 'view')}"
    size, what = str(spec.get("size", "?")), in_words(spec) or "as it is"
    return f"<b>{escape(name)}</b> {escape(size)}\u202fpx: {escape(what)}"


def training(run: Run) -> str:
    """The loss, and the other numbers of the training curves."""
    curves = run.curves
    if "loss" not in curves or not np.isfinite(curves["loss"]).any():
        return ""
    x, x_label = clock(curves)
    x_axis = plots.Axis(low=float(x[0]), high=float(x[-1]), ticks=_clock_ticks(x))
    loss = curves["loss"]
    window = max(1, len(loss) // 40)
    lines = [plots.Line(style="encoder", x=(s := plots.thin(x, plots.smooth(loss, window), 500))[0], y=s[1])]
    if window > 1:
        faint = plots.thin(x, loss, 700)
        lines.insert(0, plots.Line(style="faint", x=faint[0], y=faint[1]))
    y_axis = plots.axis(float(np.nanmin(loss)), float(np.nanmax(loss)), 6)

    def draw(width: int) -> str:
        return plots.line_chart(
            lines,
            x_axis,
            y_axis,
            width=width,
            height=300 if width == WIDE else 240,
            x_label=x_label,
            title="Training loss",
        )

    small = _small_curves(curves, x, x_axis, ("step", "epoch", "loss"))
    note = "<p>The method\u2019s own loss; it cannot be compared between methods."
    note += " The strong line is a moving mean of the thin one.</p>" if window > 1 else "</p>"
    return section(
        "training",
        "Pretraining loss",
        note,
        both(draw) + small + _watched(run),
    )


def _watched(run: Run) -> str:
    """What looks at the features between epochs saw."""
    looks = run.watched
    x = looks.get("epoch", np.empty(0))
    if len(x) < 2 or not np.isfinite(x).all():
        return ""
    x_axis = plots.Axis(low=float(x[0]), high=float(x[-1]), ticks=_clock_ticks(x))
    small = _small_curves(looks, x, x_axis, ("step", "epoch"))
    if not small:
        return ""
    alarm = ""
    if run.metrics.get("pretrain", {}).get("collapsed"):
        alarm = (
            "<p>In the end the features had collapsed: the log of the stage pretrain says what to check.</p>"
        )
    note = (
        "<p>Looks at a sample of the training images between epochs: k-NN with the labels of one half for the other, "
        "the features\u2019 effective rank and spread, and what the method has of its own.</p>"
    )
    return f"<h3>What the features say</h3>{alarm}{note}{small}"


def _small_curves(
    table: Mapping[str, np.ndarray], x: np.ndarray, x_axis: plots.Axis, left_out: Sequence[str]
) -> str:
    """A small chart for each column that has more than one number."""
    charts = "".join(
        _small_curve(name, x, values, x_axis)
        for name, values in table.items()
        if name not in left_out and np.isfinite(values).sum() > 1
    )
    return f'<div class="smalls">{charts}</div>' if charts else ""


def clock(curves: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """The horizontal axis: fractional epochs where both columns allow it, else steps, else rows."""
    count = len(curves["loss"])
    step, epoch = curves.get("step"), curves.get("epoch")
    if epoch is not None and np.isfinite(epoch).all() and len(np.unique(epoch)) > 1:
        if np.any(epoch != np.round(epoch)) or len(np.unique(epoch)) == count:
            return epoch, "epoch"
        if step is not None and np.isfinite(step).all() and step[-1] > step[0]:
            # Whole epochs with many rows each: spread the rows evenly over the epochs.
            first, last = float(epoch[0]), float(epoch[-1]) + 1
            return first + (step - step[0]) / (step[-1] - step[0]) * (last - first), "epoch"
    if step is not None and np.isfinite(step).all():
        return step, "step"
    return np.arange(count, dtype=float), "row"


def _clock_ticks(x: np.ndarray) -> list[tuple[float, str]]:
    ticks = [tick for tick in plots.nice_ticks(float(x[0]), float(x[-1]), 6) if x[0] <= tick <= x[-1]]
    return list(zip(ticks, plots.plain(ticks), strict=True))


def _small_curve(name: str, x: np.ndarray, values: np.ndarray, x_axis: plots.Axis) -> str:
    thinned = plots.thin(x, values, 240)
    last = values[np.isfinite(values)][-1]

    def draw(width: int) -> str:
        return plots.line_chart(
            [plots.Line(style="plain", x=thinned[0], y=thinned[1])],
            x_axis,
            plots.axis(float(np.nanmin(values)), float(np.nanmax(values)), 3),
            width=width,
            height=120,
            title=f"{name} over training",
        )

    caption = f"{escape(name.replace('_', ' '))}<span>{_short(float(last))}</span>"
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="wide">{draw(250)}</div>'
        f'<div class="narrow">{draw(NARROW)}</div></figure>'
    )


def pictures(run: Run) -> str:
    """What the method drew of its own work."""
    folder = run.directory / "plots" / "pretrain"
    figures = []
    for path in sorted(folder.glob("*.png"))[:_PICTURES] if folder.is_dir() else ():
        name = path.stem.replace("_", " ").capitalize()
        image = picture(run, f"plots/pretrain/{path.name}", name)
        if image:
            figures.append(f"<figure><figcaption>{escape(name)}</figcaption>{image}</figure>")
    if not figures:
        return ""
    note = f"<p>Pictures that {escape(method_name(run))} draws of its own work at the end of pretraining.</p>"
    return section("pictures", "The method at work", note, "".join(figures))


def patches(run: Run) -> str:
    """What the encoder makes of the parts of images."""
    path = run.directory / "plots" / "embed" / "strips.json"
    try:
        strips = json.loads(path.read_text()) if path.is_file() else []
        named = [(str(strip["file"]), str(strip["title"])) for strip in strips]
    except (OSError, ValueError, KeyError, TypeError):
        run.problems.append("plots/embed/strips.json could not be read")
        return ""
    figures = []
    for file, title in named:
        image = picture(run, f"plots/embed/{Path(file).name}", title)
        if image:
            figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{image}</figure>")
    if not figures:
        return ""
    note = (
        "<p>The first three principal components of the features of all patches of these images, as red, green and "
        "blue: patches that the encoder takes for alike have like colours, across images too. For a vision "
        "transformer also where its last block looks.</p>"
    )
    return section("patches", "What it makes of parts", note, f'<div class="strips">{"".join(figures)}</div>')


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "\u2212")
