"""Settings of the report."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core import config


class Config(config.Config):
    """Section `report` of params.yaml. The upper limits keep the page under 5 MB."""

    map_points: int = Field(1000, ge=0, le=5000, description="test images on the map of features; 0: no map")
    queries: int = Field(8, ge=0, le=24, description="test images shown with their nearest neighbours")
    neighbours: int = Field(8, ge=1, le=12, description="neighbours shown for each")
