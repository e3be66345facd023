"""A digest of where the images come from. Always runs, so that changed images are noticed; takes milliseconds."""

from __future__ import annotations

from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core.scratch import digest, write_json
from sslpipe.scenes import layouts
from sslpipe.settings import Settings, load
from sslpipe.sharding.sources import source_digest
from sslpipe.tracking.record import Record, restore
from stages.runner import fail, key_of, stop_with_parent


def _elsewhere(settings: Settings) -> dict[str, Any]:
    """Digests of what else evaluations read, None where they read nothing else."""
    roots = {stage: settings.scenes_root(stage) for stage in ("segment", "detect")}
    return {
        "transfer": source_digest(settings.transfer.data) if settings.transfer.enabled else None,
        **{stage: layouts.digest(root) if root else None for stage, root in roots.items()},
    }


def main() -> None:
    """Write data/source.json, and data/elsewhere.json of what evaluations read.

    The record stays the same as long as the digest does.
    """
    stop_with_parent()
    try:
        settings = load(sections=("seed", "data", "transfer", "tracking"))
        source = source_digest(settings.data)
        write_json("data/source.json", source)
        write_json("data/elsewhere.json", _elsewhere(settings))
        fingerprint = digest([source["digest"], settings.data.model_dump(mode="json")])
        if restore("source", match=fingerprint):
            return
        params, own = settings.flat(), ("data",)
        with Record(
            "source", params=params, own=own, key=key_of(settings), tracking=settings.tracking,
            fingerprint=fingerprint,
        ) as record:  # fmt: skip
            record.dataset(source["source"], source["digest"], source["source"])
    except UserError as error:
        fail("source", str(error))


if __name__ == "__main__":
    main()
