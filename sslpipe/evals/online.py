"""Linear probe on augmented views: other crops of the training images in each epoch, through the frozen encoder.

Papers report ImageNet accuracies by this protocol (MoCo, SimSiam, MAE and DINO train their linear layers on random
crops and flips). All else is as in `linear`: all rates at once, chosen by cross-validation within the labels, where
what is left out is seen in its central view, as the test images are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sslpipe import config
from sslpipe.data.loader import Reader
from sslpipe.device import resolve
from sslpipe.evals import finetune, linear
from sslpipe.evals.embed import central, random_twin
from sslpipe.evals.subsets import labelled
from sslpipe.networks.backbones import Backbone
from sslpipe.progress import Progress, progress
from sslpipe.views.engine import ViewEngine


class Config(config.Config):
    """Settings of the section `online`."""

    enabled: bool = False
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(256, ge=1)
    rates: tuple[float, ...] = Field((0.001, 0.003, 0.01, 0.03, 0.1, 0.3), min_length=1)
    weight_decays: tuple[float, ...] = Field((0.0,), min_length=1, description="each is tried with each rate")
    folds: int = Field(5, ge=2, description="of the cross-validation that chooses the rate")
    crop_scale: tuple[float, float] = Field(
        (0.08, 1.0), description="share of the image that training crops keep"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    def probe(self) -> linear.Config:
        """The same as settings of a linear probe."""
        return linear.Config(
            epochs=self.epochs,
            min_steps=1,
            batch_size=self.batch_size,
            rates=self.rates,
            weight_decays=self.weight_decays,
            folds=self.folds,
        )


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
    recipe = finetune.recipe(
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
            trained = linear.fit(x, train.labels, classes, probe, seed, device, views)
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
) -> linear.Views:
    """Gives features of an epoch's views of the images at some places, float32 [n, D]; the bar moves on each time."""

    def features(places: Tensor, epoch: int) -> Tensor:
        (view,) = engine(reader.gather(places), epoch)
        bar.update(1)
        return network.last_blocks(view.pixels, last_blocks).float()

    return features
