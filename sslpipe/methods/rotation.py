"""RotNet: by how many quarter turns was the image turned?

Gidaris, Singh, Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018,
arXiv:1803.07728. ImageNet, AlexNet: linear 38.7 on conv3 (Table 5). ResNet-50: 48 to 49, as others measured.

Settings are the official code's (config/ImageNet_RotNet_AlexNet.py): SGD at .01 with a batch of 192 images, which are
768 turned ones; weight decay 5e-4, momentum .9, a tenth of the rate after 15, 30 and 45 of 50 epochs. The configuration
also says `lr: 0.1`, which its table of rates replaces from the first epoch on; on CIFAR-10 .1 is what is used. Its
momentum is Nesterov's, here it is plain. Where the paper's network ends in fully connected layers of its own, here one
linear layer reads the backbone's features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.losses import label_cross_entropy
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Preparation, Scale, Step, View
from sslpipe.methods.base.pictures import IMAGES, plain, sheet

K = 4  # rotations: y · 90° counter-clockwise, y = 0 … 3

GREY, WHITE, GREEN, RED = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.2, 0.75, 0.3), (0.85, 0.2, 0.2)


class Rotation(Method):
    """L = −(1/K) Σ_y log F^y(g(x | y)), the mean over images; g turns by y · 90° (eq. 3)."""

    class Config(MethodConfig):
        optimizer: OptimizerConfig = OptimizerConfig(
            name="sgd", lr=0.01, rule="absolute", weight_decay=5e-4, momentum=0.9,
            schedule="steps", milestones=(0.3, 0.6, 0.9), warmup_epochs=0,
        )  # fmt: skip

    paper = "Gidaris et al., ICLR 2018, arXiv:1803.07728"
    small = {"optimizer": SMALL_ADAMW}
    needs = "images with a right way up"
    scales = (Scale(batch=192, epochs=50, source="config/ImageNet_RotNet_AlexNet.py of the official code"),)

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.classifier = nn.Linear(backbone.dim, K)

    def prepare(self, preparation: Preparation) -> None:
        """Refuse views that are turned or upside down already: then no label would be right."""
        (spec,) = preparation.recipe.views
        if spec.quarter_turns or spec.vflip > 0 or spec.rotation >= 45:
            raise UserError(
                "rotation predicts which way is up, so its views must be upright: set quarter_turns to false, "
                "vflip to 0 and rotation below 45 degrees in views.recipe, or choose another method"
            )

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: all four rotations of each image, cropped and mirrored before."""
        x, y = _turned(views[0].pixels)
        scores = self.classifier(self.backbone(x))  # [4N, K], log F up to a constant
        accuracy = (scores.detach().argmax(1) == y).float().mean()
        return Step(label_cross_entropy(scores, y), {"accuracy": accuracy})

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Images turned in the four ways; a bar where their top is taken to be, in red beside white if it is not."""
        x, y = _turned(views[0].pixels[:IMAGES])
        guess = self.classifier(self.backbone(x)).argmax(1)
        images = plain(x, views[0]).cpu()
        framed = [_framed(*one) for one in zip(images, y.tolist(), guess.tolist(), strict=True)]
        yield "rotations", sheet(torch.stack(framed).chunk(K))


def _turned(x: Tensor) -> tuple[Tensor, Tensor]:
    """g(x | y) for all y: [N, 3, S, S] → [4N, 3, S, S], y = 0 first, and y [4N]. No pixel is interpolated."""
    turned = torch.cat([torch.rot90(x, y, dims=(2, 3)) for y in range(K)])
    return turned, torch.arange(K, device=x.device).repeat_interleave(len(x))


def _framed(image: Tensor, truth: int, guess: int) -> Tensor:
    """The image [3, S, S] in a grey frame, with a bar at the side where its top is, and where it is taken to be."""
    side = image.shape[1]
    edge = max(1, side // 14)
    frame = torch.tensor(GREY).view(3, 1, 1).repeat(1, side + 2 * edge, side + 2 * edge)
    marks = [(guess, GREEN)] if guess == truth else [(truth, WHITE), (guess, RED)]
    for turns, colour in marks:
        frame = torch.rot90(frame, -turns, dims=(1, 2))
        frame[:, :edge, edge:-edge] = torch.tensor(colour).view(3, 1, 1)
        frame = torch.rot90(frame, turns, dims=(1, 2))
    frame = frame.clone()
    frame[:, edge:-edge, edge:-edge] = image
    return frame
