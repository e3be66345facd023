"""Transfer to detection: torchvision's Faster R-CNN on the encoder's feature maps.

Ren et al. 2015 with a feature pyramid (Lin et al. 2017) on a CNN's last resolutions; on a transformer's one resolution
the simple pyramid of ViTDet (Li et al. 2022, Sec. 3), its map and one of twice the resolution. Heads are small, since
scenes are. AP by COCO's own evaluation, through torchmetrics.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import take, to_device
from sslpipe.evals.base import sheets
from sslpipe.evals.base.embed import beside_random
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.scenes import descend, labelled_scenes
from sslpipe.evals.detect import Config
from sslpipe.networks.protocol import Backbone
from sslpipe.networks.pyramid import pyramid
from sslpipe.scenes.composed import Scenes, normalised
from sslpipe.views.preprocess import Preprocess

CHANNELS = 64  # of the pyramid's maps
_SIZES = (0.5, 0.75, 1.1)  # of anchors, in sides of what the encoder sees, level by level
_BATCH = 8


class Maps(nn.Module):
    """An encoder's feature pyramid for scenes of `side` pixels, as torchvision's detectors take it.

    Of a CNN so many `levels` of resolution are used. A frozen encoder learns nothing, and stays in eval mode.
    """

    def __init__(self, encoder: Backbone, side: int, levels: int, frozen: bool) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.encoder, self.levels, self.frozen = encoder, levels, frozen
        encoder.requires_grad_(not frozen)
        self.out_channels = CHANNELS
        black = torch.zeros(1, 3, side, side, device=next(encoder.parameters()).device)
        with torch.no_grad():
            channels = [m.shape[1] for m in pyramid(encoder.eval(), black, levels)]
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
    """Faster R-CNN for encoders that see `side` pixels, and scenes of `scene` pixels a side."""
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
    preprocess, image_size = inputs.encoder.preprocess, inputs.encoder.image_size
    precision()  # that it is there is known before anything is trained
    train, test, names = labelled_scenes(inputs, "boxes", config.scenes)
    classes, side, device = len(names), train.pixels.shape[1], take(config.device)
    metrics: dict[str, Any] = {}
    shown: list[tuple[Tensor, Tensor]] = []
    with progress("detect", 2 * config.epochs * -(-len(train) // _BATCH), "steps") as bar:
        for prefix, network in beside_random(inputs.encoder, device, seed).items():
            torch.manual_seed(seed)
            maps = Maps(copy.deepcopy(network), side, config.levels, config.freeze)
            model = detector(maps, classes, image_size, side).to(device)
            fit(model, train, preprocess, config, seed, bar)
            found = predict(model, test, preprocess)
            metrics |= {f"{prefix}{name}": value for name, value in average_precision(found, test).items()}
            if not prefix:
                shown = [
                    (boxes[scores > 0.5], labels[scores > 0.5])
                    for boxes, labels, scores in found[: config.shown]
                ]
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device", "shown"}),
        "detector": "Faster R-CNN with a feature pyramid",
        "optimiser": "AdamW, cosine",
        "chosen_on": "nothing: settings are fixed beforehand; last epoch reported",
        "classes": classes,
        "train_scenes": len(train),
        "test_scenes": len(test),
        "class_names": names,
        "root": config.scenes.root,
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
    crowds = scenes.crowd or [torch.zeros_like(labels) for labels in scenes.labels]
    targets = [
        {"boxes": boxes[crowd == 0], "labels": labels[crowd == 0] + 1}
        for boxes, labels, crowd in zip(scenes.boxes, scenes.labels, crowds, strict=True)
    ]
    some = torch.tensor([n for n, target in enumerate(targets) if len(target["labels"])])
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, settings.lr, weight_decay=settings.weight_decay)

    def loss(rows: Tensor) -> Tensor:
        expected = [
            {key: to_device(value, device) for key, value in targets[n].items()} for n in rows.tolist()
        ]
        losses = model(list(normalised(scenes.pixels[rows], preprocess, device)), expected)
        return torch.stack(list(losses.values())).sum()

    model.train()
    descend(loss, optimizer, some, _BATCH, settings.epochs, seed, bar, by_step=True)


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
    """`ap50`, at an overlap of .5, and `map`, the mean over overlaps of .5 to .95 (COCO), of what `predict` found."""
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
