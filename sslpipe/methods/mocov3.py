"""MoCo v3: a momentum network's keys of the same batch are positive and negatives; made for vision transformers.

Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.02057.
ImageNet, batch 4096, linear: ResNet-50, 100 epochs 68.9, 300 epochs 72.8, 1000 epochs 74.6; 300 epochs, ViT-S/16 73.2,
ViT-B/16 76.7 (fine-tuned 83.2): the tables in the official repository.

Settings are those of the official commands (CONFIG.md), which depend on the backbone: null in `Config` stands for
them. ResNet-50, 100 epochs: LARS .6 · batch / 256, weight decay 1e-6, 10 warm-up epochs, τ 1, a projector of two layers
(300 epochs: .3; 1000 epochs: .3, 1.5e-6, m .996). ViT: AdamW 1.5e-4 · batch / 256, weight decay .1, 40 warm-up epochs,
τ .2, a projector of three layers, and a patch embedding that stays as it starts, without which training is unstable
(Sec. 4.2). All heads are 4096 wide and 256 out. The paper says that every layer of both heads has a batch norm; in the
official code, which is followed here, a ResNet's predictor ends without one, and the last of the others have no affine.
The views are in views/recipes/mocov3.yaml: a ResNet's crops are of .2-1, a ViT's of .08-1.

The official ViTs give the class token's output and have fixed positions: `pool: cls` and `position: sincos` of the
backbone's options. The official step moves the momentum network with the online weights as they stand, then computes
keys. Here it moves in `after_update`: the same weights meet, see moco.py; only the momentum's cosine is read one step
earlier. Where this differs from the official code: AdamW does not decay biases, norms and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sslpipe.core.distributed import gather, rank
from sslpipe.losses import batch_info_nce, similarity, unit
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Scale, Step, View
from sslpipe.methods.base.monitor import student_and_teacher
from sslpipe.methods.base.scale import momentum
from sslpipe.networks.heads import mlp
from sslpipe.networks.momentum import Momentum, cosine_momentum

_LARS = OptimizerConfig(name="lars", lr=0.6, rule="linear", weight_decay=1e-6, warmup_epochs=10)
_ADAMW = OptimizerConfig(name="adamw", lr=1.5e-4, rule="linear", weight_decay=0.1, warmup_epochs=40)

_CNN, _COMMANDS = ("resnet", "cnn"), "the official commands, CONFIG.md"


class MoCoV3(Method):
    """L = ctr(q₁, k₂) + ctr(q₂, k₁), ctr(q, k) = −2τ log( exp(q·k₊/τ) / Σ_k exp(q·k/τ) )  (Sec. 3, Alg. 1)."""

    class Config(MethodConfig):
        """MoCo v3's settings; null: the paper's for the backbone, a ViT's or (for all CNNs) a ResNet's."""

        temperature: float | None = Field(None, gt=0, description="τ; null: 1, ViT .2")
        momentum: float = Field(0.99, ge=0, le=1, description="m; rises to 1 along a cosine")
        projector_layers: int | None = Field(None, ge=1, description="null: 2, ViT 3")
        projector_hidden: int = Field(4096, ge=1, description="width of the projector's hidden layers")
        projector_out: int = Field(256, ge=1, description="width of the projections")
        predictor_hidden: int = Field(4096, ge=1, description="width of the predictor's hidden layer")
        freeze_patch_embedding: bool = Field(True, description="a ViT's stays as it starts")
        optimizer: OptimizerConfig | None = Field(  # type: ignore[assignment]
            None, description="null: LARS, ViT AdamW; what is given in part lies on top of these"
        )

    title = "MoCo v3"
    paper = "Chen et al., ICCV 2021, arXiv:2104.02057"
    backbone_options = {"zero_init_residual": True, "start": "moco"}
    small = {
        "temperature": 0.2, "momentum": 0.99,
        "projector_hidden": 512, "projector_out": 128, "predictor_hidden": 512,
        "optimizer": SMALL_ADAMW,
    }  # fmt: skip
    needs = "large batches: they are the negatives"
    suspects = "check that the temperature is not too high, the learning rate, and the momentum"
    scales = (
        Scale(batch=4096, epochs=100, kinds=_CNN, source=_COMMANDS),
        Scale(batch=4096, epochs=300, kinds=_CNN, source=_COMMANDS, settings={"optimizer": {"lr": 0.3}}),
        Scale(
            batch=4096, epochs=1000, kinds=_CNN, source=_COMMANDS,
            settings={"momentum": 0.996, "optimizer": {"lr": 0.3, "weight_decay": 1.5e-6}},
        ),
        Scale(batch=4096, epochs=300, kinds=("vit",), source=_COMMANDS),
    )  # fmt: skip
    rules = {"momentum": momentum}

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        vit = backbone.kind == "vit"
        self.temperature = config.temperature or (0.2 if vit else 1.0)
        self.momentum = config.momentum
        self.optimizer = _ADAMW if vit else _LARS
        if config.optimizer is not None:  # what is given lies on top
            given = config.optimizer.model_dump(exclude_unset=True)
            self.optimizer = self.optimizer.model_copy(update=given)
        if vit and config.freeze_patch_embedding:
            modules = backbone.named_modules()  # our own ViTs and timm's have a module of this name
            self.freeze(next(m for name, m in modules if name.split(".")[-1] == "patch_embed"))
        out, layers = config.projector_out, config.projector_layers or (3 if vit else 2)
        self.projector = mlp(backbone.dim, config.projector_hidden, out, layers=layers, last_norm="plain")
        last: Literal["plain"] | None = "plain" if vit else None
        self.predictor = mlp(out, config.predictor_hidden, out, last_norm=last, last_bias=False)
        self.key_encoder = Momentum(nn.Sequential(self.backbone, self.projector))  # f_k has no predictor

    @classmethod
    def variant(cls, config: Config, patch_size: int | None) -> str:  # type: ignore[override]
        """ResNets and ViTs have crops of other sizes."""
        return "resnet" if patch_size is None else "vit"

    @classmethod
    def negatives(cls, config: Config, batch_size: int) -> int:  # type: ignore[override]
        """The keys of all other images."""
        return batch_size - 1

    def embed(self, views: list[View]) -> tuple[Tensor, ...]:
        """q₁, q₂, k₁, k₂: batch norm sees one view at a time, in both networks. No gradient reaches the keys."""
        x1, x2 = views[0].pixels, views[1].pixels  # [N, 3, S, S]
        q1, q2 = self._query(x1), self._query(x2)  # [N, d]
        k1, k2 = self.key_encoder(x1), self.key_encoder(x2)  # [N, d]
        return q1, q2, k1, k2

    def loss(self, embeddings: tuple[Tensor, ...], clock: Clock) -> Step:
        """This rank's queries against the keys of all ranks."""
        q1, q2, k1, k2 = embeddings
        k1, k2 = gather(k1.detach()), gather(k2.detach())  # [W · N, d]
        loss = self._contrast(q1, k2) + self._contrast(q2, k1)
        return Step(loss, _numbers(q1, k2))

    def after_update(self, clock: Clock) -> None:
        """θ_k ← m θ_k + (1 − m) θ_q, with m = 1 − (1 − m₀)(cos(π t/T) + 1)/2."""
        m = cosine_momentum(self.momentum, clock.progress)
        self.key_encoder.update(nn.Sequential(self.backbone, self.projector), m)

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far projections spread, and how far the momentum network's are from them."""
        return student_and_teacher((self.projector(h), self.key_encoder(x)) for x, h in batches)

    def _query(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(self.backbone(x)))

    def _contrast(self, q: Tensor, k: Tensor) -> Tensor:
        """ctr(q, k): q [N, d] of this rank, k [W · N, d] of all; the positives begin at row rank · N."""
        return 2 * self.temperature * batch_info_nce(q, k, self.temperature, rank() * len(q))


@torch.no_grad()
def _numbers(q: Tensor, k: Tensor) -> dict[str, Tensor]:
    """How often the own key is the nearest of the batch, and how near it is: 1 for all is collapse."""
    own = rank() * len(q) + torch.arange(len(q), device=q.device)  # [N]
    cosines = similarity(unit(q), unit(k))  # [N, W · N]
    positive, nearest = cosines.gather(1, own[:, None]), cosines.argmax(dim=1)
    return {"accuracy": (nearest == own).float().mean(), "positive_similarity": positive.mean()}
