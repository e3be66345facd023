"""What the method drew of its own work."""

from __future__ import annotations

from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run

ORDER = 130
_MOST = 4  # pictures, so that the page stays small


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where the method draws nothing."""
    found = [
        run.picture(f"plots/pretrain/{path.name}", path.stem.replace("_", " ").capitalize())
        for path in sorted((run.directory / "plots" / "pretrain").glob("*.png"))[:_MOST]
    ]
    shown = [picture for picture in found if picture is not None]
    return {"method": run.method, "pictures": shown} if shown else None
