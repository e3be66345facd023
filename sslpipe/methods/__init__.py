"""The method library: one file a method, found by file name.

The found names are the allow-list for `pretrain.method`; nothing else can be imported through it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslpipe.console.errors import UserError
from sslpipe.methods.base.config import MethodConfig
from sslpipe.views.recipe import Recipe

if TYPE_CHECKING:  # settings ask for the names of methods where there is no need of torch
    from sslpipe.methods.base.method import Method
    from sslpipe.networks.protocol import Backbone

__all__ = ["build", "configure", "find", "names", "recipe"]


@cache
def names() -> tuple[str, ...]:
    """The names of all methods, in alphabetical order."""
    folder = Path(__file__).parent
    return tuple(sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")))


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UserError: there is no method of that name.
    """
    if name not in names():
        raise UserError(f"unknown method `{name}`; choose from {', '.join(names())}")
    from sslpipe.methods.base.method import Method  # here, for the same reason

    module = importlib.import_module(f"sslpipe.methods.{name}")
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    found = [value for value in own if isinstance(value, type) and issubclass(value, Method)]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__} should define exactly one subclass of Method, it has {len(found)}"
        )
    return found[0]


def configure(name: str, config: MethodConfig | Mapping[str, Any] | None = None) -> MethodConfig:
    """A method's Config: the paper's defaults with the given values on top."""
    kind = find(name).Config
    if isinstance(config, Mapping) or config is None:
        return kind.parse(config or {})
    return config


def build(name: str, backbone: Backbone, config: MethodConfig | Mapping[str, Any] | None = None) -> Method:
    """A method around a backbone, which it trains; `config` may be what differs from the paper's values alone.

    Raises:
        UserError: unknown name, or a backbone of a kind that the method cannot train.
    """
    return find(name)(backbone, configure(name, config))


def recipe(
    name: str,
    image_size: int,
    *,
    patch_size: int | None = None,
    config: MethodConfig | Mapping[str, Any] | None = None,
) -> Recipe:
    """The views that a method's paper trains on, the largest of `image_size` pixels a side.

    Methods that mask patches need the backbone's `patch_size`; `config` is as for `build`.
    """
    return find(name).recipe(configure(name, config), image_size, patch_size)
