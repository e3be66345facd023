"""Linear probe on augmented views of the training images."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("online", "online", "embed", "views", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/online.json and plots/online/."""
    if skipped("online", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals.base import tables
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.evals.online import evaluate as online
    from sslpipe.measures.subsets import labelled
    from sslpipe.shards import manifest as manifests

    manifest, own = manifests.read(Path("data/shards")), settings.online
    encoder = load_encoder("models/encoder.safetensors")
    train, test = (
        open_split(Path("data/shards"), split, settings.loader.reader) for split in ("train", "test")
    )
    changes, blocks = {**manifest.recipe, **settings.views.recipe}, settings.embed.last_blocks
    preprocess = dict(encoder.preprocess)
    metrics, predicted = repeated(
        lambda seed: online.evaluate(encoder, preprocess, train, test, changes, own, blocks, seed),
        settings.evaluate,
        settings.seed,
    )
    evaluated("online", metrics, own, record)
    tables.write_confusion(
        "plots/online/confusion.csv", labelled(test).labels, predicted[""], manifest.classes
    )
    record.artifact("plots/online")


if __name__ == "__main__":
    main()
