"""Transfer to detection of objects in scenes."""

from __future__ import annotations

from pathlib import Path

from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import elsewhere, evaluated, skipped, stage


@stage("detect", "detect", "loader", "evaluate")
def main(settings: Settings, record: Record) -> None:
    """Write metrics/detect.json and plots/detect/."""
    root = settings.scenes_root("detect")
    if skipped("detect", settings, record, splits=() if root else ("train", "test"), labels=not root):
        return
    from sslpipe import load_encoder
    from sslpipe.evals.base import sheets
    from sslpipe.evals.base.repeats import repeated
    from sslpipe.evals.detect import evaluate as detect
    from sslpipe.scenes import annotated

    encoder, own = load_encoder("models/encoder.safetensors"), settings.detect
    how = settings.loader.reader
    train, test, names = annotated.scenes(
        "boxes", Path("data/shards"), how, encoder.image_size, own.scenes, settings.seed
    )
    preprocess = dict(encoder.preprocess)
    metrics, found = repeated(
        lambda seed: detect.evaluate(encoder, preprocess, train, test, len(names), own, seed),
        settings.evaluate,
        settings.seed,
    )
    metrics["protocol"] |= {"class_names": names, "root": root}
    evaluated("detect", metrics, own, record, data=elsewhere("detect"))
    if found:
        truth = list(zip(test.boxes, test.labels, strict=True))[: len(found)]
        sheets.boxes("plots/detect/scenes.png", test.pixels[: len(found)], [truth, found])
    record.artifact("plots/detect")


if __name__ == "__main__":
    main()
