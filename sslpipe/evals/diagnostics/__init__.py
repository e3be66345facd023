"""Light numbers about the features, for which nothing is trained and nearly none of which need labels."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Evaluation, Score


class Config(Base):
    """Settings of the section `diagnostics`."""

    enabled: Enabled = True
    images: int = Field(512, ge=2, description="training images that LiDAR and alignment draw views of")
    views: int = Field(8, ge=2, le=256, description="views of each of them, by the method's first view spec")
    k: int = Field(20, ge=1, description="neighbours that purity looks at")
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Diagnostics",
    about="Rank, spectrum, alignment, uniformity and neighbourhoods of the features; nothing is trained.",
    order=70,
    splits=("train",),
    labels=False,
    repeats=False,
    headline=("rankme",),
    scores=(Score(key="rankme", title="RankMe", factor=1), Score(key="lidar", title="LiDAR", factor=1)),
)
