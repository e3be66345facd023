"""Attentive probe: attention pooling and a linear layer on the frozen features of patches."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Evaluation


class Config(Base):
    """Settings of the section `attentive`."""

    enabled: bool = Field(False, description="whether this evaluation runs")
    epochs: int = Field(20, ge=1, description="passes over the images to learn from")
    batch_size: int = Field(256, ge=2, description="images an optimiser step")
    lrs: tuple[float, ...] = Field(
        (0.0003, 0.001, 0.003), min_length=1, description="learning rates to choose from"
    )
    weight_decay: float = Field(0.1, ge=0, description="of AdamW")
    heads: int = Field(4, ge=1, description="of attention; the features' width must be a multiple")
    memory: float = Field(4.0, gt=0, description="GB that the patches of both splits may take")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda")


EVALUATION = Evaluation(
    title="Attentive probe",
    about="Attention over the frozen features of patches, and a linear layer.",
    order=40,
    subject="an attentive probe",
    rank=3,
)
