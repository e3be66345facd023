"""`sslpipe recipe`: a paper's settings at another scale, as lines of params.yaml, and what may go wrong there.

Papers train on 1.28 million images in batches of thousands. What they set depends on that, in ways that are known for
some settings: each method names its paper's runs and the rules of its own settings (`scales`, `rules`; the rules are in
sslpipe/methods/base/scale.py), the optimiser's are here. At a paper's own scale the paper's own values come out.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.core.config import nest
from sslpipe.methods.base.config import MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Method
from sslpipe.methods.base.scale import Scale
from sslpipe.training.core.schedules import longest_warmup

WIDTH = 100  # columns of a line of comment
SIZE = 224  # pixels a side of the images that the method is built for, on no device
# In all; most methods have learnt something in the default run on the bundled digits, of 1 116.
FEW_STEPS = 1000
SHORT = 0.1  # of the steps of the paper's run
FEW_IMAGES = 0.01  # of the paper's
FEW_NEGATIVES = 1 / 8  # of the paper's: SimCLR with a batch of 512
SMALL_FOR_LARS = 512  # images in a batch

Told = tuple[Any, str]  # a value, and why it is that


@dataclass(frozen=True)
class Advice:
    """A paper's settings at the scale at hand.

    Attributes:
        paper, here: the scale it was translated from, and the scale at hand.
        settings: what differs from the defaults of the method's Config, by dotted key, each with its reason.
        kept: settings that are right as they are by default, in words.
        warnings: what may go wrong at this scale, a sentence each.
    """

    method: str
    backbone: str
    paper: Scale
    here: Scale
    settings: Mapping[str, Told]
    kept: list[str]
    warnings: list[str]

    def values(self) -> dict[str, Any]:
        """`methods.NAME`, nested as in params.yaml."""
        return _nested(self.settings)


def advise(name: str, here: Scale, backbone: str = "auto") -> Advice:
    """Translate a method's settings to another scale; some papers' depend on the backbone's kind.

    Raises:
        UserError: no such method or backbone, or a scale at which nothing can be trained.
    """
    cls = methods.find(name)
    _check(here)
    paper = _nearest(cls, here, _network(cls, backbone).kind)
    config = methods.configure(name, paper.settings)
    settings = dict(_changed(cls, config, paper, here))
    settings |= _optimizer(cls, _build(name, backbone, config).optimizer, paper, here)
    final = methods.configure(name, _nested(settings))
    method = _build(name, backbone, final)
    kept = list(_kept(method, final, settings, paper, here))
    return Advice(
        name, backbone, paper, here, settings, kept, list(_warnings(method, final, config, paper, here))
    )


def _nested(settings: Mapping[str, Told]) -> dict[str, Any]:
    return nest({key: value for key, (value, _) in settings.items()})


def render(advice: Advice) -> str:
    """The advice as YAML that can be pasted into params.yaml; all but the settings is comment."""
    here, paper = advice.here, advice.paper
    lines = _comment(
        f"{advice.method} on {_n(here.images)} images, {here.epochs:g} epochs in batches of {_n(here.batch)}: "
        f"{_n(here.images // here.batch)} steps an epoch, {_n(here.steps)} in all."
    )
    lines += _comment(
        f"Translated from {_n(paper.images)} images, {paper.epochs:g} epochs in batches of {_n(paper.batch)}, "
        f"{_n(paper.steps)} steps: {paper.source}."
    )
    lines += [
        "pretrain:",
        f"  method: {advice.method}",
        "  defaults: paper",
        *([] if advice.backbone == "auto" else [f"  backbone: {json.dumps(advice.backbone)}"]),
        f"  epochs: {here.epochs:g}",
        f"  batch_size: {here.batch}",
        "methods:",
        f"  {advice.method}:" if advice.settings else f"  {advice.method}: {{}}",
        *_settings(advice.settings),
    ]
    if advice.kept:
        lines += _comment(f"As it is by default: {'; '.join(advice.kept)}.")
    for warning in advice.warnings:
        lines += _comment(f"Warning: {warning}.")
    return "\n".join(lines)


def _check(here: Scale) -> None:
    if here.batch < 2:
        raise UserError(f"a batch of {here.batch} teaches no method anything: give --batch 2 or more")
    if here.epochs < 1:
        raise UserError(f"{here.epochs:g} epochs are no training: give --epochs 1 or more")
    if here.images < here.batch:
        raise UserError(f"{here.images} images do not fill a batch of {here.batch}: lower --batch")


def _network(cls: type[Method], backbone: str) -> networks.Backbone:
    with torch.device("meta"):
        return networks.backbone(cls.default_backbone if backbone == "auto" else backbone, image_size=SIZE)


def _build(name: str, backbone: str, config: MethodConfig) -> Method:
    """The method without memory for its weights: what its optimiser is may depend on its backbone."""
    with torch.device("meta"):
        return methods.build(name, _network(methods.find(name), backbone), config)


def _nearest(cls: type[Method], here: Scale, kind: str) -> Scale:
    """The paper's run of the nearest batch, and of these the one of the nearest length, both by ratio."""
    runs = [scale for scale in cls.scales if kind in scale.kinds]
    return min(
        runs, key=lambda run: (abs(math.log(run.batch / here.batch)), abs(math.log(run.seen / here.seen)))
    )


def _changed(
    cls: type[Method], config: MethodConfig, paper: Scale, here: Scale
) -> Iterator[tuple[str, Told]]:
    """The method's own settings that are not the default's, by its rules or since the paper's run has others."""
    default = cls.Config.parse({})
    for name in cls.Config.model_fields:
        value, why = getattr(config, name), f"as in the paper's run of {paper.epochs:g} epochs"
        if name in ("optimizer", "views"):
            continue
        if name in cls.rules:
            value, why = cls.rules[name](value, paper, here)
        if isinstance(value, Mapping):  # part of a section
            yield from ((f"{name}.{key}", (part, why)) for key, part in value.items())
        elif value != getattr(default, name):
            yield name, (value, why)


def _optimizer(cls: type[Method], optimizer: OptimizerConfig, paper: Scale, here: Scale) -> dict[str, Told]:
    """The optimiser's settings that are not the default's."""
    run = f"as in the paper's run of {paper.epochs:g} epochs, batch {paper.batch}"
    given = paper.settings.get("optimizer", {})
    told: dict[str, Told] = {f"optimizer.{name}": (value, run) for name, value in given.items()}
    if "optimizer.lr" in told:
        told["optimizer.lr"] = (optimizer.lr, _peak(optimizer, paper, here))
    warmup = warmup_epochs(optimizer.warmup_epochs, paper, here)
    if warmup != optimizer.warmup_epochs:
        why = f"{optimizer.warmup_epochs:g} of {paper.epochs:g} epochs, the same share, a fifth at most"
        told["optimizer.warmup_epochs"] = (warmup, why)
    default = cls.Config.parse({}).optimizer
    same = {} if default is None else {f"optimizer.{k}": v for k, v in default.model_dump().items()}
    return {key: (value, why) for key, (value, why) in told.items() if key not in same or same[key] != value}


def warmup_epochs(epochs: float, paper: Scale, here: Scale) -> float:
    """The warm-up at the same share of a shorter run, and a fifth at most, to which training would cut it."""
    if here.epochs >= paper.epochs:
        return epochs
    return float(f"{min(epochs * here.epochs / paper.epochs, longest_warmup(here.epochs)):.3g}")


def _peak(optimizer: OptimizerConfig, paper: Scale, here: Scale) -> str:
    """The peak learning rate in words."""
    peak, theirs = optimizer.peak(here.batch), optimizer.peak(paper.batch)
    lr = f"{optimizer.lr:g}"
    rules = {
        "linear": f"{lr} x batch / 256",
        "sqrt": f"{lr} x root of the batch",
        "absolute": "whatever the batch",
    }
    rule = rules[optimizer.rule]
    return f"peak {peak:.3g}, by the paper's rule {rule}; {theirs:.3g} at its batch of {paper.batch}"


def _kept(
    method: Method, config: MethodConfig, settings: Mapping[str, Told], paper: Scale, here: Scale
) -> Iterator[str]:
    """What need not be set, in words: the learning rate, and settings that have a rule and come out as they were."""
    for name in ("lr", "warmup_epochs", "weight_decay"):
        if f"optimizer.{name}" not in settings:
            peak = f" ({_peak(method.optimizer, paper, here)})" if name == "lr" else ""
            yield f"optimizer.{name} {getattr(method.optimizer, name):g}{peak}"
    for name in type(method).rules:
        if not any(key.split(".")[0] == name for key in settings):
            value = getattr(config, name)
            yield f"{name} {value:g}" if isinstance(value, int | float) else name


def _warnings(
    method: Method, config: MethodConfig, papers: MethodConfig, paper: Scale, here: Scale
) -> Iterator[str]:
    """What may go wrong at this scale."""
    yield from method.check_batch(here.batch, here.images)
    yield from _of_negatives(method, config, papers, here)
    queue = getattr(config, "queue", 0)
    if queue >= here.images:
        yield (
            f"the queue of {_n(queue)} is {queue / here.images:.2g} times the images, so what leaves it is an epoch "
            "old or older: lower the batch, which it cannot be shorter than"
        )
    yield from _of_length(paper, here)
    yield from _of_optimizer(method.optimizer, papers, paper, here)
    if here.images < FEW_IMAGES * paper.images:
        yield (
            f"{_n(here.images)} images are few for a method made on {_n(paper.images)}: take a small backbone, and "
            "look at what random weights and raw pixels reach beside it"
        )


def _of_negatives(method: Method, config: MethodConfig, papers: MethodConfig, here: Scale) -> Iterator[str]:
    ours = method.negatives(config, here.batch)
    theirs = max(method.negatives(papers, run.batch) or 0 for run in method.scales)
    if ours is None or ours >= FEW_NEGATIVES * theirs:
        return
    if hasattr(config, "queue"):
        remedy = "only more images allow a longer queue"
    else:
        remedy = "raise the batch (pretrain.gradient_cache helps where memory is short), or take moco's queue"
    yield f"an anchor sees {_n(ours)} negatives, in the paper {_n(theirs)}: {remedy}"


def _of_length(paper: Scale, here: Scale) -> Iterator[str]:
    if here.steps < FEW_STEPS:
        yield (
            f"{_n(here.steps)} steps in all are too few for most methods (the paper's run has {_n(paper.steps)}): "
            "raise the epochs, or lower the batch"
        )
    elif here.steps < SHORT * paper.steps:
        yield (
            f"{_n(here.steps)} steps in all, where the paper's run has {_n(paper.steps)}: rates made for long runs "
            "move the weights little in short ones"
        )
    if paper.shorter and here.epochs < paper.epochs:
        yield f"{here.epochs:g} epochs, the paper's run has {paper.epochs:g}; {paper.shorter}"


def _of_optimizer(
    optimizer: OptimizerConfig, papers: MethodConfig, paper: Scale, here: Scale
) -> Iterator[str]:
    if optimizer.name == "lars" and here.batch < SMALL_FOR_LARS:
        yield (
            f"LARS is made for batches of thousands, this one is {_n(here.batch)}: {{name: adamw, lr: 0.002, rule: "
            "absolute, weight_decay: 0.05}, as most methods have by pretrain.defaults: small, is easier to begin with"
        )
    given = papers.optimizer.warmup_epochs if papers.optimizer is not None else optimizer.warmup_epochs
    if given > longest_warmup(here.epochs):
        yield (
            f"the paper's warm-up of {given:g} epochs is more than a fifth of {here.epochs:g}, to which training would "
            "cut it: above it is shorter"
        )
    ratio = here.batch / paper.batch
    if optimizer.rule == "absolute" and not 0.5 <= ratio <= 2:
        root = optimizer.name == "adamw"
        other = optimizer.lr * (ratio**0.5 if root else ratio)
        law, usual = ("the square root of the batch", "Adam") if root else ("the batch", "SGD")
        yield (
            f"the paper gives its rate of {optimizer.lr:g} for batches of {_n(paper.batch)} and no rule for others; "
            f"by {law}, as is usual for {usual}, it would be {other:.2g} here"
        )


def _settings(settings: Mapping[str, Told]) -> Iterator[str]:
    """Lines of YAML, two levels deep, each value with its reason."""
    section = ""
    for key, (value, why) in sorted(settings.items(), key=lambda item: item[0].count(".")):
        head, _, rest = key.rpartition(".")
        if head and head != section:
            yield f"    {head}:"
        section = head
        text = f"{'      ' if head else '    '}{rest}: {json.dumps(value)}"
        yield f"{text:<36}  # {why}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ")


def _n(number: float) -> str:
    """A count with its thousands set apart."""
    return f"{number:,.0f}".replace(",", " ")
