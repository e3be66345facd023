from __future__ import annotations

from typing import Any

import pytest
import torch
from support import TRANSFORMERS, check_it_trains
from torch import nn

from sslpipe import methods, networks
from sslpipe.methods.base.method import Clock
from sslpipe.networks.patches import unpatchify
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views import ViewEngine

CLOCK = Clock(0, 0, 0.0, torch.Generator())
SMALL = {"width": 32, "depth": 2, "heads": 2}


def build(name: str = "small_vit", **options: Any) -> Any:
    torch.manual_seed(0)
    backbone = networks.backbone(name, image_size=16, **(options or SMALL))
    return methods.build("simmim", backbone).train()


def views(reader: Any) -> Any:
    return ViewEngine(methods.recipe("simmim", 16, patch_size=4), seed=0)(reader.gather(range(8)), 0)


def as_pixels(mask: torch.Tensor) -> torch.Tensor:
    """[N, 16] → [N, 1, 16, 16]."""
    return mask.view(-1, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]


def test_the_loss_is_equation_1_in_plain_loops(toy_reader: Any) -> None:
    method, (view,) = build(), views(toy_reader)
    with torch.no_grad():
        y = unpatchify(method._predict(view.pixels, view.masks).double(), 4)
        loss = method.step([view], CLOCK).loss
    total, count, hidden = 0.0, 0, as_pixels(view.masks)
    for n in range(8):
        for row in range(16):
            for column in range(16):
                if hidden[n, 0, row, column]:
                    difference = y[n, :, row, column] - view.pixels[n, :, row, column].double()
                    total += float(difference.abs().sum())
                    count += 3
    assert abs(loss.item() - total / count) < 1e-6


def test_hidden_pixels_do_not_change_the_prediction_and_shown_ones_do(toy_reader: Any) -> None:
    method, (view,) = build().eval(), views(toy_reader)
    x, mask = view.pixels.clone(), view.masks
    before, hidden = method._predict(x, mask), as_pixels(mask)
    assert torch.equal(before, method._predict(torch.where(hidden, torch.randn_like(x), x), mask))
    assert not torch.equal(before, method._predict(torch.where(hidden, x, torch.randn_like(x)), mask))


def test_the_encoder_sees_all_patches_a_learned_token_where_hidden(toy_reader: Any) -> None:
    method = build()
    counts: list[int] = []
    method.backbone.blocks[0].register_forward_hook(
        lambda module, inputs, output: counts.append(inputs[0].shape[1])
    )
    method.step(views(toy_reader), CLOCK).loss.backward()
    assert counts == [1 + 16]
    assert method.backbone.mask_token.grad.any()


def test_squares_of_32_pixels_are_hidden() -> None:
    (spec,) = methods.recipe("simmim", 224, patch_size=16).views
    assert spec.mask is not None
    assert (spec.mask.kind, spec.mask.unit * spec.mask.patch_size, spec.mask.ratio) == ("random", 32, 0.6)


def test_the_head_is_the_official_convolution_and_pixel_shuffle() -> None:
    method = build()
    official = nn.Sequential(nn.Conv2d(32, 48, 1), nn.PixelShuffle(4))
    # Theirs has channel, y, x; ours y, x, channel.
    for name in ("weight", "bias"):
        theirs = getattr(official[0], name).detach()
        ours = theirs.reshape(3, 16, -1).transpose(0, 1).reshape(48, -1).squeeze(-1)
        getattr(method.head, name).data.copy_(ours.view_as(getattr(method.head, name)))
    tokens = torch.randn(2, 16, 32)
    expected = official(tokens.transpose(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(unpatchify(method.head(tokens), 4), expected)


def test_the_rates_are_the_official_vits() -> None:
    config = methods.configure("simmim").optimizer
    assert config.peak(2048) == pytest.approx(4e-4)
    assert [lr_factor(config, epoch, 800) for epoch in (5, 10, 699, 700, 799)] == pytest.approx(
        [0.5, 1, 1, 0.1, 0.1]
    )


@pytest.mark.parametrize(("name", "options"), TRANSFORMERS)
def test_vision_transformers_of_both_families_train(name: str, options: dict[str, Any]) -> None:
    check_it_trains("simmim", name, image_size=16, **options)


def test_the_number_is_1_for_the_mean_pixel(toy_reader: Any) -> None:
    method, (view,) = build(), views(toy_reader)
    pixel = view.pixels.mean(dim=(0, 2, 3))
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.copy_(pixel.repeat(16))
        number = method.step([view], CLOCK).numbers["error_beside_mean_pixel"]
    assert number.item() == pytest.approx(1, abs=1e-5)


def test_reconstructions_show_original_input_and_result(toy_reader: Any) -> None:
    ((name, picture),) = build().eval().pictures(views(toy_reader))
    (view,) = views(toy_reader)
    assert name == "reconstructions"
    original, shown, rebuilt = picture.view(3, 16, 8, 16, 3).permute(0, 2, 4, 1, 3)  # 3 × [N, 3, 16, 16]
    hidden = as_pixels(view.masks).expand_as(original)
    assert torch.equal(rebuilt[~hidden], original[~hidden])
    assert not torch.equal(rebuilt[hidden], original[hidden])
    assert (shown[hidden] == 128).all()
