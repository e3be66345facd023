"""What changes of an image features ignore, and how much accuracy common corruptions cost them.

Of the encoder and of the same network with random weights, by the same draws.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import take, to_device
from sslpipe.data.batch import Batch
from sslpipe.data.loader import Reader
from sslpipe.evals.base import tables
from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.embed import beside_random, vectors
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.robustness import Config, corruptions, invariance
from sslpipe.measures.knn import predict
from sslpipe.measures.subsets import sample
from sslpipe.networks.protocol import Backbone

BATCH = 128  # images at a time; fixed, since what is drawn depends on it
#: Features [n, D] of each batch, by the network's prefix and what was done to the images (None: nothing).
_Found = defaultdict[tuple[str, Any], list[Tensor]]
_VISIBLE = 1e-4  # mean change of a value in [0, 1] below which an operation changes nothing


class Nets:
    """The encoder and its random twin, asked together."""

    def __init__(self, encoder: Backbone, settings: EmbedConfig, device: torch.device, seed: int) -> None:
        self.nets = beside_random(encoder, device, seed)
        self.preprocess, self.settings, self.device = encoder.preprocess, settings, device

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features [n, D] by prefix of normalised pixels [n, 3, S, S]."""
        x = to_device(pixels, self.device)
        return {name: vectors(net, x, self.settings).cpu() for name, net in self.nets.items()}


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """What features ignore, and accuracy under corruptions where there are labels.

    Raises:
        UserError: there are fewer than two images.
    """
    encoder, recipe, test = inputs.encoder, inputs.recipe, inputs.test
    if len(test) < 2:
        raise UserError(
            "robustness compares images, and there are fewer than two: set robustness.enabled to false"
        )
    nets = Nets(encoder, inputs.embedding, take(config.device), seed)
    known = inputs.features[0].labelled()
    indices = sample(len(test), config.images, seed)
    labelled = (test.labels >= 0).nonzero()[:, 0]
    labelled = labelled[sample(len(labelled), config.images, seed)]
    corrupted = len(known.index) > 0 and len(labelled) > 0
    total = (len(invariance.STRENGTHS) + 1) * len(indices)
    if corrupted:
        total += (len(corruptions.NAMES) * len(config.severities) + 1) * len(labelled)
    with progress("robustness", total, "images") as bar:
        metrics = invariances(nets, test, indices, recipe.views[0].fill, seed, bar)
        if corrupted:
            metrics |= accuracies(nets, known, test, labelled, config, seed, bar)
        else:
            metrics["corruptions_skipped"] = "there are no labels"
    metrics["in_recipe"] = invariance.in_recipe(recipe)
    constants = "CIFAR-10-C" if encoder.preprocess.size < corruptions.LARGE_FROM else "ImageNet-C"
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device"}),
        "images": len(indices),
        "strengths": invariance.STRENGTHS,
        "corruption_constants": f"those of {constants}",
        "classifier": "k-NN by cosine, its bank the clean training images",
        "train_images": len(known.index),
        "test_images": len(labelled),
        "chosen_on": "nothing: settings are fixed beforehand",
    }
    return Outcome(metrics=metrics, protocol=protocol)


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """What features ignore, and where there are labels accuracy by corruption and severity."""
    metrics = outcome.metrics
    rows: list[tuple[object, ...]] = [
        (operation, series, f"{similarity:.4f}", _told(metrics[f"{prefix}invariance"][operation]))
        for series, prefix in tables.SERIES
        for operation, similarity in metrics[f"{prefix}similarity"].items()
    ]
    files = {"invariance.csv": tables.table(("operation", "series", "similarity", "invariance"), rows)}
    if "corruptions" in metrics:
        rows = [
            (corruption, severity, series, f"{top1:.4f}")
            for series, prefix in tables.SERIES
            for corruption, by_severity in metrics[f"{prefix}corruptions"].items()
            for severity, top1 in {"0": metrics[f"{prefix}top1"], **by_severity}.items()  # 0: the clean image
        ]
        files["corruptions.csv"] = tables.table(("corruption", "severity", "series", "top1"), rows)
    return files


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def invariances(
    nets: Nets, reader: Reader, indices: Tensor, fill: float, seed: int, bar: Progress
) -> dict[str, Any]:
    """How much of an image's features stays under each operation, by operation."""
    operations = (None, *invariance.STRENGTHS)
    drawn = {
        operation: np.random.default_rng((seed, number)).random((len(indices), 2))
        for number, operation in enumerate(operations)
    }
    std = torch.tensor(nets.preprocess.std).view(3, 1, 1)
    found: _Found = defaultdict(list)
    change = dict.fromkeys(operations, 0.0)  # the mean of a pixel's value in [0, 1]
    for part, batch in _batches(reader, indices):
        clean = invariance.changed(batch, nets.preprocess, None, drawn[None][part], fill)
        for operation in operations:
            pixels = clean
            if operation is not None:
                pixels = invariance.changed(batch, nets.preprocess, operation, drawn[operation][part], fill)
                difference = ((pixels - clean) * std).abs().mean(dim=(1, 2, 3)).sum().item()
                change[operation] += difference / len(indices)
            for prefix, x in nets(pixels).items():
                found[prefix, operation].append(x)
            bar.update(len(batch))
    told = [operation for operation in invariance.STRENGTHS if change[operation] >= _VISIBLE]
    metrics: dict[str, Any] = {"without_effect": [name for name in invariance.STRENGTHS if name not in told]}
    for prefix in nets.nets:
        before = torch.cat(found[prefix, None])
        others = metrics[f"{prefix}similarity_of_others"] = invariance.similarity_of_others(before)
        same = {name: invariance.similarity(before, torch.cat(found[prefix, name])) for name in told}
        metrics[f"{prefix}similarity"] = same
        metrics[f"{prefix}invariance"] = {name: invariance.relative(same[name], others) for name in told}
    return metrics


def accuracies(
    nets: Nets, train: Features, test: Reader, indices: Tensor, settings: Config, seed: int, bar: Progress
) -> dict[str, Any]:
    """Top-1 of a k-NN with a clean bank on corrupted images: clean, by corruption and severity, and the mean."""
    # Each pair has random numbers of its own, the same for both networks.
    generators = {
        (name, severity): torch.Generator().manual_seed(seed + 1_000_003 * (10 * number + severity))
        for number, name in enumerate(corruptions.NAMES, start=1)
        for severity in settings.severities
    }
    plain = nets.preprocess.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (nets.preprocess.mean, nets.preprocess.std))
    found: _Found = defaultdict(list)
    for _, batch in _batches(test, indices):
        clean = plain.view(batch)  # [n, 3, S, S] in [0, 1]
        for pair in (None, *generators):
            pixels = clean if pair is None else corruptions.corrupt(clean, *pair, generators[pair])
            for prefix, x in nets((pixels - mean) / std).items():
                found[prefix, pair].append(x)
            bar.update(len(batch))
    label, metrics = test.labels[indices], dict[str, Any]()
    for prefix, kind in KINDS:
        if prefix not in nets.nets:
            continue
        top1 = {
            pair: _accuracy(
                getattr(train, kind), train.label, torch.cat(found[prefix, pair]), label, settings
            )
            for pair in (None, *generators)
        }
        metrics[f"{prefix}top1"] = top1.pop(None)
        metrics[f"{prefix}corruptions"] = {
            name: {str(severity): top1[name, severity] for severity in settings.severities}
            for name in corruptions.NAMES
        }
        metrics[f"{prefix}mean_corrupted_top1"] = sum(top1.values()) / len(top1)
    return metrics


def _accuracy(bank: Tensor, labels: Tensor, x: Tensor, expected: Tensor, settings: Config) -> float:
    votes = predict(bank, labels, x, k=settings.k, temperature=settings.temperature)
    return (votes.argmax(dim=1) == expected).double().mean().item()


def _batches(reader: Reader, indices: Tensor) -> Iterator[tuple[slice, Batch]]:
    for start in range(0, len(indices), BATCH):
        batch = reader.gather(indices[start : start + BATCH])
        yield slice(start, start + len(batch)), batch
