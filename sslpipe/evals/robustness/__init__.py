"""What changes of an image features ignore, and how much accuracy common corruptions cost them."""

from __future__ import annotations

from pydantic import Field, field_validator

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Evaluation, Score, Temperature


class Config(Base):
    """Settings of the section `robustness`."""

    enabled: Enabled = False
    images: int = Field(1000, ge=2, description="test images that are changed and corrupted")
    severities: tuple[int, ...] = Field(
        (1, 3, 5), min_length=1, description="of the corruptions, from 1 to 5"
    )
    k: int = Field(20, ge=1, description="neighbours, among clean training images")
    temperature: Temperature = 0.07
    device: Device = "auto"

    @field_validator("severities")
    @classmethod
    def _check(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(value)) != list(value) or not set(value) <= {1, 2, 3, 4, 5}:
            raise ValueError("must be numbers from 1 to 5, rising")
        return value


EVALUATION = Evaluation(
    title="Robustness",
    about="What changes of an image features ignore, and what corruptions cost in accuracy.",
    order=80,
    splits=("test",),
    labels=False,
    repeats=False,
    headline=("top1", "random_init_top1", "mean_corrupted_top1", "random_init_mean_corrupted_top1"),
    scores=(Score(key="mean_corrupted_top1", title="k-NN under corruptions, %"),),
)
