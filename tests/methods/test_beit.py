from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import TRANSFORMERS, check_it_trains

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.methods import beit
from sslpipe.methods.base.method import Clock, Preparation
from sslpipe.methods.base.pictures import plain
from sslpipe.networks.patches import patchify
from sslpipe.views import ViewEngine

CONFIG = {"tokenizer": {"words": 16, "dim": 8, "width": 8, "epochs": 2, "batch_size": 16}}
CLOCK = Clock(0, 0, 0.0, torch.Generator())
SMALL = {"width": 32, "depth": 2, "heads": 2}
RECIPE = methods.recipe("beit", 16, patch_size=4, config=CONFIG)


def build(name: str = "small_vit", seed: int = 0, config: Any = CONFIG, **options: Any) -> Any:
    torch.manual_seed(seed)
    backbone = networks.backbone(name, image_size=16, **(options or SMALL))
    return methods.build("beit", backbone, config).train()


def views(reader: Any, count: int = 8) -> Any:
    return ViewEngine(RECIPE, seed=0)(reader.gather(range(count)), 0)


def prepare(
    method: Any, reader: Any, folder: Path, seed: int = 0, parts: Mapping[str, str] | None = None
) -> list[str]:
    """Prepares the method; the digests that it asked for."""
    asked: list[str] = []

    def fresh(digest: str) -> Path:
        asked.append(digest)
        (folder / digest).mkdir(parents=True, exist_ok=True)
        return folder / digest

    method.prepare(Preparation(reader, RECIPE, torch.device("cpu"), seed, fresh, parts=parts or {}))
    return asked


def words_of(method: Any, monkeypatch: pytest.MonkeyPatch, words: torch.Tensor) -> None:
    monkeypatch.setattr(method.tokenizer, "words", lambda pixels: words)


def test_the_loss_is_equation_2_in_plain_loops(toy_reader: Any) -> None:
    method, (image, crop) = build(), views(toy_reader)
    with torch.no_grad():
        logits = method.head(method.backbone.tokens(image.pixels, mask=image.masks)).double()
        z = method.tokenizer.words(crop.pixels)
        outcome = method.step([image, crop], CLOCK)
    losses, right = [], 0
    for n in range(8):
        for patch in range(16):
            if image.masks[n, patch]:
                scores = logits[n, patch].tolist()
                total = sum(math.exp(score) for score in scores)
                losses.append(-math.log(math.exp(scores[z[n, patch]]) / total))
                right += scores.index(max(scores)) == z[n, patch]
    assert outcome.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert outcome.numbers["accuracy"].item() == pytest.approx(right / len(losses))


def test_the_tokenizer_sees_the_same_crop_at_half_the_size(toy_reader: Any) -> None:
    image, crop = views(toy_reader)
    assert (image.pixels.shape[-1], crop.pixels.shape[-1]) == (16, 8)
    assert image.table is not None
    assert crop.table is not None
    assert (image.table.box == crop.table.box).all()
    assert (image.table.hflip == crop.table.hflip).all()
    small, seen = F.avg_pool2d(plain(image.pixels, image), 2), plain(crop.pixels, crop)
    assert (small - seen).abs().mean() < 0.03
    assert (small.roll(1, 0) - seen).abs().mean() > 0.1  # and no other image's


def test_words_come_from_the_tokenizers_view(toy_reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, (image, crop) = build(), views(toy_reader)
    seen: list[torch.Tensor] = []
    words = method.tokenizer.words
    monkeypatch.setattr(method.tokenizer, "words", lambda pixels: (seen.append(pixels), words(pixels))[1])
    method.step([image, crop], CLOCK)
    assert len(seen) == 1
    assert seen[0] is crop.pixels  # all of it, nothing hidden


def test_words_count_where_patches_are_hidden_and_nowhere_else(
    toy_reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, (image, crop) = build().eval(), views(toy_reader)
    z, others = torch.randint(16, (2, 8, 16))
    losses = {}
    for name, words in (
        ("as it was", z),
        ("visible changed", torch.where(image.masks, z, others)),
        ("hidden changed", torch.where(image.masks, others, z)),
    ):
        words_of(method, monkeypatch, words)
        losses[name] = method.step([image, crop], CLOCK).loss.item()
    assert losses["visible changed"] == losses["as it was"]
    assert losses["hidden changed"] != losses["as it was"]


def test_hidden_pixels_do_not_change_the_prediction_and_shown_ones_do(toy_reader: Any) -> None:
    method, (image, _) = build().eval(), views(toy_reader)
    x, mask = image.pixels.clone(), image.masks
    hidden = mask.view(-1, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]  # [N, 1, 16, 16]
    before = method.backbone.tokens(x, mask=mask)
    assert torch.equal(before, method.backbone.tokens(torch.where(hidden, torch.randn_like(x), x), mask=mask))
    assert not torch.equal(
        before, method.backbone.tokens(torch.where(hidden, x, torch.randn_like(x)), mask=mask)
    )


def test_blocks_are_hidden_and_no_more_than_the_budget(toy_reader: Any) -> None:
    recipe = methods.recipe("beit", 56, patch_size=4, config=CONFIG)  # 14 x 14 patches, as the paper's
    image, _ = ViewEngine(recipe, seed=0)(toy_reader.gather(range(32)), 0)
    masks = image.masks.view(32, 14, 14)
    assert masks.sum(dim=(1, 2)).max() <= 75
    assert masks.sum(dim=(1, 2)).float().mean() > 70
    side_by_side = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks.sum()
    assert side_by_side > 0.7  # patches hidden one by one: about .36


def test_the_tokenizer_is_frozen(toy_reader: Any) -> None:
    method = build()
    frozen = {key: value.clone() for key, value in method.tokenizer.state_dict().items()}
    assert not any(module.training for module in method.tokenizer.modules())
    assert not any(parameter.requires_grad for parameter in method.tokenizer.parameters())
    groups = method.parameter_groups()
    inside = {id(parameter) for parameter in method.tokenizer.parameters()}
    assert not any(id(parameter) in inside for group in groups for parameter in group.parameters)
    optimizer = torch.optim.AdamW([p for group in groups for p in group.parameters], lr=0.1)
    for step in range(2):
        method.train()
        method.step(views(toy_reader), CLOCK).loss.backward()
        assert all(parameter.grad is None for parameter in method.tokenizer.parameters()), step
        optimizer.step()
        method.after_update(CLOCK)
    assert all(torch.equal(value, frozen[key]) for key, value in method.tokenizer.state_dict().items())


def test_prepare_trains_the_tokenizer_once_whatever_the_backbone(toy_reader: Any, tmp_path: Path) -> None:
    method = build()
    before = method.tokenizer.codes.clone()
    (first,) = prepare(method, toy_reader, tmp_path)
    assert not torch.equal(method.tokenizer.codes, before)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    other = build(seed=1, width=16, depth=1, heads=2)
    (second,) = prepare(other, toy_reader, tmp_path)
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == files
    for key, value in method.tokenizer.state_dict().items():
        assert torch.equal(value, other.tokenizer.state_dict()[key]), key
    assert not method.tokenizer.training
    assert not any(parameter.requires_grad for parameter in method.tokenizer.parameters())


def test_what_the_tokenizer_depends_on_is_in_its_fingerprint(toy_reader: Any, tmp_path: Path) -> None:
    config = {"tokenizer": {**CONFIG["tokenizer"], "lr": 2e-3}}
    asked = [
        *prepare(build(), toy_reader, tmp_path),
        *prepare(build(), toy_reader, tmp_path, parts={"data": "other images"}),
        *prepare(build(), toy_reader, tmp_path, parts={"code": "other code"}),
        *prepare(build(), toy_reader, tmp_path, seed=1),
        *prepare(build(config=config), toy_reader, tmp_path),
    ]
    assert len(set(asked)) == 5


def test_a_checkpoint_brings_the_tokenizer_along(toy_reader: Any, tmp_path: Path) -> None:
    method = build()
    prepare(method, toy_reader, tmp_path)
    again = build(seed=1)
    again.load_state_dict(method.state_dict())
    pair = views(toy_reader)
    assert torch.equal(again.step(pair, CLOCK).loss, method.step(pair, CLOCK).loss)


def test_a_trained_tokenizers_words_can_be_learnt(toy_reader: Any, tmp_path: Path) -> None:
    method = build(config={"tokenizer": {**CONFIG["tokenizer"], "epochs": 30, "lr": 5e-3}})
    prepare(method, toy_reader, tmp_path)
    pair = views(toy_reader, 32)
    optimizer = torch.optim.AdamW(
        [p for group in method.parameter_groups() for p in group.parameters], lr=3e-3
    )
    for _ in range(60):
        optimizer.zero_grad()
        outcome = method.step(pair, CLOCK)
        outcome.loss.backward()
        optimizer.step()
    assert outcome.numbers["perplexity_of_words"] > 4
    assert outcome.numbers["accuracy"] > 0.5


def test_a_tokenizers_crop_of_another_size_is_refused(toy_reader: Any, tmp_path: Path) -> None:
    image, crop = views(toy_reader)
    with pytest.raises(
        UserError, match=r"a crop of 8 pixels, .* not 16: leave views\.recipe\.tokenizer\.size"
    ):
        build().step([image, replace(crop, pixels=image.pixels)], CLOCK)


@pytest.mark.parametrize(
    ("size", "patch"), [(224, 16), (28, 4), (16, 4), (96, 16), (28, 7), (32, 8), (224, 14)]
)
def test_the_recipes_crop_has_a_word_for_each_patch(size: int, patch: int) -> None:
    backbone = networks.backbone("small_vit", image_size=size, width=8, depth=1, heads=2, patch_size=patch)
    method: Any = methods.build("beit", backbone, CONFIG)
    method._check_size(methods.recipe("beit", size, patch_size=patch)["tokenizer"].size)


@pytest.mark.parametrize(("name", "options"), TRANSFORMERS)
def test_vision_transformers_of_both_families_train(name: str, options: dict[str, Any]) -> None:
    check_it_trains("beit", name, image_size=16, **options)


def test_ranks_that_hide_more_count_more(toy_reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two ranks, one after the other: what `mean` would say of their hidden patches is told beforehand.
    method, (image, crop) = build(), views(toy_reader)
    masks = image.masks.clone()
    masks[:4, :2] = True
    image = replace(image, masks=masks, hidden=None)
    counts = [int(masks[:4].sum()), int(masks[4:].sum())]
    assert counts[0] > counts[1]
    whole = method.step([image, crop], CLOCK).loss
    monkeypatch.setattr(beit, "mean", lambda count: torch.tensor(sum(counts) / 2))
    halves = [
        method.step([view[part] for view in (image, crop)], CLOCK).loss for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_the_settings_are_the_official_ones() -> None:
    config = methods.configure("beit")
    assert config.optimizer.peak(2048) == config.optimizer.peak(128) == 1.5e-3
    assert config.optimizer.final_lr * config.optimizer.lr == pytest.approx(1e-5)
    assert (config.optimizer.betas, config.optimizer.clip) == ((0.9, 0.98), 3.0)
    assert config.tokenizer.words == 8192  # type: ignore[attr-defined]


def test_pictures_show_the_tokenizer_and_predicted_beside_true_words(toy_reader: Any) -> None:
    method, (image, crop) = build().eval(), views(toy_reader)
    pictures = dict(method.pictures([image, crop]))
    assert list(pictures) == ["tokenizer", "predicted_words"]
    assert pictures["tokenizer"].shape == (2 * 8, 8 * 8, 3)
    rows = pictures["predicted_words"].view(4, 16, 8, 16, 3).permute(0, 2, 4, 1, 3)  # 4 × [N, 3, 16, 16]
    original, shown, predicted, true = patchify(rows.flatten(0, 1).float(), 4).unflatten(0, (4, 8))
    assert torch.equal(shown[~image.masks], original[~image.masks])
    assert (shown[image.masks] == 128).all()
    assert not torch.equal(predicted, true)
    # The tokenizer's picture of the same words, at half the size.
    small = pictures["tokenizer"].view(2, 8, 8, 8, 3).permute(0, 2, 4, 1, 3)[1]
    assert torch.equal(F.interpolate(small.float(), scale_factor=2), rows[3].float())
