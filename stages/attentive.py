"""Attentive probe on frozen features of patches."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("attentive", "attentive", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/attentive.json and plots/attentive/."""
    if skipped("attentive", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals.attentive import evaluate as attentive
    from sslpipe.evals.base import tables
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.measures.subsets import labelled
    from sslpipe.shards import manifest as manifests

    encoder, own = load_encoder("models/encoder.safetensors"), settings.attentive
    train, test = (
        open_split(Path("data/shards"), split, settings.loader.reader) for split in ("train", "test")
    )
    preprocess = dict(encoder.preprocess)
    metrics, predicted = repeated(
        lambda seed: attentive.evaluate(encoder, preprocess, train, test, own, seed),
        settings.evaluate,
        settings.seed,
    )
    evaluated("attentive", metrics, own, record)
    classes = manifests.read(Path("data/shards")).classes
    tables.write_confusion("plots/attentive/confusion.csv", labelled(test).labels, predicted[""], classes)
    record.artifact("plots/attentive")


if __name__ == "__main__":
    main()
