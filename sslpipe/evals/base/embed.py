"""Features of every image of a split: of the encoder, of the same network with random weights, and raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sslpipe import networks
from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.core.device import on_host, take
from sslpipe.data.loader import Loader, Reader
from sslpipe.evals.base.config import EmbedConfig as Config
from sslpipe.evals.base.features import Features
from sslpipe.networks.protocol import Backbone
from sslpipe.views.preprocess import Preprocess

_BATCH = 256  # images that `central` embeds at a time
RAW_PIXEL_SIDE = 32  # raw pixels are compared at most at this size


def random_twin(encoder: Backbone, seed: int) -> Backbone:
    """The same architecture with random weights, on the same device, in eval mode."""
    torch.manual_seed(seed)
    twin = networks.backbone(encoder.name, image_size=encoder.image_size, **encoder.options)
    twin.preprocess = encoder.preprocess
    return twin.to(next(encoder.parameters()).device).eval()


def beside_random(encoder: Backbone, device: torch.device, seed: int) -> dict[str, Backbone]:
    """The encoder and its random twin, on a device and in eval mode, by the prefix of their numbers."""
    encoder = encoder.to(device).eval()
    return {"": encoder, "random_init_": random_twin(encoder, seed)}


def fitting(settings: Config, encoder: Backbone, paper: str = "encoder") -> Config:
    """The settings for an encoder: where `pool` is "paper", that of the method, which `paper` says.

    Raises:
        UserError: a class token is asked of an encoder without.
    """
    pool = paper if settings.pool == "paper" and encoder.kind == "vit" else settings.pool
    if pool == "cls" and not encoder.class_token:
        raise UserError(f"embed.pool: {encoder.name} has no class token; set it to encoder")
    return settings.model_copy(update={"pool": pool})


def vectors(network: Backbone, pixels: Tensor, settings: Config) -> Tensor:
    """What stands for images [N, 3, S, S] in evaluations of features: float32 [N, D]."""
    return network.last_blocks(pixels, settings.last_blocks, settings.pool).float()


@torch.inference_mode()
def central(network: Backbone, reader: Reader, features: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of the central view of each image of a split, by a network in eval mode: float32 [N, D], on the CPU.

    They are what `features` gives of pixels [N, 3, S, S] on the network's device.
    """
    device = next(network.parameters()).device
    loader = Loader(reader, batch_size=_BATCH, seed=0, shuffle=False, drop_last=False)
    views = (network.preprocess.view(batch.to(device)) for batch in loader.epoch(0))
    return torch.cat(list(on_host(features(pixels).float() for pixels in views)))


@torch.inference_mode()
def embed(encoder: Backbone, reader: Reader, settings: Config, seed: int) -> Features:
    """Features of a whole split, each image once and in order; `seed` is of the random weights.

    The settings are such as `fitting` gives.
    """
    device = take(settings.device)
    nets = beside_random(encoder, device, seed).values()
    loader = Loader(reader, batch_size=settings.batch_size, seed=0, shuffle=False, drop_last=False)
    told: list[tuple[Tensor, Tensor]] = []

    def kinds() -> Iterator[Tensor]:
        """Of each batch: the features of each network, then raw pixels."""
        for batch in loader.epoch(0):
            pixels = encoder.preprocess.view(batch.to(device))  # [N, 3, S, S]
            for net in nets:
                yield vectors(net, pixels, settings)
            yield _raw_pixels(pixels, encoder.preprocess)
            told.append((batch.label, batch.index))
            bar.update(len(batch))

    with progress("embed", len(reader), "images") as bar:
        found, width = list(on_host(kinds())), len(nets) + 1
    columns: list[Sequence[Tensor]] = [
        *(found[kind::width] for kind in range(width)),
        *zip(*told, strict=True),
    ]
    return Features(*(torch.cat(list(column)) for column in columns)).with_grey_once()


def _raw_pixels(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Pixel values in [0, 1] as one row an image."""
    values = preprocess.plain(pixels)
    if values.shape[-1] > RAW_PIXEL_SIDE:
        values = nn.functional.interpolate(values, (RAW_PIXEL_SIDE,) * 2, mode="bilinear", antialias=True)
    return values.flatten(1)
