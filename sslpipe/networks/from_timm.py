"""`timm:<name>`: timm's networks behind the `Backbone` protocol, with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import meant
from sslpipe.core.distributed import synchronise
from sslpipe.networks import starts
from sslpipe.networks.patches import resize_positions, sincos_positions, take
from sslpipe.networks.protocol import (
    Backbone,
    ConvBackbone,
    Transformer,
    below,
    check_patch_size,
    probe,
    set_stem,
)
from sslpipe.networks.relative import relative_bias

_VIT_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
_BEIT_MODULE = "timm.models.beit"


def find(member: str) -> Callable[..., Backbone]:
    """What builds timm's `member`. Options are our own few, never timm's: some of those load files.

    Raises:
        UserError: an unknown name.
    """
    import timm

    if not timm.is_model(member):
        near = meant(member, timm.list_models())
        raise UserError(f"timm has no network {member!r}{near}: `timm.list_models()` lists them all")
    module = timm.models.model_entrypoint(member).__module__
    kind = TimmViT if module in _VIT_MODULES else TimmBEiT if module == _BEIT_MODULE else TimmCNN
    return partial(kind, member)


class TimmCNN(ConvBackbone):
    """A network of feature maps.

    Args:
        member: timm's name for it.
        image_size: side of the images, pixels.
        stem: "imagenet", or "small" for ResNets: a 3x3 convolution of stride 1 and no max-pooling.
        drop_path: chance that a block is skipped in training.
    """

    model: Any

    def __init__(self, member: str, image_size: int, stem: str = "imagenet", drop_path: float = 0.0) -> None:
        import timm

        super().__init__()
        self.name, self.image_size = f"timm:{member}", image_size
        sizes: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        config = timm.get_pretrained_cfg(member)
        if config is not None and config.fixed_input_size:
            sizes["img_size"] = image_size
        self.model = synchronise(_create(member, image_size, **sizes))
        set_stem(self.name, stem, self.model)
        self.kind = "resnet" if isinstance(self.model, timm.models.ResNet) else "cnn"
        self.channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        self.dim = probe(self, image_size)
        if getattr(self.model, "head_hidden_size", self.dim) != self.dim:
            reason = "widens its features after pooling, so patches and images would differ"
            raise UserError(f"{self.name} {reason}: choose another backbone")

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D, h, w], before pooling."""
        features = self.model.forward_features(x)
        return features.permute(0, 3, 1, 2) if self.channels_last else features

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What its own head makes of the maps (pooled, in ConvNeXt and its like normalised), and the maps before it."""
        maps = self.maps(x)
        own = maps.permute(0, 2, 3, 1) if self.channels_last else maps
        return self.model.forward_head(own, pre_logits=True), maps

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's own, for parameters that are called `model.…` here."""
        matcher = self.model.group_matcher(coarse=coarse)
        return {key: below("model", spec) for key, spec in matcher.items() if spec is not None}

    def no_weight_decay(self) -> set[str]:
        """timm's own."""
        return {f"model.{name}" for name in getattr(self.model, "no_weight_decay", set)()}


class TimmTransformer(Transformer):
    """A vision transformer of timm's; its final norm comes before pooling."""

    model: Any
    #: What timm's constructor is told for this kind of network.
    own: ClassVar[dict[str, bool]]

    def __init__(
        self,
        member: str,  # timm's name for it
        image_size: int,  # side of the images, pixels; positions of others are interpolated
        patch_size: int | None = None,  # side of a patch, pixels; None for the one in the name
        pool: str = "mean",  # "mean" of the patches or the "cls" token
        drop_path: float = 0.0,  # chance that a block is skipped in training, rising linearly to this
        layer_scale: float | None = None,  # start of each residual branch's scale; None: timm's default
        start: str = "timm",  # what the weights are before training: timm's own, or see `starts.start`
    ) -> None:
        super().__init__()
        self.name, self.image_size, self.pool = f"timm:{member}", image_size, pool
        if pool not in ("mean", "cls"):
            raise UserError(f"{self.name} takes pool 'mean' or 'cls': got {pool!r}")
        self.patch_size = patch_size or _patch_size(member)
        check_patch_size(self.name, image_size, self.patch_size)
        sizes = {"img_size": image_size, "patch_size": self.patch_size}
        heads = {"global_pool": "token" if pool == "cls" else "avg", "drop_path_rate": drop_path}
        layer_scaled = {} if layer_scale is None else {"init_values": layer_scale}
        self.model = synchronise(_create(member, image_size, **sizes, **heads, **self.own, **layer_scaled))
        self.model.patch_embed.strict_img_size = False  # images of other sizes can be fed
        self.prefixes, self.dim = int(self.model.num_prefix_tokens), int(self.model.embed_dim)
        self.class_token = self.model.cls_token is not None
        if pool == "cls" and not self.class_token:
            raise UserError(f"{self.name} has no class token: set its pool to 'mean'")
        self.mask_token = nn.Parameter(torch.empty(1, 1, 1, self.dim), requires_grad=False)
        nn.init.normal_(self.mask_token, std=0.02)
        if start != "timm":
            starts.start(self, start, list(self.model.blocks))

    def blocks_and_norm(self) -> tuple[Sequence[nn.Module], nn.Module]:
        """See `Backbone.blocks_and_norm`."""
        return list(self.model.blocks), self.model.norm

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay as MAE's and BEiT's: all before the blocks, then each block.

        What is not named is in one last layer with the head: the norm, and positions that all of BEiT's blocks share.
        """
        before = "cls_token|reg_token|dist_token|pos_embed|patch_embed|norm_pre"
        return {
            "stem": rf"^(?:mask_token|model\.(?:{before}))",
            "blocks": r"^model\.blocks\.(\d+)",
        }


class TimmViT(TimmTransformer):
    """A plain vision transformer."""

    # With `fc_norm` the last norm would move behind the pooling, and tokens come out without.
    own: ClassVar[dict[str, bool]] = {"fc_norm": False, "dynamic_img_size": True}

    def __init__(
        self,
        member: str,
        image_size: int,
        patch_size: int | None = None,
        pool: str = "mean",
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        start: str = "timm",
        position: str = "learned",  # or "sincos": fixed, as MAE's
    ) -> None:
        if position not in ("learned", "sincos"):
            raise UserError(f"timm:{member} takes position 'learned' or 'sincos': got {position!r}")
        super().__init__(member, image_size, patch_size, pool, drop_path, layer_scale, start)
        if position == "sincos":
            table: nn.Parameter = self.model.pos_embed.requires_grad_(False)
            side = image_size // self.patch_size
            table.data.zero_()
            table.data[:, table.shape[1] - side * side :] = sincos_positions((side, side), self.dim)

    def _encode(self, x: Tensor, keep: Tensor | None, mask: Tensor | None) -> Tensor:
        m = self.model
        t = m.patch_embed(x)  # [N, h, w, D]
        if mask is not None:
            t = torch.where(mask.view(*t.shape[:3], 1), self.mask_token.to(t.dtype), t)
        t = self._positioned(t)  # [N, C + P, D]
        if keep is not None:
            t = torch.cat([t[:, : self.prefixes], take(t[:, self.prefixes :], keep)], dim=1)
        return m.norm(m.blocks(m.norm_pre(m.patch_drop(t))))

    def _positioned(self, t: Tensor) -> Tensor:
        """[N, h, w, D] with positions, and other tokens before them: [N, C + P, D]."""
        m, grid = self.model, (t.shape[1], t.shape[2])
        if grid == m.patch_embed.grid_size or m.pos_embed is None:
            return m._pos_embed(t)
        # As timm does it, but that it resizes positions with a gradient that is not the same every time on a GPU.
        before = 0 if m.no_embed_class else self.prefixes
        others, positions = m.pos_embed[:, :before], m.pos_embed[:, before:]
        positions = torch.cat([others, resize_positions(positions, m.patch_embed.grid_size, grid)], dim=1)
        tokens = [part.expand(t.shape[0], -1, -1) for part in (m.cls_token, m.reg_token) if part is not None]
        t = t.flatten(1, 2)
        if m.no_embed_class:
            return m.pos_drop(torch.cat([*tokens, t + positions], dim=1))
        return m.pos_drop(torch.cat([*tokens, t], dim=1) + positions)

    def no_weight_decay(self) -> set[str]:
        """Tokens and positions are not decayed."""
        return {"mask_token", "model.reg_token", *(f"model.{name}" for name in self.model.no_weight_decay())}


class TimmBEiT(TimmTransformer):
    """BEiT's vision transformer as it is pretrained: relative positions that all blocks share, and no others.

    timm's own has positions for each block, as BEiT's after fine-tuning.
    """

    own: ClassVar[dict[str, bool]] = {
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "use_fc_norm": False,
    }

    def _encode(self, x: Tensor, keep: Tensor | None, mask: Tensor | None) -> Tensor:
        m, p = self.model, self.patch_size
        t = m.patch_embed(x)  # [N, P, D]
        if mask is not None:
            t = torch.where(mask[:, :, None], self.mask_token[0].to(t.dtype), t)
        if keep is not None:
            t = take(t, keep)  # [N, K, D]
        t = torch.cat([m.cls_token.to(t.dtype).expand(t.shape[0], -1, -1), t], dim=1)  # [N, 1 + K, D]
        square, grid = (self.image_size // p,) * 2, (x.shape[2] // p, x.shape[3] // p)
        bias = relative_bias(m.rel_pos_bias.relative_position_bias_table, square, grid, keep=keep).to(t.dtype)
        for block in m.blocks:
            t = block(t, shared_rel_pos_bias=bias)
        return m.norm(t)

    def no_weight_decay(self) -> set[str]:
        """Tokens are not decayed; relative positions are, as in BEiT's own code."""
        return {"mask_token", "model.cls_token"}


def _create(member: str, image_size: int, **kwargs: Any) -> nn.Module:
    import timm

    try:
        return timm.create_model(member, pretrained=False, num_classes=0, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        settings = ", ".join(f"{key} {value}" for key, value in kwargs.items())
        reason = f"for images of {image_size} pixels with {settings}: {error}"
        raise UserError(f"timm cannot build {member} {reason}") from error


def _patch_size(member: str) -> int:
    found = re.search(r"patch(\d+)", member)
    if found is None:
        raise UserError(f"timm:{member} does not say its patch size: give it the option patch_size")
    return int(found[1])
