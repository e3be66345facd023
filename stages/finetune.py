"""Fine-tuning the whole network with few labels, from the encoder's weights and from random ones."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("finetune", "views", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/finetune.json."""
    if skipped("finetune", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals.base import tables
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.evals.finetune.evaluate import evaluate
    from sslpipe.shards import manifest as manifests

    manifest = manifests.read(Path("data/shards"))
    encoder = load_encoder("models/encoder.safetensors")
    train, test = (
        open_split(Path("data/shards"), split, settings.loader.reader) for split in ("train", "test")
    )
    changes = {**manifest.recipe, **settings.views.recipe}
    own, preprocess = settings.finetune, dict(encoder.preprocess)
    metrics, _ = repeated(
        lambda seed: (evaluate(encoder, preprocess, train, test, changes, own, seed), None),
        settings.evaluate,
        settings.seed,
    )
    evaluated("finetune", metrics, own, record)
    tables.write_draws("plots/finetune/draws.csv", metrics["draws"])


if __name__ == "__main__":
    main()
