"""Light numbers about the features: rank, spectrum, alignment, uniformity, purity."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("diagnostics")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/diagnostics.json and plots/diagnostics/."""
    if skipped("diagnostics", settings, record, splits=("train",), labels=False):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals.base import tables
    from sslpipe.evals.base.features import Features
    from sslpipe.evals.diagnostics import evaluate as diagnostics
    from sslpipe.views.recipe import Recipe

    encoder = load_encoder("models/encoder.safetensors")
    reader = open_split(Path("data/shards"), "train", settings.loader.reader)
    recipe = Recipe.from_json(Path("data/views/recipe.json").read_bytes())
    train, test = (Features.load(Path(f"data/features/{split}.safetensors")) for split in ("train", "test"))
    metrics, spectra = diagnostics.evaluate(
        encoder, dict(encoder.preprocess), reader, recipe, train, test, settings.diagnostics,
        last_blocks=settings.embed.last_blocks, batch_size=settings.embed.batch_size, seed=settings.seed,
    )  # fmt: skip
    evaluated("diagnostics", metrics, settings.diagnostics, record)
    tables.write_spectrum("plots/diagnostics/eigenspectrum.csv", spectra)
    record.artifact("plots/diagnostics")


if __name__ == "__main__":
    main()
