"""What the method drew of its own work."""

from __future__ import annotations

from sslpipe.report.run import Context, Run

ORDER = 130
_MOST = 4  # pictures, so that the page stays small


def context(run: Run) -> Context:
    """What the template shows; None where the method draws nothing."""
    found = [
        run.picture(f"plots/pretrain/{path.name}", path.stem.replace("_", " ").capitalize())
        for path in sorted((run.directory / "plots" / "pretrain").glob("*.png"))[:_MOST]
    ]
    shown = [picture for picture in found if picture is not None]
    return {"pictures": shown} if shown else None
