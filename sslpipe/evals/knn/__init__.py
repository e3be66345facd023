"""k-NN classification on frozen features: Wu et al. 2018, Sec. 3.4, see `sslpipe.measures.knn`."""

from __future__ import annotations

import itertools
import sys
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.evals.base.declaration import Device, Enabled, Evaluation

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]


class Config(Base):
    """Settings of the section `knn`."""

    enabled: Enabled = True
    k: _Count | tuple[_Count, ...] = Field(
        20, description="neighbours that vote; of several, the best on a part of train"
    )
    temperature: _Positive | tuple[_Positive, ...] = Field(
        0.07, description="T of a vote's weight exp(similarity / T); of several, likewise"
    )
    queries: int = Field(8, ge=0, description="test images whose nearest neighbours the report shows")
    device: Device = "auto"

    def grid(self) -> list[tuple[int, float]]:
        """All pairs of a k and a T, the smaller k first."""
        ks = self.k if isinstance(self.k, tuple) else (self.k,)
        temperatures = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
        return list(itertools.product(sorted(ks), temperatures))


EVALUATION = Evaluation(
    title="k-NN",
    about="The nearest training images vote for a test image's class, by frozen features.",
    order=10,
    subject="k-NN",
    rank=1,
    repeats=False,
    headline=("top1", "random_init_top1", "raw_pixel_top1"),
)


class _Knn(ModuleType):
    """This module, which may also be called: `sslpipe.evals.knn(…)` is k-NN accuracy, as in `sslpipe.measures.knn`."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, float]:
        from sslpipe.measures.knn import knn  # here: declarations import no torch

        return knn(*arguments, **options)


sys.modules[__name__].__class__ = _Knn
