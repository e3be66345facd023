"""Attentive probe: attention pooling and a linear layer on the frozen features of patches.

A learned query attends to an image's patches (or the cells of a CNN's feature map), as in AIM (El-Nouby et al. 2024,
Sec. 3.3; `AttentionPoolingClassifier` of its code): y = Σ_p softmax_p(q·W_k x_p / √d) W_v x_p, with several heads. It
asks what the patches hold, where k-NN and linear probe ask what their average holds; masked image models gain most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import on_host, take, to_device
from sslpipe.data.loader import Loader, Reader
from sslpipe.data.subset import Subset
from sslpipe.evals.attentive import Config
from sslpipe.evals.base import tables
from sslpipe.evals.base.embed import beside_random
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.measures.subsets import folds
from sslpipe.networks.protocol import Backbone

HELD_BACK = 5  # one in so many training images judges the rates
_BATCH = 256


class Pooling(nn.Module):
    """Attention pooling and a linear layer; D = `dim`, the features a patch has, is a multiple of `heads`."""

    def __init__(self, dim: int, classes: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.query = nn.Parameter(torch.randn(heads, dim // heads) * 0.02)
        self.key, self.value = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Patches [N, P, D] → logits [N, C]."""
        n, p, d = x.shape
        x = self.norm(x.flatten(0, 1)).view(n, p, d)
        k, v = (layer(x).view(n, p, self.heads, -1) for layer in (self.key, self.value))  # [N, P, H, d]
        weights = (torch.einsum("nphd,hd->nph", k, self.query) / k.shape[-1] ** 0.5).softmax(1)
        return self.head(torch.einsum("nph,nphd->nhd", weights, v).flatten(1))


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Accuracy of the probe; the details are classes [M] by prefix, `` and `random_init_`.

    Raises:
        UserError: the patches do not fit in memory, or heads do not divide the features.
    """
    encoder, device, (train, test) = inputs.encoder, take(config.device), inputs.labelled()
    classes = int(train.labels.max()) + 1
    if encoder.dim % config.heads:
        raise UserError(f"attentive.heads {config.heads} does not divide the {encoder.dim} features")
    networks, count = beside_random(encoder, device, seed), len(train) + len(test)
    one = patches(encoder, Subset(train, torch.tensor([0])), device)
    if one.nbytes * count / 1e9 > config.memory:
        raise UserError(
            f"attentive: the patches of {count} images take {one.nbytes * count / 1e9:.1f} GB; raise "
            "attentive.memory, or evaluate on fewer images"
        )
    metrics: dict[str, Any] = {}
    predicted: dict[str, Tensor] = {}
    lrs: dict[str, float] = {}
    with progress("attentive", 2 * 2 * config.epochs, "epochs") as bar:
        for prefix, network in networks.items():
            x, queries = (patches(network, split, device) for split in (train, test))
            lr = choose(x, train.labels, classes, config, seed, bar)
            (model,) = fit(x, train.labels, classes, (lr,), config, seed, bar)
            predicted[prefix] = predict(model, queries)
            metrics[f"{prefix}top1"] = (predicted[prefix] == test.labels).double().mean().item()
            lrs[prefix or "encoder"] = lr
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device", "memory"}),
        "patches": x.shape[1],
        "lr_used": lrs,
        "optimiser": "AdamW, cosine, affine-free batch norm",
        "chosen_on": f"the learning rate on one in {HELD_BACK} training images, held back; last epoch reported",
        "train_images": len(train),
        "test_images": len(test),
    }
    return Outcome(metrics=metrics, protocol=protocol, details=predicted)


plots = tables.confusions


@torch.no_grad()
def patches(network: Backbone, reader: Reader, device: torch.device) -> Tensor:
    """Features of all patches of a split, float32 [N, P, D], on the CPU."""
    found, start = torch.empty(0), 0
    batches = Loader(reader, batch_size=_BATCH, seed=0, shuffle=False, drop_last=False).epoch(0)
    for tokens in on_host(
        network.tokens(network.preprocess.view(each.to(device))).float() for each in batches
    ):
        if start == 0:  # into one tensor: joining parts would take twice the memory
            found = torch.empty(len(reader), *tokens.shape[1:])
        found[start : start + len(tokens)] = tokens
        start += len(tokens)
    return found


def choose(x: Tensor, labels: Tensor, classes: int, settings: Config, seed: int, bar: Progress) -> float:
    """The rate that does best on training images held back, all trained at once; ties go to the first."""
    held = folds(labels, min(HELD_BACK, len(labels)), seed) == 0
    kept = (~held).nonzero()[:, 0]
    models = fit(x, labels, classes, settings.lrs, settings, seed, bar, kept)
    hits = [int((predict(model, x[held]) == labels[held]).sum()) for model in models]
    return settings.lrs[hits.index(max(hits))]


def fit(
    x: Tensor,
    labels: Tensor,
    classes: int,
    lrs: tuple[float, ...],
    settings: Config,
    seed: int,
    bar: Progress,
    indices: Tensor | None = None,
) -> list[Pooling]:
    """One probe a learning rate, all on the same batches of patches [N, P, D] and labels int64 [N].

    `seed` is of weights and order; `indices`, int64 [n], are of the images to learn from, None for all.
    """
    device = take(settings.device)
    indices = torch.arange(len(x)) if indices is None else indices
    models = []
    for _ in lrs:
        torch.manual_seed(seed)  # all start from the same weights
        models.append(Pooling(x.shape[2], classes, settings.heads).to(device).train())
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr, weight_decay=settings.weight_decay)
        for model, lr in zip(models, lrs, strict=True)
    ]
    size = min(settings.batch_size, len(indices))
    # Batch norm cannot train on one patch: a last batch of one image is left out.
    batches = -(-len(indices) // size) - (len(indices) % size == 1)
    steps = settings.epochs * batches
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in optimizers]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        for rows in indices[torch.randperm(len(indices), generator=generator)].split(size)[:batches]:
            batch, target = to_device(x[rows], device), to_device(labels[rows], device)
            for model, optimizer, schedule in zip(models, optimizers, schedules, strict=True):
                loss = cross_entropy(model(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        bar.update(1, f"loss {loss.item():.3f}")
    return [model.eval() for model in models]


@torch.inference_mode()
def predict(model: Pooling, x: Tensor) -> Tensor:
    """Classes int64 [N] of patches [N, P, D], on the CPU."""
    device = model.query.device
    found = (model(to_device(chunk, device)).argmax(1) for chunk in x.split(_BATCH))
    return torch.cat(list(on_host(found)))
