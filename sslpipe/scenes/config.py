"""Where scenes come from, and how they are composed."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base


class Config(Base):
    """Where scenes come from, and how they are composed."""

    root: str | None = Field(
        None, description="folder laid out as Pascal VOC or COCO; null: scenes composed of the images"
    )

    train: int = Field(256, ge=8, description="scenes to learn from, at most")
    test: int = Field(128, ge=1, description="scenes to be tested on, at most")
    size: int = Field(2, ge=1, le=8, description="their side, in sides of what the encoder sees")
    objects: tuple[int, int] = Field((1, 3), description="objects in a scene, the fewest and the most")
    scale: tuple[float, float] = Field(
        (0.7, 1.3), description="an object's side, in sides of what the encoder sees"
    )
    overlap: float = Field(
        0.2, ge=0, le=1, description="share of an earlier object that a later one may hide"
    )
