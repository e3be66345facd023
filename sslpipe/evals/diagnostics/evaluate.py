"""Light numbers about the features, for which nothing is trained and nearly none of which need labels.

They say whether features have collapsed, how many directions they fill, and how they treat the views that the method is
trained on. None of them chooses anything, and none replaces a probe. The formulas are in `sslpipe.measures.geometry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.core.device import take
from sslpipe.data.loader import Reader
from sslpipe.evals.base import tables
from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.embed import beside_random, vectors
from sslpipe.evals.base.features import KINDS
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.diagnostics import Config
from sslpipe.measures import geometry as measures
from sslpipe.measures.geometry import effective_rank, spread
from sslpipe.measures.subsets import sample
from sslpipe.networks.protocol import Backbone
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe

SPECTRUM_IMAGES = 25_600  # training images whose spectrum is taken, as RankMe's authors do
PAIRS_IMAGES = 2_048  # training images that are compared with each other, all pairs
QUERIES = 2_048  # test images whose neighbours are looked at


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Rank, spectrum, alignment, uniformity, purity; the details are the eigenspectra by series.

    Raises:
        UserError: there are fewer than two images, or features are not finite.
    """
    train, test = inputs.features
    if len(train.index) < 2:
        raise UserError(
            "diagnostics compare images, and there are fewer than two: set diagnostics.enabled to false"
        )
    device = take(config.device)
    metrics: dict[str, Any] = {}
    spectra: dict[str, Tensor] = {}
    for prefix, kind in KINDS:
        row, spectra[prefix.removesuffix("_") or "encoder"] = of_images(getattr(train, kind), device, seed)
        metrics |= {prefix + name: value for name, value in row.items()}
    few, known = test.labelled(), train.labelled()
    few = few.at(sample(len(few.index), QUERIES, seed))
    if len(few.index) and len(known.index):
        k = min(config.k, len(known.index))
        for prefix, kind in KINDS:
            bank, queries = getattr(known, kind), getattr(few, kind)
            metrics[f"{prefix}nn_purity"] = measures.purity(bank, known.label, queries, few.label, k)
    nets = beside_random(inputs.encoder, device, seed)
    views = embedded_views(nets, inputs.train, inputs.recipe, config, inputs.embedding, seed)
    varied = any(_vary(x) for x in views.values())
    if varied:
        for prefix, x in views.items():
            metrics[f"{prefix}lidar"] = measures.lidar(x)
            metrics[f"{prefix}lidar_unbiased"] = measures.lidar(x, unbiased=True)
            metrics[f"{prefix}alignment"] = measures.alignment(x[:, 0], x[:, 1])
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device"}),
        "images": min(config.images, len(inputs.train)),
        "view": inputs.recipe.views[0].name if varied else "left out: nothing about it is drawn",
        "spectrum_images": min(SPECTRUM_IMAGES, len(train.index)),
        "pairs_images": min(PAIRS_IMAGES, len(train.index)),
        "alpha_req_ranks": list(measures.RANKS),
        "lidar_delta": measures.DELTA,
        "alignment_alpha": measures.ALPHA,
        "uniformity_t": measures.T,
        "chosen_on": "nothing: settings are fixed beforehand",
    }
    return Outcome(metrics=metrics, protocol=protocol, details=spectra)


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """The eigenvalues of the features' covariance by rank, as fractions of the variance: the first thousand each."""
    rows = [
        (rank, series, f"{value:.4e}")
        for series, values in outcome.details.items()
        for rank, value in enumerate(values[:1000].tolist(), start=1)
    ]
    return {"eigenspectrum.csv": tables.table(("rank", "series", "share"), rows)}


def of_images(x: Tensor, device: torch.device, seed: int) -> tuple[dict[str, float], Tensor]:
    """What needs no views and no labels, and the eigenspectrum, of features [N, D] of images as they are."""
    if not torch.isfinite(x).all():
        raise UserError(
            "features are not finite: the encoder's weights are damaged or pretraining diverged; "
            "see metrics/pretrain.json"
        )
    x = x[sample(len(x), SPECTRUM_IMAGES, seed)].to(device)
    spectrum = measures.eigenspectrum(x).cpu()
    row = {
        "rankme": effective_rank(x).item(),
        "uniformity": measures.uniformity(x[sample(len(x), PAIRS_IMAGES, seed)]),
        "feature_std": spread(x).item(),
        "dead_dimensions": measures.dead_dimensions(x),
        "dimensions": x.shape[1],
    }
    law = measures.power_law(spectrum)
    if law is not None:
        row |= {"alpha_req": law[0], "alpha_req_r2": law[1]}
    return row, spectrum


@torch.inference_mode()
def embedded_views(
    nets: Mapping[str, Backbone],
    reader: Reader,
    recipe: Recipe,
    settings: Config,
    embedding: EmbedConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Features [n, q, D], by each network, of q views of n training images drawn by seed.

    The views are those of the recipe's first spec at the encoder's own size and normalisation.
    """
    encoder = nets[""]
    spec = recipe.views[0].model_copy(
        update={
            "size": encoder.preprocess.size, "count": settings.views, "mask": None, "share": None,
            "mean": encoder.preprocess.mean, "std": encoder.preprocess.std,
        }
    )  # fmt: skip
    engine = ViewEngine(Recipe(views=(spec,)), seed=seed, device=next(encoder.parameters()).device)
    found: dict[str, list[Tensor]] = {name: [] for name in nets}
    indices = sample(len(reader), settings.images, seed)
    with progress("diagnostics", len(indices), "images") as bar:
        for part in indices.split(max(1, embedding.batch_size // settings.views)):
            views = engine(reader.gather(part), epoch=0)
            pixels = torch.cat([view.pixels for view in views])  # [q·n, 3, S, S], the first views first
            for name, net in nets.items():
                features = vectors(net, pixels, embedding)
                found[name].append(features.unflatten(0, (settings.views, len(part))).transpose(0, 1).cpu())
            bar.update(len(part))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _vary(views: Tensor) -> bool:
    """Whether an image's views differ, by more than rounding, in their features [n, q, D]."""
    return bool((views - views[:, :1]).abs().max() > 1e-5 * views.abs().max())
