"""What every source is told, the section `data` of params.yaml, and what a source says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from sslpipe.core import config
from sslpipe.sharding.remote import SCHEMES


class Settings(config.Config):
    """The settings that sources read. `sources.Config` adds the check that they fit the source."""

    source: str = "mnist5k"
    root: str | None = Field(
        None,
        description="folder of {train,test}/class/*, class/* or plain images; shards: a folder of tars, or a pattern "
        "such as s3://bucket/train-{0000..0127}.tar; for torchvision, where its sets are kept",
    )
    test_root: str | None = Field(
        None, description="shards: the tars to test on, as root; null: drawn from root"
    )
    schemes: tuple[str, ...] = Field(
        (), description=f"shards: kinds of addresses to trust besides {', '.join(SCHEMES)}"
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="part kept for testing where the data has no test split of its own"
    )


#: The settings that some sources read and others do not.
OPTIONAL = ("root", "test_root", "schemes")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a source says of itself, as `SOURCE` in its file."""

    about: str  # what its images are, in a few words
    needs: tuple[str, ...] = ()  # those of `OPTIONAL` that must be set
    reads: tuple[str, ...] = ()  # those of `OPTIONAL` that may be set; the rest must not be
    #: The sets to choose from by `data.source: <source>:<name>`; none: it is one set.
    names: tuple[str, ...] = ()

    def takes(self, setting: str) -> bool:
        """Whether a setting of `OPTIONAL` may be set."""
        return setting in self.needs or setting in self.reads
