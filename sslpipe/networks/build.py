"""`backbone(name)`: from a name to a network with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import meant
from sslpipe.networks import from_timm, from_torchvision
from sslpipe.networks.lab import Lightness
from sslpipe.networks.protocol import Backbone, ConvBackbone
from sslpipe.networks.resnet import SmallResNet
from sslpipe.networks.vit import SmallViT

_OWN: dict[str, Callable[..., Backbone]] = {"small_resnet": SmallResNet, "small_vit": SmallViT}
_LIBRARIES = {"timm": from_timm.find, "torchvision": from_torchvision.find}


def backbone(
    name: str, *, image_size: int, lightness: Mapping[str, Sequence[float]] | None = None, **options: Any
) -> Backbone:
    """Build a backbone with random weights; nothing is ever downloaded.

    Args:
        name: `small_resnet`, `small_vit`, `timm:<name>` or `torchvision:<name>`.
        image_size: side of the square images, pixels.
        lightness: mean and std of the images' normalisation, for a backbone that is shown their lightness only
            (`sslpipe.networks.lab.Lightness`: what colorization exports).
        options: the backbone's own, such as `width`, `depth`, `patch_size`, `stem`.

    Raises:
        UserError: an unknown name or option, or a value that cannot work.
    """
    if image_size < 1:
        raise UserError(f"image_size is {image_size}: give the side of the images in pixels")
    build, known = _builder(name), options_of(name)
    for option in options:
        if option not in known:
            near = meant(option, known)
            raise UserError(f"the backbone {name} has no option {option!r}{near}: it has {', '.join(known)}")
    try:
        network = build(image_size, **options)
    except TypeError as error:  # a string for a number, for one
        given = ", ".join(f"{option} {value!r}" for option, value in options.items())
        raise UserError(f"the backbone {name} cannot be built with {given}: {error}") from error
    network.options = known | options
    if network.patch_size is not None:
        network.options["patch_size"] = network.patch_size  # timm's may come from the network's name
    if isinstance(network, ConvBackbone):
        # Convolutions follow their weights' layout: channels last halves a training step on 2 CPU cores.
        network = network.to(memory_format=torch.channels_last)
    if lightness is not None:
        network = Lightness(network, **lightness)
    return network


def options_of(name: str) -> dict[str, Any]:
    """The options that a backbone has, and their defaults; a UserError for an unknown name."""
    parameters = inspect.signature(_builder(name)).parameters.items()
    return {key: each.default for key, each in parameters if key != "image_size"}


def patch_size(name: str, *, image_size: int, **options: Any) -> int | None:
    """A backbone's patch size, found without allocating weights; None for CNNs, of which nothing is built.

    Raises:
        UserError: as `backbone`.
    """
    build = _builder(name)
    kind = build.func if isinstance(build, partial) else build
    if isinstance(kind, type) and issubclass(kind, ConvBackbone):
        return None
    with torch.device("meta"):
        return backbone(name, image_size=image_size, **options).patch_size


def _builder(name: str) -> Callable[..., Backbone]:
    """The class of a backbone, or a partial of one."""
    family, _, member = name.partition(":")
    if member and family in _LIBRARIES:
        return _LIBRARIES[family](member)
    if name not in _OWN:
        known = [*_OWN, "timm:<name>", "torchvision:<name>"]
        raise UserError(f"unknown backbone {name!r}{meant(name, known)}: choose one of {', '.join(known)}")
    return _OWN[name]
