"""`timm:<name>`: timm's networks behind the `Backbone` protocol, with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import meant
from sslpipe.core.distributed import synchronise
from sslpipe.networks.patches import as_maps, sincos_positions, take
from sslpipe.networks.protocol import Backbone, ConvBackbone, check_patch_size, probe, small_stem
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
        raise UserError(
            f"timm has no network {member!r}{meant(member, timm.list_models())}: "
            "`timm.list_models()` lists them all"
        )
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

    def __init__(self, member: str, image_size: int, stem: str = "imagenet", drop_path: float = 0.0) -> None:
        import timm

        super().__init__()
        self.name, self.image_size = f"timm:{member}", image_size
        self.options = {"stem": stem, "drop_path": drop_path}
        sizes: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if _fixed_input(member):
            sizes["img_size"] = image_size
        self.model = synchronise(_create(member, image_size, **sizes))
        if stem != "imagenet":
            small_stem(self.name, stem, self.model)
        self.kind = "resnet" if isinstance(self.model, timm.models.ResNet) else "cnn"
        self.channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        self.dim = probe(self, image_size)
        if getattr(self.model, "head_hidden_size", self.dim) != self.dim:
            raise UserError(
                f"{self.name} widens its features after pooling, so patches and images would differ: "
                "choose another backbone"
            )

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D, h, w], before pooling."""
        features = self.model.forward_features(x)  # type: ignore[operator]
        return features.permute(0, 3, 1, 2) if self.channels_last else features

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What its own head makes of the maps (pooled, in ConvNeXt and its like normalised), and the maps before it."""
        maps = self.maps(x)
        own = maps.permute(0, 2, 3, 1) if self.channels_last else maps
        return self.model.forward_head(own, pre_logits=True), maps  # type: ignore[operator]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's own, for parameters that are called `model.…` here."""
        matcher = self.model.group_matcher(coarse=coarse)  # type: ignore[operator]
        return {key: _below_model(spec) for key, spec in matcher.items() if spec is not None}

    def no_weight_decay(self) -> set[str]:
        """timm's own."""
        names = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else ()  # type: ignore[operator]
        return {f"model.{name}" for name in names}


class TimmViT(Backbone):
    """A plain vision transformer; its final norm comes before pooling.

    Args:
        member: timm's name for it.
        image_size: side of the images, pixels; positions of others are interpolated.
        patch_size: side of a patch, pixels; None for the one in the name.
        pool: "mean" of the patches or the "cls" token.
        position: "learned", or "sincos" as MAE's: fixed.
        drop_path: chance that a block is skipped in training, rising linearly to this.
        layer_scale: start of the learned scale of each residual branch; None for timm's default.
    """

    kind = "vit"

    def __init__(
        self,
        member: str,
        image_size: int,
        patch_size: int | None = None,
        pool: str = "mean",
        position: str = "learned",
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.name, self.image_size = f"timm:{member}", image_size
        if position not in ("learned", "sincos"):
            raise UserError(f"{self.name} takes position 'learned' or 'sincos': got {position!r}")
        self._build(
            member,
            patch_size,
            pool,
            drop_path,
            layer_scale,
            fc_norm=False,  # else the last norm moves behind the pooling and tokens come out without
            dynamic_img_size=True,
        )
        self.options["position"] = position
        if position == "sincos":
            self._fix_positions()

    def _build(
        self,
        member: str,
        patch_size: int | None,
        pool: str,
        drop_path: float,
        layer_scale: float | None,
        **own: Any,
    ) -> None:
        """Make the network, the mask token and what describes them; `own` is what only this kind of network takes."""
        if pool not in ("mean", "cls"):
            raise UserError(f"{self.name} takes pool 'mean' or 'cls': got {pool!r}")
        patch_size = patch_size or _patch_size(member)
        check_patch_size(self.name, self.image_size, patch_size)
        layer_scaled = {} if layer_scale is None else {"init_values": layer_scale}
        self.model = synchronise(
            _create(
                member,
                self.image_size,
                img_size=self.image_size,
                patch_size=patch_size,
                global_pool="token" if pool == "cls" else "avg",
                drop_path_rate=drop_path,
                **own,
                **layer_scaled,
            )
        )
        self.prefixes = int(self.model.num_prefix_tokens)  # type: ignore[arg-type]
        self.has_class_token = self.model.cls_token is not None
        if pool == "cls" and not self.has_class_token:
            raise UserError(f"{self.name} has no class token: set its pool to 'mean'")
        self.dim, self.patch_size, self.pool = int(self.model.embed_dim), patch_size, pool  # type: ignore[arg-type]
        self.mask_token = nn.Parameter(torch.empty(1, 1, 1, self.dim), requires_grad=False)
        nn.init.normal_(self.mask_token, std=0.02)
        self.options = {
            "patch_size": patch_size,
            "pool": pool,
            "drop_path": drop_path,
            "layer_scale": layer_scale,
        }

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.features`; both are after the last norm."""
        tokens = self._encode(x)  # [N, C + P, D]
        return self.pooled(tokens), as_maps(tokens[:, self.prefixes :], x, self.options["patch_size"])

    def pooled(self, tokens: Tensor) -> Tensor:
        """See `Backbone.pooled`."""
        return tokens[:, 0] if self.pool == "cls" else tokens[:, self.prefixes :].mean(dim=1)

    def blocks_and_norm(self) -> tuple[Sequence[nn.Module], nn.Module]:
        """See `Backbone.blocks_and_norm`."""
        model: Any = self.model
        return list(model.blocks), model.norm

    def tokens(
        self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, prefix: bool = False
    ) -> Tensor:
        """See `Backbone.tokens`; `prefix` gives the class token and any distillation or register tokens."""
        tokens = self._encode(x, keep, mask)
        return tokens if prefix else tokens[:, self.prefixes :]

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D, S / patch_size, S / patch_size]."""
        return as_maps(self.tokens(x), x, self.options["patch_size"])

    def _encode(self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        m: Any = self.model
        t = m.patch_embed(x)  # [N, h, w, D]
        if mask is not None:
            t = torch.where(mask.view(*t.shape[:3], 1), self.mask_token.to(t.dtype), t)
        t = m._pos_embed(t)  # [N, C + P, D]
        if keep is not None:
            t = torch.cat([t[:, : self.prefixes], take(t[:, self.prefixes :], keep)], dim=1)
        return m.norm(m.blocks(m.norm_pre(m.patch_drop(t))))

    def _fix_positions(self) -> None:
        position: nn.Parameter = self.model.pos_embed  # type: ignore[assignment]
        side = self.image_size // self.options["patch_size"]
        position.requires_grad_(False)
        position.data.zero_()
        position.data[:, position.shape[1] - side * side :] = sincos_positions((side, side), self.dim)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay as MAE's: all before the blocks, each block, the norm (with the head)."""
        before = "cls_token|reg_token|dist_token|pos_embed|patch_embed|norm_pre"
        return {
            "stem": rf"^(?:mask_token|model\.(?:{before}))",
            "blocks": r"^model\.blocks\.(\d+)",
            "norm": r"^model\.norm\.",
        }

    def no_weight_decay(self) -> set[str]:
        """Tokens and positions are not decayed."""
        names = self.model.no_weight_decay() | {"reg_token"}  # type: ignore[operator]
        return {"mask_token", *(f"model.{name}" for name in names)}


class TimmBEiT(TimmViT):
    """BEiT's vision transformer as it is pretrained: relative positions that all blocks share, and no others.

    timm's own has positions for each block, as BEiT's after fine-tuning. The final norm comes before pooling.

    Args:
        member: timm's name for it.
        image_size: side of the images, pixels; positions of others are interpolated.
        patch_size: side of a patch, pixels; None for the one in the name.
        pool: "mean" of the patches or the "cls" token.
        drop_path: chance that a block is skipped in training, rising linearly to this.
        layer_scale: start of the learned scale of each residual branch; None for timm's default.
    """

    def __init__(
        self,
        member: str,
        image_size: int,
        patch_size: int | None = None,
        pool: str = "mean",
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        Backbone.__init__(self)
        self.name, self.image_size = f"timm:{member}", image_size
        self._build(
            member,
            patch_size,
            pool,
            drop_path,
            layer_scale,
            use_abs_pos_emb=False,
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=True,
            use_fc_norm=False,
        )
        self.model.patch_embed.strict_img_size = False  # type: ignore[union-attr]

    def _encode(self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        m: Any = self.model
        t = m.patch_embed(x)  # [N, P, D]
        if mask is not None:
            t = torch.where(mask[:, :, None], self.mask_token[0].to(t.dtype), t)
        if keep is not None:
            t = take(t, keep)  # [N, K, D]
        t = torch.cat([m.cls_token.to(t.dtype).expand(len(t), -1, -1), t], dim=1)  # [N, 1 + K, D]
        table, p = m.rel_pos_bias.relative_position_bias_table, self.options["patch_size"]
        side = self.image_size // p
        bias = relative_bias(table, (side, side), (x.shape[2] // p, x.shape[3] // p), keep=keep).to(t.dtype)
        for block in m.blocks:
            t = block(t, shared_rel_pos_bias=bias)
        return m.norm(t)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay as BEiT's: the positions that all blocks share are with the norm."""
        return {
            "stem": r"^(?:mask_token|model\.(?:cls_token|patch_embed))",
            "blocks": r"^model\.blocks\.(\d+)",
            "norm": r"^model\.(?:norm|rel_pos_bias)\.",
        }

    def no_weight_decay(self) -> set[str]:
        """Tokens are not decayed; relative positions are, as in BEiT's own code."""
        return {"mask_token", "model.cls_token"}


def _create(member: str, image_size: int, **kwargs: Any) -> nn.Module:
    import timm

    try:
        return timm.create_model(member, pretrained=False, num_classes=0, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        settings = ", ".join(f"{key} {value}" for key, value in kwargs.items())
        raise UserError(
            f"timm cannot build {member} for images of {image_size} pixels with {settings}: {error}"
        ) from error


def _patch_size(member: str) -> int:
    found = re.search(r"patch(\d+)", member)
    if found is None:
        raise UserError(f"timm:{member} does not say its patch size: give it the option patch_size")
    return int(found[1])


def _fixed_input(member: str) -> bool:
    import timm

    config = timm.get_pretrained_cfg(member)
    return bool(config is not None and config.fixed_input_size)


def _below_model(spec: Any) -> Any:
    """The same pattern for names that start with `model.`."""
    if isinstance(spec, str):
        return r"^model\.(?:" + re.sub(r"(^|\||\()\^", r"\1", spec) + ")"
    return [(_below_model(pattern), suffix) for pattern, suffix in spec]
