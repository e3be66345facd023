"""What the training loop and a method say to each other. A new method is one file in the folder above."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.data.loader import Reader
from sslpipe.methods.base.config import MethodConfig
from sslpipe.methods.base.scale import Rule, Scale
from sslpipe.networks.protocol import Backbone, ConvBackbone, probe
from sslpipe.views.recipe import Recipe
from sslpipe.views.view import View

#: What the file of a method needs of this room; `Backbone`, `Scale` and `View` are from others.
__all__ = [
    "Backbone", "Clock", "Method", "ParamGroup", "Preparation", "Scale", "Step", "View"]  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """Where training stands."""

    step: int  # optimiser steps finished before this one
    epoch: int  # epochs finished before this one
    progress: float  # fraction of training done, in [0, 1]
    generator: torch.Generator  # random numbers for this step, equal on all ranks and after a resume


@dataclass(frozen=True)
class Step:
    """What one step gives: a scalar loss to minimise, and a few named numbers for the curves."""

    loss: Tensor
    numbers: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ParamGroup:
    """Parameters that are optimised alike."""

    parameters: list[nn.Parameter]
    decay: bool = True  # whether weight decay applies
    adapt: bool = True  # whether LARS adapts the learning rate to the norms
    lr_scale: float = 1.0  # factor on the learning rate
    fixed_lr: bool = False  # keep the peak learning rate through warm-up and decay (SimSiam's predictor)


@dataclass(frozen=True)
class Preparation:
    """What `Method.prepare` may use to train something first."""

    reader: Reader  # of the training split
    recipe: Recipe  # resolved
    device: torch.device
    seed: int  # the run's
    folder: Callable[[str], Path]  # gives a folder that outlives the process, for what this digest identifies
    renderer: str = "auto"  # the setting `views.renderer`
    #: What else decides the result, by name: digests of the data and the code, torch, hardware, renderer.
    parts: Mapping[str, str] = field(default_factory=dict)


class Method(nn.Module):
    """A self-supervised method around a backbone.

    A subclass gives `Config`, `paper` and `step` (or `embed` and `loss`), and sslpipe/recipes its views; the rest
    has defaults.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    title: ClassVar[str]  # what its paper calls it; left out, the name of the class
    paper: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("resnet", "cnn", "vit")
    needs: ClassVar[str] = ""  # what it asks of data or batches beside images, in a few words
    default_backbone: ClassVar[str] = "small_resnet"
    #: Options of the backbone that the official code has, for those backbones that have such an option.
    backbone_options: ClassVar[Mapping[str, Any]] = {}
    probe_pool: ClassVar[str] = "encoder"  # which vector of an image its paper probes, see `embed.pool`
    suspects: ClassVar[str] = "check the learning rate and the views"  # where features have collapsed
    scales: ClassVar[tuple[Scale, ...]]  # runs that the paper's settings are of, the first with all defaults
    #: Settings for a few thousand small images, where they are not the paper's; found by trying.
    small: ClassVar[Mapping[str, Any]] = {}
    #: Likewise the options of the backbone that are others than the official code's.
    small_backbone_options: ClassVar[Mapping[str, Any]] = {}
    rules: ClassVar[Mapping[str, Rule]] = {}  # settings that change with the scale, and how

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "title" not in vars(cls):
            cls.title = cls.__name__

    def __init__(self, backbone: Backbone, config: MethodConfig) -> None:
        super().__init__()
        if backbone.kind not in self.takes:
            raise UserError(
                f"{type(self).__name__} cannot train `{backbone.name}`, a {backbone.kind}: "
                f"it takes {' or '.join(self.takes)}; set pretrain.backbone to `auto` or to such a network"
            )
        self.backbone = backbone
        self.optimizer = config.optimizer  # a method whose rates depend on its backbone sets others
        self._frozen: list[nn.Module] = []

    @classmethod
    def recipe(cls, config: MethodConfig, image_size: int, patch_size: int | None) -> Recipe:
        """The paper's views at `image_size` pixels a side: the official recipe that has the name of this file.

        A method with settings that change the views lays them on top. One that is not in sslpipe/recipes
        makes a recipe of its own.
        """
        from sslpipe.recipes.official import official  # only the stage `views` asks for recipes

        name = cls.__module__.rpartition(".")[2]
        return official(name, image_size, patch_size=patch_size, variant=cls.variant(config, patch_size))

    @classmethod
    def variant(cls, config: MethodConfig, patch_size: int | None) -> str | None:
        """Which variant of the official recipe these settings and this backbone ask for; None for the first."""
        return None

    def step(self, views: list[View], clock: Clock) -> Step:
        """The loss of one batch; `views` are in the recipe's order."""
        return self.loss(self.embed(views), clock)

    def embed(self, views: list[View]) -> tuple[Tensor, ...]:
        """What the loss is taken of, [N, D] each, of any part of a batch; for `pretrain.gradient_cache`.

        A method has it, and `loss`, where its loss compares the images of a batch with each other.
        """
        raise NotImplementedError

    def loss(self, embeddings: tuple[Tensor, ...], clock: Clock) -> Step:
        """The loss of a whole batch's embeddings."""
        raise NotImplementedError

    @property
    def encoder(self) -> Backbone:
        """What is exported and evaluated."""
        return self.backbone

    def parameter_groups(self) -> list[ParamGroup]:
        """Trainable parameters: weights, and apart from them biases and norms without decay and adaptation.

        One-dimensional parameters, and those a backbone names (position embeddings, tokens), take no weight decay
        and no LARS adaptation: SimCLR, BYOL, MAE and most others say so.
        """
        undecayed = {f"backbone.{name}" for name in self.backbone.no_weight_decay()}
        weights, plain = ParamGroup([]), ParamGroup([], decay=False, adapt=False)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                group = plain if parameter.ndim <= 1 or name in undecayed else weights
                group.parameters.append(parameter)
        return [group for group in (weights, plain) if group.parameters]

    @classmethod
    def negatives(cls, config: MethodConfig, batch_size: int) -> int | None:
        """How many negatives an anchor sees in a batch of this size; None where there are none."""
        return None

    def check_batch(self, batch_size: int, images: int) -> list[str]:
        """What is worth a warning about batches of so many images, over all ranks, of a split of so many.

        Raises:
            UserError: this method cannot learn from such a batch; says what to set instead.
        """
        if batch_size < 2:
            raise UserError(
                f"{type(self).__name__} cannot learn from a batch of {batch_size}: set pretrain.batch_size to 2 or more"
            )
        return []

    def check_parts(self, size: int, parts: str, advice: str) -> None:
        """Refuse parts of images, `size` pixels a side, that a CNN cannot take; `advice` is which setting to change."""
        try:
            if isinstance(self.backbone, ConvBackbone):
                probe(self.backbone, size)
        except UserError as error:
            name = self.__module__.rpartition(".")[2]
            raise UserError(
                f"{name} shows {self.backbone.name} {parts} of {size} pixels, which it cannot take: "
                f"set methods.{name}.{advice}"
            ) from error

    def before_update(self, clock: Clock) -> None:
        """Called when gradients are final, before clipping: freezes set `grad = None` here."""

    def after_update(self, clock: Clock) -> None:
        """Called once after each optimiser step: momentum networks and queues move here."""

    def prepare(self, preparation: Preparation) -> None:
        """Called once before training, for what must be trained or gathered first (a tokenizer)."""

    def monitor(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Numbers to monitor between epochs, in eval mode.

        `batches` are images [n, 3, S, S], as an encoder is evaluated on them, and its features of them [n, D], a sample
        of the training split.
        """
        return {}

    def collapsed(self, looks: Sequence[Mapping[str, float]]) -> str | None:
        """What has collapsed in this method alone, in a few words, or None; projections are looked at in any case.

        `looks` are what `monitor` has given so far, the newest last, beside the numbers of the features.
        """
        return None

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Named pictures, uint8 [H, W, 3], of what the method does; shown in the report."""
        return iter(())

    def freeze(self, module: nn.Module) -> None:
        """Keep a module as it is: no gradients, and eval mode whatever mode the method is in."""
        module.requires_grad_(False)
        self._frozen.append(module)
        module.eval()

    def train(self, mode: bool = True) -> Method:
        """As in torch, but frozen modules stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
