"""Transfer to detection of objects in scenes."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("detect", "detect", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/detect.json and plots/detect/."""
    if skipped("detect", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.evals import detect, sheets
    from sslpipe.evals.repeats import repeated
    from sslpipe.evals.scenes import of_shards

    encoder, own = load_encoder("models/encoder.safetensors"), settings.detect
    how = settings.loader.reader
    train, test, classes = of_shards(Path("data/shards"), how, encoder.image_size, own.scenes, settings.seed)
    preprocess = dict(encoder.preprocess)
    metrics, found = repeated(
        lambda seed: detect.evaluate(encoder, preprocess, train, test, classes, own, seed),
        settings.evaluate,
        settings.seed,
    )
    evaluated("detect", metrics, own, record)
    if found:
        truth = list(zip(test.boxes, test.labels, strict=True))[: len(found)]
        sheets.boxes("plots/detect/scenes.png", test.pixels[: len(found)], [truth, found])
    record.artifact("plots/detect")


if __name__ == "__main__":
    main()
