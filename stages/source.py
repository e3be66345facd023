"""Where the images come from, and what every stage's settings and code are. Always runs, and takes a moment."""

from __future__ import annotations

from sslpipe.core.pipeline import RESOLVED
from sslpipe.core.scratch import digest, write_json
from sslpipe.resolve import resolve_all
from sslpipe.settings import load
from sslpipe.tracking.record import restore
from stages.runner import record_of, supervised


def main() -> None:
    """Write data/source.json and data/resolved/NAME.json of each stage; the record stays as long as the images do."""
    with supervised("source"):
        settings = load(sections=("seed", "data", "pretrain", "tracking"))
        resolved = resolve_all(settings)
        source = resolved["shard"]["elsewhere"]  # the images, which stage `shard` reads
        write_json("data/source.json", source)
        for name, each in resolved.items():
            write_json(RESOLVED / f"{name}.json", each)
        fingerprint = digest([source["digest"], settings.data.model_dump(mode="json")])
        if not restore("source", match=fingerprint):
            with record_of("source", settings, ("data",), fingerprint) as record:
                record.dataset(source["source"], source["digest"], source["source"])


if __name__ == "__main__":
    main()
