"""How long each stage took."""

from __future__ import annotations

from sslpipe.report.run import Context, Run, energy, seconds

ORDER = 160


def context(run: Run) -> Context:
    """What the template shows; None where no stage left its times."""
    stages = [
        (stage["stage"], took, energy(stage)) for stage in run.stages if (took := seconds(stage)) is not None
    ]
    return {"stages": stages} if stages else None
