"""Settings of the section `loader`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sslpipe.core.config import Config as Base


class Config(Base):
    """The section `loader` of params.yaml."""

    harmless: ClassVar[frozenset[str]] = frozenset({"reader"})  # all give the same images

    reader: Literal["auto", "resident", "streaming"] = Field(
        "auto", description="resident: all images in memory; streaming: decoded when needed; auto: by size"
    )
    shuffle_shards: int = Field(
        16,
        ge=1,
        description="shards whose images are mixed with each other; more mix better and read less in a row",
    )
