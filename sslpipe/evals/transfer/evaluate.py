"""Transfer to another labelled set than the one pretrained on: k-NN and linear probe on its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.data.loader import open_split
from sslpipe.evals.base import tables
from sslpipe.evals.base.embed import embed
from sslpipe.evals.base.features import Features
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.knn import evaluate as neighbours
from sslpipe.evals.linear import evaluate as probes
from sslpipe.evals.transfer import Config
from sslpipe.sharding import sources
from sslpipe.sharding.config import Config as ShardConfig
from sslpipe.sharding.shard import shard
from sslpipe.shards import manifest as manifests
from sslpipe.shards.manifest import Manifest


@contextmanager
def shards(settings: Config, form: ShardConfig, seed: int) -> Iterator[Path]:
    """The set as shards in scratch, locked: made once for all encoders, and gone on with after a kill.

    `form` says how it is stored; a test split that it lacks is drawn by `seed`.

    Raises:
        UserError: the set cannot be read; it has no labels.
    """
    source = sources.source_digest(settings.data)
    key = scratch.digest([source, settings.data.model_dump(mode="json"), form.content(), seed])[:16]
    lock = scratch.folder("locks") / f"transfer-{key}"
    with scratch.locked(lock, "another run that evaluates on this set"):
        place = scratch.folder("transfer", key)
        if not (place / "shards" / manifests.NAME).is_file():
            shard(form, sources.open_source(settings.data, seed), place / "shards", seed, place / "making")
        manifest = manifests.read(place / "shards")
        if not manifest.splits.train.labelled or not manifest.splits.test.labelled:
            raise UserError(
                f"transfer.source {settings.source} has no labels in both splits, and without there is no score"
            )
        yield place / "shards"


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """k-NN and linear probe as on the pretraining set; the details are labels, classes told, and their names."""
    train, test, manifest = inputs.once("transfer", lambda: _embedded(inputs, config))
    by_votes = neighbours.scores(train, test, inputs.config("knn"))
    by_probe = probes.scores(train, test, inputs.config("linear"), seed)
    metrics = {
        **_named(by_probe.metrics, "linear"),
        **_named(by_votes.metrics, "knn"),
        "few_labels": by_probe.metrics["few_labels"],
    }
    protocol = {
        "linear": by_probe.protocol,
        "knn": by_votes.protocol,
        "train_images": len(train.label),
        "test_images": len(test.label),
        "chosen_on": "as k-NN and linear probe on the pretraining set: within the set's training split",
        "source": manifest.source.name,
        "classes": len(manifest.classes or ()),
        "data": manifest.digest,
    }
    details = (test.label, by_probe.details[""], manifest.classes)
    return Outcome(metrics=metrics, protocol=protocol, details=details)


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """Confusions of the linear probe."""
    return {"confusion.csv": tables.confusion(*outcome.details)}


def _embedded(inputs: Inputs, config: Config) -> tuple[Features, Features, Manifest]:
    """Features of the other set's training and test images, and its manifest."""
    seed, how = inputs.config("seed"), inputs.config("loader").reader
    with shards(config, inputs.config("shard"), seed) as folder:
        train, test = (
            embed(inputs.encoder, open_split(folder, split, how), inputs.embedding, seed).labelled()
            for split in ("train", "test")
        )
        return train, test, manifests.read(folder)


def _named(metrics: Mapping[str, Any], protocol: str) -> dict[str, float]:
    """Top-1 by protocol and kind of features, such as `random_init_knn_top1`."""
    return {
        f"{name.removesuffix('top1')}{protocol}_top1": value
        for name, value in metrics.items()
        if name.endswith("top1")
    }
