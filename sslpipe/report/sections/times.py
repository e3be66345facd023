"""How long each stage took."""

from __future__ import annotations

from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run, energy, seconds

ORDER = 160


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where no stage left its times."""
    stages = [
        (stage["stage"], took, energy(stage)) for stage in run.stages if (took := seconds(stage)) is not None
    ]
    if not stages:
        return None
    used = [each for *_, each in stages if each is not None]
    return {
        "stages": stages,
        "longest": max(took for _, took, _ in stages) or 1.0,
        "total": sum(took for _, took, _ in stages),
        "energy": sum(used) if used else None,
    }
