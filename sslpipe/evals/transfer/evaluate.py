"""Transfer to another labelled set than the one pretrained on: k-NN and linear probe on its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.evals.transfer import Config
from sslpipe.sharding import sources

if TYPE_CHECKING:  # stage `source` reads the Config below, and needs no torch
    from sslpipe.evals.base.features import Features
    from sslpipe.evals.knn.evaluate import Config as KnnConfig
    from sslpipe.evals.linear.evaluate import Config as LinearConfig
    from sslpipe.sharding.shard import Config as ShardConfig


@contextmanager
def shards(settings: Config, form: ShardConfig, seed: int) -> Iterator[Path]:
    """The set as shards in scratch, locked: made once for all encoders, and gone on with after a kill.

    Args:
        settings: which set.
        form: how it is stored.
        seed: of a test split drawn.

    Raises:
        UserError: the set cannot be read; it has no labels.
    """
    from sslpipe.sharding.shard import shard
    from sslpipe.shards import manifest as manifests

    source = sources.source_digest(settings.data)
    key = scratch.digest([source, settings.data.model_dump(mode="json"), form.content(), seed])[:16]
    with scratch.locked(
        scratch.folder("locks") / f"transfer-{key}", "another run that evaluates on this set"
    ):
        place = scratch.folder("transfer", key)
        if not (place / "shards" / manifests.NAME).is_file():
            shard(form, sources.open_source(settings.data, seed), place / "shards", seed, place / "making")
        manifest = manifests.read(place / "shards")
        if not manifest.splits.train.labelled or not manifest.splits.test.labelled:
            raise UserError(
                f"transfer.source {settings.source} has no labels in both splits, and without there is no score"
            )
        yield place / "shards"


def evaluate(
    train: Features, test: Features, knn: KnnConfig, linear: LinearConfig, seed: int
) -> tuple[dict[str, Any], Any]:
    """What metrics/transfer.json holds: the numbers of both protocols as on the pretraining set.

    Args:
        train: features of the labelled training images.
        test: of the test images.
        knn: the protocol of k-NN.
        linear: the protocol of the linear probe.
        seed: of folds, order and draws of labels.
    """
    from sslpipe.evals.knn import evaluate as neighbours
    from sslpipe.evals.linear import evaluate as probes

    by_votes, _ = neighbours.evaluate(train, test, knn)
    by_probe, predicted = probes.evaluate(train, test, linear, seed)
    metrics: dict[str, Any] = {
        **_named(by_probe, "linear"),
        **_named(by_votes, "knn"),
        "few_labels": by_probe["few_labels"],
    }
    metrics["protocol"] = {
        "linear": by_probe["protocol"],
        "knn": by_votes["protocol"],
        "train_images": len(train.label),
        "test_images": len(test.label),
        "chosen_on": "as k-NN and linear probe on the pretraining set: within the set's training split",
    }
    return metrics, predicted


def _named(metrics: Mapping[str, Any], protocol: str) -> dict[str, float]:
    """Top-1 by protocol and kind of features, such as `random_init_knn_top1`."""
    return {
        f"{name.removesuffix('top1')}{protocol}_top1": value
        for name, value in metrics.items()
        if name.endswith("top1")
    }
