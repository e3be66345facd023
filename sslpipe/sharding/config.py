"""Settings of the section `shard`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sslpipe.core.config import Config as Base


class Config(Base):
    """The section `shard` of params.yaml."""

    harmless: ClassVar[frozenset[str]] = frozenset({"executor", "workers"})
    format: Literal["webdataset", "ffcv"] = Field(
        "webdataset", description="webdataset: tars; ffcv: .beton files, which FFCV reads too"
    )
    pixels: bool = Field(
        False, description="ffcv: keep every image as pixels: larger files, nothing to decode"
    )
    resolution: int = Field(
        28, ge=8, le=4096, description="canvas side in pixels; images are scaled down to it"
    )
    shard_size: int = Field(5000, ge=1, description="images in one tar")
    max_pixels: int = Field(100_000_000, ge=1, description="images of more pixels are left out")
    max_bytes: int = Field(100_000_000, ge=1, description="image files of more bytes are left out")
    executor: Literal["local", "ray"] = Field(
        "local", description="local: processes of this machine; ray: a cluster, by RAY_ADDRESS"
    )
    workers: int | None = Field(None, ge=1, description="processes; null: as many as pay")
    duplicates: bool = Field(True, description="look for images that come twice")
