"""Every preset is a params file that works as it stands, but for the images."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sslpipe import methods
from sslpipe.check import check_data, check_networks
from sslpipe.console.errors import UserError
from sslpipe.core import yaml as yaml12
from sslpipe.settings import Settings, load
from sslpipe.sharding.sources import Source, open_source
from sslpipe.training.core.build import backbone_name, build_method

ROOT = Path(__file__).parents[1]
IMAGES = Source("images", ("a", "b"), {"train": range(500_000), "test": range(10_000)})  # type: ignore[dict-item]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


@pytest.fixture(params=PRESETS, ids=lambda path: path.stem)
def preset(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def names(params: Mapping[str, Any], dotted: str) -> bool:
    """Whether the file has this key, written out."""
    value: Any = params
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def test_there_are_presets() -> None:
    assert len(PRESETS) >= 10


def test_it_loads_and_says_how_to_use_it(preset: Path) -> None:
    load(preset)
    header = preset.read_text().split("seed:")[0]
    assert f"cp presets/{preset.name} params.yaml" in header


def test_its_method_can_be_built(preset: Path) -> None:
    settings = load(preset)
    pretrain, size = settings.pretrain, settings.views.size
    with torch.device("meta"):
        method = build_method(pretrain, settings.method, size, settings.seed)
    assert method.parameter_groups()
    assert all(parameter.is_meta for parameter in method.parameters())
    assert size <= settings.shard.resolution


def test_check_accepts_every_method_that_takes_its_backbone(preset: Path) -> None:
    backbone = load(preset).pretrain.backbone
    kind = "vit" if "vit" in backbone else "resnet"
    fitting = [name for name in methods.names() if backbone == "auto" or kind in methods.find(name).takes]
    assert load(preset).pretrain.method in fitting
    for name in fitting:
        raw = copy.deepcopy(load(preset).raw)
        raw["pretrain"]["method"] = name
        settings = Settings(raw).validate()
        said = "\n".join([*check_data(settings, IMAGES), *check_networks(settings, IMAGES)])
        assert f"method: {name} trains {backbone_name(settings.pretrain)}" in said
        assert "note:" not in said  # of a batch or a queue


def test_only_the_images_are_missing(preset: Path, project: Path) -> None:
    settings = load(preset)
    if settings.data.source != "folder":
        return
    with pytest.raises(UserError, match=r"data\.root: there is no folder"):
        open_source(settings.data, settings.seed)


def test_it_has_every_key_that_dvc_asks_for(preset: Path) -> None:
    params = yaml12.read(preset)
    stages = yaml12.read(ROOT / "dvc.yaml")["stages"]
    asked = {key for stage in stages.values() for key in stage.get("params", ())}
    for method in methods.names():  # a method may be switched to by one line
        for key in asked:
            assert names(params, re.sub(r"\$\{pretrain\.method\}", method, key)), key
