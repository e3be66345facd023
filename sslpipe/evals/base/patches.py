"""Pictures of what an encoder makes of the parts of images: principal components of patches, and attention."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sslpipe.core.scratch import atomic_write, write_json
from sslpipe.data.loader import Reader
from sslpipe.evals.base import sheets
from sslpipe.evals.base.embed import random_twin
from sslpipe.networks.attention import last_attention
from sslpipe.networks.protocol import Backbone

HEADS = 6  # of attention that are shown, at most


@torch.inference_mode()
def show(folder: Path, encoder: Backbone, reader: Reader, count: int, seed: int) -> None:
    """Write strips of pictures, a column an image, and `strips.json`, which says what each strip shows.

    At most `count` images are taken evenly from a split. The encoder is in eval mode; `seed` is of the random weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    strips: list[tuple[str, Tensor]] = []
    if min(count, len(reader)):
        indices = torch.linspace(0, len(reader) - 1, min(count, len(reader))).long().unique()
        device = next(encoder.parameters()).device
        pixels = encoder.preprocess.view(reader.gather(indices).to(device))  # [N, 3, S, S]
        strips = _strips(encoder, random_twin(encoder, seed), pixels)
    for number, (_, images) in enumerate(strips):
        atomic_write(folder / f"{number}.png", sheets.strip(images))
    told = [{"file": f"{number}.png", "title": title} for number, (title, _) in enumerate(strips)]
    write_json(folder / "strips.json", told)


def _strips(encoder: Backbone, twin: Backbone, pixels: Tensor) -> list[tuple[str, Tensor]]:
    shown = encoder.preprocess.plain(pixels.cpu()).clamp(0, 1).permute(0, 2, 3, 1)  # [N, S, S, 3]
    own, random = (_bytes(components(network.maps(pixels).float().cpu())) for network in (encoder, twin))
    strips = [
        ("The images", _bytes(shown)),
        ("Principal components of the patches", own),
        ("The same of random weights", random),
    ]
    attention = last_attention(encoder, pixels)
    if attention is not None:
        attention = attention.cpu()  # [N, H, h, w]
        strips.append(("Attention of the last block, the mean of its heads", _heat(attention.mean(1))))
        for head in range(min(attention.shape[1], HEADS)):
            strips.append((f"Head {head + 1}", _heat(attention[:, head])))
    return strips


def components(maps: Tensor) -> Tensor:
    """The first three principal components of all patches of these images as red, green and blue.

    Patches alike in all images have like colours (Oquab et al. 2023, DINOv2, Fig. 1, here with the background). Each
    component is spread from its 2nd to its 98th percentile; its sign is fixed so that its largest loading is positive.
    [N, D, h, w] → float [N, h, w, 3] in [0, 1]; .5 where there is no such component.
    """
    n, d, h, w = maps.shape
    x = maps.permute(0, 2, 3, 1).reshape(-1, d)
    x = x - x.mean(0)
    loadings = torch.linalg.svd(x, full_matrices=False).Vh[:3]  # [≤ 3, D]
    largest = loadings.gather(1, loadings.abs().argmax(1, keepdim=True))
    scores = x @ (loadings * largest.sign()).T  # [N·h·w, ≤ 3]
    scale = x.abs().max().clamp_min(1e-12)
    low, high = torch.quantile(scores, torch.tensor([0.02, 0.98]), dim=0)
    spread = (scores - low) / (high - low).clamp_min(1e-6 * scale)
    colours = torch.full((len(x), 3), 0.5)
    colours[:, : spread.shape[1]] = torch.where(high - low > 1e-5 * scale, spread.clamp(0, 1), 0.5)
    return colours.view(n, h, w, 3)


def _heat(maps: Tensor) -> Tensor:
    """Maps [N, h, w] as pictures, each image's largest value yellow, none black."""
    x = (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12))[..., None]  # [N, h, w, 1]
    return _bytes(x * torch.tensor([1.0, 0.85, 0.35]) ** (2 - x))


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8)
