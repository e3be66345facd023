"""Transfer to segmentation of scenes, by frozen patch features."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import elsewhere, evaluated, skipped, stage


@stage("segment", "segment", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/segment.json and plots/segment/."""
    root = settings.scenes_root("segment")
    if skipped("segment", settings, record, splits=() if root else ("train", "test"), labels=not root):
        return
    from sslpipe import load_encoder
    from sslpipe.evals.base import sheets
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.evals.segment import evaluate as segment
    from sslpipe.scenes import annotated

    encoder, own = load_encoder("models/encoder.safetensors"), settings.segment
    how = settings.loader.reader
    train, test, names = annotated.scenes(
        "masks", Path("data/shards"), how, encoder.image_size, own.scenes, settings.seed
    )
    preprocess = dict(encoder.preprocess)
    metrics, masks = repeated(
        lambda seed: segment.evaluate(encoder, preprocess, train, test, len(names), own, seed),
        settings.evaluate,
        settings.seed,
    )
    metrics["protocol"] |= {"class_names": names, "root": root}
    evaluated("segment", metrics, own, record, data=elsewhere("segment"))
    shown = slice(own.shown)
    sheets.masks("plots/segment/scenes.png", test.pixels[shown], test.masks[shown], masks[shown])
    record.artifact("plots/segment")


if __name__ == "__main__":
    main()
