"""Transfer to segmentation of scenes, by frozen patch features."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("segment", "segment", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/segment.json and plots/segment/."""
    if skipped("segment", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.evals import segment, sheets
    from sslpipe.evals.repeats import repeated
    from sslpipe.evals.scenes import of_shards

    encoder, own = load_encoder("models/encoder.safetensors"), settings.segment
    how = settings.loader.reader
    train, test, classes = of_shards(Path("data/shards"), how, encoder.image_size, own.scenes, settings.seed)
    preprocess = dict(encoder.preprocess)
    metrics, masks = repeated(
        lambda seed: segment.evaluate(encoder, preprocess, train, test, classes, own, seed),
        settings.evaluate,
        settings.seed,
    )
    evaluated("segment", metrics, own, record)
    shown = slice(own.shown)
    sheets.masks("plots/segment/scenes.png", test.pixels[shown], test.masks[shown], masks[shown])
    record.artifact("plots/segment")


if __name__ == "__main__":
    main()
