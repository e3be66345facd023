"""Mixup, CutMix and random erasing of labelled batches, by timm, drawn from random states of their own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sslpipe.evals.finetune import MixingConfig as Config

_States = tuple[Any, Any, Tensor]  # of NumPy's, Python's and torch's random numbers


class Mixing:
    """Batches mixed and erased; labels are smoothed as in training without mixing, `seed` is of all that is drawn."""

    def __init__(self, settings: Config, classes: int, smoothing: float, seed: int) -> None:
        from timm.data.mixup import Mixup  # here, because importing timm takes seconds
        from timm.data.random_erasing import RandomErasing

        self.classes, self.smoothing = classes, smoothing
        self.mix = self.erase = None
        if settings.mixup or settings.cutmix:
            self.mix = Mixup(
                settings.mixup, settings.cutmix, prob=settings.probability, label_smoothing=smoothing,
                num_classes=classes,
            )  # fmt: skip
        if settings.erasing:
            self.erase = RandomErasing(settings.erasing, mode="pixel", max_count=1, device="cpu")
        # timm draws from the process's own states; other threads draw from generators of theirs.
        self._states: _States = (
            np.random.RandomState(seed % 2**32).get_state(),
            random.Random(seed).getstate(),
            torch.Generator().manual_seed(seed).get_state(),
        )

    def __call__(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, 3, S, S] and targets float [N, C] of images and classes int64 [N]; images may change in place.

        A batch of an odd number of images is erased, and not mixed: timm mixes pairs.
        """
        with self._own_states():
            if self.erase is not None:
                self.erase.device = pixels.device
                pixels = self.erase(pixels)
            if self.mix is not None and len(pixels) % 2 == 0:
                mixed: tuple[Tensor, Tensor] = self.mix(pixels, labels)
                return mixed
        hard = one_hot(labels, self.classes).float()
        return pixels, hard * (1 - self.smoothing) + self.smoothing / self.classes

    @contextlib.contextmanager
    def _own_states(self) -> Iterator[None]:
        before = _swap(self._states)
        try:
            yield
        finally:
            self._states = _swap(before)


def _swap(states: _States) -> _States:
    """Set the process's states of random numbers, and give those that it had."""
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()
    np.random.set_state(states[0])
    random.setstate(states[1])
    torch.set_rng_state(states[2])
    return before
