"""Settings of measurements that several evaluations share; nothing here imports torch."""

from __future__ import annotations

import itertools
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from sslpipe.core.config import Config

SHARE, _EACH = re.compile(r"(\d+(?:\.\d+)?) ?%"), re.compile(r"(\d+) per class")


def readable(words: str) -> str:
    """The words, where they say how many labels; else a ValueError."""
    share, each = SHARE.fullmatch(words), _EACH.fullmatch(words)
    if (share and 0 < float(share[1]) <= 100) or (each and int(each[1]) > 0):
        return words
    raise ValueError('should be a number of labels, a share such as "10%", or "5 per class"')


#: How many labels: a number in all, a share of what there is, or a number for each class.
Labels = Annotated[int, Field(ge=1)] | Annotated[str, AfterValidator(readable)]


class ProbeConfig(Config):
    """How a linear probe is trained."""

    epochs: int = Field(90, ge=1, description="passes over the features")
    min_steps: int = Field(
        300, ge=1, description="few labels make few steps an epoch: train at least so many"
    )
    batch_size: int = Field(256, ge=1, description="features a step")
    lrs: tuple[float, ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        min_length=1,
        description="learning rates to choose from",
    )
    weight_decays: tuple[float, ...] = Field(
        (0.0,), min_length=1, description="each is tried with each learning rate; on weights, not on biases"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    folds: int = Field(5, ge=2, description="of the cross-validation that chooses the learning rate")

    def heads(self) -> list[tuple[float, float]]:
        """All pairs of a learning rate and a weight decay."""
        return list(itertools.product(self.lrs, self.weight_decays))
