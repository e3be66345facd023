"""SimCLR: two views of an image attract, all other views of the batch repel.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv:2002.05709. ImageNet, ResNet-50, 100 epochs, batch 4096: linear 64.5 (Table B.5); 1000 epochs: 69.3.

Settings are those of Sec. 2 and App. A/B: LARS with .3 · batch / 256, weight decay 1e-6, T .1, a two-layer head to
128. Where the official code differs: its weight decay is 1e-4 (the paper's value stands here), and its head ends in a
batch norm without shift (taken here). App. B.9 on CIFAR-10: T .5, strength .5, no blur, rate 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sslpipe.core.distributed import gather
from sslpipe.losses import nt_xent
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Recipe, Scale, Step, View
from sslpipe.methods.base.monitor import mean_cosine, spread_of
from sslpipe.networks.heads import mlp


class SimCLR(Method):
    """L = mean over the 2N views i of −log( exp(sim(z_i, z_j)/τ) / Σ_{k≠i} exp(sim(z_i, z_k)/τ) )  (eq. 1)."""

    class Config(MethodConfig):
        temperature: float = Field(0.1, gt=0, description="τ")
        projector_hidden: int = Field(2048, ge=1, description="width of the projector's hidden layers")
        projector_out: int = Field(128, ge=1, description="width of the projections")
        projector_norm: Literal["scale"] | None = Field(
            "scale",
            description="scale: end in batch norm without shift, as the official code; null: the paper's text",
        )
        jitter_strength: float = Field(1.0, ge=0, le=1.25, description="s of App. A; hue stays within ±0.2 s")
        optimizer: OptimizerConfig = OptimizerConfig(
            name="lars", lr=0.3, rule="linear", weight_decay=1e-6, warmup_epochs=10
        )

    paper = "Chen et al., ICML 2020, arXiv:2002.05709"
    backbone_options = {"zero_init_residual": True}
    small = {"temperature": 0.1, "projector_hidden": 256, "projector_out": 128, "optimizer": SMALL_ADAMW}
    needs = "large batches: they are the negatives"
    suspects = (
        "check that the temperature is not too high, the learning rate, and that the batch has negatives"
    )
    scales = (
        Scale(batch=4096, epochs=100, source="Sec. 2.3, the default setting"),
        Scale(
            batch=256, epochs=100, source="App. B.1, better for small batches and few epochs",
            settings={"optimizer": {"lr": 0.075, "rule": "sqrt"}},
        ),
    )  # fmt: skip

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.temperature = config.temperature
        D, d = backbone.dim, config.projector_out
        self.projector = mlp(D, config.projector_hidden, d, last_norm=config.projector_norm)  # g(·)

    @classmethod
    def recipe(cls, config: Config, image_size: int, patch_size: int | None) -> Recipe:  # type: ignore[override]
        """App. A, the colour jitter at strength s."""
        (view,) = super().recipe(config, image_size, patch_size).views
        s, jitter = config.jitter_strength, view.jitter
        assert jitter is not None
        strengths = {key: getattr(jitter, key) * s for key in ("brightness", "contrast", "saturation", "hue")}
        return Recipe(views=(view.model_copy(update={"jitter": jitter.model_copy(update=strengths)}),))

    @classmethod
    def negatives(cls, config: Config, batch_size: int) -> int:  # type: ignore[override]
        """Both views of all other images."""
        return 2 * (batch_size - 1)

    def embed(self, views: list[View]) -> tuple[Tensor, ...]:
        """z_i and z_j: both views go through the encoder together, so batch norm sees them together."""
        h = self.backbone(torch.cat([views[0].pixels, views[1].pixels]))  # [2N, D]
        z_i, z_j = self.projector(h).chunk(2)  # [N, d] each
        return z_i, z_j

    def loss(self, embeddings: tuple[Tensor, ...], clock: Clock) -> Step:
        """Of the batch of all ranks."""
        z_i, z_j = (gather(z) for z in embeddings)
        loss = nt_xent(z_i, z_j, self.temperature)
        return Step(loss, {"positive_similarity": mean_cosine(z_i, z_j)})

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far projections spread."""
        return spread_of(torch.cat([self.projector(h) for _, h in batches]))
