"""RandAugment, erasing, mixup and CutMix of labelled batches, by timm, drawn from random states of their own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from sslpipe.console.errors import UserError
from sslpipe.evals.finetune import MixingConfig as Config
from sslpipe.views.preprocess import Preprocess

_States = tuple[Any, Any, Tensor]  # of NumPy's, Python's and torch's random numbers


class Mixing:
    """Batches distorted, erased and mixed; labels are smoothed as in training without, `seed` is of all that is drawn.

    Raises:
        UserError: timm does not understand `rand_augment`.
    """

    def __init__(
        self, settings: Config, classes: int, smoothing: float, seed: int, preprocess: Preprocess
    ) -> None:
        from timm.data.mixup import Mixup  # here, because importing timm takes seconds
        from timm.data.random_erasing import RandomErasing

        self.classes, self.smoothing, self.preprocess = classes, smoothing, preprocess
        self.distort = self.mix = self.erase = None
        if settings.rand_augment:
            self.distort = _rand_augment(settings.rand_augment, preprocess)
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
            if self.distort is not None:
                pixels = self._distorted(pixels)
            if self.erase is not None:
                self.erase.device = pixels.device
                pixels = self.erase(pixels)
            if self.mix is not None and len(pixels) % 2 == 0:
                mixed: tuple[Tensor, Tensor] = self.mix(pixels, labels)
                return mixed
        hard = one_hot(labels, self.classes).float()
        return pixels, hard * (1 - self.smoothing) + self.smoothing / self.classes

    def _distorted(self, pixels: Tensor) -> Tensor:
        """Each image by itself, in 8 bits, as timm does it in its readers of images; 1 ms or so an image."""
        assert self.distort is not None
        plain = self.preprocess.plain(pixels.float()).clamp(0, 1).mul(255).round().byte().cpu()
        found = torch.stack([pil_to_tensor(self.distort(to_pil_image(image))) for image in plain])
        return self.preprocess.normalised(found.to(pixels.device).float() / 255).to(pixels.dtype)

    @contextlib.contextmanager
    def _own_states(self) -> Iterator[None]:
        before = _swap(self._states)
        try:
            yield
        finally:
            self._states = _swap(before)


def _rand_augment(words: str, preprocess: Preprocess) -> Callable[[Image.Image], Image.Image]:
    """timm's transform with what timm gives it in training: moves of at most .45 of the side, gaps of the mean."""
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.transforms import str_to_pil_interp

    hints = {
        "translate_const": int(preprocess.size * 0.45),
        "img_mean": tuple(min(255, round(255 * mean)) for mean in preprocess.mean),
        "interpolation": str_to_pil_interp(preprocess.interpolation),
    }
    try:
        transform: Callable[[Image.Image], Image.Image] = rand_augment_transform(words, hints)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"finetune.mixing.rand_augment: timm does not understand {words!r} ({error}); an example: "
            "rand-m9-mstd0.5-inc1"
        ) from error
    return transform


def _swap(states: _States) -> _States:
    """Set the process's states of random numbers, and give those that it had."""
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()
    np.random.set_state(states[0])
    random.setstate(states[1])
    torch.set_rng_state(states[2])
    return before
