"""Views of labelled images for training a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import Recipe, ViewSpec
from sslpipe.views.recipe import resolve as resolve_recipe

#: Changes of a view recipe that say which turns leave an image what it is; they hold for labelled images too.
GEOMETRY = ("hflip", "vflip", "rotation", "quarter_turns", "fill")


def mild_recipe(
    preprocess: Preprocess, crop_scale: tuple[float, float], changes: Mapping[str, Any]
) -> Recipe:
    """Mild views for supervised training: crop and flip, by what data set and user say of flips and turns."""
    spec = ViewSpec(
        name="finetune", size=preprocess.size, scale=crop_scale, interpolation=preprocess.interpolation
    )
    geometry = {key: value for key, value in changes.items() if key in GEOMETRY}
    return resolve_recipe(
        Recipe(views=(spec,)), dataset=geometry, user={}, mean=preprocess.mean, std=preprocess.std
    )
