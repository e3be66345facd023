"""Linear probe on augmented views: other crops of the training images in each epoch, through the frozen encoder."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import CropScale, Device, Enabled, Epochs, Evaluation, Rates


class Config(Base):
    """Settings of the section `online`."""

    enabled: Enabled = False
    epochs: Epochs = 30
    batch_size: int = Field(256, ge=1, description="images an optimiser step")
    lrs: Rates = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    weight_decays: tuple[float, ...] = Field(
        (0.0,), min_length=1, description="each is tried with each learning rate"
    )
    folds: int = Field(5, ge=2, description="of the cross-validation that chooses the learning rate")
    crop_scale: CropScale = (0.08, 1.0)
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Linear probe, augmented",
    about="A linear classifier trained on augmented views through the frozen encoder, as papers report ImageNet.",
    order=30,
    subject="a linear probe on augmented views",
    rank=2,
)
