"""Retrieval by features: does a test image find training images of its class, and how far up the list?"""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Evaluation, Score


class Config(Base):
    """Settings of the section `retrieval`."""

    enabled: Enabled = True
    ks: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="for recall among the k nearest")
    queries: int = Field(
        5000, ge=1, description="test images that ask, at most, evenly spread: each ranks all of train"
    )
    shown: int = Field(6, ge=0, description="queries with the worst rankings that the report shows")
    device: Device = "auto"


EVALUATION = Evaluation(
    title="Retrieval",
    about="How far up the list of similar training images those of a test image's class are.",
    order=60,
    repeats=False,
    headline=("top1", "random_init_top1", "map", "random_init_map"),
    scores=(Score(key="map", title="Retrieval, mean average precision, %"),),
)
