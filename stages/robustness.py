"""What changes of an image the features ignore, and what common corruptions cost."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("robustness")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/robustness.json and plots/robustness/."""
    if skipped("robustness", settings, record, labels=False):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals.base import tables
    from sslpipe.evals.base.features import Features
    from sslpipe.evals.robustness import evaluate as robustness
    from sslpipe.views.recipe import Recipe

    encoder = load_encoder("models/encoder.safetensors")
    recipe = Recipe.from_json(Path("data/views/recipe.json").read_bytes())
    shards, how = Path("data/shards"), settings.loader.reader
    metrics = robustness.evaluate(
        encoder, dict(encoder.preprocess), Features.load(Path("data/features/train.safetensors")),
        open_split(shards, "test", how), recipe, settings.robustness,
        last_blocks=settings.embed.last_blocks, seed=settings.seed,
    )  # fmt: skip
    evaluated("robustness", metrics, settings.robustness, record)
    tables.write_robustness("plots/robustness", metrics)
    record.artifact("plots/robustness")


if __name__ == "__main__":
    main()
