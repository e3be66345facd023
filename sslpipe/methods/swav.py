"""SwAV: the cluster of one crop is predicted from another crop of the same image; clusters are found online.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", NeurIPS 2020, arXiv:2006.09882. ImageNet, ResNet-50, 2x224 + 6x96, batch 4096, linear: 100 epochs 72.1,
200 epochs 73.9, 800 epochs 75.3; two large crops alone, 400 epochs: 70.1; batch 256 with a queue, 200 epochs: 72.7
(the table in the official repository).

Settings are the official scripts' for batch 4096: 4.8 falling to .0048, weight decay 1e-6, τ .1, ε .05, 3 rounds,
3000 prototypes that stay as they are for one epoch (313 iterations), no queue. Their scripts for batch 256 have a rate
of .6 falling to .0006 without warm-up, prototypes frozen for 5005 iterations, and a queue of 3840 from epoch 15. For
two large crops alone they take crops of .08-1 instead of .14-1.

Where this differs from the official code: it warms up from .3, here from 0; its LARC (trust .001, unclipped: timm's
LARS) adapts every parameter, as here, and also decays biases and norms by the 1e-6, which here are not decayed; it cuts
a queue that the batch does not divide, here that is an error; its prototypes start as a linear layer's weights do, here
as directions uniform on the sphere; and scores are never in half precision here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from pydantic import Field
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.distributed import gather, rank, world_size
from sslpipe.losses import similarity, sinkhorn, swapped_prediction, unit
from sslpipe.methods.base import scale as _scale
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, ParamGroup, Recipe, Scale, Step, View
from sslpipe.methods.base.monitor import entropy_share, spread_of
from sslpipe.methods.base.pictures import plain
from sslpipe.networks.heads import mlp
from sslpipe.networks.queue import Queue, check_length

_ASSIGNED = 2  # crops that are assigned to prototypes, the first two (--crops_for_assign 0 1)
_ONE, _ALL = 0.1, 0.999  # entropies below and above which SwAV has collapsed
_ROWS, _COLUMNS = 8, 8  # clusters, and images of each, on the cluster sheet


def _shared_out(K: int, paper: Scale, here: Scale) -> tuple[int, str]:
    """Fewer prototypes for fewer images, and never more than the images that they are shared out among."""
    length = paper.settings.get("queue", 0)
    value, why = _scale.root_of_images(K, paper, here)
    return min(value, here.batch + _scale.queue(length, paper, here)[0]), why


class SwAV(Method):
    """L(z_t, z_s) = ℓ(z_t, q_s) + ℓ(z_s, q_t), ℓ(z, q) = −Σ_k q_k log softmax_k(zᵀC / τ)  (eq. 1 and 2).

    With more crops, and as in the official code, the mean over all pairs of a large crop's q and another crop's z.
    """

    class Config(MethodConfig):
        temperature: float = Field(0.1, gt=0, description="τ")
        epsilon: float = Field(0.05, gt=0, description="ε of eq. 3: smaller gives sharper codes")
        sinkhorn_rounds: int = Field(3, ge=1, description="rounds of Sinkhorn that share out the images")
        prototypes: int = Field(3000, ge=2, description="K")
        freeze_prototypes: int = Field(
            313, ge=0, description="iterations (not epochs) before prototypes move; batch 256: 5005"
        )
        local_crops: int = Field(6, ge=0, le=256, description="small crops an image; 0: large ones alone")
        queue: int = Field(0, ge=0, description="features kept for each large crop; batch 256: 3840; 0: none")
        queue_epoch: int = Field(15, ge=0, description="the queue fills from this epoch on")
        projector_hidden: int = Field(2048, ge=1, description="width of the projector's hidden layers")
        projector_out: int = Field(128, ge=1, description="D")
        optimizer: OptimizerConfig = OptimizerConfig(
            name="lars", lr=0.3, rule="linear", weight_decay=1e-6, warmup_epochs=10, final_lr=0.001
        )

    paper = "Caron et al., NeurIPS 2020, arXiv:2006.09882"
    small = {
        "epsilon": 0.03,  # the paper's 0.05 takes epochs to leave the start
        "prototypes": 100,
        "freeze_prototypes": 31,  # iterations: one epoch of the bundled digits
        "local_crops": 0,  # small crops of digits are too small
        "projector_hidden": 256, "projector_out": 128,
        "optimizer": SMALL_ADAMW,
    }  # fmt: skip
    needs = "no fewer images in batch and queue than prototypes"
    suspects = (
        "lower epsilon, and check that Sinkhorn shares out more images (batch and queue) than there are "
        "prototypes"
    )
    scales = (
        Scale(batch=4096, epochs=800, source="scripts/swav_800ep_pretrain.sh of the official code"),
        Scale(
            batch=256, epochs=200, source="scripts/swav_200ep_bs256_pretrain.sh of the official code",
            settings={"queue": 3840, "freeze_prototypes": 5005, "optimizer": {"lr": 0.6, "warmup_epochs": 0}},
        ),
    )  # fmt: skip
    rules = {
        "queue": _scale.queue, "queue_epoch": _scale.share_of_epochs,
        "freeze_prototypes": _scale.first_epochs, "prototypes": _shared_out,
    }  # fmt: skip

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.config = config
        D = config.projector_out
        self.projector = mlp(backbone.dim, config.projector_hidden, D)
        self.prototypes = nn.Parameter(unit(torch.randn(config.prototypes, D)))  # C, a row each: [K, D]
        # A row holds the features of both assigned crops of an image.
        self.queue = Queue(config.queue, _ASSIGNED * D) if config.queue else None

    @classmethod
    def recipe(cls, config: Config, image_size: int, patch_size: int | None) -> Recipe:  # type: ignore[override]
        """App. A.2, with `local_crops` small crops."""
        large, small = super().recipe(config, image_size, patch_size).views
        if config.local_crops == 0:
            return Recipe(views=(large,))
        return Recipe(views=(large, small.model_copy(update={"count": config.local_crops})))

    def parameter_groups(self) -> list[ParamGroup]:
        """LARC adapts everything, biases and norms too."""
        return [replace(group, adapt=True) for group in super().parameter_groups()]

    def check_batch(self, batch_size: int, images: int) -> list[str]:
        """Refuse a queue that does not fit; warn where there are more prototypes than images to share out."""
        warnings = super().check_batch(batch_size, images)
        check_length(self.config.queue, batch_size)
        shared, K = batch_size + self.config.queue, len(self.prototypes)
        if shared < K:
            enough = math.ceil((K - batch_size) / batch_size) * batch_size
            warnings.append(
                f"SwAV shares out {shared} images among {K} prototypes, too few for codes that mean much: set "
                f"methods.swav.prototypes to {shared} or less, or methods.swav.queue to {enough} or more"
            )
        return warnings

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: V crops are scored, the first two get codes, and each code is predicted by all other crops."""
        if len(views) < _ASSIGNED or views[0].name != views[1].name:
            raise UserError("SwAV needs two large crops: set views.recipe.global.count to 2 or more")
        with torch.no_grad():
            self.prototypes.copy_(unit(self.prototypes))  # back to the sphere: gradients are those there
        # A copy, since a second part of the batch comes here again, perhaps before the first one's backward.
        C = self.prototypes.clone()  # [K, D]
        z = self._embed(views).chunk(len(views))  # V × [N, D]
        scores = [similarity(z_v, C) for z_v in z]  # V × [N, K]
        codes = [self._assign(z[a], C, a) for a in range(_ASSIGNED)]  # 2 × [N, K]
        loss = swapped_prediction(scores, codes, self.config.temperature)
        if self.queue is not None and clock.epoch >= self.config.queue_epoch:
            self.queue.add(torch.cat(z[:_ASSIGNED], dim=1))  # enters after the update: no batch meets itself
        return Step(loss, _numbers(scores[:_ASSIGNED], codes))

    def before_update(self, clock: Clock) -> None:
        """Prototypes stay as they are for the first iterations."""
        if clock.step < self.config.freeze_prototypes:
            self.prototypes.grad = None

    def after_update(self, clock: Clock) -> None:
        """The batch's features take the place of the oldest."""
        if self.queue is not None:
            self.queue.advance()

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far z spreads, and how evenly prototypes are used.

        prototype_entropy: of the nearest prototypes over the images, 0 when it is the same one for all.
        prediction_entropy: of an image's softmax over the prototypes, 1 when it tells none from another.
        """
        z = torch.cat([unit(self.projector(h)) for _, h in batches])  # [M, D]
        scores, K = similarity(z, unit(self.prototypes)), len(self.prototypes)  # [M, K]
        p = (scores / self.config.temperature).softmax(dim=1)
        return spread_of(z) | {
            "prototype_entropy": entropy_share(scores.argmax(dim=1), K),
            "prediction_entropy": torch.special.entr(p).sum(dim=1).mean() / math.log(K),
        }

    def collapsed(self, looks: Sequence[Mapping[str, float]]) -> str | None:
        """One prototype for all, or all prototypes for each, at two looks one after the other.

        At two, since random weights have one nearest prototype for most images, and leave that in the first epochs.
        """
        last = [look for look in looks if look["epoch"] > 0][-2:]
        if len(last) < 2:
            return None
        if all(look["prototype_entropy"] < _ONE for look in last):
            return "most images are nearest to the same prototype"
        if all(look["prediction_entropy"] > _ALL for look in last):
            return "every prototype is predicted for every image, and the loss stays at log K"
        return None

    def _embed(self, views: list[View]) -> Tensor:
        """z of all crops, [V · N, D]: one pass of the backbone a resolution, one of the projector for all."""
        same_size = groupby(views, key=lambda view: view.pixels.shape[-1])
        h = [self.backbone(torch.cat([view.pixels for view in group])) for _, group in same_size]
        return unit(self.projector(torch.cat(h)))

    @torch.no_grad()
    def _assign(self, z: Tensor, C: Tensor, a: int) -> Tensor:
        """Codes [N, K] of this rank's crops `a`: all ranks' crops and the queue share the prototypes evenly."""
        n, everyone = len(z), gather(z.detach())  # [W · N, D]
        if self.queue is not None and self.queue.full:
            past = self.queue.vectors.chunk(_ASSIGNED, dim=1)[a]  # [L, D], scored by today's prototypes
            everyone = torch.cat([past, everyone])  # [L + W · N, D]
        scores = similarity(everyone, C)  # [L + W · N, K]
        q = sinkhorn(scores, self.config.epsilon, self.config.sinkhorn_rounds)
        return q[-world_size() * n :].chunk(world_size())[rank()]

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """The clusters with most images, a row each; best-assigned images first."""
        view, K = views[0], len(self.prototypes)
        scores = similarity(self._embed([view]), unit(self.prototypes))  # [N, K]
        score, nearest = scores.max(dim=1)  # [N], [N]
        sizes = torch.bincount(nearest, minlength=K)
        shown = [k for k in sizes.argsort(descending=True, stable=True)[:_ROWS].tolist() if sizes[k] > 0]
        images = (plain(view.pixels, view) * 255).round().to(torch.uint8)
        s, columns = images.shape[-1], min(_COLUMNS, int(sizes.max()))
        sheet = images.new_full((len(shown), s, columns, s, 3), 255)  # white where a cluster has no more
        for row, k in enumerate(shown):
            members = (nearest == k).nonzero()[:, 0]
            best = members[score[members].argsort(descending=True, stable=True)][:columns]  # [m]
            sheet[row, :, : len(best)] = images[best].permute(2, 0, 3, 1)  # [S, m, S, 3]
        yield "clusters", sheet.view(len(shown) * s, columns * s, 3).cpu()


@torch.no_grad()
def _numbers(scores: list[Tensor], codes: list[Tensor]) -> dict[str, Tensor]:
    """What tells learning from collapse, where all images are alike: then codes are even and the loss is log K.

    accuracy: how often the nearest prototype of one crop is the code's first choice for the other.
    code_entropy: of the codes, as a share of log K; 1 when collapsed.
    prototypes_used: share of the prototypes that are nearest to some crop of this batch; 1 / K when collapsed.
    """
    nearest, chosen = (torch.stack([x.argmax(dim=1) for x in each]) for each in (scores, codes))  # [2, N]
    q, K = torch.cat(codes), codes[0].shape[1]
    used = (nearest.flatten()[:, None] == torch.arange(K, device=q.device)).any(dim=0)  # [K]
    return {
        "accuracy": (nearest == chosen.flip(0)).float().mean(),
        "code_entropy": torch.special.entr(q).sum(dim=1).mean() / math.log(K),
        "prototypes_used": used.float().mean(),
    }
