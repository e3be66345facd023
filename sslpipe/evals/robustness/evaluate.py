"""What changes of an image features ignore, and how much accuracy common corruptions cost them.

Of the encoder and of the same network with random weights, by the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import resolve
from sslpipe.data.batch import Batch
from sslpipe.data.loader import Reader
from sslpipe.evals.base import tables
from sslpipe.evals.base.embed import random_twin
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.robustness import Config, corruptions, invariance
from sslpipe.measures.knn import predict
from sslpipe.measures.subsets import sample
from sslpipe.networks.protocol import Backbone

BATCH = 128  # images at a time; fixed, since what is drawn depends on it
_VISIBLE = 1e-4  # mean change of a value in [0, 1] below which an operation changes nothing


class Nets:
    """The encoder and its random twin, asked together."""

    def __init__(self, encoder: Backbone, last_blocks: int, device: torch.device, seed: int) -> None:
        encoder = encoder.to(device).eval()
        self.nets = {"": encoder, "random_init_": random_twin(encoder, seed)}
        self.preprocess, self.last_blocks, self.device = encoder.preprocess, last_blocks, device

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features [n, D] by prefix of normalised pixels [n, 3, S, S]."""
        x = pixels.to(self.device)
        return {name: net.last_blocks(x, self.last_blocks).float().cpu() for name, net in self.nets.items()}


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """What features ignore, and accuracy under corruptions where there are labels.

    Raises:
        UserError: there are fewer than two images.
    """
    settings, encoder, recipe = config, inputs.encoder, inputs.recipe
    train, test, last_blocks = inputs.features[0], inputs.test, inputs.config("embed").last_blocks
    if len(test) < 2:
        raise UserError(
            "robustness compares images, and there are fewer than two: set robustness.enabled to false"
        )
    nets = Nets(encoder, last_blocks, resolve(settings.device), seed)
    known = train.labelled()
    places = sample(len(test), settings.images, seed)
    labelled = (test.labels >= 0).nonzero()[:, 0]
    labelled = labelled[sample(len(labelled), settings.images, seed)]
    corrupted = len(known.index) > 0 and len(labelled) > 0
    rounds = len(invariance.STRENGTHS) + 1
    total = rounds * len(places)
    if corrupted:
        total += (len(corruptions.NAMES) * len(settings.severities) + 1) * len(labelled)
    with progress("robustness", total, "images") as bar:
        metrics = invariances(nets, test, places, recipe.views[0].fill, seed, bar)
        if corrupted:
            metrics |= accuracies(nets, known, test, labelled, settings, seed, bar)
        else:
            metrics["corruptions_skipped"] = "there are no labels"
    metrics["in_recipe"] = invariance.in_recipe(recipe)
    constants = "CIFAR-10-C" if encoder.preprocess.size < corruptions.LARGE_FROM else "ImageNet-C"
    protocol = {
        **settings.model_dump(mode="json", exclude={"enabled", "device"}),
        "images": len(places),
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
    found = {"invariance.csv": tables.invariance(outcome.metrics)}
    if "corruptions" in outcome.metrics:
        found["corruptions.csv"] = tables.corruptions(outcome.metrics)
    return found


def invariances(
    nets: Nets, reader: Reader, places: Tensor, fill: float, seed: int, bar: Progress
) -> dict[str, Any]:
    """How much of an image's features stays under each operation, by operation."""
    operations = (None, *invariance.STRENGTHS)
    drawn = {
        operation: np.random.default_rng((seed, number)).random((len(places), 2))
        for number, operation in enumerate(operations)
    }
    std = torch.tensor(nets.preprocess.std).view(3, 1, 1)
    found = {operation: _Rows() for operation in operations}
    change = dict.fromkeys(operations, 0.0)  # the mean of a pixel's value in [0, 1]
    for part, batch in _batches(reader, places):
        clean = invariance.changed(batch, nets.preprocess, None, drawn[None][part], fill)
        for operation in operations:
            pixels = clean
            if operation is not None:
                pixels = invariance.changed(batch, nets.preprocess, operation, drawn[operation][part], fill)
                change[operation] += ((pixels - clean) * std).abs().mean(dim=(1, 2, 3)).sum().item() / len(
                    places
                )
            found[operation].add(nets(pixels))
            bar.update(len(batch))
    before = found[None].whole()
    others = {name: invariance.similarity_of_others(x) for name, x in before.items()}
    metrics: dict[str, Any] = {f"{name}similarity_of_others": value for name, value in others.items()}
    for name in before:
        metrics[f"{name}invariance"], metrics[f"{name}similarity"] = {}, {}
    metrics["without_effect"] = [name for name in invariance.STRENGTHS if change[name] < _VISIBLE]
    for operation in invariance.STRENGTHS:
        if operation in metrics["without_effect"]:
            continue
        for name, x in found[operation].whole().items():
            same = invariance.similarity(before[name], x)
            metrics[f"{name}similarity"][operation] = same
            metrics[f"{name}invariance"][operation] = invariance.relative(same, others[name])
    return metrics


def accuracies(
    nets: Nets, train: Features, test: Reader, places: Tensor, settings: Config, seed: int, bar: Progress
) -> dict[str, Any]:
    """Top-1 of a k-NN with a clean bank on corrupted images: clean, by corruption and severity, and the mean."""
    label = test.labels[places]
    banks = {prefix: getattr(train, kind) for prefix, kind in KINDS if prefix in nets.nets}
    pairs = [(name, severity) for name in corruptions.NAMES for severity in settings.severities]
    # Each pair has random numbers of its own, the same for both networks.
    generators = {
        (name, severity): torch.Generator().manual_seed(
            seed + 1_000_003 * (10 * (1 + corruptions.NAMES.index(name)) + severity)
        )
        for name, severity in pairs
    }
    plain = nets.preprocess.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (nets.preprocess.mean, nets.preprocess.std))
    clean, corrupted = _Rows(), {pair: _Rows() for pair in pairs}
    for _, batch in _batches(test, places):
        pixels = plain.view(batch)  # [n, 3, S, S] in [0, 1]
        clean.add(nets((pixels - mean) / std))
        bar.update(len(batch))
        for pair in pairs:
            changed = corruptions.corrupt(pixels, *pair, generators[pair])
            corrupted[pair].add(nets((changed - mean) / std))
            bar.update(len(batch))

    def top1(rows: _Rows) -> dict[str, float]:
        return {
            prefix: _accuracy(banks[prefix], train.label, x, label, settings)
            for prefix, x in rows.whole().items()
        }

    metrics: dict[str, Any] = {f"{prefix}top1": value for prefix, value in top1(clean).items()}
    for prefix in nets.nets:
        metrics[f"{prefix}corruptions"] = {name: {} for name in corruptions.NAMES}
    for (name, severity), rows in corrupted.items():
        for prefix, value in top1(rows).items():
            metrics[f"{prefix}corruptions"][name][str(severity)] = value
    for prefix in nets.nets:
        values = [v for row in metrics[f"{prefix}corruptions"].values() for v in row.values()]
        metrics[f"{prefix}mean_corrupted_top1"] = sum(values) / len(values)
    return metrics


class _Rows:
    """Features by prefix, batch by batch."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, features: Mapping[str, Tensor]) -> None:
        """One more batch, [n, D] each."""
        for prefix, x in features.items():
            self.parts.setdefault(prefix, []).append(x)

    def whole(self) -> dict[str, Tensor]:
        """All of them, [N, D] each."""
        return {prefix: torch.cat(parts) for prefix, parts in self.parts.items()}


def _accuracy(bank: Tensor, labels: Tensor, x: Tensor, expected: Tensor, settings: Config) -> float:
    votes = predict(bank, labels, x, k=settings.k, temperature=settings.temperature)
    return (votes.argmax(dim=1) == expected).double().mean().item()


def _batches(reader: Reader, places: Tensor) -> Iterator[tuple[slice, Batch]]:
    for start in range(0, len(places), BATCH):
        batch = reader.gather(places[start : start + BATCH])
        yield slice(start, start + len(batch)), batch
