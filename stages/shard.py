"""Images into shards with a manifest. Killed at any moment, it continues on the next `dvc repro`."""

from __future__ import annotations

from pathlib import Path

from sslpipe.core import pipeline, scratch
from sslpipe.settings import Settings
from sslpipe.sharding.shard import shard, workplace
from sslpipe.sharding.sheet import duplicates_sheet
from sslpipe.sharding.sources import open_source
from sslpipe.tracking.record import Record
from stages.runner import stage

OUT = Path("data/shards")


def _fingerprint(settings: Settings) -> str:
    return scratch.digest(pipeline.resolved().get("shard"))


def make(settings: Settings, record: Record) -> None:
    """Write data/shards, plots/shard and metrics/shard.json."""
    with workplace(_fingerprint(settings)[:16]) as work:
        source = open_source(settings.data, settings.seed)
        manifest = shard(settings.shard, source, OUT, settings.seed, work)
    scratch.atomic_write("plots/shard/duplicates.png", duplicates_sheet(OUT, manifest))
    metrics = manifest.counts()
    scratch.write_json("metrics/shard.json", {"shard": metrics})
    record.dataset(source.name, manifest.digest, source.name)
    record.result(metrics)
    record.artifact("plots/shard")


main = stage("shard", make, fingerprint=_fingerprint)

if __name__ == "__main__":
    main()
