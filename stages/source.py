"""A digest of where the images come from. Always runs, so that changed images are noticed; takes milliseconds."""

from __future__ import annotations

from sslpipe.data.sources import source_digest
from sslpipe.errors import UserError
from sslpipe.scratch import digest, write_json
from sslpipe.settings import load
from sslpipe.tracking.record import Record, restore
from stages.runner import fail, key_of, stop_with_parent


def main() -> None:
    """Write data/source.json, and data/elsewhere.json of what evaluations read.

    The record stays the same as long as the digest does.
    """
    stop_with_parent()
    try:
        settings = load(sections=("seed", "data", "transfer", "tracking"))
        source = source_digest(settings.data)
        write_json("data/source.json", source)
        other = source_digest(settings.transfer.data) if settings.transfer.enabled else None
        write_json("data/elsewhere.json", {"transfer": other})
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
