"""Pretraining: views in, an encoder out. Killed at any moment, it continues on the next `dvc repro`."""

from __future__ import annotations

from sslpipe.core import pipeline, scratch
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from sslpipe.training.core import fingerprint, plan
from sslpipe.training.core.run import run
from sslpipe.training.launch.role import role
from stages.runner import stage


def _parts(settings: Settings) -> dict[str, str]:
    return fingerprint.parts(settings.setup, pipeline.resolved().get("pretrain", {}).get("code", {}))


def make(settings: Settings, record: Record) -> None:
    """Write models/, plots/pretrain/ and metrics/pretrain.json."""
    parts = _parts(settings)
    record.tag("device", parts["hardware"])
    record.tag("renderer", parts["renderer"])
    record.tag("processes", plan.world_size(settings.pretrain))
    result = run(
        settings.setup,
        parts,
        on_log=lambda row: record.metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"])),
        on_resume=record.resumed,
    )
    record.dataset(result.data["name"], result.data["digest"], result.data["name"])
    record.result(result.metrics, prefix="final_", step=int(result.metrics["steps"]))
    record.artifact("plots/pretrain")
    record.artifact("models/encoder.json")


main = stage(
    "pretrain",
    make,
    fingerprint=lambda settings: scratch.digest(_parts(settings)),
    role=lambda settings: role(settings.pretrain, "stages.pretrain"),
)

if __name__ == "__main__":
    main()
