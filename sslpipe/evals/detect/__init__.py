"""Transfer to detection: torchvision's Faster R-CNN on the encoder's feature maps."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Epochs, Evaluation, Score
from sslpipe.scenes import layouts
from sslpipe.scenes.config import Config as ScenesConfig


class Config(Base):
    """Settings of the section `detect`."""

    enabled: Enabled = False
    scenes: ScenesConfig = ScenesConfig()
    freeze: bool = Field(True, description="the encoder stays as it is; else it learns, too")
    levels: int = Field(
        3, ge=1, le=3, description="resolutions of a CNN that are used, counted from the last"
    )
    epochs: Epochs = 10
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    shown: int = Field(6, ge=0, description="scenes that the report shows")
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Detection",
    about="Boxes in scenes, by Faster R-CNN on the encoder's maps.",
    order=100,
    headline=("ap50", "random_init_ap50", "map", "random_init_map"),
    scores=(Score(key="ap50", title="Detection, AP50, %"), Score(key="map", title="Detection, mAP, %")),
    elsewhere=layouts.elsewhere,
)
