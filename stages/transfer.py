"""Transfer to another labelled set, by frozen features."""

from __future__ import annotations

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("transfer", "shard", "transfer", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/transfer.json and plots/transfer/."""
    if skipped("transfer", settings, record, splits=(), labels=False):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals.base import tables
    from sslpipe.evals.base.embed import embed
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.evals.transfer import evaluate as transfer
    from sslpipe.shards import manifest as manifests

    encoder = load_encoder("models/encoder.safetensors")
    preprocess, seed = dict(encoder.preprocess), settings.seed
    with transfer.shards(settings.transfer, settings.shard, seed) as folder:
        manifest = manifests.read(folder)
        record.dataset(manifest.source.name, manifest.digest, manifest.source.name)
        readers = (open_split(folder, split, settings.loader.reader) for split in ("train", "test"))
        train, test = (
            embed(encoder, reader, preprocess, settings.embed, seed).labelled() for reader in readers
        )
    metrics, predicted = repeated(
        lambda seed: transfer.evaluate(train, test, settings.knn, settings.linear, seed),
        settings.evaluate,
        seed,
    )
    metrics["protocol"] |= {"source": manifest.source.name, "classes": len(manifest.classes or ())}
    evaluated("transfer", metrics, settings.transfer, record, manifest.digest)
    tables.write_confusion("plots/transfer/confusion.csv", test.label, predicted[""], manifest.classes)
    record.artifact("plots/transfer")


if __name__ == "__main__":
    main()
