"""`small_resnet`: basic residual blocks for small images (He et al. 2016)."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.distributed import BatchNorm2d
from sslpipe.networks.protocol import ConvBackbone


class SmallResNet(ConvBackbone):
    """A ResNet whose stage i has `depth` basic blocks of width · 2^i channels at half the last stage's side.

    There are 3 or 4 stages; the stem's stride is 2 (fast, 28 pixels and more) or 1 (tiny images). Images of any size
    can be fed.
    """

    kind = "resnet"

    def __init__(
        self, image_size: int, width: int = 16, stages: int = 4, depth: int = 1, stem_stride: int = 2
    ) -> None:
        super().__init__()
        if stages not in (3, 4) or stem_stride not in (1, 2) or width < 1 or depth < 1:
            raise UserError(
                "small_resnet takes stages 3 or 4, stem_stride 1 or 2, and width and depth of at least 1: "
                f"got stages {stages}, stem_stride {stem_stride}, width {width}, depth {depth}"
            )
        self.name, self.image_size = "small_resnet", image_size
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stem_stride, 1, bias=False), BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks, self.dim = nn.Sequential(), width
        for stage, block in itertools.product(range(stages), range(depth)):
            stride = 2 if stage > 0 and block == 0 else 1
            self.blocks.append(BasicBlock(self.dim, width * 2**stage, stride))
            self.dim = width * 2**stage
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D, S / 2^stages, …] (S / 2^(stages - 1) with a stem of stride 1)."""
        return self.blocks(self.stem(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay: the stem, then each block."""
        return {"stem": r"^stem\.", "blocks": r"^blocks\.(\d+)"}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, projected where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] → [N, width, h / stride, w / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
