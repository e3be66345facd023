"""Images into tar shards with a manifest."""

from __future__ import annotations

from pathlib import Path

from sslpipe.data.shard import shard
from sslpipe.data.sources import open_source
from sslpipe.scratch import write_json
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import stage


@stage("shard", "data", "shard")
def main(settings: Settings, record: Record) -> None:
    """Write data/shards and metrics/shard.json."""
    source = open_source(settings.data, settings.seed)
    manifest = shard(settings.shard, source, Path("data/shards"), settings.seed)
    counts = {name: split.count for name, split in manifest.splits}
    metrics = {**counts, "rejects": manifest.rejects.count, "classes": len(manifest.classes or ())}
    write_json("metrics/shard.json", metrics)
    record.dataset(source.name, manifest.digest, source.name)
    record.metrics({name: float(value) for name, value in metrics.items()})


if __name__ == "__main__":
    main()
