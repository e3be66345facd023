from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sslpipe
from sslpipe import networks
from sslpipe.console.errors import UserError
from sslpipe.evals.base.embed import random_twin
from sslpipe.export import save_encoder
from sslpipe.networks.lab import Lightness, as_input, in_gamut, lab_to_rgb, lightness, rgb_to_lab
from sslpipe.views.preprocess import Preprocess

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def lab_by_hand(r: float, g: float, b: float) -> tuple[float, float, float]:
    """CIE 15:2004 from sRGB (IEC 61966-2-1), white D65."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b))
    x = (0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047
    y = 0.212671 * r + 0.715160 * g + 0.072169 * b
    z = (0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def colours(n: int = 64, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[0] = x[0] * 0.03  # where sRGB and Lab are straight
    return x


# --- colours ---


def test_lab_is_the_standards_pixel_by_pixel() -> None:
    rgb = colours(8)
    lab = rgb_to_lab(rgb)
    for n in range(8):
        for y in range(2):
            for x in range(2):
                assert lab[n, :, y, x].tolist() == pytest.approx(
                    lab_by_hand(*rgb[n, :, y, x].tolist()), abs=1e-9
                )


def test_lab_is_kornias() -> None:
    color = pytest.importorskip("kornia.color")
    rgb = colours()
    torch.testing.assert_close(rgb_to_lab(rgb), color.rgb_to_lab(rgb))
    torch.testing.assert_close(
        lab_to_rgb(rgb_to_lab(rgb)), color.lab_to_rgb(color.rgb_to_lab(rgb)), atol=1e-6, rtol=0
    )


def test_known_colours() -> None:
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]])
    expected = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    torch.testing.assert_close(rgb_to_lab(rgb), expected, atol=0.02, rtol=0)


def test_there_and_back() -> None:
    rgb = colours()
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-9, rtol=0)
    impossible = torch.tensor([[50.0, 200.0, 0.0]])
    assert (lab_to_rgb(impossible) >= 0).all()
    assert (lab_to_rgb(impossible) <= 1).all()


def test_lightness_is_labs_first_channel() -> None:
    assert torch.equal(lightness(colours()), rgb_to_lab(colours())[:, :1])


def test_colours_are_exact_under_autocast() -> None:
    rgb = colours(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lab = rgb_to_lab(rgb)
    assert torch.equal(lab, rgb_to_lab(rgb))


def test_the_gamut_has_the_four_points_around_each_colour_and_no_more() -> None:
    points = set(in_gamut(10))
    assert len(points) == 309
    assert list(in_gamut(10)) == sorted(points)
    level = torch.linspace(0, 1, 52, dtype=torch.float64)
    cells = (
        (rgb_to_lab(torch.cartesian_prod(level, level, level))[:, 1:] / 10)
        .floor()
        .long()
        .unique(dim=0)
        .tolist()
    )
    needed = {(10 * (a + i), 10 * (b + j)) for a, b in cells for i in (0, 1) for j in (0, 1)}
    assert needed <= points
    assert len(points - needed) < 10  # a coarser cube misses a few at the rim


# --- an encoder that sees lightness ---


def build(name: str = "small_resnet", **options: Any) -> Any:
    torch.manual_seed(0)
    options = options or ({"width": 16, "depth": 2, "heads": 2} if name == "small_vit" else {"width": 4})
    return networks.backbone(
        name, image_size=16, lightness={"mean": list(MEAN), "std": list(STD)}, **options
    ).eval()


def normalise(rgb: Tensor) -> Tensor:
    return (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def same_lightness() -> tuple[Tensor, Tensor]:
    """Two batches of images that differ in colour alone."""
    generator = torch.Generator().manual_seed(0)
    lab = torch.rand(4, 3, 16, 16, generator=generator, dtype=torch.float64)
    lab = lab * torch.tensor([20.0, 16, 16]).view(3, 1, 1) + torch.tensor([50.0, -8, -8]).view(3, 1, 1)
    other = torch.cat([lab[:, :1], -lab[:, 1:]], dim=1)
    return lab_to_rgb(lab).float(), lab_to_rgb(other).float()


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_only_lightness_counts(name: str) -> None:
    encoder, (one, other) = build(name), same_lightness()
    assert (one - other).abs().max() > 0.05
    for see in (encoder, encoder.tokens, encoder.maps):
        torch.testing.assert_close(see(normalise(one)), see(normalise(other)), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(see(normalise(one)), see(normalise(one * 0.8)), atol=1e-3)
    vector, maps = encoder.features(normalise(one))
    assert torch.equal(vector, encoder(normalise(one)))
    assert torch.equal(maps, encoder.maps(normalise(one)))


def test_the_network_is_shown_three_equal_channels() -> None:
    encoder, (one, _) = build(), same_lightness()
    seen: list[Tensor] = []
    encoder.network.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(normalise(one))
    expected = rgb_to_lab(one)[:, :1] / 50 - 1
    torch.testing.assert_close(seen[0], expected.expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
    assert torch.equal(
        as_input(torch.tensor([[[[0.0, 100.0]]]]))[0, :, 0].T, torch.tensor([[-1.0] * 3, [1.0] * 3])
    )


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_it_is_exported_and_loaded_as_any_other(name: str, tmp_path: Path) -> None:
    encoder, (one, other) = build(name), same_lightness()
    preprocess = {"size": 16, "mean": MEAN, "std": STD}
    save_encoder(encoder, tmp_path, preprocess=preprocess, info={})
    loaded = sslpipe.load_encoder(tmp_path / "encoder.safetensors")
    assert isinstance(loaded, Lightness)
    assert torch.equal(loaded(normalise(one)), encoder(normalise(one)))
    torch.testing.assert_close(loaded(normalise(one)), loaded(normalise(other)), atol=1e-4, rtol=1e-4)
    assert (loaded.options, loaded.dim, loaded.kind, loaded.grid) == (
        encoder.options,
        encoder.dim,
        encoder.kind,
        encoder.grid,
    )


def test_random_weights_are_compared_on_lightness_too() -> None:
    network = build()
    network.preprocess = Preprocess(size=16, mean=MEAN, std=STD)
    twin, (one, other) = random_twin(network, seed=3), same_lightness()
    torch.testing.assert_close(twin(normalise(one)), twin(normalise(other)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(twin(normalise(one)), build()(normalise(one)), atol=1e-3)


@pytest.mark.parametrize("name", ["small_resnet", "small_vit", "timm:vit_tiny_patch16_224"])
def test_layers_for_decay_are_the_networks(name: str) -> None:
    encoder = build(name, patch_size=8) if name.startswith("timm") else build(name)
    plain = encoder.network
    for pattern, inner in zip(encoder.group_matcher().values(), plain.group_matcher().values(), strict=True):
        pairs = (
            [(pattern, inner)]
            if isinstance(inner, str)
            else [(p[0], i[0]) for p, i in zip(pattern, inner, strict=True)]
        )
        for outer_pattern, inner_pattern in pairs:
            for key, _ in plain.named_parameters():
                ours, theirs = re.match(outer_pattern, f"network.{key}"), re.match(inner_pattern, key)
                assert (ours is None) == (theirs is None)
                assert ours is None or theirs is None or ours.groups() == theirs.groups()
    assert encoder.no_weight_decay() == {f"network.{key}" for key in plain.no_weight_decay()}


def test_the_mask_token_can_be_learned() -> None:
    encoder = build("small_vit")
    encoder.learn_mask_token()
    assert encoder.network.mask_token.requires_grad
    with pytest.raises(UserError, match="no patches to hide"):
        build().learn_mask_token()
