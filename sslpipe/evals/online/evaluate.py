"""Linear probe on augmented views: other crops of the training images in each epoch, through the frozen encoder.

Papers report ImageNet accuracies by this protocol (MoCo, SimSiam, MAE and DINO train their linear layers on random
crops and flips). All else is as in `linear`: all rates at once, chosen by cross-validation within the labels, where
what is left out is seen in its central view, as the test images are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import resolve
from sslpipe.data.loader import Reader
from sslpipe.evals.base.embed import central, random_twin
from sslpipe.evals.base.views import mild_recipe
from sslpipe.evals.online import Config
from sslpipe.measures import probe as probes
from sslpipe.measures.subsets import labelled
from sslpipe.networks.protocol import Backbone
from sslpipe.views.engine import ViewEngine


@torch.inference_mode()
def evaluate(
    encoder: Backbone,
    preprocess: Mapping[str, Any],
    train: Reader,
    test: Reader,
    changes: Mapping[str, Any],
    settings: Config,
    last_blocks: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What metrics/online.json holds, and predictions [M] by prefix, `` and `random_init_`.

    Args:
        encoder: the pretrained backbone; its weights stay, it moves to the device and into eval mode.
        preprocess: of the encoder.
        train: the training split.
        test: the test split.
        changes: the data set's and the user's changes to view recipes.
        settings: the protocol.
        last_blocks: see `embed.Config`.
        seed: of views, order and folds, and of the random weights.
    """
    device, train, test = resolve(settings.device), labelled(train), labelled(test)
    classes, probe = int(train.labels.max()) + 1, settings.probe()
    recipe = mild_recipe(
        preprocess["size"], preprocess["interpolation"], settings.crop_scale, changes, preprocess
    )
    metrics: dict[str, Any] = {}
    predicted: dict[str, Tensor] = {}
    used: dict[str, dict[str, float]] = {"rate_used": {}, "weight_decay_used": {}}
    steps = settings.epochs * -(-len(train) // min(settings.batch_size, len(train)))
    with progress("online", 2 * steps, "steps") as bar:
        for prefix, network in (("", encoder), ("random_init_", random_twin(encoder, seed))):
            network = network.to(device).eval()
            engine = ViewEngine(recipe, seed=seed, device=device)
            views = _views(network, engine, train, last_blocks, bar)
            x, queries = (central(network, split, preprocess, last_blocks) for split in (train, test))
            trained = probes.fit(x, train.labels, classes, probe, seed, device, views)
            predicted[prefix] = trained(queries).argmax(1)
            metrics[f"{prefix}top1"] = (predicted[prefix] == test.labels).double().mean().item()
            used["rate_used"][prefix or "encoder"] = trained.rate
            used["weight_decay_used"][prefix or "encoder"] = trained.weight_decay
    if len(settings.weight_decays) == 1:
        del used["weight_decay_used"]
    metrics["protocol"] = {
        **settings.model_dump(mode="json", exclude={"enabled", "device"}),
        "last_blocks": last_blocks,
        "optimiser": f"SGD, momentum {probe.momentum}, cosine, standardised features",
        **used,
        "chosen_on": f"{settings.folds}-fold cross-validation within the training images; last epoch reported",
        "train_images": len(train),
        "test_images": len(test),
    }
    return metrics, predicted


def _views(
    network: Backbone, engine: ViewEngine, reader: Reader, last_blocks: int, bar: Progress
) -> probes.Views:
    """Gives features of an epoch's views of the images at some places, float32 [n, D]; the bar moves on each time."""

    def features(places: Tensor, epoch: int) -> Tensor:
        (view,) = engine(reader.gather(places), epoch)
        bar.update(1)
        return network.last_blocks(view.pixels, last_blocks).float()

    return features
