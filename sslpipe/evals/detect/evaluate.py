"""Transfer to detection: torchvision's Faster R-CNN on the encoder's feature maps.

Ren et al. 2015 with a feature pyramid (Lin et al. 2017) on a CNN's last resolutions; on a transformer's one resolution
the simple pyramid of ViTDet (Li et al. 2022, Sec. 3), its map and one of twice the resolution. Heads are small, since
scenes are. AP by COCO's own evaluation, through torchmetrics.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import resolve
from sslpipe.evals.base import sheets
from sslpipe.evals.base.embed import random_twin
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.scenes import labelled_scenes
from sslpipe.evals.detect import Config
from sslpipe.networks.protocol import Backbone
from sslpipe.networks.pyramid import pyramid
from sslpipe.scenes.composed import Scenes, normalised
from sslpipe.views.preprocess import Preprocess

CHANNELS = 64  # of the pyramid's maps
_SIZES = (0.5, 0.75, 1.1)  # of anchors, in sides of what the encoder sees, level by level
_BATCH = 8

Boxes = tuple[Tensor, Tensor]  # [n, 4] and int64 [n], 0 … C − 1


class Maps(nn.Module):
    """An encoder's feature pyramid, as torchvision's detectors take it.

    Args:
        encoder: any backbone.
        side: of scenes, pixels.
        levels: resolutions of a CNN.
        frozen: the encoder learns nothing, and stays in eval mode.
    """

    def __init__(self, encoder: Backbone, side: int, levels: int, frozen: bool) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.encoder, self.levels, self.frozen = encoder, levels, frozen
        encoder.requires_grad_(not frozen)
        self.out_channels = CHANNELS
        device = next(encoder.parameters()).device
        with torch.no_grad():
            channels = [
                m.shape[1]
                for m in pyramid(encoder.eval(), torch.zeros(1, 3, side, side, device=device), levels)
            ]
        self.grow = None
        if encoder.patch_size is not None:
            self.grow = nn.ConvTranspose2d(channels[0], CHANNELS, 2, stride=2)
            channels = [CHANNELS, *channels]
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS)
        self.count = len(channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised scenes [N, 3, S, S] → the maps by name, the largest first."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = pyramid(self.encoder, x, self.levels)
        if self.grow is not None:
            maps = [self.grow(maps[0]), *maps]
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(n), m) for n, m in enumerate(maps)))
        return found

    def train(self, mode: bool = True) -> Maps:
        """Training mode, without a frozen encoder."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self


def detector(maps: Maps, classes: int, side: int, scene: int) -> nn.Module:
    """Faster R-CNN.

    Args:
        maps: the encoder's.
        classes: C.
        side: of what the encoder sees, pixels.
        scene: side of a scene, pixels.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    sizes = tuple((round(side * size),) for size in _SIZES[: maps.count])
    names = [str(n) for n in range(maps.count)]
    return FasterRCNN(
        maps,
        min_size=scene,
        max_size=scene,
        size_divisible=1,
        image_mean=(0.0,) * 3,  # scenes come normalised
        image_std=(1.0,) * 3,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * maps.count),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=64,
        rpn_post_nms_top_n_test=64,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(names, 5, 2, canonical_scale=side, canonical_level=1),
        box_head=TwoMLPHead(CHANNELS * 25, 128),
        box_predictor=FastRCNNPredictor(128, classes + 1),
        box_batch_size_per_image=64,
        box_detections_per_img=20,
    )


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Average precision; the details are the test scenes and, in the first ones, the boxes that the encoder gives.

    Raises:
        UserError: torchmetrics or pycocotools is not installed.
    """
    settings, encoder = config, inputs.encoder
    precision()  # that it is there is known before anything is trained
    train, test, names = labelled_scenes(inputs, "boxes", config.scenes)
    classes = len(names)
    device, side = resolve(settings.device), train.pixels.shape[1]
    metrics: dict[str, Any] = {}
    shown: list[Boxes] = []
    with progress("detect", 2 * settings.epochs * -(-len(train) // _BATCH), "steps") as bar:
        for prefix in ("", "random_init_"):
            network = random_twin(encoder, seed)
            if not prefix:
                network.load_state_dict(encoder.state_dict())
            torch.manual_seed(seed)
            maps = Maps(network, side, settings.levels, settings.freeze)
            model = detector(maps, classes, encoder.image_size, side).to(device)
            fit(model, train, encoder.preprocess, settings, seed, bar)
            found = predict(model, test, encoder.preprocess)
            metrics |= {f"{prefix}{name}": value for name, value in average_precision(found, test).items()}
            if not prefix:
                shown = [_confident(each) for each in found[: settings.shown]]
    protocol = {
        **settings.model_dump(mode="json", exclude={"enabled", "device", "shown"}),
        "detector": "Faster R-CNN with a feature pyramid",
        "optimiser": "AdamW, cosine",
        "chosen_on": "nothing: settings are fixed beforehand; last epoch reported",
        "classes": classes,
        "train_scenes": len(train),
        "test_scenes": len(test),
        "class_names": names,
        "root": settings.scenes.root,
    }
    return Outcome(metrics=metrics, protocol=protocol, details=(test, shown))


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, bytes]:
    """Some scenes with true and predicted boxes."""
    test, found = outcome.details
    if not found:
        return {}
    truth = list(zip(test.boxes, test.labels, strict=True))[: len(found)]
    return {"scenes.png": sheets.boxes(test.pixels[: len(found)], [truth, found])}


def fit(
    model: nn.Module, scenes: Scenes, preprocess: Preprocess, settings: Config, seed: int, bar: Progress
) -> None:
    """Train a detector in place; scenes without an object are passed over, and so are crowds."""
    device = next(model.parameters()).device
    clear = [torch.arange(len(boxes)) for boxes in scenes.boxes]
    if scenes.crowd is not None:
        clear = [(crowd == 0).nonzero()[:, 0] for crowd in scenes.crowd]
    some = torch.tensor([n for n, places in enumerate(clear) if len(places)])
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, settings.lr, weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(some) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(settings.epochs):
        for rows in some[torch.randperm(len(some), generator=generator)].split(_BATCH):
            targets = [
                {
                    "boxes": scenes.boxes[n][clear[n]].to(device),
                    "labels": scenes.labels[n][clear[n]].to(device) + 1,
                }
                for n in rows.tolist()
            ]
            losses = model(list(normalised(scenes.pixels[rows], preprocess, device)), targets)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(1, f"loss {loss.item():.3f}")


@torch.inference_mode()
def predict(model: nn.Module, scenes: Scenes, preprocess: Preprocess) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each scene boxes [n, 4], classes int64 [n] and scores [n], on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    found = []
    for chunk in scenes.pixels.split(_BATCH):
        for each in model(list(normalised(chunk, preprocess, device))):
            found.append((each["boxes"].cpu(), each["labels"].cpu() - 1, each["scores"].cpu()))
    return found


def average_precision(found: list[tuple[Tensor, Tensor, Tensor]], scenes: Scenes) -> dict[str, float]:
    """`ap50`, at an overlap of .5, and `map`, the mean over overlaps of .5 to .95 (COCO).

    Args:
        found: boxes, classes and scores of each scene.
        scenes: with the true boxes.
    """
    metric = precision()
    crowds = scenes.crowd or [torch.zeros_like(labels) for labels in scenes.labels]
    metric.update(
        [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, labels, scores in found],
        [
            {"boxes": boxes, "labels": labels, "iscrowd": crowd}
            for boxes, labels, crowd in zip(scenes.boxes, scenes.labels, crowds, strict=True)
        ],
    )
    result = metric.compute()
    return {"ap50": float(result["map_50"]), "map": float(result["map"])}


def precision() -> Any:
    """COCO's evaluation.

    Raises:
        UserError: torchmetrics or pycocotools is not installed.
    """
    try:
        import pycocotools  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise UserError(
            f"detect needs {error.name}: run `pip install 'sslpipe[detect]'`, or set detect.enabled to false"
        ) from error
    return MeanAveragePrecision(iou_type="bbox", backend="pycocotools")


def _confident(found: tuple[Tensor, Tensor, Tensor]) -> Boxes:
    boxes, labels, scores = found
    return boxes[scores > 0.5], labels[scores > 0.5]
