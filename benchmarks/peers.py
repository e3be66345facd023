"""Methods built from lightly's parts, to compare ours with: `build(name, backbone, config)`.

A peer takes the settings and the views of our method of that name, and our loop trains it with that method's optimiser:
only the method itself is another. Losses, heads, prototypes, momentum updates, memory banks and masks are lightly's,
joined as its own scripts join them (github.com/lightly-ai/lightly: examples/pytorch and benchmarks/imagenet). What
settings ask for and lightly's head classes lack is made of its `ProjectionHead`.

Each class says where it differs from ours all the same. All of them are for one process and whole batches, a killed run
does not go on bit for bit (memory banks and queues are not saved), and under autocast lightly's losses use half
precision wherever torch does. Lightly 1.6 or newer is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models import utils
from lightly.models.modules import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.modules.heads import ProjectionHead
from lightly.models.modules.masked_vision_transformer_timm import init_weights
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.utils.scheduler import cosine_schedule
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.methods.base.config import MethodConfig
from sslpipe.methods.base.method import Clock, Method, ParamGroup, Step
from sslpipe.methods.byol import BYOL
from sslpipe.methods.mae import MAE
from sslpipe.methods.moco import MoCo
from sslpipe.methods.simclr import SimCLR
from sslpipe.methods.simsiam import SimSiam, keep_rate
from sslpipe.methods.swav import SwAV
from sslpipe.networks.protocol import Backbone
from sslpipe.networks.vit import SmallViT
from sslpipe.views.recipe import Recipe
from sslpipe.views.view import View

Network = TypeVar("Network", bound=nn.Module)


class Peer(Method):
    """A method with the settings and views of one of ours: `class X(Peer, ours=…)`."""

    ours: ClassVar[type[Method]]

    def __init_subclass__(cls, ours: type[Method]) -> None:
        super().__init_subclass__()
        cls.ours, cls.Config, cls.paper = ours, ours.Config, ours.paper
        cls.takes, cls.default_backbone = ours.takes, ours.default_backbone

    @classmethod
    def recipe(cls, config: MethodConfig, image_size: int, patch_size: int | None) -> Recipe:
        """Our method's."""
        return cls.ours.recipe(config, image_size, patch_size)


class SimCLRPeer(Peer, ours=SimCLR):
    """As benchmarks/imagenet/resnet50/simclr.py: both views go through the network together.

    - The head's last batch norm has a shift too (it starts at 0) where ours only scales.
    """

    def __init__(self, backbone: Backbone, config: SimCLR.Config) -> None:
        super().__init__(backbone, config)
        D, hidden, out = backbone.dim, config.projector_hidden, config.projector_out
        if config.projector_norm is None:
            self.projector = ProjectionHead(
                [(D, hidden, nn.BatchNorm1d(hidden), nn.ReLU()), (hidden, out, None, None)]
            )
        else:
            self.projector = SimCLRProjectionHead(D, hidden, out)
        self.criterion = NTXentLoss(temperature=config.temperature)

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch."""
        z = self.projector(self.backbone(torch.cat([view.pixels for view in views[:2]])))  # [2N, d]
        return Step(self.criterion(*z.chunk(2)))


class MoCoPeer(Peer, ours=MoCo):
    """As examples/pytorch/moco.py, with the constant momentum of benchmarks/imagenet/resnet50/mocov2.py.

    - The memory bank takes the keys in the loss itself, after copying its negatives; ours after the update: the same.
    - Were the bank no multiple of the batch, it would cut the batch that reaches its end; ours is refused.
    """

    def __init__(self, backbone: Backbone, config: MoCo.Config) -> None:
        super().__init__(backbone, config)
        self.momentum = config.momentum
        D, hidden, C = backbone.dim, config.projector_hidden, config.projector_out
        linear = hidden == 0  # version 1
        self.projector = ProjectionHead([(D, C, None, None)]) if linear else MoCoProjectionHead(D, hidden, C)
        self.backbone_momentum = _momentum_copy(self.backbone)
        self.projector_momentum = _momentum_copy(self.projector)
        self.criterion = NTXentLoss(temperature=config.temperature, memory_bank_size=(config.queue, C))

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: the first view is the query, the second its key."""
        query = self.projector(self.backbone(views[0].pixels))  # [N, C]
        with torch.no_grad():
            key = self.projector_momentum(self.backbone_momentum(views[1].pixels))  # [N, C]
        return Step(self.criterion(query, key))

    def after_update(self, clock: Clock) -> None:
        """The key network follows; in lightly's scripts at the start of the next step, which is the same."""
        utils.update_momentum(self.backbone, self.backbone_momentum, m=self.momentum)
        utils.update_momentum(self.projector, self.projector_momentum, m=self.momentum)


class BYOLPeer(Peer, ours=BYOL):
    """As benchmarks/imagenet/resnet50/byol.py, which doubles the cosines and adds both ways round.

    - The loss is ours less 4: lightly leaves out the constant of 2 − 2·cos.
    - lightly's heads end with a bias, which is taken out: the official ones have none.
    - The cosine of the momentum reaches 1 one step earlier.
    - The target moves at the end of a step by that step's momentum, in lightly's script at the start of the next step
      by that one's.
    """

    def __init__(self, backbone: Backbone, config: BYOL.Config) -> None:
        super().__init__(backbone, config)
        self.momentum = config.momentum
        D, hidden, out = backbone.dim, config.projector_hidden, config.projector_out
        if config.projector_norm == "plain":
            norm = nn.BatchNorm1d(out, affine=False)
            self.projector = ProjectionHead(
                [(D, hidden, nn.BatchNorm1d(hidden), nn.ReLU()), (hidden, out, norm, None)]
            )
        else:
            self.projector = BYOLProjectionHead(D, hidden, out)
        self.predictor = BYOLPredictionHead(out, config.predictor_hidden, out)
        for head in (self.projector, self.predictor):
            last = [layer for layer in head.layers if isinstance(layer, nn.Linear)][-1]
            last.register_parameter("bias", None)
        self.backbone_momentum = _momentum_copy(self.backbone)
        self.projector_momentum = _momentum_copy(self.projector)
        self.criterion = NegativeCosineSimilarity()

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; batch norm sees one view at a time."""
        x0, x1 = views[0].pixels, views[1].pixels  # [N, 3, S, S]
        with torch.no_grad():
            z0, z1 = self._target(x0), self._target(x1)  # [N, d]
        p0, p1 = self._predict(x0), self._predict(x1)  # [N, d]
        return Step(2 * self.criterion(z0, p1) + 2 * self.criterion(z1, p0))

    def after_update(self, clock: Clock) -> None:
        """The target follows, its momentum on lightly's cosine from the setting to 1."""
        # The number of all steps is not known at the first, when the cosine begins whatever it is.
        total = round(clock.step / clock.progress) if clock.step else 2
        m = cosine_schedule(clock.step, total, self.momentum, 1.0)
        utils.update_momentum(self.backbone, self.backbone_momentum, m=m)
        utils.update_momentum(self.projector, self.projector_momentum, m=m)

    def _predict(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(self.backbone(x)))

    def _target(self, x: Tensor) -> Tensor:
        return self.projector_momentum(self.backbone_momentum(x))


class SimSiamPeer(Peer, ours=SimSiam):
    """As examples/pytorch/simsiam.py; no difference is known."""

    def __init__(self, backbone: Backbone, config: SimSiam.Config) -> None:
        super().__init__(backbone, config)
        d = config.projector_out
        self.projector = SimSiamProjectionHead(backbone.dim, config.projector_hidden, d)
        self.predictor = SimSiamPredictionHead(d, config.predictor_hidden, d)
        self.criterion = NegativeCosineSimilarity()

    def parameter_groups(self) -> list[ParamGroup]:
        """As ours: the predictor keeps its rate."""
        return keep_rate(super().parameter_groups(), self.predictor)

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; batch norm sees one view at a time."""
        (z0, p0), (z1, p1) = (self._forward(view.pixels) for view in views[:2])
        return Step(0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0)))

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projector(self.backbone(x))  # [N, d]
        return z.detach(), self.predictor(z)


class SwAVPeer(Peer, ours=SwAV):
    """As examples/pytorch/swav.py and, with a queue, benchmarks/imagenet/resnet50/swav.py.

    - Batch norm sees each crop apart, as in both scripts; ours, and the official code, all crops of one size together.
    - The prototypes are a linear layer with a bias, which ours and the official code do not have.
    - They start as a linear layer does, made unit vectors; ours uniform on the sphere.
    - While they are frozen their gradients are not computed; ours are dropped: the same.
    - Sinkhorn's exp overflows for an ε below about .012; ours is in the log domain.
    """

    def __init__(self, backbone: Backbone, config: SwAV.Config) -> None:
        super().__init__(backbone, config)
        D = config.projector_out
        self.projector = SwaVProjectionHead(backbone.dim, config.projector_hidden, D)
        self.prototypes = SwaVPrototypes(D, config.prototypes, config.freeze_prototypes)
        self.criterion = SwaVLoss(config.temperature, config.sinkhorn_rounds, config.epsilon)
        self.queue_length, self.queue_epoch, self.queued = config.queue, config.queue_epoch, 0
        banks = 2 if config.queue else 0  # one for each large crop
        self.queues = nn.ModuleList(MemoryBankModule(size=(config.queue, D)) for _ in range(banks))

    def parameter_groups(self) -> list[ParamGroup]:
        """As ours: LARC adapts everything."""
        return [replace(group, adapt=True) for group in super().parameter_groups()]

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: the first two crops get codes, and each code is predicted by all other crops."""
        self.prototypes.normalize()
        z = [F.normalize(self.projector(self.backbone(view.pixels)), dim=1) for view in views]  # V × [N, D]
        past = self._past(z[:2], clock)
        scores = [self.prototypes(z_v, clock.step) for z_v in z]  # V × [N, K]
        return Step(self.criterion(scores[:2], scores[2:], past).squeeze())

    @torch.no_grad()
    def _past(self, z: list[Tensor], clock: Clock) -> list[Tensor] | None:
        """Scores of earlier large crops, 2 × [L, K], once the queues are full; and these crops enter."""
        if not self.queues or clock.epoch < self.queue_epoch:
            return None
        past = [queue(z_a, update=True)[1].T for queue, z_a in zip(self.queues, z, strict=True)]  # 2 × [L, D]
        full = self.queued >= self.queue_length
        self.queued += len(z[0])
        return [self.prototypes(x, clock.step) for x in past] if full else None


class MAEPeer(Peer, ours=MAE):
    """As examples/pytorch/mae.py, around timm's vision transformer of `small_vit`'s size.

    - Masks are lightly's, drawn anew for each image from torch's own generator; as many patches are hidden.
    - All weights start as lightly's do, not from the given backbone: as ours, but patches' bias, which ours has at 0.
    - Positions are computed in single precision.
    - Only hidden patches are predicted; ours predicts all and counts the hidden: the same.
    """

    def __init__(self, backbone: Backbone, config: MAE.Config) -> None:
        super().__init__(backbone, config)
        self.freeze(self.backbone)  # takes the trained weights when asked for: see `encoder`
        vit = _timm_vit(backbone)
        self.patch_size, self.mask_ratio = int(vit.patch_embed.patch_size[0]), config.mask_ratio
        self.normalise_target = config.normalise_target
        self.vit = MaskedVisionTransformerTIMM(vit=vit)
        self.vit.mask_token.requires_grad_(False)  # of other methods
        self.decoder_embed = nn.Linear(vit.embed_dim, config.decoder_width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches,
            embed_dim=config.decoder_width,
            depth=config.decoder_depth,
            num_heads=config.decoder_heads,
            num_prefix_tokens=vit.num_prefix_tokens,
        )
        self.prediction_head = nn.Linear(config.decoder_width, self.patch_size**2 * 3)
        self.decoder_embed.apply(init_weights)
        self.prediction_head.apply(init_weights)
        self.criterion = nn.MSELoss()

    def parameter_groups(self) -> list[ParamGroup]:
        """As ours: the class token is not decayed."""
        weights, plain = super().parameter_groups()
        token = self.vit.vit.cls_token
        weights.parameters = [parameter for parameter in weights.parameters if parameter is not token]
        plain.parameters.append(token)
        return [weights, plain]

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; the encoder sees the visible patches only. Place 0 is the class token's."""
        x = views[0].pixels  # [N, 3, S, S]
        size = (len(x), self.vit.sequence_length)
        keep, hidden = utils.random_token_mask(size, mask_ratio=self.mask_ratio, device=x.device)
        latent = self.vit.encode(x, idx_keep=keep)  # [N, 1 + K, D]
        prediction = self._decode(latent, keep, hidden)  # [N, P − K, p·p·3]
        target = utils.get_at_index(utils.patchify(x, self.patch_size), hidden - 1)
        if self.normalise_target:
            target = utils.normalize_mean_var(target)
        return Step(self.criterion(prediction, target))

    def _decode(self, latent: Tensor, keep: Tensor, hidden: Tensor) -> Tensor:
        visible = self.decoder_embed(latent)  # [N, 1 + K, W]
        everywhere = visible.new_zeros(
            len(visible), self.vit.sequence_length, visible.shape[2]
        )  # [N, 1 + P, W]
        decoded = self.decoder(utils.set_at_index(everywhere, keep, visible), idx_mask=hidden)
        return self.prediction_head(utils.get_at_index(decoded, hidden))

    @property
    def encoder(self) -> Backbone:
        """The given `small_vit` with the weights as they stand in timm's."""
        state = {
            _our_name(name): value
            for name, value in self.vit.vit.state_dict().items()
            if name != "pos_embed"  # fixed, and not part of ours
        }
        self.backbone.load_state_dict({**state, "mask_token": self.backbone.state_dict()["mask_token"]})
        return self.backbone


PEERS: Mapping[str, type[Method]] = {
    "simclr": SimCLRPeer,
    "moco": MoCoPeer,
    "byol": BYOLPeer,
    "simsiam": SimSiamPeer,
    "swav": SwAVPeer,
    "mae": MAEPeer,
}


def build(name: str, backbone: Backbone, config: MethodConfig) -> Method:
    """The peer of our method `name`, with that method's settings.

    Raises:
        UserError: there is no such peer, or it cannot train this backbone.
    """
    if name not in PEERS:
        raise UserError(f"{name} has no peer: choose one of {', '.join(PEERS)}")
    return PEERS[name](backbone, config)


def _momentum_copy(network: Network) -> Network:
    follower = copy.deepcopy(network)
    utils.deactivate_requires_grad(follower)
    return follower


def _timm_vit(backbone: Backbone) -> Any:
    """timm's network of the same architecture; its norm comes last, as lightly's wrapper wants it."""
    o = backbone.options
    same = isinstance(backbone, SmallViT) and o["position"] == "sincos" and o["class_token"]
    if not same or o["drop_path"] or o["layer_scale"] is not None:
        raise UserError(
            "MAE of lightly's parts trains small_vit with sincos positions and a class token only"
        )
    return VisionTransformer(
        img_size=backbone.image_size,
        patch_size=o["patch_size"],
        embed_dim=o["width"],
        depth=o["depth"],
        num_heads=o["heads"],
        num_classes=0,
    )


def _our_name(name: str) -> str:
    """How small_vit calls the parameter that timm calls so."""
    pairs = {
        "patch_embed.proj": "patch_embed",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.out",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
    }
    for theirs, ours in pairs.items():
        name = name.replace(theirs, ours)
    return name
