"""Transfer to segmentation: what a linear layer and neighbours make of frozen patch features.

Linear: one 1×1 convolution on standardised features, its logits enlarged to the scene (DINOv2's linear protocol, Oquab
et al. 2023, Sec. 7.4). k-NN: each patch votes for its most frequent class, weighted by similarity (in-context scene
understanding, Balažević et al. 2023, without their learned memory). A CNN's features are those of its last
resolutions, side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot

from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import resolve
from sslpipe.evals.base import sheets
from sslpipe.evals.base.embed import random_twin
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.scenes import labelled_scenes
from sslpipe.evals.segment import Config
from sslpipe.measures.knn import nearest, vote
from sslpipe.networks.protocol import Backbone
from sslpipe.networks.pyramid import hypercolumns, pyramid
from sslpipe.scenes.composed import IGNORED, Scenes, normalised

_BATCH = 32


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Intersection over union by a linear layer and by neighbours; the details are the test scenes and masks found."""
    settings, encoder = config, inputs.encoder
    train, test, names = labelled_scenes(inputs, "masks", config.scenes)
    classes = len(names)
    device = resolve(settings.device)
    metrics: dict[str, Any] = {}
    lrs: dict[str, float] = {}
    rounds = len(settings.lrs) + (1 if settings.freeze else 2)
    with progress("segment", 2 * rounds * settings.epochs, "epochs") as bar:
        for prefix, network in (("", encoder), ("random_init_", random_twin(encoder, seed))):
            network = network.to(device).eval()
            features = [dense(network, scene.pixels, settings.levels, device) for scene in (train, test)]
            head, lrs[prefix or "encoder"] = _choose(features[0], train.masks, classes, settings, seed, bar)
            found = predict(head, features[1], test.masks.shape[-1])
            by_votes = neighbours(features[0], train.masks, features[1], classes, settings, seed)
            votes = enlarged(by_votes, test.masks.shape[-1]).argmax(1)
            ways = [("", found), ("knn_", votes)]
            if not settings.freeze:
                tuned = copy.deepcopy(network)
                finetune(tuned, head, train, settings, seed, bar)
                adapted = dense(tuned, test.pixels, settings.levels, device)
                ways.append(("finetuned_", predict(head, adapted, test.masks.shape[-1])))
            for name, masks in ways:
                scores = intersection_over_union(masks, test.masks, classes + 1)
                metrics[f"{prefix}{name}miou"] = _mean(scores)
                if prefix == "" == name:
                    metrics["iou"] = [None if score.isnan() else score.item() for score in scores]
                    metrics["pixel_accuracy"] = (
                        (masks == test.masks)[test.masks != IGNORED].double().mean().item()
                    )
                    shown = masks
    protocol = {
        **settings.model_dump(mode="json", exclude={"enabled", "device", "shown"}),
        "lr_used": lrs,
        "optimiser": "AdamW, cosine, standardised features",
        "patches": list(features[0].shape[2:]),
        "classes": classes + 1,
        "chosen_on": "the learning rate on a quarter of the training scenes, held back; last epoch reported",
        "train_scenes": len(train),
        "test_scenes": len(test),
        "class_names": names,
        "root": settings.scenes.root,
    }
    return Outcome(metrics=metrics, protocol=protocol, details=(test, shown))


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, bytes]:
    """Some scenes with true and predicted masks."""
    test, masks = outcome.details
    some = slice(config.shown)
    return {"scenes.png": sheets.masks(test.pixels[some], test.masks[some], masks[some])}


@torch.inference_mode()
def dense(network: Backbone, pixels: Tensor, levels: int, device: torch.device) -> Tensor:
    """Features of every patch of scenes: uint8 [N, S, S, 3] → float32 [N, D, h, w], on the CPU."""
    found = []
    for chunk in pixels.split(_BATCH):
        x = normalised(chunk, network.preprocess, device)
        found.append(hypercolumns(pyramid(network, x, levels)).float().cpu())
    return torch.cat(found)


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
        scores = intersection_over_union(
            predict(head, features[held], masks.shape[-1]), masks[held], classes + 1
        )
        if _mean(scores) > best:
            best, lr = _mean(scores), candidate
    return fit(features, masks, classes + 1, lr, settings, seed, bar), lr


def fit(
    features: Tensor, masks: Tensor, classes: int, lr: float, settings: Config, seed: int, bar: Progress
) -> Head:
    """A head trained on scenes.

    Args:
        features: [N, D, h, w].
        masks: int64 [N, S, S].
        classes: with the background.
        lr: the learning rate.
        settings: epochs and device.
        seed: of the order.
        bar: moves on with each epoch.
    """
    device = resolve(settings.device)
    head = Head(features, classes).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr, weight_decay=1e-4)
    _descend(lambda rows: head(features[rows].to(device)), optimizer, masks, settings.epochs, seed, bar)
    return head.eval()


def finetune(
    network: Backbone, head: Head, scenes: Scenes, settings: Config, seed: int, bar: Progress
) -> None:
    """Train encoder and head on together, in place; the head begins as it was trained on frozen features.

    Args:
        network: the encoder.
        head: its head.
        scenes: to learn from.
        settings: epochs, rate and device.
        seed: of the order.
        bar: moves on with each epoch.
    """
    device = resolve(settings.device)
    parts = nn.ModuleList([network, head]).eval()  # batch norm keeps its statistics
    learning = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, settings.finetune_lr, weight_decay=0.05)

    def logits(rows: Tensor) -> Tensor:
        x = normalised(scenes.pixels[rows], network.preprocess, device)
        return head(hypercolumns(pyramid(network, x, settings.levels)))

    _descend(logits, optimizer, scenes.masks, settings.epochs, seed, bar)


def _descend(
    logits: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    masks: Tensor,
    epochs: int,
    seed: int,
    bar: Progress,
) -> None:
    """Cross-entropy of masks by logits [n, C, h, w] of rows, in shuffled batches, the learning rate along a cosine."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(masks) // _BATCH))
    for _ in range(epochs):
        for rows in torch.randperm(len(masks), generator=generator).split(_BATCH):
            found = enlarged(logits(rows), masks.shape[-1])
            loss = cross_entropy(found, masks[rows].to(found.device), ignore_index=IGNORED)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        bar.update(1, f"loss {loss.item():.3f}")


def enlarged(logits: Tensor, side: int) -> Tensor:
    """[N, C, h, w] → [N, C, side, side], bilinear."""
    return interpolate(logits, (side, side), mode="bilinear", align_corners=False)


@torch.inference_mode()
def predict(head: Head, features: Tensor, side: int) -> Tensor:
    """Masks int64 [N, side, side], on the CPU."""
    device = head.linear.weight.device
    return torch.cat(
        [enlarged(head(chunk.to(device)), side).argmax(1).cpu() for chunk in features.split(_BATCH)]
    )


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
    asked = queries.permute(0, 2, 3, 1).flatten(0, 2)
    similarity, index = nearest(
        rows[picked], asked, min(settings.k, len(picked)), device=resolve(settings.device)
    )
    votes = vote(similarity, label[picked][index], classes + 1, settings.temperature)
    votes = votes / votes.sum(1, keepdim=True)
    return votes.view(len(queries), h, w, -1).permute(0, 3, 1, 2)


def majority(masks: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """The most frequent class of each patch's pixels, `IGNORED` where none has one: [N, S, S] → [N, h, w]."""
    counts = one_hot(masks.clamp_max(classes), classes + 1)[..., :classes].permute(0, 3, 1, 2).float()
    shares = nn.functional.adaptive_avg_pool2d(counts, grid)  # [N, C, h, w]
    return torch.where(shares.sum(1) > 0, shares.argmax(1), IGNORED)


def intersection_over_union(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Intersection over union of each class over all pixels, float64 [C]; NaN for a class that neither has.

    Args:
        predicted: int64 [N, S, S].
        truth: int64 [N, S, S], `IGNORED` where it does not count.
        classes: with the background.
    """
    counts = truth != IGNORED
    pairs = classes * truth[counts] + predicted[counts]
    matrix = torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()
    both = matrix.diag()
    return both / (matrix.sum(0) + matrix.sum(1) - both)


def _mean(scores: Tensor) -> float:
    return scores.nanmean().item()
