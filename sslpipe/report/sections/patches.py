"""What the encoder makes of the parts of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run

ORDER = 140


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where there are no strips of patches."""
    path = run.directory / "plots" / "embed" / "strips.json"
    try:
        strips = json.loads(path.read_text()) if path.is_file() else []
        named = [(str(strip["file"]), str(strip["title"])) for strip in strips]
    except (OSError, ValueError, KeyError, TypeError):
        run.problems.append("plots/embed/strips.json could not be read")
        return None
    found = [run.picture(f"plots/embed/{Path(file).name}", title) for file, title in named]
    shown = [picture for picture in found if picture is not None]
    return {"strips": shown} if shown else None
