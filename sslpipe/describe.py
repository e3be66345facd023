"""What there is to set: the methods, and every setting with its meaning."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from pydantic_core import PydanticUndefined

from sslpipe import evals, methods
from sslpipe.console.errors import UserError
from sslpipe.core.config import Config
from sslpipe.settings import OWNERS, Settings, defaults, unknown_value

Row = tuple[str, str, str, str]  # key, value, default where it is another, meaning
HEAD: Row = ("setting", "value", "default", "meaning")
WIDEST = (32, 40, 24)  # columns of the first three; longer texts are broken


def list_methods() -> str:
    """All methods, a line each: name, the backbones it trains, paper, and what else it needs."""
    rows = [("method", "backbones", "paper", "needs")]
    for name in methods.names():
        method = methods.find(name)
        rows.append((name, "/".join(method.takes), method.paper, method.needs))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", "`sslpipe methods NAME` shows a method's settings."])


def describe_method(name: str) -> str:
    """One method: its docstring, and its settings with the paper's values and those for small data."""
    if name not in methods.names():
        raise UserError(unknown_value("methods", name, methods.names()))
    method = methods.find(name)
    module = sys.modules[method.__module__]
    lines = [(module.__doc__ or "").strip(), "", f"methods.{name} (the paper's values):"]
    for key, default in defaults(method.Config).items():
        about = method.Config.model_fields[key].description
        shown = "required" if default is PydanticUndefined else words(default)
        lines.append(f"  {key}: {shown}" + (f"   # {about}" if about else ""))
    small = ", ".join(f"{key} {words(value)}" for key, value in method.small.items())
    lines += ["", *textwrap.wrap(f"With pretrain.defaults: small, {small}.", 120)] if small else []
    return "\n".join(lines)


def words(value: Any) -> str:
    """A setting's value in few words."""
    if isinstance(value, Config):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(words(item) for item in value)
    return str(value)


def describe_settings(settings: Settings, sections: Iterable[str] = (), width: int = 160) -> str:
    """Every setting of these sections: its value, the default where it is another, and what it means.

    Of sections, named as in params.yaml, `methods` is the chosen method, `methods.NAME` another; none means all.

    Raises:
        UserError: there is no such section.
    """
    known = ["seed", *OWNERS, "methods", *evals.declarations()]
    for section in sections:
        if section not in known and section.removeprefix("methods.") not in methods.names():
            raise UserError(unknown_value("settings", section, known))
    found = {section: _section(settings, section) for section in sections or known}
    every: list[Row] = [HEAD, *(row for _, own in found.values() for row in own)]
    widths = [min(most, max(len(row[n]) for row in every)) for n, most in enumerate(WIDEST)]
    widths.append(max(24, width - sum(widths) - 2 - 2 * len(widths)))
    lines = list(_wrapped(HEAD, widths))
    for title, own in found.values():
        lines += ["", title, *(line for row in own for line in _wrapped(row, widths))]
    return "\n".join(lines)


def _section(settings: Settings, section: str) -> tuple[str, list[Row]]:
    """The title of a section, and its rows."""
    if section == "seed":
        default = "" if settings.seed == 0 else "0"
        return "seed", [("seed", str(settings.seed), default, "of all that is random")]
    if section.partition(".")[0] == "methods":
        return _method(settings, section.partition(".")[2] or settings.pretrain.method)
    config: Config = getattr(settings, section)
    about = evals.declaration(section).about if section in evals.names() else ""
    return f"{section}   # {about}" if about else section, list(_rows(config, defaults(type(config))))


def _method(settings: Settings, name: str) -> tuple[str, list[Row]]:
    kind, whose = methods.find(name), settings.pretrain.defaults
    default = kind.Config.parse(kind.small if whose == "small" else {})
    title = f"methods.{name}   # defaults are {'its paper’s' if whose == 'paper' else 'those for small data'}"
    return f"{title}, by pretrain.defaults", list(_rows(settings.method_config(name), dict(default)))


def _rows(config: Config, usual: dict[str, Any], prefix: str = "") -> Iterator[Row]:
    for key, field in type(config).model_fields.items():
        value, default = getattr(config, key), usual.get(key)
        if isinstance(value, Config):
            below = dict(default) if isinstance(default, Config) else defaults(type(value))
            yield from _rows(value, below, f"{prefix}{key}.")
        else:
            other = "" if value == default else _written(default)
            yield f"{prefix}{key}", _written(value), other, field.description or ""


def _written(value: Any) -> str:
    """As in params.yaml."""
    if isinstance(value, Config):
        value = value.model_dump(mode="json")
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _wrapped(row: Row, widths: list[int]) -> Iterator[str]:
    """A row as lines, each cell broken to its column's width."""
    cells = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    for line in zip_longest(*cells, fillvalue=""):
        yield "  " + "  ".join(map(str.ljust, line, widths)).rstrip()
