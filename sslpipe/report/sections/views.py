"""The contact sheet of views, and their recipe in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run
from sslpipe.views.operations import in_words

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
                "does": in_words(spec) or "as it is",
            }
            for spec in specs
        ],
    }
