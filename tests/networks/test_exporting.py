"""Every kind of encoder goes through `torch.export` with a batch of any size: no size is baked in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslpipe.networks import Backbone, backbone

TINY = {"width": 16, "depth": 1, "heads": 2}
GREY = {"lightness": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}}
QUICK: dict[str, tuple[str, dict[str, Any]]] = {
    "small_resnet": ("small_resnet", {"width": 4, "stages": 3}),
    "small_vit": ("small_vit", TINY),
    "small_vit_relative": ("small_vit", {**TINY, "position": "relative", "layer_scale": 0.1}),
    "timm_beit": ("timm:beit_base_patch16_224", {}),
}
SLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "lightness": ("small_vit", {**TINY, **GREY}),
    "small_vit_learned": ("small_vit", {**TINY, "position": "learned", "pool": "cls"}),
    "small_vit_without_class_token": ("small_vit", {**TINY, "class_token": False}),
    "torchvision_resnet": ("torchvision:resnet18", {"stem": "small"}),
    "torchvision_efficientnet": ("torchvision:efficientnet_b0", {}),
    "torchvision_mobilenetv2": ("torchvision:mobilenet_v2", {}),
    "torchvision_mobilenetv3": ("torchvision:mobilenet_v3_small", {}),
    "timm_resnet": ("timm:resnet10t", {}),
    "timm_convnext": ("timm:test_convnext", {}),
    "timm_swin": ("timm:swin_tiny_patch4_window7_224", {}),
    "timm_vit": ("timm:vit_tiny_patch16_224", {}),
    "timm_deit": ("timm:deit_tiny_patch16_224", {"pool": "cls"}),
    "timm_registers": ("timm:vit_dpwee_patch16_reg1_gap_256", {}),
    "timm_beitv2": ("timm:beitv2_base_patch16_224", {"pool": "cls"}),
}
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]


def encoder(case: str) -> Backbone:
    """In eval mode, for images of 32 pixels; of timm's transformers two blocks, as they are all alike."""
    name, options = (QUICK | SLOW)[case]
    network = backbone(name, image_size=32, **options).eval()
    if name.startswith("timm:") and network.kind == "vit":
        network.model.blocks = network.model.blocks[:2]  # type: ignore[union-attr, index]
    for key, parameter in network.named_parameters():  # zero at the start, as if they were not there
        if "bias_table" in key or key == "pos_bias":
            nn.init.normal_(parameter)
    return network


def exported(network: Backbone, x: Tensor) -> nn.Module:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, (x,), dynamic_shapes={"x": {0: batch}}).module()


def kinds() -> Iterator[type[Backbone]]:
    """The library's own kinds of backbone, those that only others are made from left out."""
    waiting = [Backbone]
    while waiting:
        kind = waiting.pop()
        made_from_it = [each for each in kind.__subclasses__() if each.__module__.startswith("sslpipe.")]
        waiting += made_from_it
        if not made_from_it:
            yield kind


@pytest.mark.slow
def test_every_kind_has_a_case() -> None:
    with torch.device("meta"):
        tried = {type(backbone(name, image_size=32, **options)) for name, options in (QUICK | SLOW).values()}
    assert set(kinds()) <= tried


def check(network: Backbone, side: int) -> None:
    """Exported with three images, it gives the features of one and of five."""
    program = exported(network, torch.randn(3, 3, side, side))
    with torch.inference_mode():
        for count in (1, 5):
            x = torch.randn(count, 3, side, side)
            torch.testing.assert_close(program(x), network(x))


@pytest.mark.parametrize("case", CASES)
def test_runs_with_batches_of_any_size(case: str) -> None:
    check(encoder(case), 32)


@pytest.mark.parametrize("case", ["small_vit", "timm_vit"])
def test_images_of_another_size(case: str) -> None:
    """Positions are interpolated."""
    check(encoder(case), 48)
