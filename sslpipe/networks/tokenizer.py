"""A tokenizer of images: a small convolutional VQ-VAE that turns an image into a grid of words and back (BEiT).

BEiT takes DALL-E's discrete VAE, trained on 250 million images. This one is trained on the data at hand, where a vector
quantiser is the steadier choice: no temperature to anneal and no KL weight to balance, which is where a Gumbel VAE with
few images loses its words. Its codes are running averages of what is assigned to them (van den Oord et al. 2017,
App. A.1; Razavi et al. 2019), compared by cosine (Yu et al. 2022; BEiT v2); a word that is hardly used is put where
images are described worst (restarts: Dhariwal et al. 2020; the draw is k-means++'s), so that all words find work and
none describes what another one does already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.core import scratch
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.config import Config
from sslpipe.core.device import Late, mixed, to_device

_ROWS = 16384  # vectors compared with all words at a time: bounds memory, does not change the result
_DEAD = 0.1  # a word is put elsewhere when it is used less than this fraction of what each word would have
_SETTLE = 0.25  # the last fraction of training, in which no word is put elsewhere

#: Gives the pixels [N, 3, s, s] of an epoch, batch by batch; the same each time it is asked.
Batches = Callable[[int], Iterable[Tensor]]


class TokenizerConfig(Config):
    """The tokenizer's settings, for ImageNet. Of these BEiT says the number of words alone."""

    words: int = Field(8192, ge=2, description="size of the vocabulary")
    dim: int = Field(32, ge=2, description="numbers of a word's code")
    width: int = Field(128, ge=4, description="channels of the convolutions")
    epochs: int = Field(10, ge=1, description="passes over the images")
    batch_size: int = Field(256, ge=1, description="images a step")
    lr: float = Field(1e-3, gt=0, description="Adam's peak learning rate")
    decay: float = Field(0.95, ge=0, lt=1, description="of the codes' running averages")
    commitment: float = Field(0.25, ge=0, description="weight of the distance of vectors to their codes")


class Tokenizer(nn.Module):
    """Images [N, 3, s, s] to words [N, P] and back; a word stands for a square of `pixels` and what is around it.

    Untrained it gives words all the same, those of random codes.
    """

    codes: Tensor

    def __init__(self, config: TokenizerConfig, pixels: int) -> None:
        super().__init__()
        self.config, self.pixels, width = config, pixels, config.width
        strides = _factors(pixels)
        down = [part for stride in strides for part in (_shrink(width, stride), Residual(width))]
        up = [part for stride in reversed(strides) for part in (Residual(width), _grow(width, stride))]
        stem = nn.Conv2d(3, width, 3, padding=1)
        self.encoder = nn.Sequential(stem, Residual(width), *down, nn.ReLU(), nn.Conv2d(width, config.dim, 1))
        stem = nn.Conv2d(config.dim, width, 3, padding=1)
        self.decoder = nn.Sequential(stem, *up, Residual(width), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
        self.register_buffer("codes", F.normalize(torch.randn(config.words, config.dim), dim=1))

    def encode(self, x: Tensor) -> Tensor:
        """[N, 3, s, s] → vectors of length 1, [N, P, d], row by row; in full precision also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.encoder(x.to(self.codes.dtype)).flatten(2).transpose(1, 2), dim=2)

    def nearest(self, z: Tensor) -> Tensor:
        """The word of each vector, that of the nearest code: [N, P, d] → int64 [N, P]."""
        with torch.autocast(z.device.type, enabled=False):
            rows = z.detach().flatten(0, 1).split(_ROWS)
            return torch.cat([(part @ self.codes.T).argmax(dim=1) for part in rows]).view(z.shape[:2])

    @torch.no_grad()
    def words(self, x: Tensor) -> Tensor:
        """[N, 3, s, s] → int64 [N, P]."""
        return self.nearest(self.encode(x))

    def draw(self, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        """Codes [N, P, d] as images, [N, 3, s, s]."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.decoder(vectors.transpose(1, 2).unflatten(2, grid))

    @torch.no_grad()
    def decode(self, words: Tensor, grid: tuple[int, int]) -> Tensor:
        """Words [N, P] of a grid as images, [N, 3, s, s]."""
        return self.draw(self.codes[words], grid)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What training needs: the images rebuilt [N, 3, s, s], the vectors [N, P, d] and their words [N, P]."""
        z = self.encode(x)
        words = self.nearest(z)
        straight = z + (self.codes[words] - z).detach()  # the gradient goes past the quantiser
        return self.draw(straight, (x.shape[2] // self.pixels, x.shape[3] // self.pixels)), z, words


class Residual(nn.Module):
    """A 3×3 and a 1×1 convolution beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] → [N, C, h, w]."""
        return x + self.branch(x)


class Averages(nn.Module):
    """Running averages of the vectors assigned to each of a tokenizer's codes: their counts [K] and sums [K, d]."""

    counts: Tensor
    sums: Tensor

    def __init__(self, tokenizer: Tokenizer, decay: float) -> None:
        super().__init__()
        self.codes, self.decay = tokenizer.codes, decay  # the tokenizer's own tensor, changed in place
        self.register_buffer("counts", tokenizer.codes.new_zeros(len(tokenizer.codes)))
        self.register_buffer("sums", torch.zeros_like(tokenizer.codes))

    @torch.no_grad()
    def update(self, z: Tensor, words: Tensor, restart: bool) -> None:
        """Move the codes towards their vectors; with `restart`, words that are hardly used to where error is large."""
        vectors, assigned = z.flatten(0, 1), words.flatten()  # [M, d], [M]
        ones = torch.ones_like(vectors[:, 0])
        self.counts.mul_(self.decay).index_add_(0, assigned, ones, alpha=1 - self.decay)
        self.sums.mul_(self.decay).index_add_(0, assigned, vectors, alpha=1 - self.decay)
        if restart:
            self._restart(vectors, assigned)
        used = (self.counts > 0)[:, None]  # [K, 1]
        self.codes.copy_(torch.where(used, F.normalize(self.sums, dim=1), self.codes))

    def _restart(self, vectors: Tensor, assigned: Tensor) -> None:
        even = len(vectors) / len(self.counts)
        dead = (self.counts < _DEAD * even).nonzero()[:, 0]
        if len(dead) == 0:
            return
        cosine = (vectors * self.codes[assigned]).sum(dim=1)  # [M]
        error = (1 - cosine).clamp(min=1e-6)  # half the squared distance
        # Drawn on the host, in proportion to the error: the same on every device. What is not finite is noticed later.
        share = error.cpu().nan_to_num(1e-6, posinf=1.0)
        chosen = to_device(torch.multinomial(share, len(dead), replacement=True), vectors.device)
        self.counts[dead] = even
        self.sums[dead] = vectors[chosen] * even


def trained(
    config: TokenizerConfig,
    pixels: int,  # side of a word's square
    batches: Batches,  # what it is trained on
    steps: int,  # batches an epoch
    *,
    seed: int,  # of the weights and of the words' restarts
    device: torch.device,
    folder: Path,  # of this tokenizer alone: whatever it depends on must be in the folder's name
) -> Tokenizer:
    """A tokenizer trained on these batches, or as it was left in `folder` by an earlier call.

    An interrupted training goes on after its last whole epoch, bit for bit. Several processes that want the same
    tokenizer wait for the first of them. Torch's own random numbers are left as they were.
    """
    lock = scratch.locked(folder / "lock", "another training of the same tokenizer")
    with lock, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        tokenizer = Tokenizer(config, pixels).to(device)
        _train(tokenizer, batches, steps, seed, Checkpoints(folder))
    return tokenizer


def _train(tokenizer: Tokenizer, batches: Batches, steps: int, seed: int, checkpoints: Checkpoints) -> None:
    config = tokenizer.config
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=config.lr)
    averages, total = Averages(tokenizer, config.decay), config.epochs * steps
    parts: dict[str, Any] = {"network": tokenizer, "averages": averages, "optimizer": optimizer}
    first, state = checkpoints.load() or (0, {})
    for name in state:
        parts[name].load_state_dict(state[name])
    if first == config.epochs:
        print("tokenizer: trained before", flush=True)
        return
    if first:
        print(f"tokenizer: continuing after epoch {first}", flush=True)
    error, seen, late = 0.0, torch.zeros_like(averages.counts), Late()

    def finite(value: float | None) -> float:
        if value is not None and not math.isfinite(value):
            raise UserError(
                f"the tokenizer's error became {value}: lower the tokenizer's lr, now {config.lr}"
            )
        return value or 0.0

    with progress("tokenizer", total, done=first * steps) as bar:
        for epoch in range(first, config.epochs):
            torch.manual_seed(mixed(seed, epoch))
            error, seen = 0.0, torch.zeros_like(averages.counts)
            for number, x in enumerate(batches(epoch)):
                done = (epoch * steps + number) / total
                optimizer.param_groups[0]["lr"] = config.lr * _shape(done)
                rebuilt, z, words = tokenizer(x)
                squared = F.mse_loss(rebuilt, x.to(rebuilt.dtype))
                now = late(squared)
                error += finite(now) / steps
                _update(tokenizer, optimizer, averages, squared, z, words, restart=done < 1 - _SETTLE)
                seen.index_add_(0, words.flatten(), seen.new_ones(()).expand(words.numel()))
                bar.update(1, "" if now is None else f"error {now:.4f}")
            error += sum(finite(now) for now in late.rest()) / steps
            checkpoints.save(epoch + 1, {name: part.state_dict() for name, part in parts.items()})
    used = f"{int((seen > 0).sum())} of {config.words} words in use, as many as {perplexity(seen):.0f} used alike"
    print(f"tokenizer: {used}; mean squared error {error:.4f}", flush=True)


def _update(
    tokenizer: Tokenizer, optimizer: torch.optim.Optimizer, averages: Averages, squared: Tensor, z: Tensor,
    words: Tensor, restart: bool,
) -> None:  # fmt: skip
    """Learn from a batch: the squared error of its pixels, its vectors [N, P, d] and their words [N, P]."""
    distance = 1 - (z * tokenizer.codes[words]).sum(dim=2).mean()
    optimizer.zero_grad(set_to_none=True)
    (squared + tokenizer.config.commitment * distance).backward()
    optimizer.step()
    averages.update(z.detach(), words, restart)


def perplexity(counts: Tensor) -> Tensor:
    """How many words, used alike, would be as hard to guess: exp of the entropy of these counts [K]."""
    return torch.special.entr(counts.float() / counts.sum().clamp(min=1)).sum().exp()


def _shape(progress: float) -> float:
    """The learning rate as a fraction of its peak: a warm-up of a twentieth, then a cosine to 0."""
    return min(progress / 0.05, 0.5 * (1 + math.cos(math.pi * progress)))


def _factors(pixels: int) -> list[int]:
    """The strides that come to `pixels` together: twos, then what is left."""
    if pixels % 2 == 0:
        return [2, *_factors(pixels // 2)]
    return [pixels] if pixels > 1 else []


def _shrink(width: int, stride: int) -> nn.Module:
    """Convolution and downsampling; that by 2 overlaps."""
    if stride == 2:
        return nn.Conv2d(width, width, 4, stride=2, padding=1)
    return nn.Conv2d(width, width, stride, stride=stride)


def _grow(width: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=stride), nn.Conv2d(width, width, 3, padding=1))
