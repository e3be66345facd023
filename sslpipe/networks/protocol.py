"""The protocol every backbone follows."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.networks.patches import as_maps
from sslpipe.views.preprocess import Preprocess


class Backbone(nn.Module):
    """An image encoder: pixels [N, 3, S, S] in, features out. `encoder.json` holds what rebuilds it.

    `torch.export` takes it with a batch of any size: a subclass reads N from a tensor's `shape`, as `len` would be
    exported as a number.
    """

    name: str  # as given to `backbone`
    options: dict[str, Any]  # all of them, set by `backbone`, which rebuilds it with `**options`
    image_size: int  # side of the square images it is made for, pixels
    dim: int  # features a vector
    patch_size: int | None = None  # pixels; None for a CNN, which cannot hide patches
    class_token: bool = False  # whether a transformer has one
    kind: Literal["resnet", "cnn", "vit"]  # "cnn": other networks of feature maps
    preprocess: Preprocess  # set by `load_encoder`: images in, [N, 3, S, S] out
    info: dict[str, Any]  # set by `load_encoder`: where the weights come from

    def forward(self, x: Tensor) -> Tensor:
        """One vector an image: [N, 3, S, S] → [N, D]."""
        return self.features(x)[0]

    @abstractmethod
    def tokens(
        self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, prefix: bool = False
    ) -> Tensor:
        """One vector a patch, row by row: [N, 3, S, S] → [N, P, D].

        Args:
            keep: int64 [N, K], the patches each image keeps: only they are computed, → [N, K, D] in order.
            mask: bool [N, P], true where a learned token stands in for the patch (see `learn_mask_token`).
            prefix: class tokens come first, → [N, 1 + P, D].

        Raises:
            UserError: `keep`, `mask` or `prefix` asked of a CNN.
        """

    @abstractmethod
    def maps(self, x: Tensor) -> Tensor:
        """The same vectors as an image: [N, 3, S, S] → [N, D, h, w]."""

    @abstractmethod
    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` and `maps` give, [N, D] and [N, D, h, w], from one pass."""

    def blocks_and_norm(self) -> tuple[Sequence[nn.Module], nn.Module] | None:
        """A transformer's blocks, in order, and the norm after the last; None for a CNN."""
        return None

    def last_blocks(self, x: Tensor, count: int, pool: str = "encoder") -> Tensor:
        """Vectors of the last blocks side by side, [N, 3, S, S] → [N, count · D]; of a CNN, what `forward` gives.

        DINO's protocol of linear probes (Caron et al. 2021, App. F.1). Methods that rebuild what is hidden leave
        their last block to that; what an image shows is found before.

        `pool` is "encoder", as `forward` pools; or for a transformer "mean" of the patches, or "cls", the class token.
        """
        return self(x)

    @abstractmethod
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into layers, for timm's layer decay."""

    def learn_mask_token(self) -> None:
        """Train the token of `tokens(mask=…)`; a method that masks calls it when it is built.

        Otherwise the token stays as it is, so that other methods have no parameter without a gradient.

        Raises:
            UserError: a CNN has no such token.
        """
        raise _cannot_hide(self.name)

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed though they have more than one dimension."""
        return set()

    @property
    def grid(self) -> tuple[int, int] | None:
        """Patches down and across at `image_size`; None for a CNN."""
        return None if self.patch_size is None else (self.image_size // self.patch_size,) * 2


class ConvBackbone(Backbone):
    """A backbone whose features are maps: a subclass gives `maps`, vectors are their average."""

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The average of the maps, and the maps."""
        maps = self.maps(x)
        return maps.mean(dim=(2, 3)), maps

    def tokens(
        self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, prefix: bool = False
    ) -> Tensor:
        """Flattened maps: [N, 3, S, S] → [N, h·w, D]."""
        if keep is not None or mask is not None or prefix:
            raise _cannot_hide(self.name)
        return self.maps(x).flatten(2).transpose(1, 2)


class Transformer(Backbone):
    """A backbone of tokens: a subclass gives `_encode` and `blocks_and_norm`; all features are after the last norm."""

    kind = "vit"
    patch_size: int
    mask_token: nn.Parameter  # stands in for a hidden patch
    prefixes: int  # class tokens, with timm's distillation and register tokens, which come before the patches
    pool: str  # what an image's vector is: "mean" of the patches or the "cls" token

    def encode(self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Class tokens, then patches as in `tokens`: [N, 3, H, W] → [N, C + P, D].

        Raises:
            UserError: patches do not tile the images.
        """
        for side in x.shape[2:]:
            check_patch_size(self.name, side, self.patch_size)
        return self._encode(x, keep, mask)

    @abstractmethod
    def _encode(self, x: Tensor, keep: Tensor | None, mask: Tensor | None) -> Tensor:
        """What `encode` gives, of images that patches tile."""

    @abstractmethod
    def blocks_and_norm(self) -> tuple[Sequence[nn.Module], nn.Module]:
        """See `Backbone.blocks_and_norm`."""

    def tokens(
        self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, prefix: bool = False
    ) -> Tensor:
        """See `Backbone.tokens`; `prefix` gives all that `prefixes` counts."""
        tokens = self.encode(x, keep, mask)
        return tokens if prefix else tokens[:, self.prefixes :]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.features`."""
        tokens = self.encode(x)  # [N, C + P, D]
        return self._pooled(tokens), as_maps(tokens[:, self.prefixes :], x, self.patch_size)

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D, S / patch_size, S / patch_size]."""
        return as_maps(self.tokens(x), x, self.patch_size)

    def _pooled(self, tokens: Tensor, pool: str = "encoder") -> Tensor:
        pool = self.pool if pool == "encoder" else pool
        return tokens[:, 0] if pool == "cls" else tokens[:, self.prefixes :].mean(dim=1)

    def last_blocks(self, x: Tensor, count: int, pool: str = "encoder") -> Tensor:
        """See `Backbone.last_blocks`; each block's tokens go through the last norm and the pooling."""
        if count == 1:
            return self._pooled(self.encode(x), pool)
        blocks, norm = self.blocks_and_norm()
        found: list[Tensor] = []
        with ExitStack() as hooks:
            for block in blocks[-count:]:
                hook = block.register_forward_hook(lambda module, given, tokens: found.append(tokens))
                hooks.enter_context(hook)
            self.features(x)
        return torch.cat([self._pooled(norm(tokens), pool) for tokens in found], dim=1)

    def learn_mask_token(self) -> None:
        """See `Backbone.learn_mask_token`."""
        self.mask_token.requires_grad_(True)


def below(prefix: str, pattern: Any) -> Any:
    """A pattern of `group_matcher`, or its list of (pattern, order), for names that now start with `prefix.`."""
    if isinstance(pattern, str):
        return rf"^{prefix}\.(?:" + re.sub(r"(^|\||\()\^", r"\1", pattern) + ")"
    return [(below(prefix, each), order) for each, order in pattern]


def check_patch_size(name: str, image_size: int, patch_size: int) -> None:
    """Refuse images that patches do not tile.

    Raises:
        UserError: `image_size` is not a multiple of `patch_size`, or there is no such patch.
    """
    if patch_size < 1:
        raise UserError(
            f"{name} cannot cut images into patches of {patch_size} pixels: set patch_size to 1 or more"
        )
    if image_size % patch_size:
        nearest = max(round(image_size / patch_size), 1) * patch_size
        reason = f"cuts images into patches of {patch_size} pixels, which do not tile {image_size}"
        raise UserError(
            f"{name} {reason}: make the image size a multiple of the patch size, such as {nearest}"
        )


def set_stem(name: str, stem: str, resnet: nn.Module) -> None:
    """With `stem` "small", give a ResNet of timm's or torchvision's that for small images (He et al. 2016, sec. 4.2).

    Raises:
        UserError: `stem` is neither "imagenet" nor "small", or the network's stem is not that of a plain ResNet.
    """
    if stem == "imagenet":
        return
    conv = getattr(resnet, "conv1", None)
    if stem != "small" or not isinstance(conv, nn.Conv2d) or not hasattr(resnet, "maxpool"):
        raise UserError(
            f"{name} cannot have the stem {stem!r}: choose 'imagenet', or, for a plain ResNet, 'small'"
        )
    resnet.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.maxpool = nn.Identity()


@torch.no_grad()
def probe(network: ConvBackbone, image_size: int) -> int:
    """Features of a network's maps, found by trying one image.

    Raises:
        UserError: images of this size cannot go through it, or what comes out are not maps.
    """
    training, weight = network.training, next(network.parameters())
    image = torch.zeros(1, 3, image_size, image_size, dtype=weight.dtype, device=weight.device)
    try:
        maps = network.eval().maps(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        remedy = f"cannot take images of {image_size} pixels: make them larger ({error})"
        raise UserError(f"{network.name} {remedy}") from error
    network.train(training)
    if maps.dim() != 4:
        reason = "gives no feature maps and is no plain vision transformer"
        raise UserError(f"{network.name} {reason}: choose another backbone")
    return maps.shape[1]


def _cannot_hide(name: str) -> UserError:
    return UserError(f"the backbone {name} has no patches to hide: choose a vision transformer, as small_vit")
