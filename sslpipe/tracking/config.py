"""Settings of the section `tracking`."""

from __future__ import annotations

from pydantic import Field

from sslpipe.core.config import Config as Base


class Config(Base):
    """Settings of the section `tracking`."""

    enabled: bool = Field(True, description="tell MLflow of runs; the files in runs/ are written in any case")
    experiment: str = Field("sslpipe", description="the name of the experiment in MLflow")
    uri: str | None = Field(
        None, description="MLflow's store or server; null: MLFLOW_TRACKING_URI, else mlflow.db in the project"
    )
