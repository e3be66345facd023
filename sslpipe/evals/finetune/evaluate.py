"""Fine-tuning with few labels: the whole network learns, from the encoder's weights and from random ones.

AdamW with layer decay (Clark et al. 2020; BEiT and MAE use it), warm-up and cosine; test accuracy after the last epoch.
Random weights learn by the same protocol but without layer decay, which would only hold back layers that know nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sslpipe import networks
from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core.device import Late, autocast, take, to_device
from sslpipe.data.loader import Loader, Reader
from sslpipe.data.subset import Subset
from sslpipe.evals.base import tables
from sslpipe.evals.base.embed import central, random_twin
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.views import mild_recipe
from sslpipe.evals.finetune import Config
from sslpipe.evals.finetune.mixing import Mixing
from sslpipe.measures.config import ProbeConfig
from sslpipe.measures.probe import Probe
from sslpipe.measures.probe import fit as fit_probe
from sslpipe.measures.subsets import count_of, draw
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.networks.protocol import Backbone, below
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe


class Classifier(nn.Module):
    """A backbone with a linear layer on top, which starts near 0 as MAE's and BEiT's do.

    From scratch (`pretrained` false) it starts as all of a vision transformer does, which MAE's code leaves so, too:
    from 0 little of a gradient would reach the backbone. Nor does layer decay hold such a network back.

    With `norm` "after", a ViT's patches are averaged as the last block gives them, and then normalised by a new norm.
    """

    def __init__(
        self, backbone: Backbone, classes: int, norm: str = "before", *, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.backbone, self.pretrained = backbone, pretrained
        self.norm: nn.Module | None = None
        if norm == "after":
            own = _take_norm(backbone)
            self.norm = nn.LayerNorm(backbone.dim, eps=getattr(own, "eps", 1e-6))
        self.head = nn.Linear(backbone.dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5 if pretrained else 0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, S, S]."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer reads, [N, 3, S, S] → [N, D]."""
        return self.backbone(x) if self.norm is None else self.norm(self.backbone.tokens(x).mean(dim=1))

    @torch.no_grad()
    def start_from(self, probe: Probe) -> None:
        """Let the new layer give the probe's logits; the standardisation of features goes into its weights.

        w·(x − mean)/std + b = (w/std)·x + (b − (w/std)·mean)
        """
        weight = probe.weight / probe.std[:, None]  # [D, C]
        self.head.weight.copy_(weight.T)
        self.head.bias.copy_(probe.bias - probe.mean @ weight)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The backbone's layers, their names moved below `backbone.`, for timm's layer decay."""
        return {key: below("backbone", spec) for key, spec in self.backbone.group_matcher(coarse).items()}


def _take_norm(backbone: Backbone) -> nn.Module:
    """Take the last norm out of a ViT, and give it."""
    found = backbone.blocks_and_norm()
    assert found is not None, f"{backbone.name} has no last norm"
    (name,) = (name for name, module in backbone.named_modules() if module is found[1])
    backbone.set_submodule(name, nn.Identity())
    return found[1]


def check(encoder: Backbone, config: Config) -> None:
    """Refuse what an encoder cannot be fine-tuned with.

    Raises:
        UserError: the backbone cannot skip blocks, or has no norm to put after its pooling.
    """
    if config.drop_path and "drop_path" not in encoder.options:
        raise UserError(
            f"finetune.drop_path: {encoder.name} has no blocks that can be skipped; set it to 0, or pretrain small_vit "
            "or one of timm's backbones"
        )
    if config.norm == "after" and encoder.blocks_and_norm() is None:
        raise UserError(
            f"finetune.norm: {encoder.name} averages feature maps and has no norm to put after; set it to before"
        )


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Top-1 on test from the encoder's weights and from random ones; the encoder is left as it is.

    Raises:
        UserError: see `check`.
    """
    encoder, device, (train, test) = inputs.encoder, take(config.device), inputs.labelled()
    check(encoder, config)
    count = None if config.labels == "all" else count_of(config.labels, train.labels)
    draws = 1 if count is None or count >= len(train) else config.draws
    classes = int(train.labels.max()) + 1
    views = mild_recipe(encoder.preprocess, config.crop_scale, inputs.changes)
    start = {name: value.cpu().clone() for name, value in encoder.state_dict().items()}
    scores: dict[str, list[float]] = {"": [], "random_init_": []}
    steps = draws * -(-min(count or len(train), len(train)) // config.batch_size)
    from timm.optim import param_groups_layer_decay  # noqa: F401 (takes seconds: not within the progress)

    with progress("finetune", 2 * steps * config.epochs, "steps") as bar:
        for number in range(draws):
            subset = Subset(train, draw(train.labels, count, seed=seed + number))
            for prefix, pretrained in (("", True), ("random_init_", False)):
                network = dropping(random_twin(encoder, seed + number), config.drop_path)
                if pretrained:
                    network.load_state_dict(start)
                model = Classifier(network, classes, config.norm, pretrained=pretrained).to(device)
                if config.head == "linear":  # LP-FT, Kumar et al. 2022
                    features = central(network, subset, model.eval().features)
                    probe = fit_probe(features, subset.labels, classes, ProbeConfig(), seed + number)
                    model.start_from(probe)
                fit(model, subset, views, config, seed + number, bar)
                scores[prefix].append(accuracy(model, test))
    metrics: dict[str, Any] = {}
    for prefix, values in scores.items():
        result = torch.tensor(values, dtype=torch.float64)
        metrics[f"{prefix}top1"] = result.mean().item()
        metrics[f"{prefix}top1_std"] = result.std(correction=0).item()
    metrics["labels"] = len(subset)
    metrics["draws"] = [
        {"draw": number, "encoder": own, "random_init": random}
        for number, (own, random) in enumerate(zip(*scores.values(), strict=True))
    ]
    protocol = {
        **config.model_dump(mode="json", exclude={"enabled", "device"}),
        "draws": draws,
        "random_init_layer_decay": 1.0,
        "optimiser": "AdamW, warm-up, cosine",
        "chosen_on": "nothing: settings are fixed beforehand; last epoch reported",
        "test_images": len(test),
    }
    return Outcome(metrics=metrics, protocol=protocol)


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """The accuracy of each draw of labels."""
    rows = [
        (each["draw"], series, f"{each[series]:.4f}")
        for series, _ in tables.SERIES
        for each in outcome.metrics["draws"]
    ]
    return {"draws.csv": tables.table(("draw", "series", "top1"), rows)}


def fit(
    model: Classifier,
    subset: Subset,
    views: Recipe,
    settings: Config,
    seed: int,
    bar: Progress,
) -> None:
    """Train all of a classifier in place, on views of one spec of labelled images, see `mild_recipe`.

    `seed` is of order, views and dropped paths; the bar moves on with each step.
    """
    from timm.optim import param_groups_layer_decay  # here, because importing timm takes seconds

    layer_decay = settings.layer_decay if model.pretrained else 1.0
    undecayed = {f"backbone.{name}" for name in model.backbone.no_weight_decay()}
    groups = param_groups_layer_decay(model, settings.weight_decay, undecayed, layer_decay=layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr)
    schedule = OptimizerConfig(warmup_epochs=settings.warmup_epochs)
    device = next(model.parameters()).device
    engine = ViewEngine(views, seed=seed, device=device)
    # Batch norm cannot train on one image: a last batch of one is dropped.
    batch_size = min(settings.batch_size, len(subset))
    loader = Loader(subset, batch_size=batch_size, seed=seed, drop_last=len(subset) % batch_size == 1)
    classes = model.head.out_features
    mix = None
    if settings.mixing.on:
        preprocess = model.backbone.preprocess
        mix = Mixing(settings.mixing, classes, settings.label_smoothing, seed, preprocess)
    learning = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    late = Late()
    torch.manual_seed(seed)
    model.train()
    for epoch in range(settings.epochs):
        frozen = epoch < settings.freeze_epochs
        for parameter in learning:
            parameter.requires_grad_(not frozen)
        model.backbone.train(not frozen)
        for step, (batch, (view,)) in enumerate(engine.ahead(loader.epoch(epoch), epoch)):
            factor = lr_factor(schedule, epoch + step / loader.steps, settings.epochs)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * factor * group["lr_scale"]
            pixels, target = view.pixels, to_device(batch.label, device)
            if mix is not None:
                pixels, target = mix(pixels, target)
            with autocast(device, settings.precision):
                logits = model(pixels)
            smoothing = settings.label_smoothing if mix is None else 0.0  # mixed labels are smooth already
            loss = cross_entropy(logits.float(), target, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update(1, late.caption(loss))
    for parameter in learning:  # as they were, if all epochs were frozen ones
        parameter.requires_grad_(True)


def dropping(network: Backbone, drop_path: float) -> Backbone:
    """The same architecture, its blocks skipped with some chance in training; weights are new."""
    if not drop_path:
        return network
    options = {**network.options, "drop_path": drop_path}
    dropped = networks.backbone(network.name, image_size=network.image_size, **options)
    dropped.preprocess = network.preprocess
    return dropped


@torch.inference_mode()
def accuracy(model: Classifier, test: Reader) -> float:
    """Fraction of a split's images that the classifier, in eval mode from here on, gets right."""
    model.eval()
    device, hits = next(model.parameters()).device, 0
    for batch in Loader(test, batch_size=256, seed=0, shuffle=False, drop_last=False).epoch(0):
        batch = batch.to(device)
        hits += int((model(model.backbone.preprocess.view(batch)).argmax(1) == batch.label).sum())
    return hits / len(test)
