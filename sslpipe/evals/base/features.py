"""The features of a split, as a file that every evaluation on frozen features reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.core import scratch

#: The prefix of a metric's name, and the features it is measured on.
KINDS = (("", "features"), ("random_init_", "random_init_features"), ("raw_pixel_", "raw_pixel_features"))


@dataclass(frozen=True)
class Features:
    """Features of one split.

    Attributes:
        features: float32 [N, D], the encoder's.
        random_init_features: float32 [N, D], of the same network with random weights.
        raw_pixel_features: float32 [N, P], pixel values at most 32 a side.
        label: int64 [N], −1 where there is none.
        index: int64 [N], in the split.
    """

    features: Tensor
    random_init_features: Tensor
    raw_pixel_features: Tensor
    label: Tensor
    index: Tensor

    def with_grey_once(self) -> Features:
        """Raw pixels of one channel where all images are grey: three equal ones would only weigh more."""
        channels = self.raw_pixel_features.unflatten(1, (3, -1))  # [N, 3, S·S]
        # Equal up to rounding of the normalisation that was undone; a level is 1/255.
        grey = bool(((channels - channels[:, :1]).abs() < 1e-3).all())
        return replace(self, raw_pixel_features=channels[:, 0].contiguous()) if grey else self

    def labelled(self) -> Features:
        """The rows that have a label."""
        here = self.label >= 0
        return self if here.all() else self.at(here)

    def at(self, rows: Tensor) -> Features:
        """Some rows: their numbers int64 [n], or a mask bool [N]."""
        return Features(**{name: tensor[rows] for name, tensor in vars(self).items()})

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        scratch.atomic_write(path, save({name: tensor.contiguous() for name, tensor in vars(self).items()}))

    @classmethod
    def load(cls, path: Path) -> Features:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return cls(**load_file(path))
        except (FileNotFoundError, SafetensorError, TypeError) as error:
            raise UserError(f"{path} is missing or damaged ({error}): run `dvc repro embed`") from error
