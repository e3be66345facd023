"""Settings of params.yaml's `views` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sslpipe.core.config import Config as Base


class Config(Base):
    """How views are made; what they are is the method's recipe, the data set's, and `recipe` on top."""

    size: int = Field(
        28, ge=8, le=1024, description="side of the encoder's input and of its large views, pixels"
    )
    renderer: Literal["auto", "reference", "cpu", "triton"] = Field(
        "auto", description="what makes the views; auto: the fastest there is for the device"
    )
    recipe: dict[str, Any] = Field(
        {}, description="single values of the recipe to change, such as {hflip: 0.5}"
    )
    centre_crop: float = Field(1.0, gt=0, le=1, description="share of the shorter side that evaluation sees")
    sheet_images: int = Field(10, ge=1, le=64, description="images on the contact sheet")
