"""k-nearest-neighbour classification on frozen features."""

from __future__ import annotations

from pathlib import Path

from sslpipe.core.scratch import write_json
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("knn")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/knn.json and plots/knn/."""
    if skipped("knn", settings, record):
        return
    from sslpipe.evals.base import tables, trust
    from sslpipe.evals.base.features import Features
    from sslpipe.evals.knn import evaluate as neighbours
    from sslpipe.shards import manifest as manifests

    manifest = manifests.read(Path("data/shards"))
    files = (Path(f"data/features/{split}.safetensors") for split in ("train", "test"))
    train, test = (Features.load(file).labelled() for file in files)
    metrics, predicted = neighbours.evaluate(train, test, settings.knn)
    metrics |= trust.without_duplicates(manifest, test, predicted)
    evaluated("knn", metrics, settings.knn, record)
    tables.write_confusion("plots/knn/confusion.csv", test.label, predicted[""], manifest.classes)
    write_json("plots/knn/neighbours.json", neighbours.neighbour_sheet(train, test, settings.knn.queries))
    record.artifact("plots/knn")


if __name__ == "__main__":
    main()
