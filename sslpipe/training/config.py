"""Settings of params.yaml's `pretrain` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sslpipe.config import Config as Base


class Config(Base):
    """How the encoder is trained, whatever the method."""

    method: str = Field("simclr", description="one of `sslpipe methods`")
    backbone: str = Field(
        "auto", description="auto, small_resnet, small_vit, timm:<name> or torchvision:<name>"
    )
    backbone_options: dict[str, Any] = Field(
        {}, description="the backbone's own options, such as {width: 32}"
    )
    epochs: int = Field(36, ge=1)
    batch_size: int = Field(128, ge=2)
    accumulate: int = Field(
        1, ge=1, description="parts that a batch goes through one after another, to save memory"
    )
    gradient_cache: bool = Field(
        False,
        description="with parts: the loss of the whole batch all the same, for twice the forward passes",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it")
    deterministic: bool = Field(True, description="the same seed gives the same weights, bit for bit")
    checkpoint_seconds: float = Field(20.0, ge=0, description="time between resume checkpoints")
    log_every: int = Field(10, ge=1, description="steps between points of the training curves")
    watch_epochs: int = Field(
        6,
        ge=0,
        description="epochs between looks at the features of a sample of the training images; 0: never",
    )
    stop_on_collapse: bool = Field(
        False, description="stop, with a checkpoint, where all features have become alike"
    )
