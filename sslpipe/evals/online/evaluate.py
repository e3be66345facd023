"""Linear probe on augmented views: other crops of the training images in each epoch, through the frozen encoder.

Papers report ImageNet accuracies by this protocol (MoCo, SimSiam, MAE and DINO train their linear layers on random
crops and flips). All else is as in `linear`: all rates at once, chosen by cross-validation within the labels, where
what is left out is seen in its central view, as the test images are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import take
from sslpipe.data.loader import Reader
from sslpipe.evals.base import tables, trust
from sslpipe.evals.base.embed import beside_random, central, vectors
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.views import mild_recipe
from sslpipe.evals.online import Config
from sslpipe.measures import probe as probes
from sslpipe.measures.config import ProbeConfig
from sslpipe.views.engine import ViewEngine


@torch.inference_mode()
def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Accuracy of a probe trained on views; the details are classes [M] by prefix, `` and `random_init_`."""
    encoder, embedding = inputs.encoder, inputs.embedding
    device, (train, test) = take(config.device), inputs.labelled()
    classes = int(train.labels.max()) + 1
    own = config.model_dump(include={"epochs", "batch_size", "lrs", "weight_decays", "folds"})
    probe = ProbeConfig(**own, min_steps=1)
    recipe = mild_recipe(encoder.preprocess, config.crop_scale, inputs.changes)
    metrics: dict[str, Any] = {}
    predicted: dict[str, Tensor] = {}
    used: dict[str, dict[str, float]] = {"lr_used": {}, "weight_decay_used": {}}
    steps = config.epochs * -(-len(train) // min(config.batch_size, len(train)))
    with progress("online", 2 * steps, "steps") as bar:
        for prefix, network in beside_random(encoder, device, seed).items():
            engine = ViewEngine(recipe, seed=seed, device=device)
            seen = partial(vectors, network, settings=embedding)
            views = _views(seen, engine, train, bar)
            x, queries = (central(network, split, seen) for split in (train, test))
            trained = probes.fit(x, train.labels, classes, probe, seed, device, views)
            predicted[prefix] = trained(queries).argmax(1)
            metrics[f"{prefix}top1"] = (predicted[prefix] == test.labels).double().mean().item()
            used["lr_used"][prefix or "encoder"] = trained.lr
            used["weight_decay_used"][prefix or "encoder"] = trained.weight_decay
    if len(config.weight_decays) == 1:
        del used["weight_decay_used"]
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device"}),
        "last_blocks": embedding.last_blocks,
        "pool": embedding.pool,
        "optimiser": f"SGD, momentum {probe.momentum}, cosine, standardised features",
        **used,
        **trust.at_edge("online.lrs", used["lr_used"]["encoder"], config.lrs),
        "chosen_on": f"{config.folds}-fold cross-validation within the training images; last epoch reported",
        "train_images": len(train),
        "test_images": len(test),
    }
    return Outcome(metrics=metrics, protocol=protocol, details=predicted)


plots = tables.confusions


def _views(
    seen: Callable[[Tensor], Tensor], engine: ViewEngine, reader: Reader, bar: Progress
) -> probes.Views:
    """Gives features of an epoch's views of some images, float32 [n, D]; the bar moves on each time."""

    def features(indices: Tensor, epoch: int) -> Tensor:
        (view,) = engine(reader.gather(indices), epoch)
        bar.update(1)
        return seen(view.pixels)

    return features
