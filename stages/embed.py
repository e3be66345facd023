"""Features of every image: the encoder's, random weights', raw pixels; pictures of what patches hold."""

from __future__ import annotations

from pathlib import Path

from sslpipe.data.loader import open_split
from sslpipe.evals.base import patches
from sslpipe.evals.base.embed import embed
from sslpipe.evals.base.inputs import Inputs
from sslpipe.settings import Settings
from sslpipe.shards import manifest as manifests
from sslpipe.tracking.record import Record
from stages.runner import stage


def make(settings: Settings, record: Record) -> None:
    """Write data/features/{train,test}.safetensors and plots/embed/."""
    manifest = manifests.read(Path("data/shards"))
    record.dataset(manifest.source.name, manifest.digest, manifest.source.name)
    inputs = Inputs(section=lambda name: getattr(settings, name))
    readers = {}
    for split in ("train", "test"):
        reader = open_split(Path("data/shards"), split, settings.loader.reader)
        features = embed(inputs.encoder, reader, inputs.embedding, settings.seed)
        features.save(Path(f"data/features/{split}.safetensors"))
        record.metric(f"{split}_images", len(features.index))
        readers[split] = reader
    shown = readers["test"] if len(readers["test"]) else readers["train"]
    patches.show(Path("plots/embed"), inputs.encoder, shown, settings.embed.shown, settings.seed)
    record.artifact("plots/embed")


main = stage("embed", make)

if __name__ == "__main__":
    main()
