"""Attentive probe: attention pooling and a linear layer on the frozen features of patches."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Epochs, Evaluation, Rates


class Config(Base):
    """Settings of the section `attentive`."""

    enabled: Enabled = False
    epochs: Epochs = 20
    batch_size: int = Field(256, ge=2, description="images an optimiser step")
    lrs: Rates = (0.0003, 0.001, 0.003)
    weight_decay: float = Field(0.1, ge=0, description="of AdamW")
    heads: int = Field(4, ge=1, description="of attention; the features' width must be a multiple")
    memory: float = Field(4.0, gt=0, description="GB that the patches of both splits may take")
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Attentive probe",
    about="Attention over the frozen features of patches, and a linear layer.",
    order=40,
    subject="an attentive probe",
    rank=3,
)
