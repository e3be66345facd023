"""Transfer to another labelled set than the one pretrained on: k-NN and linear probe on its features."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Enabled, Evaluation, Score
from sslpipe.sharding import sources


class Config(Base):
    """Settings of the section `transfer`: as those of `data`, of another set."""

    enabled: Enabled = False
    source: str | None = Field(None, description="as data.source, such as torchvision:CIFAR10 or folder")
    root: str | None = Field(None, description="as data.root")
    test_root: str | None = Field(None, description="as data.test_root")
    schemes: tuple[str, ...] = Field((), description="as data.schemes")
    test_fraction: float = Field(0.2, description="as data.test_fraction")

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if self.enabled and self.source is None:
            raise ValueError("enabled, but source is null: set source (and root) to the set to transfer to")
        if self.source is not None:
            _ = self.data  # refuses what does not fit together
        return self

    @property
    def data(self) -> sources.Config:
        """The same as a section `data`."""
        return sources.Config.model_validate(self.model_dump(exclude={"enabled"}))


def _elsewhere(config: Config) -> dict[str, Any] | None:
    return sources.source_digest(config.data) if config.source else None


EVALUATION = Evaluation(
    title="Another set",
    about="A linear probe and k-NN on a labelled set that the encoder was not trained on.",
    order=110,
    headline=("linear_top1", "random_init_linear_top1", "knn_top1", "random_init_knn_top1"),
    scores=(
        Score(key="linear_top1", title="Another set, linear probe, %"),
        Score(key="knn_top1", title="Another set, k-NN, %"),
    ),
    elsewhere=_elsewhere,
)
