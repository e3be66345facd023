"""The networks that `pretrain` settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.methods.base.config import MethodConfig
from sslpipe.methods.base.method import Method
from sslpipe.networks.build import options_of, patch_size
from sslpipe.networks.protocol import Backbone, ConvBackbone, check_patch_size, probe
from sslpipe.training.core import accumulation
from sslpipe.training.core.config import Config
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Colour, Recipe, resolve


def backbone_name(config: Config) -> str:
    """The backbone of `pretrain.backbone`; `auto` is the method's own choice for small images."""
    return methods.find(config.method).default_backbone if config.backbone == "auto" else config.backbone


def build_backbone(config: Config, image_size: int, seed: int) -> Backbone:
    """The backbone with weights drawn from the seed; raises a UserError for an unknown name or option."""
    torch.manual_seed(seed)
    return networks.backbone(backbone_name(config), image_size=image_size, **backbone_options(config))


def backbone_options(config: Config) -> dict[str, Any]:
    """The backbone's options: the method's (`pretrain.defaults`), and on top `pretrain.backbone_options`."""
    known, method = options_of(backbone_name(config)), methods.find(config.method)
    small = method.small_backbone_options if config.defaults == "small" else {}
    own = {**method.backbone_options, **small}
    return {key: value for key, value in own.items() if key in known} | config.backbone_options


def build_method(config: Config, method_config: MethodConfig, image_size: int, seed: int) -> Method:
    """The method around its backbone, all drawn from the seed; a UserError for unknown names or an unfit backbone."""
    return methods.build(config.method, build_backbone(config, image_size, seed), method_config)


def placed(method: Method, device: torch.device) -> Method:
    """The method, moved to a device in the memory layout that is fastest there."""
    return method.to(device).to(memory_format=memory_format(method.backbone, device))


def view_engine(
    method: Method, recipe: Recipe, device: torch.device, *, seed: int, renderer: str = "auto"
) -> ViewEngine:
    """What makes a method's views on a device, in the memory layout of the method that is `placed` there."""
    layout = memory_format(method.backbone, device)
    return ViewEngine(recipe, seed=seed, device=device, renderer=renderer, memory_format=layout)


def build_recipe(
    config: Config,
    method_config: MethodConfig,
    views: ViewsConfig,
    dataset: Mapping[str, Any],
    mean: Colour | None = None,
    std: Colour | None = None,
) -> Recipe:
    """The views that these settings train on: the paper's, changed by data set, method's settings and `views.recipe`.

    `mean` and `std` are the data's channel means and deviations, of values in [0, 1]; None leaves the method's.

    Raises:
        UserError: a change that no recipe takes, or masked views of another size than the encoder's.
    """
    patch = patch_size(backbone_name(config), image_size=views.size, **backbone_options(config))
    paper = methods.recipe(config.method, views.size, patch_size=patch, config=method_config)
    own = f"methods.{config.method}.views"
    recipe = resolve(paper, dataset=dataset, user=method_config.views, mean=mean, std=std, setting=own)
    recipe = resolve(recipe, user=views.recipe)
    for spec in recipe.views:
        if spec.mask is not None and spec.size != views.size:
            raise UserError(
                f"views.recipe makes the masked view `{spec.name}` {spec.size} pixels large, the encoder takes "
                f"{views.size}: set views.size instead"
            )
    return recipe


def check_views(method: Method, recipe: Recipe) -> None:
    """Raise a UserError if the backbone cannot take a view of this size, before any work."""
    backbone = method.backbone
    for spec in recipe.views:
        if backbone.patch_size is not None and spec.share is None:  # what shares a crop is for the tokenizer
            try:
                check_patch_size(backbone.name, spec.size, backbone.patch_size)
            except UserError as error:
                raise UserError(f"view `{spec.name}`: {error}, by its size in views.recipe") from error
        if isinstance(backbone, ConvBackbone) and spec.size != backbone.image_size:
            try:
                probe(backbone, spec.size)
            except UserError as error:
                raise UserError(
                    f"view `{spec.name}` of {spec.size} pixels: {backbone.name} cannot take images so small; "
                    "set its size in views.recipe, do without it, or choose another backbone"
                ) from error


def check_batch(method: Method, config: Config, images: int) -> list[str]:
    """Warnings about the batch, for a training split of so many images; a UserError if it cannot be trained on."""
    accumulation.check(method, config)
    return method.check_batch(config.batch_size, images)


def memory_format(backbone: Backbone, device: torch.device) -> torch.memory_format:
    """The layout in which views should be made: on a GPU, channels last for convolutions, which saves a copy."""
    last = device.type == "cuda" and isinstance(backbone, ConvBackbone)
    return torch.channels_last if last else torch.contiguous_format
