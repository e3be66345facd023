"""Linear probe on frozen features, with all labels and with few."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage

if TYPE_CHECKING:
    from torch import Tensor


@stage("linear", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/linear.json and plots/linear/."""
    if skipped("linear", settings, record):
        return
    from sslpipe.evals.base import tables, trust
    from sslpipe.evals.base.features import Features
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.evals.linear import evaluate as linear
    from sslpipe.shards import manifest as manifests

    manifest = manifests.read(Path("data/shards"))
    files = (Path(f"data/features/{split}.safetensors") for split in ("train", "test"))
    train, test = (Features.load(file).labelled() for file in files)

    def evaluate(seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        metrics, predicted = linear.evaluate(train, test, settings.linear, seed)
        return metrics | trust.without_duplicates(manifest, test, predicted), predicted

    metrics, predicted = repeated(evaluate, settings.evaluate, settings.seed)
    evaluated("linear", metrics, settings.linear, record)
    tables.write_label_efficiency("plots/linear/label_efficiency.csv", metrics)
    tables.write_confusion("plots/linear/confusion.csv", test.label, predicted[""], manifest.classes)
    record.artifact("plots/linear")


if __name__ == "__main__":
    main()
