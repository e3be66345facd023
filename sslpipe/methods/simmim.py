"""SimMIM: squares of patches are hidden; one linear layer on a vision transformer predicts their pixels.

Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022,
arXiv:2111.09886. ImageNet, ViT-B/16, 800 epochs: fine-tune 83.8.

Settings are the official code's for ViT-B, 800 epochs (github.com/microsoft/SimMIM, configs/vit_base__800ep and the
defaults of config.py): AdamW with 1e-4 · batch / 512, weight decay .05, gradients clipped at norm 5, 10 warm-up epochs,
a tenth of the rate after 700 of 800 epochs. (For Swin it has 2e-4 · batch / 512, 8e-4 for the paper's batch of 2048,
and a cosine.) The view, with its masks of 32-pixel squares, is in views/recipes/simmim.yaml.

The official transformer has relative positions shared by all blocks, a layer scale of .1 and a drop path of .1:
`timm:beit_base_patch16_224` with `backbone_options: {layer_scale: 0.1, drop_path: 0.1}`, or `small_vit` with
`{position: relative, layer_scale: 0.1, drop_path: 0.1}`. Its warm-up starts at 5e-7 · batch / 512, here at 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sslpipe.losses import masked_l1
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Scale, Step, View
from sslpipe.methods.base.pictures import IMAGES, hidden_patches, reconstructions
from sslpipe.networks.patches import patchify


class SimMIM(Method):
    """L = ‖y_M − x_M‖₁ / Ω(x_M): a mean over the numbers of hidden pixels (eq. 1)."""

    class Config(MethodConfig):
        optimizer: OptimizerConfig = OptimizerConfig(
            name="adamw", lr=5e-5, rule="linear", weight_decay=0.05, clip=5.0,
            schedule="steps", milestones=(0.875,), warmup_epochs=10,
        )  # fmt: skip

    paper = "Xie et al., CVPR 2022, arXiv:2111.09886"
    backbone_options = {"start": "beit"}
    small_backbone_options = {
        "start": "mae"
    }  # the official one is small for a width of 128: it learns half as fast
    small = {"optimizer": {**SMALL_ADAMW, "lr": 0.001, "schedule": "cosine"}}
    takes = ("vit",)
    default_backbone = "small_vit"
    scales = (
        Scale(
            batch=2048, epochs=800, source="README.md and configs/vit_base__800ep of the official code",
            shorter="Swin-B fine-tunes to 83.5 after 100 epochs, to 84.0 after 800 (the official table)",
        ),
    )  # fmt: skip

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        assert backbone.patch_size is not None
        self.patch_size = backbone.patch_size
        backbone.learn_mask_token()
        # The official 1×1 convolution and pixel shuffle: the same layer with its outputs in another order.
        self.head = nn.Linear(backbone.dim, backbone.patch_size**2 * 3)

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch; the encoder sees all patches, a token in place of the hidden ones."""
        x, M = views[0].pixels, hidden_patches(views[0])[0]
        y = self._predict(x, M)  # [N, P, p·p·3]
        target = patchify(x, self.patch_size)  # [N, P, p·p·3]
        loss = masked_l1(y, target, M)
        # Beside what the batch's mean pixel would leave: below 1 something has been learnt.
        pixel = x.float().mean(dim=(0, 2, 3), keepdim=True).expand_as(x)  # [N, 3, S, S]
        guess = masked_l1(patchify(pixel, self.patch_size), target, M)
        return Step(loss, {"error_beside_mean_pixel": loss.detach() / guess.clamp(min=1e-6)})

    def _predict(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.backbone.tokens(x, mask=mask))

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Rows of original, what the encoder sees, and the rebuilt image (visible patches pasted in)."""
        x, M = views[0].pixels[:IMAGES], hidden_patches(views[0])[0][:IMAGES]
        yield "reconstructions", reconstructions(views[0], self._predict(x, M).float(), self.patch_size)
