"""MAE: three quarters of the patches are hidden; a light decoder rebuilds their pixels.

He, Chen, Xie, Li, Dollár, Girshick, "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377.
ImageNet, ViT-B/16, 1600 epochs: fine-tune 83.6, linear 68.0 (67.8 in the official repository).

Settings are App. A's (Table 8): AdamW (.9, .95), 1.5e-4 · batch / 256, weight decay .05, 40 warm-up epochs, masks of
.75, targets normalised per patch, a decoder of 8 blocks and width 512.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from sslpipe.losses import masked_mse
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Recipe, Scale, Step, View
from sslpipe.methods.base.pictures import IMAGES, hidden_patches, reconstructions
from sslpipe.networks.decoders import MAEDecoder
from sslpipe.networks.patches import patchify


class MAE(Method):
    """L = mean over hidden patches of ‖prediction − normalised pixels‖² / (p·p·3)  (Sec. 3)."""

    class Config(MethodConfig):
        mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that is hidden")
        normalise_target: bool = Field(
            True, description="normalise the pixels of each patch that are to be predicted"
        )
        decoder_width: int = Field(512, ge=8, description="width of the decoder")
        decoder_depth: int = Field(8, ge=1, description="blocks of the decoder")
        decoder_heads: int = Field(16, ge=1, description="heads of attention in the decoder")
        optimizer: OptimizerConfig = OptimizerConfig(
            name="adamw", lr=1.5e-4, rule="linear", betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40
        )

    paper = "He et al., CVPR 2022, arXiv:2111.06377"
    backbone_options = {"start": "mae"}
    probe_pool = "cls"
    small = {
        "mask_ratio": 0.75, "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4,
        "optimizer": {**SMALL_ADAMW, "lr": 0.001, "warmup_epochs": 4},
    }  # fmt: skip
    takes = ("vit",)
    default_backbone = "small_vit"
    scales = (
        Scale(
            batch=4096, epochs=800, source="PRETRAIN.md of the official code",
            shorter="accuracy improves steadily up to 1600 epochs (Fig. 7)",
        ),
    )  # fmt: skip

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        assert backbone.patch_size is not None
        assert backbone.grid is not None
        self.patch_size, self.normalise_target = backbone.patch_size, config.normalise_target
        self.decoder = MAEDecoder(
            backbone.dim, backbone.grid, backbone.patch_size**2 * 3,
            width=config.decoder_width, depth=config.decoder_depth, heads=config.decoder_heads,
        )  # fmt: skip

    @classmethod
    def recipe(cls, config: Config, image_size: int, patch_size: int | None) -> Recipe:  # type: ignore[override]
        """App. A.1, with `mask_ratio` of the patches hidden."""
        (view,) = super().recipe(config, image_size, patch_size).views
        assert view.mask is not None
        mask = view.mask.model_copy(update={"ratio": config.mask_ratio})
        return Recipe(views=(view.model_copy(update={"mask": mask}),))

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; the encoder sees the visible patches only."""
        x, mask, hidden = views[0].pixels, *hidden_patches(views[0])
        prediction = self._predict(x, mask, hidden)  # [N, P, p·p·3]
        target = patchify(x, self.patch_size)  # [N, P, p·p·3]
        return Step(masked_mse(prediction, target, mask, norm_target=self.normalise_target))

    def _predict(self, x: Tensor, mask: Tensor, hidden: int) -> Tensor:
        keep = visible(mask, hidden)  # [N, K]
        latent = self.backbone.tokens(x, keep=keep, prefix=True)  # [N, 1 + K, D]
        return self.decoder(latent, keep)

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Rows of original, what the encoder sees, and the rebuilt image (visible patches pasted in)."""
        mask, hidden = hidden_patches(views[0])
        x = views[0].pixels[:IMAGES]
        prediction = self._predict(x, mask[:IMAGES], hidden).float()
        if self.normalise_target:
            target = patchify(x.float(), self.patch_size)
            mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
            prediction = prediction * (var + 1e-6).sqrt() + mean
        yield "reconstructions", reconstructions(views[0], prediction, self.patch_size)


def visible(mask: Tensor, hidden: int) -> Tensor:
    """Indices of the visible patches in order, [N, K]; `mask` [N, P] is true at the `hidden` hidden ones of each."""
    return mask.to(torch.uint8).argsort(dim=1, stable=True)[:, : mask.shape[1] - hidden]
