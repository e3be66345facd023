"""Transfer to segmentation of scenes, by frozen patch features."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("segment", "segment", "loader")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/segment.json and plots/segment/."""
    if skipped("segment", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals import segment, sheets
    from sslpipe.evals.scenes import both

    encoder, own = load_encoder("models/encoder.safetensors"), settings.segment
    readers = [open_split(Path("data/shards"), split, settings.loader.reader) for split in ("train", "test")]
    train, test, classes = both(readers[0], readers[1], encoder.image_size, own.scenes, settings.seed)
    metrics, masks = segment.evaluate(
        encoder, dict(encoder.preprocess), train, test, classes, own, settings.seed
    )
    evaluated("segment", metrics, own, record)
    shown = slice(own.shown)
    sheets.masks("plots/segment/scenes.png", test.pixels[shown], test.masks[shown], masks[shown])
    record.artifact("plots/segment")


if __name__ == "__main__":
    main()
