"""What the encoder makes of the parts of images."""

from __future__ import annotations

import json
from pathlib import Path

from sslpipe.report.run import Context, Run

ORDER = 140


def context(run: Run) -> Context:
    """What the template shows; None where there are no strips of patches."""
    named: list[tuple[str, str]] = run.load("plots/embed/strips.json", _named, [])
    found = [run.picture(f"plots/embed/{Path(file).name}", title) for file, title in named]
    shown = [picture for picture in found if picture is not None]
    return {"strips": shown} if shown else None


def _named(path: Path) -> list[tuple[str, str]]:
    """Files and titles."""
    return [(str(strip["file"]), str(strip["title"])) for strip in json.loads(path.read_text())]
