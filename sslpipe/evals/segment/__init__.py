"""Transfer to segmentation: what a linear layer and neighbours make of frozen patch features."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Evaluation, Score
from sslpipe.scenes import layouts
from sslpipe.scenes.config import Config as ScenesConfig


class Config(Base):
    """Settings of the section `segment`."""

    enabled: bool = Field(False, description="whether this evaluation runs")
    scenes: ScenesConfig = ScenesConfig()
    levels: int = Field(
        3, ge=1, description="resolutions of a CNN whose features are used, counted from the last"
    )
    freeze: bool = Field(
        True, description="frozen features only; false: also with the whole encoder learning"
    )
    finetune_lr: float = Field(3e-4, gt=0, description="of encoder and layer where the encoder learns, too")
    epochs: int = Field(20, ge=1, description="passes over the images to learn from")
    lrs: tuple[float, ...] = Field(
        (0.001, 0.003, 0.01), min_length=1, description="learning rates to choose from"
    )
    k: int = Field(20, ge=1, description="neighbours that vote for a patch")
    temperature: float = Field(0.07, gt=0, description="T of a vote's weight exp(similarity / T)")
    bank: int = Field(20_000, ge=1, description="patches that neighbours are sought among, at most")
    shown: int = Field(6, ge=0, description="scenes that the report shows")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda")


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
