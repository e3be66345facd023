"""Linear probe on frozen features, with all labels and with few."""

from __future__ import annotations

from pathlib import Path

from sslpipe.scratch import write_json
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import skipped, stage


@stage("linear")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/linear.json and plots/linear/."""
    if skipped("linear", settings, record):
        return
    from sslpipe.evals import linear, tables
    from sslpipe.evals.features import Features

    files = (Path(f"data/features/{split}.safetensors") for split in ("train", "test"))
    train, test = (Features.load(file).labelled() for file in files)
    metrics = linear.evaluate(train, test, settings.linear, settings.seed)
    write_json("metrics/linear.json", metrics)
    tables.write_label_efficiency("plots/linear/label_efficiency.csv", metrics)
    record.metrics({name: value for name, value in metrics.items() if name.endswith("top1")})
    record.artifact("plots/linear")


if __name__ == "__main__":
    main()
