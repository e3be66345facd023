"""Retrieval by features: does a test image find training images of its class, and how far up the list?"""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base


class Config(Base):
    """Settings of the section `retrieval`."""

    enabled: bool = True
    ks: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="for recall among the k nearest")
    queries: int = Field(
        5000, ge=1, description="test images that ask, at most, evenly spread: each ranks all of train"
    )
    shown: int = Field(6, ge=0, description="queries with the worst rankings that the report shows")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
