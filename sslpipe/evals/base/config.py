"""Settings of the sections `embed` and `evaluate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device


class EmbedConfig(Base):
    """Settings of the section `embed`."""

    batch_size: int = Field(256, ge=1, description="images at a time")
    last_blocks: int = Field(
        1,
        ge=1,
        description="blocks of a ViT, counted from the last, whose features stand side by side (DINO: 4)",
    )
    pool: Literal["encoder", "mean", "cls", "paper"] = Field(
        "encoder",
        description="a ViT's vector of an image: as in pretraining; its patches' mean; its class token; or as the "
        "method's paper probes it (MAE: cls)",
    )
    shown: int = Field(8, ge=0, le=12, description="images whose patches the report shows")
    device: Device = "auto"


class EvaluateConfig(Base):
    """Settings of the section `evaluate`, of all evaluations that learn something."""

    seeds: int = Field(
        1, ge=1, le=100, description="seeds an evaluation is repeated with; mean and spread are reported"
    )
