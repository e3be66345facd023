"""MoCo, versions 1 and 2: find the key of the same image among a queue of keys from past batches.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv:1911.05722 (v1), and Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", 2020,
arXiv:2003.04297 (v2). ImageNet, ResNet-50, batch 256, linear: v1, 200 epochs 60.6; v2, 200 epochs 67.5, 800 epochs 71.1
(the tables in the official repository).

Settings are those of the official code (main_moco.py): SGD .03 for a batch of 256, weight decay 1e-4, no warm-up,
K 65536, m .999. Version 1: a linear head, τ .07, the rate · .1 after 60 and 80 % of training (epochs 120 and 160 of
200); version 2 (--mlp --moco-t 0.2 --aug-plus --cos): a hidden layer as wide as ResNet-50's features, τ .2, a cosine.
Neither head has a batch norm. The views are in views/recipes/moco.yaml.

The official step moves the key encoder with the online weights as they stand, then computes keys. Here it moves in
`after_update`, which is the same: between an update and the next step's keys no weight changes, and before the first
step the encoders are equal, where the official code's move changes nothing. Where this differs from the official code:
biases and norms are not decayed; keys enter the queue after the backward pass, which the loss cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sslpipe.core.config import merge
from sslpipe.core.device import to_device
from sslpipe.core.distributed import gather, rank, unsynchronise, world_size
from sslpipe.losses import info_nce, similarity, unit
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Scale, Step, View
from sslpipe.methods.base.monitor import student_and_teacher
from sslpipe.methods.base.scale import power, queue
from sslpipe.networks.heads import mlp
from sslpipe.networks.momentum import Momentum
from sslpipe.networks.queue import Queue, check_length

_SGD = OptimizerConfig(name="sgd", lr=0.03, rule="linear", weight_decay=1e-4, warmup_epochs=0)
_VERSION_1: dict[str, Any] = {
    "temperature": 0.07,
    "projector_hidden": 0,
    "optimizer": _SGD.model_copy(update={"schedule": "steps", "milestones": (0.6, 0.8)}),
}


def _slow(m: float, paper: Scale, here: Scale) -> tuple[float, str]:
    """m for keys that are to be of much the same encoder: slow, and yet not too slow for the run.

    m^(B'/B) keeps the half-life in images (Busbridge et al., NeurIPS 2023, arXiv:2307.13813). In a short run it is a
    tenth of the run at most, else keys stay near those of random weights. It is never below .99, where the paper's
    accuracy begins to fall (Sec. 4.1: .9999 58.9, .999 59.0, .99 57.8, .9 55.2, none 0: training fails).
    """
    by_batch = power(m, here.batch / paper.batch)
    by_run = max(0.99, power(0.5, 10 / here.steps))
    if by_batch <= by_run:
        return by_batch, f"{m:g} at batch {paper.batch}: m^(B'/B)"
    return by_run, f"{m:g}, but a half-life of a tenth of the run at most, and no less than 0.99"


class MoCo(Method):
    """L = −log( exp(q·k₊/τ) / (exp(q·k₊/τ) + Σ_i exp(q·k_i/τ)) ), k_i the K keys of the queue  (eq. 1)."""

    class Config(MethodConfig):
        """MoCo's settings: the paper's of that `version`, unless given."""

        version: Literal[1, 2] = Field(2, description="sets the views, and the defaults below that name it")
        temperature: float = Field(0.2, gt=0, description="τ; version 1: .07")
        momentum: float = Field(0.999, ge=0, le=1, description="m of the key encoder")
        queue: int = Field(
            65536, ge=1, description="K: a multiple of the batch, at most a quarter of the images"
        )
        projector_hidden: int = Field(2048, ge=0, description="0: a linear head; version 1: 0")
        projector_out: int = Field(128, ge=1, description="C")
        shuffle: bool = Field(
            True,
            description="with several ranks: batch norm sees a rank's images alone, and those of keys are shuffled over"
            " ranks; false: it sees all ranks' together",
        )
        optimizer: OptimizerConfig = Field(_SGD, description="version 1: schedule steps")

        @classmethod
        def parse(cls, values: Mapping[str, Any]) -> Self:
            """As for every Config; what is given in part lies on top of the version's own."""
            if values.get("version") != 1:
                return super().parse(values)
            return super().parse(merge(cls(version=1).model_dump(mode="json"), values))

        @model_validator(mode="after")
        def _complete(self) -> Self:
            if self.version == 1:
                for key, value in _VERSION_1.items():
                    if key not in self.model_fields_set:
                        object.__setattr__(self, key, value)  # it is frozen from here on
            return self

    paper = "He et al., CVPR 2020, arXiv:1911.05722; Chen et al., arXiv:2003.04297"
    small = {
        "momentum": 0.99,
        "queue": 896,  # a multiple of the batch, at most a quarter of the images
        "projector_hidden": 256, "projector_out": 128,
        "optimizer": SMALL_ADAMW,
    }  # fmt: skip
    needs = "a queue that the batch divides"
    suspects = "check that the temperature is not too high, the learning rate, and the momentum"
    scales = (Scale(batch=256, epochs=200, source="the official code's defaults, main_moco.py"),)
    rules = {"momentum": _slow, "queue": queue}

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.temperature, self.momentum, self.shuffle = config.temperature, config.momentum, config.shuffle
        hidden, C = config.projector_hidden, config.projector_out
        self.projector = mlp(backbone.dim, hidden, C, layers=2 if hidden else 1, norm=False)
        if self.shuffle:
            unsynchronise(backbone)
        self.key_encoder = Momentum(nn.Sequential(self.backbone, self.projector))  # f_k, a copy of f_q
        self.queue = Queue(config.queue, C)

    @classmethod
    def variant(cls, config: Config, patch_size: int | None) -> str:  # type: ignore[override]
        """Version 2 has the stronger augmentation."""
        return f"v{config.version}"

    @classmethod
    def negatives(cls, config: Config, batch_size: int) -> int:  # type: ignore[override]
        """The queue."""
        return config.queue

    def check_batch(self, batch_size: int, images: int) -> list[str]:
        """Refuse a queue that does not fit; warn where images meet their own old keys."""
        warnings = super().check_batch(batch_size, images)
        K = len(self.queue)
        check_length(K, batch_size)
        if images < 4 * K:
            most = images // 4 // batch_size * batch_size
            shorter = f"set methods.moco.queue to {most}"
            advice = (
                shorter
                if most
                else "train on more images, or lower pretrain.batch_size and methods.moco.queue"
            )
            warnings.append(
                f"MoCo's queue of {K} keys is more than a quarter of the {images} images, so an image's own old keys "
                f"are often among its negatives: {advice}"
            )
        return warnings

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: the first view is the query, the second its key; the queue is as the last update left it."""
        x_q, x_k = views[0].pixels, views[1].pixels  # [N, 3, S, S]
        q = self.projector(self.backbone(x_q))  # [N, C]
        k = self._keys(x_k, clock)  # [N, C]
        loss = info_nce(q, k, self.queue.vectors, self.temperature)
        self.queue.add(k)  # waits: were it there already, each query's positive would be a negative too
        return Step(loss, _numbers(q, k, self.queue.vectors))

    def after_update(self, clock: Clock) -> None:
        """θ_k ← m θ_k + (1 − m) θ_q  (eq. 2); the batch's keys, of all ranks, take the place of the oldest."""
        self.key_encoder.update(nn.Sequential(self.backbone, self.projector), self.momentum)
        self.queue.advance()

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far queries spread, and how far keys of the same images are from them."""
        return student_and_teacher((self.projector(h), self.key_encoder(x)) for x, h in batches)

    @torch.no_grad()
    def _keys(self, x: Tensor, clock: Clock) -> Tensor:
        """Keys of this rank's images, [N, 3, S, S] → [N, C].

        A rank's batch norm must not see the keys' images of the same N as the queries': their common statistics would
        give the positive away (Sec. 3.3). So each rank encodes N of all ranks' images, drawn at random.
        """
        ranks = world_size()
        if not self.shuffle or ranks == 1:
            return unit(self.key_encoder(x))
        # The generator is the same on every rank, and so is the order.
        order = torch.randperm(ranks * len(x), generator=clock.generator, device="cpu")  # [W · N]
        order = to_device(order, x.device)
        shuffled = self.key_encoder(gather(x)[order.chunk(ranks)[rank()]])  # [N, C]
        k = gather(shuffled)[order.argsort()]  # [W · N, C], in order again
        return unit(k.chunk(ranks)[rank()])


@torch.no_grad()
def _numbers(q: Tensor, k: Tensor, queue: Tensor) -> dict[str, Tensor]:
    """How often the own key is the nearest of the 1 + K, and how near it is: 1 for all is collapse."""
    q = unit(q)
    positive, nearest = (q * k).sum(dim=1), similarity(q, queue).amax(dim=1)  # [N], [N]
    return {"accuracy": (positive > nearest).float().mean(), "positive_similarity": positive.mean()}
