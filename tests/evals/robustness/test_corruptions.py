"""Corruptions against plain loops, Pillow and scipy; noise by its statistics."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve
from torch import Tensor

from sslpipe.evals.robustness import corruptions
from sslpipe.evals.robustness.corruptions import CIFAR_C, IMAGENET_C, NAMES, corrupt


def images(n: int = 3, size: int = 32) -> Tensor:
    """Smooth random pictures of whole levels, [n, 3, size, size]."""
    rough = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(rough, (size, size), mode="bilinear")
    return (255 * smooth).round() / 255


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [8, 28, 130])
def test_every_severity_gives_bytes_and_the_same_ones_again(name: str, size: int) -> None:
    x = images(2, size)
    for severity in range(1, 6):
        y = corrupt(x, name, severity, generator())
        assert y.shape == x.shape
        assert y.min() >= 0
        assert y.max() <= 1
        assert torch.equal(y, (255 * y).round() / 255)
        assert torch.equal(y, corrupt(x, name, severity, generator()))
    assert not torch.equal(y, x)


@pytest.mark.parametrize("name", NAMES)
def test_it_gets_worse_with_severity(name: str) -> None:
    x = images(8)
    change = [(corrupt(x, name, severity, generator()) - x).abs().mean().item() for severity in (1, 3, 5)]
    assert change == sorted(change)
    assert change[0] < change[2]


def test_there_are_five_severities_of_each_and_large_views_have_imagenets() -> None:
    assert set(CIFAR_C) == set(IMAGENET_C)
    assert all(len(values) == 5 for values in (*CIFAR_C.values(), *IMAGENET_C.values()))
    small, large = (
        corrupt(torch.full((1, 3, size, size), 0.5), "brightness", 5, generator()) for size in (127, 128)
    )
    assert small.mean().item() == pytest.approx(0.8, abs=0.01)
    assert large.mean().item() == pytest.approx(1.0, abs=0.01)


def test_gaussian_noise_has_its_deviation() -> None:
    noise = corruptions.gaussian_noise(torch.full((4, 3, 64, 64), 0.5), 0.1, generator()) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=2e-3)
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)


def test_shot_noise_has_the_variance_of_light() -> None:
    value, photons = 0.4, 50
    noisy = corruptions.shot_noise(torch.full((4, 3, 64, 64), value), photons, generator())
    assert noisy.mean().item() == pytest.approx(value, rel=0.01)
    assert noisy.var().item() == pytest.approx(value / photons, rel=0.05)


def test_impulse_noise_sets_its_share_half_to_black_half_to_white() -> None:
    noisy = corruptions.impulse_noise(torch.full((4, 3, 64, 64), 0.5), 0.2, generator())
    assert (noisy == 0).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (noisy == 1).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize("disk", [*CIFAR_C["defocus_blur"], (3, 0.1), (10, 0.5)])
def test_defocus_is_a_convolution_with_a_soft_disk(disk: tuple[float, float]) -> None:
    radius, deviation = disk
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    inside = np.zeros((2 * reach + 1,) * 2)
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            inside[i + reach, j + reach] = i * i + j * j <= radius * radius
    weights = [math.exp(-0.5 * (t / deviation) ** 2) for t in range(-taps, taps + 1)]
    soft = np.array([[a * b for a in weights] for b in weights]) / sum(weights) ** 2
    # Room for the softened rim, which the official code mirrors back where it would leave the kernel.
    kernel = convolve(np.pad(inside / inside.sum(), 2), soft, mode="constant")
    x = images(1)
    expected = np.stack([convolve(channel, kernel, mode="mirror") for channel in x[0].double().numpy()])
    found = corruptions.defocus_blur(x, disk, generator())[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_motion_is_a_streak_along_a_drawn_line() -> None:
    x, (radius, deviation) = images(2, 20), (6, 2.0)
    found = corruptions.motion_blur(x, (radius, deviation), generator(3))
    degrees = 90 * torch.rand(2, generator=generator(3), dtype=torch.float64) - 45
    assert degrees[0] != degrees[1]
    weights = [math.exp(-0.5 * (k / deviation) ** 2) for k in range(2 * radius + 1)]
    for n in range(2):
        angle = math.radians(degrees[n])
        for row, column in ((0, 0), (7, 12), (19, 19), (10, 3)):
            expected = np.zeros(3)
            for k, weight in enumerate(weights):
                r = min(max(row + math.ceil(k * math.sin(angle) - 0.5), 0), 19)
                c = min(max(column + math.ceil(k * math.cos(angle) - 0.5), 0), 19)
                expected += weight / sum(weights) * x[n, :, r, c].double().numpy()
            np.testing.assert_allclose(found[n, :, row, column].numpy(), expected, atol=1e-5)


def test_brightness_is_added_to_hsvs_value() -> None:
    x = images(1, 6)
    x[0, :, 0, 0] = 0
    found = corruptions.brightness(x, 0.2, generator())[0]
    for row in range(6):
        for column in range(6):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1.0))
            assert found[:, row, column].tolist() == pytest.approx(list(expected), abs=1e-5)


def test_contrast_keeps_each_channels_mean() -> None:
    x = images()
    y = corruptions.contrast(x, 0.3, generator())
    torch.testing.assert_close(y.mean(dim=(2, 3)), x.mean(dim=(2, 3)))
    torch.testing.assert_close(y.std(dim=(2, 3)), 0.3 * x.std(dim=(2, 3)))


@pytest.mark.parametrize("share", [*CIFAR_C["pixelate"], 0.25])
@pytest.mark.parametrize("size", [28, 32])
def test_pixelate_is_pillows_box_filter(share: float, size: int) -> None:
    x = images(1, size)
    picture = Image.fromarray((255 * x[0]).round().byte().permute(1, 2, 0).numpy())
    small = int(size * share)
    expected = np.asarray(
        picture.resize((small, small), Image.Resampling.BOX).resize((size, size), Image.Resampling.BOX)
    )
    found = 255 * corruptions.pixelate(x, share, generator())[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1.001  # Pillow rounds between its two passes


def test_jpeg_is_pillows() -> None:
    x = images(2)
    found = corruptions.jpeg(x, 50, generator())
    for n in range(2):
        file = io.BytesIO()
        Image.fromarray((255 * x[n]).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=50)
        expected = np.asarray(Image.open(file))
        np.testing.assert_allclose(found[n].permute(1, 2, 0).numpy() * 255, expected, atol=1e-3)
