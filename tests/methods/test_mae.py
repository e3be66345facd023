from __future__ import annotations

from typing import Any

import pytest
import torch

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.methods.base.method import Clock
from sslpipe.methods.mae import visible
from sslpipe.views import ViewEngine

CONFIG = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
CLOCK = Clock(0, 0, 0.0, torch.Generator())


def build() -> Any:
    torch.manual_seed(0)
    backbone = networks.backbone("small_vit", image_size=16, width=32, depth=2, heads=2)
    return methods.build("mae", backbone, CONFIG).train()


def views(reader: Any) -> Any:
    return ViewEngine(methods.recipe("mae", 16, patch_size=4, config=CONFIG), seed=0)(
        reader.gather(range(8)), 0
    )


def test_visible_patches_are_those_not_hidden_in_order() -> None:
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    assert visible(mask, 2).tolist() == [[1, 3], [0, 3]]


def test_the_encoder_sees_visible_patches_only(toy_reader: Any) -> None:
    method, (view,) = build(), views(toy_reader)
    counts: list[int] = []
    method.backbone.blocks[0].register_forward_hook(
        lambda m, inputs, output: counts.append(inputs[0].shape[1])
    )
    method.step([view], CLOCK)
    assert counts == [1 + 4]  # a class token and a quarter of the 16 patches


def test_hidden_pixels_do_not_change_the_prediction_and_shown_ones_do(toy_reader: Any) -> None:
    method, (view,) = build().eval(), views(toy_reader)
    x, mask = view.pixels.clone(), view.masks
    before = method._predict(x, mask, view.hidden)
    patches = mask.view(-1, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]  # [N, 1, 16, 16]
    assert torch.equal(
        before, method._predict(torch.where(patches, torch.randn_like(x), x), mask, view.hidden)
    )
    assert not torch.equal(
        before, method._predict(torch.where(patches, x, torch.randn_like(x)), mask, view.hidden)
    )


def test_every_sample_has_a_mask_of_its_own_with_three_quarters_hidden(toy_reader: Any) -> None:
    (view,) = views(toy_reader)
    assert (view.masks.sum(1) == 12).all()
    assert len({tuple(row) for row in view.masks.tolist()}) > 1


def test_the_loss_is_the_papers_in_plain_loops(toy_reader: Any) -> None:
    method, (view,) = build(), views(toy_reader)
    with torch.no_grad():
        prediction = method._predict(view.pixels, view.masks, view.hidden).double()
        total, count = 0.0, 0
        for n in range(8):
            for patch in range(16):
                if view.masks[n, patch]:
                    y, x = 4 * (patch // 4), 4 * (patch % 4)
                    target = view.pixels[n, :, y : y + 4, x : x + 4].double().permute(1, 2, 0).reshape(-1)
                    target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6) ** 0.5
                    total += float(((prediction[n, patch] - target) ** 2).mean())
                    count += 1
        loss = method.step([view], CLOCK).loss
    assert abs(loss.item() - total / count) < 1e-5


def test_a_recipe_without_patch_size_is_refused() -> None:
    with pytest.raises(UserError, match="patch size"):
        methods.recipe("mae", 16)


def test_reconstructions_show_original_input_and_result(toy_reader: Any) -> None:
    ((name, picture),) = build().eval().pictures(views(toy_reader))
    assert name == "reconstructions"
    assert picture.shape == (3 * 16, 8 * 16, 3)
    (view,) = views(toy_reader)
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (view.std, view.mean))
    first = ((view.pixels[0] * std + mean).clamp(0, 1) * 255).round().permute(1, 2, 0)
    assert torch.equal(picture[:16, :16].float(), first)
