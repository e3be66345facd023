from __future__ import annotations

from typing import Any

import pytest
import torch

from sslpipe import methods, networks
from sslpipe.methods.base.method import Clock
from sslpipe.views import ViewEngine

CLOCK = Clock(0, 0, 0.0, torch.Generator())


def build() -> Any:
    torch.manual_seed(0)
    backbone = networks.backbone("small_resnet", image_size=16, width=8, stages=3)
    return methods.build("simclr", backbone, {"projector_hidden": 32, "projector_out": 16}).train()


def test_batch_norm_sees_both_views_together(toy_reader: Any) -> None:
    method = build()
    pair = ViewEngine(methods.recipe("simclr", 16), seed=0)(toy_reader.gather(range(16)), 0)
    seen: list[int] = []
    norm = next(m for m in method.backbone.modules() if "BatchNorm" in type(m).__name__)
    norm.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    method.step(pair, CLOCK)
    assert seen == [32]


def test_the_loss_agrees_with_lightlys_on_the_same_projections(toy_reader: Any) -> None:
    ntxent = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.1)
    method = build()
    pair = ViewEngine(methods.recipe("simclr", 16), seed=0)(toy_reader.gather(range(16)), 0)
    projections: list[torch.Tensor] = []
    method.projector.register_forward_hook(lambda module, inputs, output: projections.append(output))
    loss = method.step(pair, CLOCK).loss
    torch.testing.assert_close(loss, ntxent(*projections[0].chunk(2)), rtol=1e-5, atol=1e-6)


def test_the_recipe_is_appendix_a() -> None:
    (view,) = methods.recipe("simclr", 224).views
    assert (view.count, view.scale, view.grey, view.blur, view.kernel) == (2, (0.08, 1.0), 0.2, 0.5, 23)
    assert view.jitter is not None
    assert (view.jitter.probability, view.jitter.brightness, view.jitter.hue) == (0.8, 0.8, 0.2)
    (half,) = methods.recipe("simclr", 32, config={"jitter_strength": 0.5}).views
    assert half.jitter is not None
    assert (half.jitter.saturation, half.jitter.hue) == (0.4, 0.1)
