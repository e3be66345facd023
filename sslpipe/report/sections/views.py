"""The contact sheet of views, and their recipe in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run
from sslpipe.report.words import NARROW_SPACE, is_number, percent

ORDER = 110


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where there is neither a sheet nor a recipe."""
    sheet = run.picture("plots/views/sheet.png", "Contact sheet: originals and the views drawn from them")
    specs = run.recipe.get("views")
    specs = [spec for spec in specs if isinstance(spec, Mapping)] if isinstance(specs, list) else []
    if not sheet and not specs:
        return None
    return {
        "sheet": sheet,
        "specs": [
            {
                "count": spec.get("count", 1),
                "name": spec.get("name", "view"),
                "size": spec.get("size", "?"),
                "does": ", ".join(_words(spec)) or "as it is",
            }
            for spec in specs
        ],
    }


def _words(spec: Mapping[str, Any]) -> list[str]:
    """What a view's specification does, each operation in words."""
    words = []
    scale, jitter, mask = spec.get("scale"), spec.get("jitter"), spec.get("mask")
    if isinstance(scale, Sequence) and len(scale) == 2:
        words.append(f"crop of {100 * scale[0]:.0f}\u2013{100 * scale[1]:.0f}{NARROW_SPACE}% of the area")
    for key, word in (
        ("hflip", "mirrored"),
        ("vflip", "upside down"),
        ("grey", "grey"),
        ("blur", "blurred"),
        ("solarize", "solarized"),
    ):
        if is_number(spec.get(key)) and spec[key] > 0:
            words.append(word + ("" if spec[key] >= 1 else f" {percent(spec[key], 0)}"))
    if spec.get("rotation"):
        words.append(f"turned \u00b1{spec['rotation']:g}\u00b0")
    if spec.get("quarter_turns"):
        words.append("quarter turns")
    if isinstance(jitter, Mapping) and jitter.get("probability", 1):
        colours = ("brightness", "contrast", "saturation", "hue")
        parts = [f"{key} {jitter[key]:g}" for key in colours if jitter.get(key)]
        if parts:
            words.append(f"jitter {percent(jitter.get('probability', 1), 0)} ({', '.join(parts)})")
    if isinstance(mask, Mapping):
        words.append(f"{percent(mask.get('ratio', 0), 0)} of the patches hidden")
    return words
