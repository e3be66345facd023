"""The scale at which a paper found its settings, and how they change with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET = 1_281_167  # training images of ILSVRC 2012


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a training run, and what a paper sets for it."""

    batch: int  # images an optimiser step, over all devices
    epochs: float  # of the whole run; the shape of its schedules is stretched over these
    images: int = IMAGENET  # of the training split
    #: What the paper has otherwise than the defaults of the method's `Config` at this scale.
    settings: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("resnet", "cnn", "vit")  # of backbone, for papers whose settings depend on it
    source: str = ""  # where these are said
    shorter: str = ""  # what the paper says of shorter runs

    @property
    def seen(self) -> float:
        """Images seen in the whole run, one as often as it has epochs."""
        return self.epochs * self.images

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, without the images that fill no batch."""
        return int(self.epochs * (self.images // self.batch))


#: From a paper's value, its scale and the scale at hand to the value there, and why in a few words.
Rule = Callable[[Any, Scale, Scale], tuple[Any, str]]


def momentum(m: float, paper: Scale, here: Scale) -> tuple[float, str]:
    """m of a momentum network, θ_k ← m θ_k + (1 − m) θ_q once a step: its half-life is the same fraction of the run.

    m' = m^(S/S'), S the steps of a run. With the batch alone this is m^(B'/B), the half-life in images seen (Busbridge
    et al., "How to Scale Your EMA", NeurIPS 2023, arXiv:2307.13813), which holds for one length of training: in a
    shorter run the network has to follow faster.
    """
    ratio = paper.seen / paper.batch / (here.seen / here.batch)
    return power(m, ratio), f"{m:g} over {paper.steps} steps: the same share of the run, m^(S/S')"


def power(m: float, exponent: float) -> float:
    """m to a power, two digits of what is missing to 1; m itself where the power is 1."""
    return m if exponent == 1 else round(1 - float(f"{1 - m**exponent:.2g}"), 12)


def queue(length: int, paper: Scale, here: Scale) -> tuple[int, str]:
    """Vectors in a queue: whole batches, and at most a quarter of the images, or an image meets its own old keys."""
    most = min(length, here.images // 4)
    value = max(most // here.batch, min(length, 1)) * here.batch
    return value, f"{length}, cut to whole batches of a quarter of the images"


def first_epochs(iterations: int, paper: Scale, here: Scale) -> tuple[int, str]:
    """Iterations that stand for as many epochs as they do in the paper."""
    epochs = iterations / math.ceil(paper.images / paper.batch)
    value = round(epochs * math.ceil(here.images / here.batch))
    return value, f"{iterations} at batch {paper.batch}, {epochs:.2g} epoch"


def share_of_epochs(epoch: int, paper: Scale, here: Scale) -> tuple[int, str]:
    """An epoch from which on something happens, at the same share of a shorter run."""
    value = epoch if here.epochs >= paper.epochs else round(epoch * here.epochs / paper.epochs)
    return value, f"{epoch} of {paper.epochs:g} epochs"


def root_of_images(count: int, paper: Scale, here: Scale) -> tuple[int, str]:
    """Clusters or words: fewer for fewer images, as their square root.

    For CIFAR's 50 000 images it makes 593 of SwAV's 3000 prototypes, where lightly's benchmark has 512.
    """
    value = max(2, round(count * math.sqrt(min(1.0, here.images / paper.images))))
    return value, f"{count}, by the square root of the images"
