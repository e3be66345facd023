from __future__ import annotations

from typing import Any

import pytest
from support import BACKBONES, SIZE, SMALL, small_engine

from sslpipe import methods
from sslpipe.training.core import cost
from sslpipe.training.core.config import Config
from sslpipe.views.config import Config as ViewsConfig


@pytest.mark.parametrize("name", methods.names())
def test_the_share_of_a_step_is_that_of_the_views_renderer(name: str, toy_reader: Any) -> None:
    kind = methods.find(name).default_backbone
    config = Config(method=name, backbone=kind, backbone_options=BACKBONES[kind], batch_size=16, device="cpu")
    measured = cost.cost_of_views(
        config, methods.configure(name, SMALL.get(name)), ViewsConfig(size=SIZE, renderer="reference"),
        small_engine(name).recipe, toy_reader, seed=0,
    )  # fmt: skip
    assert 0 < measured["share_of_step"] < 1
    assert measured["renderer"] == "reference"


def test_long_steps_are_timed_once(toy_reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    steps: list[None] = []
    simclr = methods.find("simclr")
    step = simclr.step
    monkeypatch.setattr(simclr, "step", lambda *a: steps.append(None) or step(*a))
    config = Config(method="simclr", backbone_options=BACKBONES["small_resnet"], batch_size=16, device="cpu")
    cost.cost_of_views(
        config, methods.configure("simclr", SMALL["simclr"]), ViewsConfig(size=SIZE),
        small_engine("simclr").recipe, toy_reader, seed=0,
    )  # fmt: skip
    assert len(steps) == 2  # the warm-up and one
