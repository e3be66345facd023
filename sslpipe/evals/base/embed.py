"""Features of every image of a split: of the encoder, of the same network with random weights, and raw pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe import networks
from sslpipe.console.progress import progress
from sslpipe.core.device import resolve
from sslpipe.data.loader import Loader, Reader
from sslpipe.evals.base.config import Config
from sslpipe.evals.base.features import Features
from sslpipe.networks.protocol import Backbone
from sslpipe.views import centre

_BATCH = 256  # images that `central` embeds at a time
RAW_PIXEL_SIDE = 32  # raw pixels are compared at most at this size


def random_twin(encoder: Backbone, seed: int) -> Backbone:
    """The same architecture with random weights, on the same device, in eval mode."""
    torch.manual_seed(seed)
    twin = networks.backbone(encoder.name, image_size=encoder.image_size, **encoder.options)
    return twin.to(next(encoder.parameters()).device).eval()


@torch.inference_mode()
def central(network: Backbone, reader: Reader, preprocess: Mapping[str, Any], last_blocks: int = 1) -> Tensor:
    """Features of the central view of each image of a split, by a network in eval mode: float32 [N, D], on the CPU."""
    device = next(network.parameters()).device
    loader = Loader(reader, batch_size=_BATCH, seed=0, shuffle=False, drop_last=False)
    return torch.cat(
        [
            network.last_blocks(centre(batch.to(device), **preprocess), last_blocks).float().cpu()
            for batch in loader.epoch(0)
        ]
    )


@torch.inference_mode()
def embed(
    encoder: Backbone, reader: Reader, preprocess: Mapping[str, Any], settings: Config, seed: int
) -> Features:
    """Features of a whole split, each image once and in order.

    Args:
        encoder: in eval mode.
        reader: the split.
        preprocess: of the encoder: size, crop, interpolation, mean, std.
        settings: batch size and device.
        seed: of the random weights it is compared with.
    """
    device = resolve(settings.device)
    encoder = encoder.to(device).eval()
    nets, blocks = [encoder, random_twin(encoder, seed)], settings.last_blocks
    loader = Loader(reader, batch_size=settings.batch_size, seed=0, shuffle=False, drop_last=False)
    rows: list[tuple[Tensor, ...]] = []
    with progress("embed", len(reader), "images") as bar:
        for batch in loader.epoch(0):
            pixels = centre(batch.to(device), **preprocess)  # [N, 3, S, S]
            features = [net.last_blocks(pixels, blocks).float().cpu() for net in nets]
            rows.append((*features, _raw_pixels(pixels, preprocess), batch.label, batch.index))
            bar.update(len(batch))
    return Features(*(torch.cat(column) for column in zip(*rows, strict=True))).with_grey_once()


def _raw_pixels(pixels: Tensor, preprocess: Mapping[str, Any]) -> Tensor:
    """Pixel values in [0, 1] as one row an image."""
    mean, std = (
        torch.tensor(preprocess[name], device=pixels.device).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    values = pixels * std + mean
    if values.shape[-1] > RAW_PIXEL_SIDE:
        values = nn.functional.interpolate(values, (RAW_PIXEL_SIDE,) * 2, mode="bilinear", antialias=True)
    return values.flatten(1).cpu()
