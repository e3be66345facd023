"""Retrieval of training images by the features of test images."""

from __future__ import annotations

from pathlib import Path

from sslpipe.core.scratch import write_json
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("retrieval")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/retrieval.json and plots/retrieval/."""
    if skipped("retrieval", settings, record):
        return
    from sslpipe.evals.base.features import Features
    from sslpipe.evals.retrieval import evaluate as retrieval

    files = (Path(f"data/features/{split}.safetensors") for split in ("train", "test"))
    train, test = (Features.load(file).labelled() for file in files)
    metrics, worst = retrieval.evaluate(train, test, settings.retrieval)
    evaluated("retrieval", metrics, settings.retrieval, record)
    write_json("plots/retrieval/worst.json", worst)
    record.artifact("plots/retrieval")


if __name__ == "__main__":
    main()
