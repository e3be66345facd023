"""Transfer to detection of objects in scenes."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import evaluated, skipped, stage


@stage("detect", "detect", "loader")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/detect.json and plots/detect/."""
    if skipped("detect", settings, record):
        return
    from sslpipe import load_encoder
    from sslpipe.data.loader import open_split
    from sslpipe.evals import detect, sheets
    from sslpipe.evals.scenes import both

    encoder, own = load_encoder("models/encoder.safetensors"), settings.detect
    readers = [open_split(Path("data/shards"), split, settings.loader.reader) for split in ("train", "test")]
    train, test, classes = both(readers[0], readers[1], encoder.image_size, own.scenes, settings.seed)
    metrics, found = detect.evaluate(
        encoder, dict(encoder.preprocess), train, test, classes, own, settings.seed
    )
    evaluated("detect", metrics, own, record)
    if found:
        truth = list(zip(test.boxes, test.labels, strict=True))[: len(found)]
        sheets.boxes("plots/detect/scenes.png", test.pixels[: len(found)], [truth, found])
    record.artifact("plots/detect")


if __name__ == "__main__":
    main()
