"""The networks and views of `pretrain` settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sslpipe import methods
from sslpipe.console.errors import UserError
from sslpipe.training.core.build import build_method, build_recipe, check_views
from sslpipe.training.core.config import Config
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.recipe import Recipe


def recipe_of(method: str, own: dict[str, Any], user: dict[str, Any], dataset: dict[str, Any]) -> Recipe:
    settings = methods.configure(method, {"views": own})
    return build_recipe(Config(method=method), settings, ViewsConfig(size=16, recipe=user), dataset)


def test_views_are_changed_by_the_data_set_then_the_methods_settings_then_the_user() -> None:
    own = {"rotation": 20.0, "hflip": 0.2, "view2": {"grey": 0.1}}
    first, second = recipe_of("byol", own, {"hflip": 0.3}, {"rotation": 10.0, "vflip": 0.4}).views
    assert (first.rotation, first.hflip, first.vflip) == (20.0, 0.3, 0.4)
    assert (first.grey, second.grey) == (0.2, 0.1)


def test_a_wrong_change_is_named_where_it_stands() -> None:
    with pytest.raises(UserError, match=r"methods\.simclr\.views: unknown key hflp; did you mean hflip"):
        recipe_of("simclr", {"hflp": 0.5}, {}, {})
    with pytest.raises(UserError, match=r"methods\.byol\.views\.view2: unknown key solarise"):
        recipe_of("byol", {"view2": {"solarise": 0.5}}, {}, {})
    with pytest.raises(UserError, match=r"views\.recipe: unknown key hflp"):
        recipe_of("simclr", {}, {"hflp": 0.5}, {})


def test_masked_views_have_the_encoders_size() -> None:
    assert recipe_of("jigsaw", {"size": 15}, {}, {}).views[0].size == 15
    with pytest.raises(UserError, match=r"`view` 12 pixels large, the encoder takes 16: set views\.size"):
        recipe_of("mae", {}, {"size": 12}, {})


def test_crops_too_small_for_the_backbone_are_named() -> None:
    config = Config(method="swav", backbone="timm:convnext_atto")
    settings = methods.configure("swav", {"local_crops": 2})
    with torch.device("meta"):
        method = build_method(config, settings, 32, seed=0)
    recipe = build_recipe(config, settings, ViewsConfig(size=32), {})
    with pytest.raises(
        UserError, match="view `local` of 14 pixels: timm:convnext_atto cannot take images so small"
    ):
        check_views(method, recipe)
    check_views(method, Recipe(views=recipe.views[:1]))


@pytest.mark.parametrize("backbone", ["small_vit", "timm:vit_tiny_patch16_224"])
def test_crops_that_patches_do_not_tile_are_named(backbone: str) -> None:
    config = Config(method="swav", backbone=backbone, backbone_options={"patch_size": 4})
    settings = methods.configure("swav", {"local_crops": 2})
    with torch.device("meta"):
        method = build_method(config, settings, 32, seed=0)
    check_views(method, build_recipe(config, settings, ViewsConfig(size=32), {}))
    recipe = build_recipe(config, settings, ViewsConfig(size=32, recipe={"local": {"size": 15}}), {})
    with pytest.raises(
        UserError, match=r"view `local`: .* do not tile 15: .* such as 16, by its size in views"
    ):
        check_views(method, recipe)


def test_views_for_a_tokenizer_are_not_cut_into_patches() -> None:
    config = Config(method="beit", backbone="small_vit")
    settings = methods.configure("beit", {})
    with torch.device("meta"):
        method = build_method(config, settings, 28, seed=0)
    recipe = build_recipe(config, settings, ViewsConfig(size=28), {})
    assert recipe["tokenizer"].size % 4
    check_views(method, recipe)
