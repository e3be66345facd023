"""What a run's weights depend on bit for bit, and in what two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sslpipe.core import scratch
from sslpipe.core.config import flatten
from sslpipe.core.device import describe, resolve
from sslpipe.shards import manifest as manifests
from sslpipe.training.core.assembly import RECIPE, SHARDS
from sslpipe.training.core.config import Config, Setup
from sslpipe.views.recipe import Recipe
from sslpipe.views.render import choice as renderers

#: Settings that may change before an unfinished run is continued: the batches and views stay the same.
FREE = {*Config.harmless, "device", "devices", "sharding", "monitor_epochs", "stop_on_collapse"}
NAMED = 6  # differences that are named
_ABSENT = object()


def parts(setup: Setup, code: Mapping[str, str]) -> dict[str, str]:
    """Everything that the weights depend on, by name; `code` has the digests of the stage's code.

    Only the number of processes is left out. It changes how sums are rounded, but a run may go on with another number.
    Of the views, all but renderer and size is in the recipe; all readers give the same images.
    """
    settings = setup.pretrain.model_dump(mode="json", exclude=FREE)
    method = setup.method.model_dump(mode="json")
    chosen = [settings, method, setup.views.size, setup.loader.shuffle_shards, setup.seed]
    device = resolve(setup.pretrain.device)
    return {
        "settings": scratch.digest(chosen),
        "renderer": renderers.describe(renderers.choose(setup.views.renderer, device)[0]),
        "data": scratch.digest([scratch.file_digest(path) for path in (SHARDS / manifests.NAME, RECIPE)]),
        "code": scratch.digest(dict(code)),
        "torch": torch.__version__,
        "hardware": describe(device),
    }


def values(setup: Setup, known: Mapping[str, str]) -> dict[str, Any]:
    """The same as `parts`, which are `known`, as single values under the names that a user knows them by."""
    found = flatten(
        {
            "pretrain": setup.pretrain.model_dump(mode="json", exclude=FREE),
            "methods": {setup.pretrain.method: setup.method.model_dump(mode="json")},
            "views.size": setup.views.size,
            "loader.shuffle_shards": setup.loader.shuffle_shards,
            "seed": setup.seed,
        }
    )
    for spec in Recipe.from_json(RECIPE.read_bytes()).views:
        found |= flatten(spec.model_dump(mode="json"), f"views.recipe.{spec.name}.")
    found["data"] = manifests.read(SHARDS).digest[:12]
    return found | {name: known[name] for name in ("renderer", "code", "torch", "hardware")}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the `values` of two runs, the old one and the new one; empty where nothing does.

    Of another method neither settings, views nor code are named, since all of them are others.
    """
    names = [name for name in {**now, **before} if before.get(name, _ABSENT) != now.get(name, _ABSENT)]
    if "pretrain.method" in names:
        names = [
            name for name in names if name != "code" and not name.startswith(("methods.", "views.recipe."))
        ]
    told = [_told(name, before, now) for name in names[:NAMED]]
    rest = len(names) - len(told)
    return ", ".join([*told, *([f"{rest} more"] if rest else [])])


def _told(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name == "code":  # digests say nothing
        return name
    return f"{name} ({_short(before.get(name, 'none'))} → {_short(now.get(name, 'none'))})"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
