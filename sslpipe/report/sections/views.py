"""The contact sheet of views, and their recipe in words."""

from __future__ import annotations

from collections.abc import Mapping

from sslpipe.report.run import Context, Run
from sslpipe.views.operations import in_words

ORDER = 110


def context(run: Run) -> Context:
    """What the template shows; None where there is neither a sheet nor a recipe."""
    sheet = run.picture("plots/views/sheet.png", "Contact sheet: originals and the views drawn from them")
    specs = run.recipe.get("views")
    specs = [spec for spec in specs if isinstance(spec, Mapping)] if isinstance(specs, list) else []
    if not sheet and not specs:
        return None
    return {"sheet": sheet, "specs": [(spec, in_words(spec)) for spec in specs]}
