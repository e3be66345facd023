"""Transfer to segmentation: what a linear layer and neighbours make of frozen patch features."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Epochs, Evaluation, Rates, Score, Temperature
from sslpipe.scenes import layouts
from sslpipe.scenes.config import Config as ScenesConfig


class Config(Base):
    """Settings of the section `segment`."""

    enabled: Enabled = False
    scenes: ScenesConfig = ScenesConfig()
    levels: int = Field(
        3, ge=1, description="resolutions of a CNN whose features are used, counted from the last"
    )
    freeze: bool = Field(
        True, description="frozen features only; false: also with the whole encoder learning"
    )
    finetune_lr: float = Field(3e-4, gt=0, description="of encoder and layer where the encoder learns, too")
    epochs: Epochs = 20
    lrs: Rates = (0.001, 0.003, 0.01)
    k: int = Field(20, ge=1, description="neighbours that vote for a patch")
    temperature: Temperature = 0.07
    bank: int = Field(20_000, ge=1, description="patches that neighbours are sought among, at most")
    shown: int = Field(6, ge=0, description="scenes that the report shows")
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Segmentation",
    about="Masks of scenes by frozen features of patches: a linear layer and nearest neighbours.",
    order=90,
    headline=("miou", "random_init_miou", "knn_miou", "random_init_knn_miou"),
    scores=(
        Score(key="miou", title="Segmentation, linear, mIoU, %"),
        Score(key="knn_miou", title="Segmentation, k-NN, mIoU, %"),
        Score(key="finetuned_miou", title="Segmentation, fine-tuned, mIoU, %"),
    ),
    elsewhere=layouts.elsewhere,
)
