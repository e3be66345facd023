"""k-NN classification on frozen features: Wu et al. 2018, Sec. 3.4, see `sslpipe.measures.knn`."""

from __future__ import annotations

import itertools
from typing import Annotated

from pydantic import Field

from sslpipe.core.config import Config as Base

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]


class Config(Base):
    """Settings of the section `knn`."""

    enabled: bool = True
    k: _Count | tuple[_Count, ...] = Field(
        20, description="neighbours that vote; of several, the best on a part of train"
    )
    temperature: _Positive | tuple[_Positive, ...] = Field(
        0.07, description="T of a vote's weight exp(similarity / T); of several, likewise"
    )
    queries: int = Field(8, ge=0, description="test images whose nearest neighbours the report shows")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    def grid(self) -> list[tuple[int, float]]:
        """All pairs of a k and a T, the smaller k first."""
        ks = self.k if isinstance(self.k, tuple) else (self.k,)
        temperatures = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
        return list(itertools.product(sorted(ks), temperatures))
