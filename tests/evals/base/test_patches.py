"""Pictures of patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from support import ToyReader, preprocess

from sslpipe.evals.base import patches
from sslpipe.evals.base.patches import components
from sslpipe.networks import backbone


def test_components_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 4, 5, generator=generator) * torch.tensor([9.0, 5, 3, 1, 1, 1]).view(1, 6, 1, 1)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    scores = PCA(3).fit_transform(rows)
    found = components(maps).reshape(-1, 3).numpy()
    assert found.min() == 0
    assert found.max() == 1
    for number in range(3):
        low, high = np.quantile(scores[:, number], [0.02, 0.98])
        expected = ((scores[:, number] - low) / (high - low)).clip(0, 1)
        off = min(np.abs(found[:, number] - each).max() for each in (expected, 1 - expected))  # either sign
        assert off < 1e-3


def test_signs_do_not_depend_on_the_order_of_images() -> None:
    maps = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(components(maps.flip(0)).flip(0), components(maps), atol=1e-4)


@pytest.mark.parametrize("maps", [torch.zeros(2, 4, 3, 3), torch.ones(1, 1, 1, 1)])
def test_features_without_components_are_grey(maps: torch.Tensor) -> None:
    assert (components(maps) == 0.5).all()


@pytest.mark.parametrize(("name", "strips"), [("small_vit", 3 + 1 + 4), ("small_resnet", 3)])
def test_strips_of_a_transformer_and_of_a_cnn(name: str, strips: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = backbone(name, image_size=16).eval()
    network.preprocess = preprocess()
    patches.show(tmp_path, network, ToyReader(), 5, 0)
    listed = json.loads((tmp_path / "strips.json").read_text())
    assert len(listed) == strips
    for strip in listed:
        with Image.open(tmp_path / strip["file"]) as image:
            assert image.width == 5 * 128 + 4 * 6
            assert len(image.getcolors(1 << 20)) > 4
    patches.show(tmp_path, network, ToyReader(), 0, 0)
    assert json.loads((tmp_path / "strips.json").read_text()) == []
