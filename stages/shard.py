"""Images into shards with a manifest. Killed at any moment, it continues on the next `dvc repro`."""

from __future__ import annotations

import json
from pathlib import Path

from sslpipe.core import fingerprint, scratch
from sslpipe.settings import Settings
from sslpipe.sharding.shard import shard, workplace
from sslpipe.sharding.sheet import duplicates_sheet
from sslpipe.sharding.sources import open_source
from sslpipe.tracking.record import Record
from stages.runner import stage

OUT = Path("data/shards")


def _fingerprint(settings: Settings) -> str:
    source = json.loads(Path("data/source.json").read_text())
    code = fingerprint.code("shard", settings.flat())
    return scratch.digest([source, settings.data.model_dump(), settings.shard.content(), settings.seed, code])


@stage("shard", "data", "shard", fingerprint=_fingerprint)
def main(settings: Settings, record: Record) -> None:
    """Write data/shards, plots/shard and metrics/shard.json."""
    with workplace(_fingerprint(settings)[:16]) as work:
        source = open_source(settings.data, settings.seed)
        manifest = shard(settings.shard, source, OUT, settings.seed, work)
    scratch.atomic_write("plots/shard/duplicates.png", duplicates_sheet(OUT, manifest))
    metrics = manifest.counts()
    scratch.write_json("metrics/shard.json", metrics)
    record.dataset(source.name, manifest.digest, source.name)
    record.metrics({name: float(value) for name, value in metrics.items()})
    record.artifact("plots/shard")


if __name__ == "__main__":
    main()
