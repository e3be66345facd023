"""Templates to HTML. What is put into one is escaped, but what is Markup already: charts, style and script."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sslpipe.core import scratch
from sslpipe.report import words
from sslpipe.report.series import MARKS, SERIES

_FILTERS = (
    words.duration, words.flat, words.hundredths, words.integer, words.isolated, words.percent, words.points, words.px,
    words.setting, words.watt_hours,
)  # fmt: skip


def environment(*packages: str) -> Environment:
    """What reads templates: from the folders `templates` of these packages first, then from the report's own."""
    loader = ChoiceLoader([PackageLoader(package) for package in (*packages, "sslpipe.report")])
    found = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters.update({each.__name__: each for each in _FILTERS})
    found.tests["a_number"] = words.is_number
    found.globals.update(SERIES=SERIES, MARKS=MARKS)
    return found


def part(templates: Environment, name: str, context: Mapping[str, Any]) -> Markup:
    """A part of a page, from `NAME.html`."""
    return Markup(templates.get_template(f"{name}.html").render(name=name, **context))


def static(name: str) -> Markup:
    """The page's style sheet or script as it stands in its file."""
    return Markup(files("sslpipe.report").joinpath(name).read_text(encoding="utf-8"))


def write(path: Path, html: str) -> Path:
    """Write a page, or raise a UserError that says why it cannot be written."""
    # A file's name need not be text; what is left of one that is not cannot be written as UTF-8.
    scratch.atomic_write(path, html.encode("utf-8", "replace"))
    return path
