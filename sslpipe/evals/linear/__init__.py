"""Linear probe with all labels and with few: see `sslpipe.measures.probe` for how one is trained."""

from __future__ import annotations

from pydantic import Field

from sslpipe.evals.base.declaration import Device, Enabled, Evaluation
from sslpipe.measures.config import Labels, ProbeConfig


class Config(ProbeConfig):
    """Settings of the section `linear`."""

    enabled: Enabled = True
    few_labels: tuple[Labels, ...] = Field(
        (400, 100),
        description='numbers of labels to repeat the probe with, such as 400, "10%" or "5 per class"',
    )
    draws: int = Field(5, ge=1, description="random draws of few labels; their mean and spread are reported")
    logistic: bool = Field(False, description="also logistic regression, by scikit-learn, on all labels")
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Linear probe",
    about="A linear classifier on frozen features, with all labels and with few.",
    order=20,
    subject="a linear probe",
    rank=0,
    headline=(
        "top1",
        "random_init_top1",
        "raw_pixel_top1",
        "few_labels.*.top1",
        "few_labels.*.random_init_top1",
    ),
)
