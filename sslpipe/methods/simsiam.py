"""SimSiam: one network predicts its own output for another view; no negatives, no momentum network.

Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566. ImageNet, ResNet-50, batch
256, linear: 100 epochs 68.1, 200 epochs 70.0, 400 epochs 70.8, 800 epochs 71.3 (Table 4).

Settings are Sec. 3's and the official code's defaults (main_simsiam.py --fix-pred-lr): SGD .05 · batch / 256 along a
cosine, batch 512 (the paper's ablations: 256), weight decay 1e-4, no warm-up; a projector of three layers of 2048,
each with a batch norm, the last without affine; a predictor of 2048-512-2048 whose rate stays at its start. The views
are in views/recipes/simsiam.yaml.

The official projector's last linear layer has a bias that is kept as it starts; the batch norm behind it takes it away
again, so here there is none. Biases and norms are not decayed here, there they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from sslpipe.losses import negative_cosine
from sslpipe.measures.geometry import spread
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, ParamGroup, Scale, Step, View
from sslpipe.methods.base.monitor import spread_of
from sslpipe.networks.heads import mlp


class SimSiam(Method):
    """L = ½ D(p₁, stopgrad(z₂)) + ½ D(p₂, stopgrad(z₁)), D the negative cosine  (eq. 4)."""

    class Config(MethodConfig):
        projector_hidden: int = Field(2048, ge=1, description="width of the projector's hidden layers")
        projector_out: int = Field(2048, ge=1, description="d")
        predictor_hidden: int = Field(512, ge=1, description="a bottleneck, a quarter of d in the paper")
        optimizer: OptimizerConfig = OptimizerConfig(
            name="sgd", lr=0.05, rule="linear", weight_decay=1e-4, warmup_epochs=0
        )

    paper = "Chen & He, CVPR 2021, arXiv:2011.10566"
    backbone_options = {"zero_init_residual": True}
    small = {"projector_hidden": 512, "projector_out": 512, "predictor_hidden": 128, "optimizer": SMALL_ADAMW}
    suspects = "check the stop-gradient, that the predictor keeps its rate, and the learning rate itself"
    scales = (Scale(batch=512, epochs=100, source="the official code's defaults, main_simsiam.py"),)

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        d = config.projector_out
        self.projector = mlp(backbone.dim, config.projector_hidden, d, layers=3, last_norm="plain")  # ends f
        self.predictor = mlp(d, config.predictor_hidden, d)  # h

    def parameter_groups(self) -> list[ParamGroup]:
        """The predictor keeps its rate: it must follow the latest features (Sec. 4.2)."""
        return keep_rate(super().parameter_groups(), self.predictor)

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; batch norm sees one view at a time."""
        x1, x2 = views[0].pixels, views[1].pixels  # [N, 3, S, S]
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))  # [N, d]
        p1, p2 = self.predictor(z1), self.predictor(z2)  # [N, d]
        loss = negative_cosine(p1, z2) / 2 + negative_cosine(p2, z1) / 2  # D stops the gradient of z
        return Step(loss, {"cosine": -loss.detach(), "output_std": spread(z1)})

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far z spreads."""
        return spread_of(torch.cat([self.projector(h) for _, h in batches]))


def keep_rate(groups: list[ParamGroup], module: nn.Module) -> list[ParamGroup]:
    """The groups, each parted in two where a module's parameters are among it: those keep their first rate."""
    own = {id(parameter) for parameter in module.parameters()}
    parted = []
    for group in groups:
        for fixed in (False, True):
            members = [p for p in group.parameters if (id(p) in own) == fixed]
            parted.append(replace(group, parameters=members, fixed_lr=fixed))
    return [group for group in parted if group.parameters]
