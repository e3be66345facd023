"""BYOL: an online network predicts a momentum network's view of the same image; there are no negatives.

Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS 2020, arXiv:2006.07733.
ImageNet, ResNet-50, 300 epochs: linear 72.5; 1000 epochs: 74.3 (Table 1; App. C).

Settings are the official code's for 300 epochs: LARS .3 · batch / 256, weight decay 1e-6, τ_base .99 (100 epochs: .45,
.99; 1000 epochs: .2, 1.5e-6, .996), heads 4096-256. The views are in views/recipes/byol.yaml.

`projector_norm: plain` ends the projector with a batch norm without affine, which is not in the paper: on small data
and short budgets the official head gives far weaker features (docs/methods/byol.md has our figures).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sslpipe.losses import negative_cosine
from sslpipe.measures.geometry import spread
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Scale, Step, View
from sslpipe.methods.base.monitor import student_and_teacher
from sslpipe.methods.base.scale import momentum
from sslpipe.networks.heads import mlp
from sslpipe.networks.momentum import Momentum, cosine_momentum

_PRESETS = "the official code's presets by epochs, byol/configs/byol.py"


def _preset(momentum: float, lr: float, weight_decay: float = 1e-6) -> dict[str, object]:
    return {"momentum": momentum, "optimizer": {"lr": lr, "weight_decay": weight_decay}}


class BYOL(Method):
    """L = ‖q̄(z) − z̄′‖² = 2 − 2·cos(q(z), z′), both ways round (eq. 2)."""

    class Config(MethodConfig):
        momentum: float = Field(0.99, ge=0, le=1, description="τ_base; rises to 1 along a cosine")
        projector_hidden: int = Field(4096, ge=1, description="width of the projector's hidden layers")
        projector_out: int = Field(256, ge=1, description="width of the projections")
        predictor_hidden: int = Field(4096, ge=1, description="width of the predictor's hidden layer")
        projector_norm: Literal["plain"] | None = Field(
            None, description="plain: end in batch norm without affine"
        )
        optimizer: OptimizerConfig = OptimizerConfig(
            name="lars", lr=0.3, rule="linear", weight_decay=1e-6, warmup_epochs=10
        )

    paper = "Grill et al., NeurIPS 2020, arXiv:2006.07733"
    backbone_options = {"zero_init_residual": True}
    small = {
        "momentum": 0.9, "projector_hidden": 512, "projector_out": 512, "predictor_hidden": 512,
        "projector_norm": "plain",  # not in the paper: without it, small data and short runs collapse
        "optimizer": SMALL_ADAMW,
    }  # fmt: skip
    needs = "a long run, or projector_norm: plain"
    suspects = "check the batch norm in the heads (projector_norm: plain), the momentum and the learning rate"
    scales = (
        Scale(batch=4096, epochs=300, source=_PRESETS),
        Scale(batch=4096, epochs=40, settings=_preset(0.97, 0.45), source=_PRESETS),
        Scale(batch=4096, epochs=100, settings=_preset(0.99, 0.45), source=_PRESETS),
        Scale(batch=4096, epochs=1000, settings=_preset(0.996, 0.2, 1.5e-6), source=_PRESETS),
    )
    rules = {"momentum": momentum}

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.momentum = config.momentum
        D, out = backbone.dim, config.projector_out
        # The official heads end without a bias (networks.py, with_bias=False).
        self.projector = mlp(
            D, config.projector_hidden, out, last_norm=config.projector_norm, last_bias=False
        )  # g_θ
        self.predictor = mlp(out, config.predictor_hidden, out, last_bias=False)  # q_θ
        self.target = Momentum(nn.Sequential(self.backbone, self.projector))  # f_ξ, g_ξ

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; batch norm sees one view at a time, in both networks."""
        v, v_prime = views[0].pixels, views[1].pixels  # [N, 3, S, S]
        q1, q2 = self._predict(v), self._predict(v_prime)  # [N, d]
        with torch.no_grad():
            z1, z2 = self.target(v), self.target(v_prime)  # [N, d]
        d1, d2 = negative_cosine(q1, z2), negative_cosine(q2, z1)
        loss = (2 + 2 * d1) + (2 + 2 * d2)
        return Step(loss, {"cosine": -(d1 + d2).detach() / 2, "target_std": spread(z1)})

    def after_update(self, clock: Clock) -> None:
        """ξ ← τ ξ + (1 − τ) θ, with τ = 1 − (1 − τ_base)(cos(π k/K) + 1)/2."""
        tau = cosine_momentum(self.momentum, clock.progress)
        self.target.update(nn.Sequential(self.backbone, self.projector), tau)

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far projections spread, and how far the target's are from them."""
        return student_and_teacher((self.projector(h), self.target(x)) for x, h in batches)

    def _predict(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(self.backbone(x)))
