"""Transfer to segmentation: what a linear layer and neighbours make of frozen patch features.

Linear: one 1×1 convolution on standardised features, its logits enlarged to the scene (DINOv2's linear protocol, Oquab
et al. 2023, Sec. 7.4). k-NN: each patch votes for its most frequent class, weighted by similarity (in-context scene
understanding, Balažević et al. 2023, without their learned memory). A CNN's features are those of its last
resolutions, side by side.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot

from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import on_host, take, to_device
from sslpipe.evals.base import sheets
from sslpipe.evals.base.embed import beside_random
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.scenes import descend, labelled_scenes
from sslpipe.evals.segment import Config
from sslpipe.measures.knn import nearest, vote
from sslpipe.networks.protocol import Backbone
from sslpipe.networks.pyramid import hypercolumns, pyramid
from sslpipe.scenes.composed import IGNORED, Scenes, normalised

_BATCH = 32


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Intersection over union by a linear layer and by neighbours; the details are the test scenes and masks found."""
    train, test, names = labelled_scenes(inputs, "masks", config.scenes)
    classes, side, device = len(names), test.masks.shape[-1], take(config.device)
    scores: dict[str, Tensor] = {}  # of each class, by the prefix of the numbers
    lrs: dict[str, float] = {}
    rounds = len(config.lrs) + (1 if config.freeze else 2)
    with progress("segment", 2 * rounds * config.epochs, "epochs") as bar:
        for prefix, network in beside_random(inputs.encoder, device, seed).items():
            bank, queries = (dense(network, scene.pixels, config.levels, device) for scene in (train, test))
            head, lrs[prefix or "encoder"] = _choose(bank, train.masks, classes, config, seed, bar)
            found = {prefix: predict(head, queries, side)}
            votes = neighbours(bank, train.masks, queries, classes, config, seed)
            found[f"{prefix}knn_"] = enlarged(votes, side).argmax(1)
            if not config.freeze:
                tuned = copy.deepcopy(network)
                finetune(tuned, head, train, config, seed, bar)
                adapted = dense(tuned, test.pixels, config.levels, device)
                found[f"{prefix}finetuned_"] = predict(head, adapted, side)
            for name, masks in found.items():
                scores[name] = intersection_over_union(masks, test.masks, classes + 1)
            if not prefix:
                own = found[prefix]
    right = (own == test.masks)[test.masks != IGNORED]
    metrics: dict[str, Any] = {
        **{f"{name}miou": each.nanmean().item() for name, each in scores.items()},
        "iou": [None if score.isnan() else score.item() for score in scores[""]],
        "pixel_accuracy": right.double().mean().item(),
    }
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device", "shown"}),
        "lr_used": lrs,
        "optimiser": "AdamW, cosine, standardised features",
        "patches": list(bank.shape[2:]),
        "classes": classes + 1,
        "chosen_on": "the learning rate on a quarter of the training scenes, held back; last epoch reported",
        "train_scenes": len(train),
        "test_scenes": len(test),
        "class_names": names,
        "root": config.scenes.root,
    }
    return Outcome(metrics=metrics, protocol=protocol, details=(test, own))


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, bytes]:
    """Some scenes with true and predicted masks."""
    test, masks = outcome.details
    some = slice(config.shown)
    return {"scenes.png": sheets.masks(test.pixels[some], test.masks[some], masks[some])}


@torch.inference_mode()
def dense(network: Backbone, pixels: Tensor, levels: int, device: torch.device) -> Tensor:
    """Features of every patch of scenes: uint8 [N, S, S, 3] → float32 [N, D, h, w], on the CPU."""
    x = (normalised(chunk, network.preprocess, device) for chunk in pixels.split(_BATCH))
    return torch.cat(list(on_host(hypercolumns(pyramid(network, each, levels)).float() for each in x)))


class Head(nn.Module):
    """A linear layer on standardised features of patches."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean((0, 2, 3), keepdim=True))
        self.register_buffer("std", features.std((0, 2, 3), keepdim=True, correction=0).clamp_min(1e-6))
        self.linear = nn.Conv2d(features.shape[1], classes, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] → logits [N, C, h, w]."""
        return self.linear((x - self.mean) / self.std)


def _choose(
    features: Tensor, masks: Tensor, classes: int, settings: Config, seed: int, bar: Progress
) -> tuple[Head, float]:
    """The head trained on all scenes at the rate that does best on a quarter held back, and that rate."""
    held = torch.arange(len(features)) % 4 == 3
    best, lr = -1.0, settings.lrs[0]
    for candidate in settings.lrs:
        head = fit(features[~held], masks[~held], classes + 1, candidate, settings, seed, bar)
        found = predict(head, features[held], masks.shape[-1])
        score = intersection_over_union(found, masks[held], classes + 1).nanmean().item()
        if score > best:
            best, lr = score, candidate
    return fit(features, masks, classes + 1, lr, settings, seed, bar), lr


def fit(
    features: Tensor, masks: Tensor, classes: int, lr: float, settings: Config, seed: int, bar: Progress
) -> Head:
    """A head trained on scenes' features [N, D, h, w] and masks int64 [N, S, S]; the background is a class, too."""
    device = take(settings.device)
    head = Head(features, classes).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr, weight_decay=1e-4)

    def loss(rows: Tensor) -> Tensor:
        return _loss(head(to_device(features[rows], device)), masks[rows])

    descend(loss, optimizer, torch.arange(len(masks)), _BATCH, settings.epochs, seed, bar, by_step=False)
    return head.eval()


def finetune(
    network: Backbone, head: Head, scenes: Scenes, settings: Config, seed: int, bar: Progress
) -> None:
    """Train encoder and head on together, in place; the head begins as it was trained on frozen features."""
    device = take(settings.device)
    parts = nn.ModuleList([network, head]).eval()  # batch norm keeps its statistics
    learning = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, settings.finetune_lr, weight_decay=0.05)

    def loss(rows: Tensor) -> Tensor:
        x = normalised(scenes.pixels[rows], network.preprocess, device)
        return _loss(head(hypercolumns(pyramid(network, x, settings.levels))), scenes.masks[rows])

    descend(loss, optimizer, torch.arange(len(scenes)), _BATCH, settings.epochs, seed, bar, by_step=False)


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of masks [n, S, S] by logits [n, C, h, w]."""
    found = enlarged(logits, masks.shape[-1])
    return cross_entropy(found, to_device(masks, found.device), ignore_index=IGNORED)


def enlarged(logits: Tensor, side: int) -> Tensor:
    """[N, C, h, w] → [N, C, side, side], bilinear."""
    return interpolate(logits, (side, side), mode="bilinear", align_corners=False)


@torch.inference_mode()
def predict(head: Head, features: Tensor, side: int) -> Tensor:
    """Masks int64 [N, side, side], on the CPU."""
    device = head.linear.weight.device
    chunks = features.split(_BATCH)
    found = (enlarged(head(to_device(chunk, device)), side).argmax(1) for chunk in chunks)
    return torch.cat(list(on_host(found)))


def neighbours(
    bank: Tensor, masks: Tensor, queries: Tensor, classes: int, settings: Config, seed: int
) -> Tensor:
    """Votes of the most similar patches of training scenes for each patch, [M, C + 1, h, w]."""
    h, w = bank.shape[2:]
    label = majority(masks, (h, w), classes + 1).flatten()  # [N·h·w]
    rows = bank.permute(0, 2, 3, 1).flatten(0, 2)  # [N·h·w, D]
    known = (label != IGNORED).nonzero()[:, 0]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[: settings.bank]
    picked = known[order]
    asked, k = queries.permute(0, 2, 3, 1).flatten(0, 2), min(settings.k, len(picked))
    similarity, index = nearest(rows[picked], asked, k, device=take(settings.device))
    votes = vote(similarity, label[picked][index], classes + 1, settings.temperature)
    votes = votes / votes.sum(1, keepdim=True)
    return votes.view(len(queries), h, w, -1).permute(0, 3, 1, 2)


def majority(masks: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """The most frequent class of each patch's pixels, `IGNORED` where none has one: [N, S, S] → [N, h, w]."""
    counts = one_hot(masks.clamp_max(classes), classes + 1)[..., :classes].permute(0, 3, 1, 2).float()
    fractions = nn.functional.adaptive_avg_pool2d(counts, grid)  # [N, C, h, w]
    return torch.where(fractions.sum(1) > 0, fractions.argmax(1), IGNORED)


def intersection_over_union(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Intersection over union of each class over all pixels, float64 [C]; NaN for a class that neither has.

    Masks are int64 [N, S, S]; what is `IGNORED` in the true ones does not count.
    """
    counts = truth != IGNORED
    pairs = classes * truth[counts] + predicted[counts]
    matrix = torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()
    both = matrix.diag()
    return both / (matrix.sum(0) + matrix.sum(1) - both)
