"""Fine-tuning with few labels: the whole network learns, from the encoder's weights and from random ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import CropScale, Device, Enabled, Epochs, Evaluation
from sslpipe.measures.config import Labels


class MixingConfig(Base):
    """How labelled images are distorted, erased and mixed in fine-tuning; all off by default."""

    rand_augment: str | None = Field(
        None,
        pattern=r"^rand(-[a-z]+[0-9.]*)*$",
        description="RandAugment (Cubuk et al. 2020) in timm's words; MAE and BEiT: rand-m9-mstd0.5-inc1",
    )
    mixup: float = Field(0.0, ge=0, description="alpha of mixup (Zhang et al. 2018); MAE's fine-tuning: 0.8")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix (Yun et al. 2019); MAE's fine-tuning: 1.0")
    probability: float = Field(1.0, gt=0, le=1, description="of mixing a batch at all")
    erasing: float = Field(
        0.0, ge=0, le=1, description="chance that a part of an image becomes noise; MAE: 0.25"
    )

    @property
    def on(self) -> bool:
        """Whether anything is done."""
        return bool(self.rand_augment or self.mixup or self.cutmix or self.erasing)


class Config(Base):
    """Settings of the section `finetune`."""

    enabled: Enabled = True
    labels: Labels | Literal["all"] = Field(
        100, description='how many labels to use: a number, "10%", "5 per class", or all'
    )
    draws: int = Field(3, ge=1, description="random draws of the labels; their mean and spread are reported")
    epochs: Epochs = 50
    batch_size: int = Field(25, ge=2, description="images an optimiser step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    layer_decay: float = Field(
        0.75, gt=0, le=1, description="factor on the learning rate from a block to the one below"
    )
    warmup_epochs: float = Field(5.0, ge=0, description="epochs in which the learning rate rises to its peak")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label given to all classes")
    crop_scale: CropScale = (0.5, 1.0)
    head: Literal["zero", "linear"] = Field(
        "zero", description="what the new layer starts from: nothing, or a linear probe on the same labels"
    )
    norm: Literal["before", "after"] = Field(
        "before",
        description="a ViT's last norm: the encoder's, before its patches are averaged, or a new one after (MAE, BEiT)",
    )
    freeze_epochs: int = Field(0, ge=0, description="first epochs in which the new layer learns alone")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="chance that a block is skipped; small_vit and timm's backbones"
    )
    mixing: MixingConfig = MixingConfig()
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it")


EVALUATION = Evaluation(
    title="Fine-tuning",
    about="The whole network learns from few labels, from the encoder's weights and from random ones.",
    order=50,
    subject="fine-tuning",
    rank=4,
)
