"""The finished encoder as two files, weights (safetensors) and what rebuilds them (JSON); never a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, ValidationError
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core.config import Config
from sslpipe.data.batch import Batch
from sslpipe.networks.build import backbone
from sslpipe.networks.protocol import Backbone
from sslpipe.shards.images import BadImage, normalise

Picture = Image.Image | np.ndarray | Tensor


class Preprocess(Config):
    """What turns images into the encoder's input; call it. `dict(preprocess)` suits `sslpipe.views.centre`.

    Attributes:
        size: side of the input, pixels.
        crop: side of the central square that is kept, as a share of the image's shorter side.
        interpolation: of the resize, antialiased: "bilinear" or "bicubic".
        mean: subtracted from each channel, in [0, 1].
        std: each channel is divided by it.
    """

    size: int = Field(ge=1)
    crop: float = Field(1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Images in, float32 [N, 3, size, size] out.

        Args:
            images: one or a list of: a PIL image, or uint8 pixels (array or tensor) [H, W], [H, W, 3],
                [3, H, W] or [1, H, W]; or uint8 of four dimensions, N such images.

        Raises:
            UserError: something else.
        """
        from sslpipe.views import centre

        return centre(_as_batch([_as_pixels(image) for image in _as_list(images)]), **dict(self))


class Header(Config):
    """What encoder.json holds."""

    format: Literal[1] = 1
    name: str
    options: dict[str, Any]
    image_size: int
    dim: int
    preprocess: Preprocess
    weights_sha256: str
    info: dict[str, Any]


def save_encoder(
    encoder: Backbone, folder: str | Path, *, preprocess: Mapping[str, Any], info: Mapping[str, Any]
) -> None:
    """Write `encoder.safetensors` and then `encoder.json`, each atomically; the JSON seals the weights.

    Args:
        encoder: what to keep.
        folder: made if it is not there.
        preprocess: the fields of `Preprocess`.
        info: where the weights come from, any JSON.

    Raises:
        UserError: the disk is full, read-only or forbidden.
    """
    from safetensors.torch import save

    weights = Path(folder, "encoder.safetensors")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    scratch.atomic_write(weights, save(state))
    header = Header(
        name=encoder.name,
        options=encoder.options,
        image_size=encoder.image_size,
        dim=encoder.dim,
        preprocess=Preprocess(**preprocess),
        weights_sha256=scratch.file_digest(weights),
        info=dict(info),
    )
    scratch.write_json(weights.with_suffix(".json"), header.model_dump(mode="json"))


def load_encoder(path: str | Path = "models/encoder.safetensors") -> Backbone:
    """The exported encoder on the CPU, in eval mode: a backbone with `.preprocess` and `.info`.

    Args:
        path: the weights; `encoder.json` lies beside them.

    Raises:
        UserError: a file is missing or damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    header = _read_header(path.with_suffix(".json"))
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro pretrain`, or `dvc pull`")
    if scratch.file_digest(path) != header.weights_sha256:
        raise UserError(
            f"{path} is damaged or not the one that {path.with_suffix('.json').name} describes: "
            "run `dvc repro pretrain`, or copy both files again"
        )
    encoder = backbone(header.name, image_size=header.image_size, **header.options)
    try:
        encoder.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path} does not fit the network that its JSON file describes: export it again ({error})"
        ) from error
    encoder.preprocess, encoder.info = header.preprocess, header.info
    return encoder.eval()


def _read_header(path: Path) -> Header:
    try:
        return Header.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run `dvc repro pretrain`, or copy it beside the weights"
        ) from None
    except ValidationError as error:
        raise UserError(
            f"{path} is damaged or from another version of sslpipe: run `dvc repro pretrain`"
        ) from error


def _as_list(images: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    return list(images)


def _as_pixels(image: Picture) -> Tensor:
    """One image as uint8 [H, W, 3]."""
    if isinstance(image, Image.Image):
        try:
            return _as_pixels(np.array(normalise(image)))
        except BadImage as error:
            raise UserError(f"preprocess cannot read this image: {error.reason}") from error
    pixels = torch.as_tensor(image)
    if pixels.dtype != torch.uint8:
        kind = str(pixels.dtype).removeprefix("torch.")
        raise UserError(f"preprocess takes PIL images or uint8 pixels from 0 to 255, not {kind}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        pixels = pixels.permute(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(
            f"preprocess takes images of 1 or 3 channels, not pixels of shape {list(image.shape)}"
        )
    return pixels.expand(-1, -1, 3)


def _as_batch(images: list[Tensor]) -> Batch:
    if not images:
        raise UserError("preprocess was given no image")
    side = max(max(image.shape[:2]) for image in images)
    canvases = torch.zeros(len(images), side, side, 3, dtype=torch.uint8)
    for canvas, image in zip(canvases, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    none = torch.full((len(images),), -1)
    size = torch.tensor([image.shape[:2] for image in images], dtype=torch.int32)
    return Batch(pixels=canvases, size=size, index=torch.arange(len(images)), label=none)
