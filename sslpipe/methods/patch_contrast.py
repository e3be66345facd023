"""Patch contrast: patches that show the same place in two views of an image attract, all other patches repel.

This method is sslpipe's own; no paper has it in just this form. Its relatives are DenseCL (Wang, Zhang, Shen, Kong,
Li, "Dense Contrastive Learning for Self-Supervised Visual Pre-Training", CVPR 2021, arXiv:2011.09157), which matches
patches by the similarity of their features and has negatives in a queue, and PixPro (Xie et al., "Propagate Yourself",
CVPR 2021, arXiv:2011.10043), which matches by distance on the image and has no negatives. Here geometry matches patches
(`sslpipe.views.matches` follows crops, flips and rotations), negatives are those of the batch, and there is no second
network: at the image level it is SimCLR. DenseCL's authors found that matching by geometry does almost as well as by
similarity (github.com/WXinlong/DenseCL/issues/11).

There are no figures on ImageNet for this method. DenseCL's, ResNet-50, 200 epochs: VOC detection AP 58.7 where MoCo v2
has 57.0 (the official repository), linear 63.5 (OpenMMLab): patches help where places matter, not in classification.

Settings: DenseCL's (its repository's configs/selfsup/densecl/densecl_imagenet_200ep.py) are both λ of .5, τ .2 for
patches, a patch head of two 1×1 convolutions, 2048 and 128, without batch norm, and the views, which are MoCo v2's
(views/recipes/patch_contrast.yaml). SimCLR's, whose loss is that of images here, are τ .1, the head of images, and LARS
with .3 · batch / 256 and weight decay 1e-6. Units, anchors and `ignore_overlap` are our own. The loss to the letter,
all other patches as negatives and 1/P Σ over the pairs of each image, is `ignore_overlap: false`, `mean: image` and
more `anchors` than there are patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.device import to_device
from sslpipe.core.distributed import gather
from sslpipe.losses import nt_xent, patch_info_nce
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Scale, Step, View
from sslpipe.methods.base.monitor import mean_cosine, spread_of
from sslpipe.methods.base.pictures import enlarged, frame, heat, plain, sheet
from sslpipe.networks.heads import mlp
from sslpipe.views.geometry import matches

_LOGITS = 2**25  # logits of patches at a time: 128 MiB in float32
_WATCHED = 256  # images that `patch_accuracy` looks at
_SHOWN, _GAP = 8, 4  # images on a sheet, and pixels between them


class PatchContrast(Method):
    """L = λ_img · L_img + λ_patch · (L_12 + L_21) / 2.

    L_img is SimCLR's loss. L_12 is the mean over the anchors, patches i of view 1 that have a match m(i) in view 2, of
    −log( exp(s(p_i, p_m(i))/τ) / Σ_k exp(s(p_i, p_k)/τ) ), k over the patches of both views of the batch but i itself.
    """

    class Config(MethodConfig):
        lambda_img: float = Field(0.5, ge=0, description="λ_img; 0: no image level, and no head for it")
        lambda_patch: float = Field(0.5, ge=0, description="λ_patch; 0: no patch level, and no head for it")
        unit: Literal["auto", "cells", "tokens", "regions"] = Field(
            "auto",
            description="what a patch is: a cell of a CNN's feature map, a token of a vision transformer (auto: "
            "whichever the backbone has), or a square region of the view, encoded by itself",
        )
        regions: int = Field(4, ge=2, description="regions along each side of a view")
        region_size: int | None = Field(
            None, ge=1, description="pixels a side that a region is encoded at; null: as many as it has"
        )
        temperature: float = Field(0.1, gt=0, description="τ at the image level")
        patch_temperature: float = Field(0.2, gt=0, description="τ at the patch level")
        projector_hidden: int = Field(2048, ge=1, description="width of the projector's hidden layers")
        projector_out: int = Field(128, ge=1, description="width of the projections")
        patch_projector: bool = Field(True, description="a head for patches; false: the backbone's vectors")
        patch_hidden: int = Field(2048, ge=1, description="width of the patch projector's hidden layer")
        patch_out: int = Field(128, ge=1, description="width of the patch projections")
        anchors: int = Field(4096, ge=1, description="anchors drawn, at most, for each batch and direction")
        ignore_overlap: bool = Field(
            True, description="patches that share an anchor's match are no negatives of it"
        )
        mean: Literal["anchors", "image"] = Field(
            "anchors",
            description="L_12 is one mean over all anchors, or over each image's and then over images",
        )
        optimizer: OptimizerConfig = OptimizerConfig(
            name="lars", lr=0.3, rule="linear", weight_decay=1e-6, warmup_epochs=10
        )

        @model_validator(mode="after")
        def _check(self) -> PatchContrast.Config:
            if self.lambda_img == self.lambda_patch == 0:
                raise ValueError("lambda_img and lambda_patch are both 0: set one of them above 0")
            return self

    title = "Patch contrast"
    paper = "sslpipe's own, after DenseCL (Wang et al., CVPR 2021, arXiv:2011.09157)"
    small = {
        "lambda_img": 0.5, "lambda_patch": 0.5,
        "projector_hidden": 256, "projector_out": 128, "patch_hidden": 256, "patch_out": 128, "anchors": 1024,
        "optimizer": SMALL_ADAMW,
    }  # fmt: skip
    needs = "several patches a view"
    suspects = (
        "check that the temperatures are not too high, the learning rate, and that the batch has negatives"
    )
    scales = (Scale(batch=4096, epochs=100, source="SimCLR's default setting, whose optimiser it has"),)

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.config = config
        self.unit = _unit(backbone, config.unit)
        self.projector: nn.Module | None = None  # g
        self.patch_projector: nn.Module | None = None  # g_patch
        D = backbone.dim
        if config.lambda_img:
            self.projector = mlp(D, config.projector_hidden, config.projector_out, last_norm="scale")
        if config.lambda_patch:
            # No batch norm, as in DenseCL: a patch is projected by itself, whatever else the batch shows.
            self.patch_projector = nn.Identity()
            if config.patch_projector:
                self.patch_projector = mlp(D, config.patch_hidden, config.patch_out, norm=False)
        if config.lambda_patch and self.unit == "regions":
            size = self._region_size(backbone.image_size)
            self.check_parts(size, "regions", "region_size to what it can, or fewer regions")
        elif not config.lambda_img:
            for parameter in _unused_by_maps(backbone):
                parameter.requires_grad_(False)

    @classmethod
    def negatives(cls, config: Config, batch_size: int) -> int | None:  # type: ignore[override]
        """At the image level; patches have plenty."""
        return 2 * (batch_size - 1) if config.lambda_img else None

    def check_batch(self, batch_size: int, images: int) -> list[str]:
        """Warn where a view is a single patch."""
        warnings = super().check_batch(batch_size, images)
        by_maps = self.patch_projector is not None and self.unit != "regions"
        if by_maps and _maps_of_blank(self.backbone).shape[2:] == (1, 1):
            warnings.append(
                f"a view of {self.backbone.image_size} pixels is a single patch to {self.backbone.name}, so the patch "
                "level adds little to the image level: set methods.patch_contrast.unit to regions, or take a backbone "
                "that shrinks images less, or larger views"
            )
        return warnings

    def embed(self, views: list[View]) -> tuple[Tensor, ...]:
        """z_i, z_j of the images, [N, d] each; then p_1, p_2 of the patches, [N, P, d + 1], the match as last number.

        With its match attached, a part of a batch can be joined with the others, on this rank or from all.
        """
        a, b = _pair(views)
        h, maps = self._encode(torch.cat([a.pixels, b.pixels]))  # [2N, D], [2N, D, h, w]
        embeddings: tuple[Tensor, ...] = ()
        if self.projector is not None:
            embeddings += self.projector(h).chunk(2)  # z_i, z_j
        if self.patch_projector is not None:
            grid = (maps.shape[2], maps.shape[3])
            p_1, p_2 = self.patch_projector(maps.flatten(2).transpose(1, 2)).chunk(2)  # [N, P, d] each
            embeddings += (_attach(p_1, matches(a, b, grid)), _attach(p_2, matches(b, a, grid)))
        return embeddings

    def loss(self, embeddings: tuple[Tensor, ...], clock: Clock) -> Step:
        """Of the batch of all ranks."""
        everyone = [gather(embedding) for embedding in embeddings]
        terms, numbers = [], {}
        if self.projector is not None:
            z_i, z_j = everyone[:2]  # [N, d]
            terms.append(self.config.lambda_img * nt_xent(z_i, z_j, self.config.temperature))
            numbers["positive_similarity"] = mean_cosine(z_i, z_j)
        if self.patch_projector is not None:
            (p_1, m_12), (p_2, m_21) = (_detach(patches) for patches in everyone[-2:])  # [N, P, d], [N, P]
            there = self._patch_loss(p_1, p_2, m_12, clock.generator)  # L_12
            back = self._patch_loss(p_2, p_1, m_21, clock.generator)  # L_21
            terms.append(self.config.lambda_patch * (there + back) / 2)
            numbers |= _found(p_1, p_2, m_12)
        return Step(torch.stack(terms).sum(), numbers)

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """How far projections of images spread."""
        g = self.projector
        return {} if g is None else spread_of(torch.cat([g(h) for _, h in batches]))

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images and their patches: [M, 3, S, S] → [M, D], [M, D, h, w]; batch norm sees both views together."""
        if self.patch_projector is None or self.unit != "regions":
            return self.backbone.features(x)  # one pass for both levels
        g = self.config.regions
        vectors = self.backbone(cut(x, g, self._region_size(x.shape[-1])))  # [M·g·g, D]
        maps = vectors.unflatten(0, (len(x), g, g)).permute(0, 3, 1, 2)  # [M, D, g, g]
        return (vectors if self.projector is None else self.backbone(x)), maps

    def _patch_loss(self, p_1: Tensor, p_2: Tensor, m: Tensor, generator: torch.Generator) -> Tensor:
        """One direction: anchors are of view 1, matches m [N, P] say which patches of view 2 are their positives."""
        ignore = share_match(m) if self.config.ignore_overlap else None  # of all patches, drawn or not
        most, chunk = self.config.anchors, max(1, _LOGITS // (2 * m.numel()))
        drawn, tau = draw(m, most, generator), self.config.patch_temperature
        most, by_image = min(most, m.numel()), self.config.mean == "image"
        return patch_info_nce(p_1, p_2, drawn, tau, ignore, anchors=most, chunk=chunk, by_image=by_image)

    def _region_size(self, side: int) -> int:
        """Pixels a side of a region as it is encoded: whole patches for a vision transformer."""
        size = self.config.region_size or math.ceil(side / self.config.regions)
        multiple = self.backbone.patch_size or 1
        return math.ceil(size / multiple) * multiple

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Both views, one below the other: matched patches in the same colours; and how alike one patch finds all.

        The second picture frames one patch of the first view, and in the second view its match; red is most alike.
        """
        if self.patch_projector is None:
            return
        a, b = _pair([view[:_SHOWN] for view in views])
        _, maps = self._encode(torch.cat([a.pixels, b.pixels]))
        p = self.patch_projector(maps.flatten(2).transpose(1, 2))  # [2n, P, d]
        p_1, p_2 = F.normalize(p.float(), dim=2).chunk(2)  # [n, P, d]
        grid = (maps.shape[2], maps.shape[3])
        m = matches(a, b, grid)  # [n, P]
        x_1, x_2 = (enlarged(plain(view.pixels, view)) for view in (a, b))
        colours = _colours(grid).to(m.device)  # [P, 3], by place in the second view
        met = _one_hot(m, m.shape[1]).any(dim=1)  # [n, P]
        yield "matches", sheet([frame(x_1, grid, m >= 0, colours[m]), frame(x_2, grid, met, colours)], _GAP)
        anchor = _one_hot(_central(grid, m), m.shape[1])  # [n, P]
        match = _one_hot(m[anchor], m.shape[1])  # [n, P]
        similarity = torch.einsum("npd,nqd->npq", p_1, p_2)[anchor]  # [n, P]
        white = torch.ones_like(colours)
        shown = frame(heat(x_2, grid, similarity), grid, match, white)
        yield "similarity", sheet([frame(x_1, grid, anchor, white), shown], _GAP)


def cut(x: Tensor, g: int, size: int) -> Tensor:
    """The g x g regions of each image, row by row, as images: [N, 3, S, S] → [N·g·g, 3, size, size].

    Where S is not g · size the image is resized first, so that a region's edge may hold a trace of its neighbour's.
    """
    if x.shape[-1] != g * size:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        x = F.interpolate(wide, size=(g * size, g * size), mode="bilinear", antialias=True).to(x.dtype)
    regions = x.unflatten(3, (g, size)).unflatten(2, (g, size))  # [N, 3, g, size, g, size]
    return regions.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def share_match(m: Tensor) -> Tensor:
    """`ignore` of the loss: true where patches i and j of an image have the same match, [N, P] → bool [N, P, P].

    They show the same place as the anchor, but would be its negatives: about a third of the matched patches have
    such a neighbour.
    """
    return (m[:, :, None] == m[:, None, :]) & (m >= 0)[:, :, None]


def draw(m: Tensor, anchors: int, generator: torch.Generator) -> Tensor:
    """Matches of at most `anchors` patches, all sets as likely: the others' become -1; [N, P] → [N, P].

    The random numbers come from the host, alike on all ranks, and nothing waits for the device.
    """
    if m.numel() <= anchors:
        return m
    luck = torch.rand(m.numel(), generator=generator, dtype=torch.float64, device="cpu")
    luck = to_device(luck, m.device)
    matched = m.flatten() >= 0  # [N·P]
    chosen = luck.masked_fill(~matched, -1).topk(anchors).indices  # unmatched ones only where matched run out
    drawn = torch.zeros_like(matched).index_fill_(0, chosen, True)
    return torch.where(drawn.view_as(m), m, -1)


def _unit(backbone: Backbone, unit: str) -> str:
    """What a patch is to this backbone; a UserError where it has no such patches."""
    own = "tokens" if backbone.kind == "vit" else "cells"
    if unit not in ("auto", "regions", own):
        raise UserError(
            f"{backbone.name} has no {unit}: set methods.patch_contrast.unit to {own}, regions or auto, or "
            f"pretrain.backbone to a {'CNN' if unit == 'cells' else 'vision transformer'}"
        )
    return own if unit == "auto" else unit


def _pair(views: list[View]) -> tuple[View, View]:
    if len(views) != 2:
        raise UserError(
            f"patch_contrast compares two views of an image, not {len(views)}: set views.recipe.view.count to 2"
        )
    return views[0], views[1]


def _maps_of_blank(backbone: Backbone) -> Tensor:
    """The maps of one empty image, [1, D, h, w], without a trace in running statistics."""
    training, weight = backbone.training, next(backbone.parameters())
    side = backbone.image_size
    maps = backbone.eval().maps(torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device))
    backbone.train(training)
    return maps


def _unused_by_maps(backbone: Backbone) -> list[nn.Parameter]:
    """Trainable parameters that vectors depend on but maps do not: some networks have a norm after pooling."""
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        gradients = torch.autograd.grad(_maps_of_blank(backbone).sum(), trained, allow_unused=True)
    return [parameter for parameter, gradient in zip(trained, gradients, strict=True) if gradient is None]


def _attach(p: Tensor, m: Tensor) -> Tensor:
    """Patches [N, P, d] and their matches [N, P] as one tensor, [N, P, d + 1]; exact, in float32 at least."""
    wide = p.to(torch.promote_types(p.dtype, torch.float32))
    return torch.cat([wide, m[:, :, None].to(wide.dtype)], dim=2)


def _detach(patches: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `_attach`."""
    return patches[:, :, :-1], patches[:, :, -1].detach().round().long()


@torch.no_grad()
def _found(p_1: Tensor, p_2: Tensor, m: Tensor) -> dict[str, Tensor]:
    """How many patches have a match, and for how many of these it is the most similar of the image's in view 2.

    By chance `patch_accuracy` is 1 / P; it is 0 where nothing matches.
    """
    p_1, p_2, m = (tensor[:_WATCHED] for tensor in (F.normalize(p_1, dim=2), F.normalize(p_2, dim=2), m))
    nearest = torch.einsum("npd,nqd->npq", p_1, p_2).argmax(dim=2)  # [N, P]
    matched = m >= 0
    accuracy = (nearest == m).sum() / matched.sum().clamp(min=1)
    return {"matched": matched.float().mean(), "patch_accuracy": accuracy}


def _one_hot(index: Tensor, count: int) -> Tensor:
    """Indices below `count` as booleans, [n, …] → [n, …, count]; -1 is none."""
    return index[..., None] == torch.arange(count, device=index.device)


def _central(grid: tuple[int, int], m: Tensor) -> Tensor:
    """The patch nearest to the middle of each view, of those that have a match if there are any: [n, P] → [n]."""
    patch = torch.arange(m.shape[1], device=m.device)
    down, across = patch // grid[1] - (grid[0] - 1) / 2, patch % grid[1] - (grid[1] - 1) / 2
    distance = down.square() + across.square()  # [P]
    return torch.where(m >= 0, distance, distance + sum(grid) ** 2).argmin(dim=1)


def _colours(grid: tuple[int, int]) -> Tensor:
    """A colour for each place, [P, 3]: red grows downwards, green to the right, blue the other way."""
    down, across = (torch.linspace(0, 1, count) if count > 1 else torch.zeros(1) for count in grid)
    red, green = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([red, green, 1 - (red + green) / 2], dim=-1).flatten(0, 1)
