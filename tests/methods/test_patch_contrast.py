from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import ToyReader
from torch import Tensor, nn
from torch.nn import functional as F

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.data import Batch
from sslpipe.methods.base.method import Clock
from sslpipe.methods.patch_contrast import cut, draw, share_match
from sslpipe.networks import backbone
from sslpipe.training.core import accumulation
from sslpipe.training.core.config import Config
from sslpipe.views import View, ViewEngine, matches, resolve

SMALL = {"projector_hidden": 16, "projector_out": 8, "patch_hidden": 16, "patch_out": 8}
RESNET: dict[str, Any] = {"name": "small_resnet", "width": 8, "stages": 3, "stem_stride": 1}  # 16 px: 4 x 4
VIT: dict[str, Any] = {"name": "small_vit", "width": 16, "depth": 2, "heads": 2}  # 16 px: 4 x 4
PLAIN = {"jitter": {"probability": 0.0}, "grey": 0.0, "blur": 0.0}
WHOLE = {**PLAIN, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0}


def clock(seed: int = 0) -> Clock:
    return Clock(0, 0, 0.0, torch.Generator().manual_seed(seed))


def build(network: dict[str, Any] | networks.Backbone = RESNET, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    if isinstance(network, dict):
        network = backbone(**{"image_size": 16, **network})
    return methods.build("patch_contrast", network, {**SMALL, **changes}).train()


def pair(count: int = 6, size: int = 16, seed: int = 0, **changes: Any) -> list[View]:
    """Two views of toy images by the method's recipe, flipped, turned and rotated unless told otherwise."""
    changes = changes or {"vflip": 0.5, "rotation": 30.0, "quarter_turns": True}
    recipe = resolve(methods.recipe("patch_contrast", size), user=changes)
    return ViewEngine(recipe, seed=seed)(ToyReader(count=count, resolution=size).gather(range(count)), 0)


def double(views: list[View]) -> list[View]:
    return [replace(view, pixels=view.pixels.double()) for view in views]


def grads(method: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


# --- the loss ---


def place_of(view: View, n: int, column: float, row: float) -> Tensor:
    """Where a point of view n, in shares of its sides, lies on the canvas."""
    side = view.pixels.shape[-1]
    point = torch.tensor([column * side - 0.5, row * side - 0.5, 1.0], dtype=torch.float64)
    return view.to_canvas[n].double() @ point


def match_by_hand(a: View, b: View, n: int, patch: int, cells: int) -> int:
    """The patch of view b that holds the centre of a's patch, -1 for none."""
    row, column = divmod(patch, cells)
    x, y = place_of(a, n, (column + 0.5) / cells, (row + 0.5) / cells)
    to, side = b.to_canvas[n].double(), b.pixels.shape[-1]
    (p, q), (r, s) = to[:, :2]
    dx, dy, det = x - to[0, 2], y - to[1, 2], p * s - q * r  # Cramer's rule
    inside_x, inside_y = (s * dx - q * dy) / det, (p * dy - r * dx) / det
    u, v = (float(t + 0.5) * cells / side for t in (inside_x, inside_y))
    return math.floor(v) * cells + math.floor(u) if 0 <= u < cells and 0 <= v < cells else -1


def cosine(u: Tensor, v: Tensor) -> float:
    return float(u @ v / (u.norm() * v.norm()))


def images_by_loops(z: list[Tensor], temperature: float) -> float:
    everyone = [(v, n) for v in range(2) for n in range(len(z[0]))]
    losses = []
    for v, n in everyone:
        others = {o: math.exp(cosine(z[v][n], z[o[0]][o[1]]) / temperature) for o in everyone if o != (v, n)}
        losses.append(-math.log(others[1 - v, n] / sum(others.values())))
    return sum(losses) / len(losses)


def patches_by_loops(
    p: list[Tensor], m: dict[Any, int], temperature: float, ignore: bool
) -> dict[Any, float]:
    """Each anchor's loss, by (view, image, patch); `m` holds the matches of all patches of both views."""
    losses = {}
    for (v, n, i), match in m.items():
        if match < 0:
            continue
        total = positive = 0.0
        for w, k, j in m:
            same = w == v and k == n and (j == i or (ignore and m[v, n, j] == match))
            value = math.exp(cosine(p[v][n, i], p[w][k, j]) / temperature)
            total += 0.0 if same else value
            positive += value if (w, k, j) == (1 - v, n, match) else 0.0
        losses[v, n, i] = -math.log(positive / total)
    return losses


def mean_of_view(losses: dict[Any, float], view: int, mean: str) -> float:
    images = [[value for (v, k, _), value in losses.items() if (v, k) == (view, n)] for n in range(4)]
    if mean == "anchors":
        return sum(map(sum, images)) / sum(map(len, images))
    means = [sum(image) / len(image) for image in images if image]
    return sum(means) / len(means)


@pytest.mark.parametrize(
    ("ignore", "mean"), [(True, "anchors"), (False, "anchors"), (True, "image"), (False, "image")]
)
def test_the_loss_is_the_formula(ignore: bool, mean: str) -> None:
    method = build(
        lambda_img=0.3, lambda_patch=0.9, temperature=0.3, ignore_overlap=ignore, mean=mean
    ).double()
    a, b = views = double(pair(4))
    reference = copy.deepcopy(method)
    with torch.no_grad():
        maps = reference.backbone.maps(torch.cat([a.pixels, b.pixels]))  # [8, D, 4, 4]
        z = list(reference.projector(maps.mean(dim=(2, 3))).chunk(2))
        first, _, second = reference.patch_projector
        p = F.conv2d(maps, first.weight[:, :, None, None], first.bias).relu()  # DenseCL's head
        p = F.conv2d(p, second.weight[:, :, None, None], second.bias)
    p = [
        torch.stack([part[:, :, i // 4, i % 4] for i in range(16)], dim=1) for part in p.chunk(2)
    ]  # 2 × [4, 16, d]
    m = {
        (v, n, i): match_by_hand(*((a, b), (b, a))[v], n, i, 4)
        for v in range(2)
        for n in range(4)
        for i in range(16)
    }
    assert 0.2 < sum(match >= 0 for match in m.values()) / len(m) < 0.9
    losses = patches_by_loops(p, m, 0.2, ignore)
    expected = 0.3 * images_by_loops(z, 0.3)
    expected += 0.9 * (mean_of_view(losses, 0, mean) + mean_of_view(losses, 1, mean)) / 2
    outcome = method.step(views, clock())
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-9)
    found = [
        max(range(16), key=lambda j: cosine(p[0][n, i], p[1][n, j])) == match
        for (v, n, i), match in m.items()
        if v == 0 and match >= 0
    ]
    assert outcome.numbers["patch_accuracy"].item() == pytest.approx(sum(found) / len(found))
    assert outcome.numbers["matched"].item() == pytest.approx(len(found) / 64)


def test_a_share_of_matches_is_shared_and_both_directions_differ() -> None:
    # Else the test above would not tell `ignore` from nothing, or one direction from the other.
    a, b = pair(16)
    there, back = matches(a, b, 4), matches(b, a, 4)
    assert not torch.equal(there, back)
    for m in (there, back):
        neighbours = share_match(m).sum(dim=2) - 1
        assert 0.1 < (neighbours[m >= 0] > 0).float().mean() < 0.8


def test_patches_that_share_a_match() -> None:
    shared = share_match(torch.tensor([[2, 0, 2, -1, -1]]))
    assert shared[0].int().tolist() == [
        [1, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_the_image_level_alone_is_simclr() -> None:
    views = pair(8)
    method = build(lambda_img=1.0, lambda_patch=0.0)
    torch.manual_seed(0)
    config = {"projector_hidden": 16, "projector_out": 8, "temperature": 0.1}
    simclr = methods.build("simclr", backbone(image_size=16, **RESNET), config).train()
    simclr.load_state_dict(method.state_dict())
    torch.testing.assert_close(method.step(views, clock()).loss, simclr.step(views, clock()).loss)


def test_either_level_may_be_off_and_then_has_no_head() -> None:
    views = pair()
    both = build(lambda_img=0.4, lambda_patch=0.8)
    image, patch = build(lambda_img=0.4, lambda_patch=0.0), build(lambda_img=0.0, lambda_patch=0.8)
    heads = {name.partition(".")[0] for name, _ in both.named_parameters()}
    assert heads == {"backbone", "projector", "patch_projector"}
    for one, head in ((image, "projector"), (patch, "patch_projector")):
        assert {name.partition(".")[0] for name, _ in one.named_parameters()} == {"backbone", head}
        own = {key: value for key, value in both.state_dict().items() if key.startswith(("backbone", head))}
        one.load_state_dict(own)
    losses = [method.step(views, clock()).loss for method in (image, patch, both)]
    torch.testing.assert_close(losses[0] + losses[1], losses[2])
    assert image.step(views, clock()).numbers.keys() == {"positive_similarity"}
    assert patch.step(views, clock()).numbers.keys() == {"matched", "patch_accuracy"}


def test_both_levels_off_is_an_error() -> None:
    with pytest.raises(ValidationError, match="both 0: set one of them above 0"):
        build(lambda_img=0.0, lambda_patch=0.0)


def test_nothing_that_overlaps_is_a_zero_with_a_graph() -> None:
    a, b = pair(4, **WHOLE)
    away = b.to_canvas.clone()
    away[:, :, 2] += 1000
    outcome = build(lambda_img=0.0).step([a, replace(b, to_canvas=away)], clock())
    assert outcome.loss.item() == 0
    assert all(value == 0 for value in outcome.numbers.values())
    outcome.loss.backward()


def test_without_a_patch_head_the_backbones_vectors_are_compared() -> None:
    method = build(patch_projector=False, lambda_img=0.0)
    assert all(name.startswith("backbone") for name, _ in method.named_parameters())
    views = pair()
    reference = copy.deepcopy(method)
    p_1, p_2 = reference.backbone.tokens(torch.cat([view.pixels for view in views])).chunk(2)
    for patches, expected in zip(method.embed(views), (p_1, p_2), strict=True):
        torch.testing.assert_close(patches[:, :, :-1], expected)


# --- geometry ---


def painted(count: int, side: int) -> Batch:
    """Canvases whose red is x, whose green is y, in 255ths, and whose blue is full."""
    line = torch.arange(side, dtype=torch.uint8)
    x, y = line.expand(side, -1), line[:, None].expand(-1, side)
    pixels = torch.stack((x, y, torch.full_like(x, 255)), dim=-1).expand(count, -1, -1, -1).contiguous()
    size = torch.full((count, 2), side, dtype=torch.int32)
    return Batch(pixels=pixels, size=size, index=torch.arange(count), label=torch.zeros(count).long())


@pytest.mark.parametrize(
    "changes",
    [
        {"hflip": 0.0},
        {"hflip": 1.0},
        {"hflip": 0.5, "vflip": 0.5},
        {"hflip": 0.0, "rotation": 40.0},
        {"hflip": 0.5, "vflip": 0.5, "rotation": 30.0, "quarter_turns": True},
    ],
    ids=["crops", "mirrored", "flips", "rotation", "all"],
)
def test_matched_patches_show_the_same_place_of_a_painted_image(changes: dict[str, Any]) -> None:
    # No matrices here: colours tell where on the canvas a pixel comes from.
    size, cells, count = 32, 4, 24
    recipe = resolve(methods.recipe("patch_contrast", size), user={**PLAIN, "scale": (0.3, 1.0), **changes})
    views = ViewEngine(recipe, seed=1)(painted(count, 120), 0)
    mean, std = (torch.tensor(getattr(views[0], name)).view(3, 1, 1) for name in ("mean", "std"))
    colours = [(view.pixels * std + mean) * 255 for view in views]  # [N, 3, S, S]
    method = build(backbone(image_size=size, **{**RESNET, "stages": 4}))
    found = method.embed(views)[2][:, :, -1]  # [N, P]
    checked: Counter[bool] = Counter()
    for n in range(count):
        here, there = colours[0][n], colours[1][n]
        known = (there[2] > 254.5).flatten()  # without a trace of what lies outside the canvas
        place = there[:2].flatten(1).where(known, torch.inf)  # [2, S·S]
        step = (there[:2, 16, 17] - there[:2, 16, 16]).norm()  # canvas pixels a pixel
        for patch in range(cells * cells):
            row, column = divmod(patch, cells)
            y, x = 8 * row + 3, 8 * column + 3
            middle = here[:, y : y + 2, x : x + 2].mean(dim=(1, 2))  # of the patch
            if middle[2] < 254.5:
                continue
            distance = (place - middle[:2, None]).norm(dim=0)
            pixel = int(distance.argmin())
            v, u = divmod(pixel, size)
            edge = min(t % 8 for t in (u, v, 7 - u % 8, 7 - v % 8))
            if known.all() and distance[pixel] > 2 * step:
                assert found[n, patch] == -1
                checked[False] += 1
            elif edge >= 1 and distance[pixel] < 0.75 * step:
                assert found[n, patch] == v // 8 * cells + u // 8
                checked[True] += 1
    assert checked[True] > 40
    assert checked[False] > 5


@pytest.mark.parametrize("network", [RESNET, VIT], ids=["resnet", "vit"])
def test_the_same_view_twice_matches_perfectly(network: dict[str, Any]) -> None:
    a, b = pair(8, **WHOLE)
    assert torch.equal(a.pixels, b.pixels)
    method = build(network)
    outcome = method.step([a, b], clock())
    assert outcome.numbers["matched"] == 1
    assert outcome.numbers["patch_accuracy"] == 1
    assert torch.equal(method.embed([a, b])[2][:, :, -1], torch.arange(16.0).expand(8, -1))
    half = pair(8, **{**WHOLE, "scale": (0.5, 0.5)})
    assert method.step(half, clock()).numbers["matched"] < 1


# --- anchors ---


def test_at_most_so_many_anchors_are_drawn_of_the_matched() -> None:
    m = torch.tensor([[3, -1, 0, 1], [-1, -1, 2, 2], [1, 1, -1, -1]])
    for limit in (1, 4, 6, 7, 8, 11):
        drawn = draw(m, limit, torch.Generator().manual_seed(0))
        kept = drawn >= 0
        assert kept.sum() == min(limit, 7)
        assert torch.equal(drawn[kept], m[kept])
    assert draw(m, 12, torch.Generator()) is m
    assert (draw(torch.full((3, 4), -1), 5, torch.Generator()) == -1).all()


def test_every_matched_patch_is_as_likely() -> None:
    m = torch.tensor([[3, -1, 0, 1], [-1, -1, 2, 2]])
    generator, times = torch.Generator().manual_seed(0), 4000
    counts = sum((draw(m, 2, generator) >= 0).long() for _ in range(times))
    assert torch.equal(counts > 0, m >= 0)
    shares = counts[m >= 0] / times  # each 2 / 5, standard error .008
    assert (shares - 0.4).abs().max() < 0.03


def test_draws_come_from_the_clock_alone() -> None:
    m = torch.arange(40).view(2, 20)
    torch.manual_seed(0)
    first = draw(m, 5, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    assert torch.equal(first, draw(m, 5, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, draw(m, 5, torch.Generator().manual_seed(4)))


def test_a_draw_gives_the_loss_of_its_anchors_and_is_unbiased() -> None:
    # Were `ignore` made of the drawn anchors' matches, no two would share one here.
    generator = torch.Generator().manual_seed(0)
    p = list(torch.randn(2, 3, 9, 4, dtype=torch.float64, generator=generator))
    pairs = torch.randint(-1, 4, (3, 9), generator=generator)
    m = {(v, n, i): int(pairs[n, i]) if v == 0 else -1 for v in range(2) for n in range(3) for i in range(9)}
    losses = torch.tensor(list(patches_by_loops(p, m, 0.2, True).values()), dtype=torch.float64)

    def drawn(anchors: int, times: int) -> Tensor:
        method = build(anchors=anchors)
        return torch.stack([method._patch_loss(*p, pairs, clock(seed).generator) for seed in range(times)])

    ones = drawn(1, 30)
    nearest = (ones[:, None] - losses).abs().argmin(dim=1)
    torch.testing.assert_close(ones, losses[nearest])
    assert len(nearest.unique()) > 8
    few = drawn(8, 100)
    assert few.std() > 0.01
    assert (few.mean() - losses.mean()).abs() < 3 * few.std() / 10
    for enough in (26, 4096):  # of 27 patches
        torch.testing.assert_close(drawn(enough, 1)[0], losses.mean())


def test_both_directions_draw_anew() -> None:
    a, b = pair(6, **WHOLE)
    method = build(lambda_img=0.0, anchors=4)
    seen: list[Tensor] = []
    original = method._patch_loss
    method._patch_loss = lambda p, q, m, generator: (
        seen.append(draw(m, 4, generator)) or original(p, q, m, generator)
    )
    method.step([a, b], clock())
    assert not torch.equal(*seen)


# --- one pass, all gradients ---

NETWORKS: list[tuple[dict[str, Any], int, int]] = [
    (RESNET, 16, 16),
    (VIT, 16, 16),
    ({**VIT, "pool": "cls"}, 16, 16),
    ({**VIT, "class_token": False, "position": "learned"}, 16, 16),
    ({"name": "torchvision:resnet18", "stem": "small"}, 32, 16),
    ({"name": "timm:convnext_atto"}, 64, 4),
    ({"name": "timm:test_vit", "patch_size": 8}, 32, 16),
]


@pytest.mark.parametrize(
    ("network", "size", "patches"), NETWORKS, ids=lambda v: v["name"] if isinstance(v, dict) else ""
)
@pytest.mark.parametrize("off", [None, "lambda_img", "lambda_patch"])
def test_both_levels_share_one_pass_and_all_parameters_get_a_gradient(
    network: dict[str, Any], size: int, patches: int, off: str | None
) -> None:
    # A ConvNeXt has a norm after pooling, which patches do not go through.
    method = build({"image_size": size, **network}, **({off: 0.0} if off else {}))
    views, seen = pair(4, size), []
    conv = next(module for module in method.backbone.modules() if isinstance(module, nn.Conv2d))
    conv.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    embeddings = method.embed(views)
    assert seen == [8]  # batch norm sees both views together
    if off != "lambda_patch":
        assert embeddings[-1].shape == embeddings[-2].shape == (4, patches, 9)
    method.loss(embeddings, clock()).loss.backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [name for name, p in method.named_parameters() if not p.requires_grad and "token" not in name]
    norm = "convnext" in network["name"] and off == "lambda_img"
    assert frozen in ([], ["backbone.pos_embed"]) or norm
    assert not norm or frozen == ["backbone.model.head.norm.weight", "backbone.model.head.norm.bias"]


def test_gradients_reach_anchors_and_patches_of_both_views() -> None:
    views, method = pair(6), build(VIT, lambda_img=0.0)
    embeddings = tuple(e.detach().requires_grad_() for e in method.embed(views))
    method.loss(embeddings, clock()).loss.backward()
    for embedding in embeddings:
        assert embedding.grad[:, :, :-1].abs().sum(dim=2).gt(0).all()
        assert not embedding.grad[:, :, -1].any()  # the match is no feature


# --- a batch in parts ---


def test_parts_average_the_losses_of_the_parts() -> None:
    views, method = pair(8), build()
    parts = [[view[k : k + 4] for view in views] for k in (0, 4)]
    expected = torch.stack([method.step(part, clock()).loss for part in parts]).mean()
    expected.backward()
    wanted = grads(method)
    method.zero_grad()
    outcome = accumulation.backward(method, views, clock(), Config(batch_size=8, accumulate=2))
    torch.testing.assert_close(outcome.loss, expected.detach())
    torch.testing.assert_close(grads(method), wanted)


@pytest.mark.parametrize("anchors", [4096, 20])
@pytest.mark.parametrize("off", [None, "lambda_img", "lambda_patch"])
def test_the_gradient_cache_has_the_whole_batchs_negatives(anchors: int, off: str | None) -> None:
    # On a network in which no image sees another.
    method, views = build(VIT, anchors=anchors, **({off: 0.0} if off else {})), pair(8)
    if off != "lambda_img":
        method.projector = nn.Linear(16, 8)
    whole = method.step(views, clock()).loss
    whole.backward()
    wanted = grads(method)
    method.zero_grad()
    config = Config(batch_size=8, accumulate=4, gradient_cache=True)
    outcome = accumulation.backward(method, views, clock(), config)
    torch.testing.assert_close(outcome.loss, whole.detach())
    torch.testing.assert_close(grads(method), wanted, rtol=1e-3, atol=1e-6)


def test_matches_pass_through_half_precision_unharmed() -> None:
    # bfloat16 has no 257: a match must not be rounded with the features it travels with.
    method, views = build({**VIT, "image_size": 80, "patch_size": 4}), pair(2, 80)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, p_1, _ = method.embed(views)
    assert p_1.dtype == torch.float32
    expected = matches(*views, 20)
    assert expected.max() > 256
    assert torch.equal(p_1[:, :, -1].long(), expected)


# --- units ---


def test_regions_are_cut_row_by_row() -> None:
    x = torch.randn(2, 3, 12, 12)
    regions = cut(x, 3, 4)
    assert regions.shape == (18, 3, 4, 4)
    for n in range(2):
        for i in range(9):
            row, column = divmod(i, 3)
            part = x[n, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(regions[9 * n + i], part)


def test_regions_of_another_size_show_the_same() -> None:
    line = torch.linspace(0, 1, 28)
    x = (line + 2 * line[:, None]).expand(1, 3, -1, -1)
    larger = cut(x, 2, 32)
    assert larger.shape == (4, 3, 32, 32)
    for region, same in zip(larger, cut(x, 2, 14), strict=True):
        torch.testing.assert_close(region.mean(), same.mean(), rtol=0.02, atol=0.01)
    assert cut(x.bfloat16(), 2, 16).dtype == torch.bfloat16
    assert cut(x.double(), 2, 16).dtype == torch.float64


@pytest.mark.parametrize("network", [RESNET, VIT], ids=["resnet", "vit"])
def test_a_region_is_encoded_by_itself(network: dict[str, Any]) -> None:
    method = build(network, unit="regions", regions=2, lambda_img=0.0).eval()
    views = pair(4)
    changed = [replace(view, pixels=view.pixels.clone()) for view in views]
    changed[0].pixels[:, :, :8, 8:] += 1  # the region top right
    before, after = method.embed(views)[0], method.embed(changed)[0]
    differs = (before - after).abs().amax(dim=(0, 2)) > 1e-4
    assert differs.tolist() == [False, True, False, False]
    assert torch.equal(before[:, :, -1].long(), matches(*views, 2))
    x = views[0].pixels[:, :, 8:, :8]
    expected = method.patch_projector(method.backbone(x))
    torch.testing.assert_close(before[:, 2, :-1], expected, rtol=1e-4, atol=1e-5)


def test_regions_take_a_pass_of_their_own() -> None:
    sizes: list[tuple[int, ...]] = []
    method = build(unit="regions", regions=2)
    method.backbone.stem[0].register_forward_hook(lambda m, inputs, y: sizes.append(tuple(inputs[0].shape)))
    method.step(pair(4), clock()).loss.backward()
    assert sizes == [(32, 3, 8, 8), (8, 3, 16, 16)]
    assert all(p.grad is not None for p in method.parameters())
    alone = build(unit="regions", regions=2, lambda_img=0.0, region_size=12)
    sizes.clear()
    alone.backbone.stem[0].register_forward_hook(lambda m, inputs, y: sizes.append(tuple(inputs[0].shape)))
    alone.step(pair(4), clock()).loss.backward()
    assert sizes == [(32, 3, 12, 12)]
    assert all(p.grad is not None for p in alone.parameters())


def test_a_vision_transformers_regions_are_whole_patches() -> None:
    sizes: list[int] = []
    method = build({**VIT, "image_size": 20}, unit="regions", regions=2)  # of 10 pixels, patches of 4
    method.backbone.patch_embed.register_forward_hook(lambda m, inputs, y: sizes.append(inputs[0].shape[-1]))
    method.step(pair(4, 20), clock())
    assert sizes == [12, 20]


def test_auto_is_what_the_backbone_has() -> None:
    assert (build(RESNET).unit, build(VIT).unit) == ("cells", "tokens")
    assert (build(RESNET, unit="cells").unit, build(VIT, unit="tokens").unit) == ("cells", "tokens")
    with pytest.raises(UserError, match=r"small_resnet has no tokens: .* cells, .* vision transformer"):
        build(RESNET, unit="tokens")
    with pytest.raises(UserError, match=r"small_vit has no cells: .* tokens, .* CNN"):
        build(VIT, unit="cells")


def test_regions_that_a_network_cannot_take_are_refused() -> None:
    swin = backbone("timm:swin_tiny_patch4_window7_224", image_size=64)
    with pytest.raises(UserError, match=r"regions of 16 pixels, which it cannot take: set .*region_size"):
        build(swin, unit="regions")


def test_a_view_that_is_one_patch_is_worth_a_warning() -> None:
    single = {"name": "small_resnet", "width": 8}  # shrinks 16 times
    method = build(single)
    norm = next(module for module in method.backbone.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    (warning,) = method.check_batch(16, 100)
    assert "small_resnet" in warning
    assert "unit to regions" in warning
    assert method.backbone.training
    assert torch.equal(before, norm.running_mean)
    assert build(single, unit="regions", regions=2).check_batch(16, 100) == []
    assert build(single, lambda_patch=0.0).check_batch(16, 100) == []
    assert build(RESNET).check_batch(16, 100) == build(VIT).check_batch(16, 100) == []
    with pytest.raises(UserError, match="batch of 1"):
        build(RESNET).check_batch(1, 100)


@pytest.mark.parametrize("count", [1, 3])
def test_it_wants_two_views(count: int) -> None:
    views = ViewEngine(resolve(methods.recipe("patch_contrast", 16), user={"count": count}), seed=0)(
        ToyReader(count=4).gather(range(4)), 0
    )
    with pytest.raises(UserError, match=r"two views of an image, not .: set views\.recipe\.view\.count to 2"):
        build().step(views, clock())


# --- settings and pictures ---


def test_settings_are_densecls_and_simclrs() -> None:
    config = methods.configure("patch_contrast", None)
    simclr = methods.configure("simclr", None)
    assert (config.lambda_img, config.lambda_patch, config.patch_temperature) == (0.5, 0.5, 0.2)
    assert (config.patch_hidden, config.patch_out) == (2048, 128)
    assert config.optimizer == simclr.optimizer
    for name in ("temperature", "projector_hidden", "projector_out"):
        assert getattr(config, name) == getattr(simclr, name)
    layers = [type(layer) for layer in build().patch_projector]
    assert layers == [nn.Linear, nn.ReLU, nn.Linear]  # no batch norm
    (view,) = methods.recipe("patch_contrast", 224).views
    assert (view.count, view.scale, view.hflip) == (2, (0.2, 1.0), 0.5)


def rows_of(picture: Tensor, side: int = 112, gap: int = 4) -> Tensor:
    """Both rows of a sheet, [2, n, side, side, 3]."""
    cell = side + gap
    laid = picture.view(2, cell, -1, cell, 3).permute(0, 2, 1, 3, 4)
    assert (laid[:, :, side:] == 255).all()
    return laid[:, :, :side, :side]


def test_pictures_frame_matched_patches_alike() -> None:
    a, b = pair(5, **WHOLE)
    shown = dict(build().eval().pictures([a, b]))
    first, second = rows_of(shown["matches"])
    assert len(first) == 5
    assert torch.equal(first, second)  # the same view twice: every patch framed in its own colour
    corners = first[0, 0:112:28, 0:112:28].flatten(0, 1)  # the upper left corners of the frames
    assert len({tuple(colour.tolist()) for colour in corners}) == 16
    mirrored = pair(5, **{**WHOLE, "hflip": 1.0})[1]
    shown = dict(build().eval().pictures([a, mirrored]))
    first, second = rows_of(shown["matches"])
    assert torch.equal(first, second.flip(2))


def test_pictures_show_the_most_similar_patch_reddest_and_frame_the_match() -> None:
    a, b = pair(3, **WHOLE)
    first, second = rows_of(dict(build().eval().pictures([a, b]))["similarity"])
    for n in range(3):
        white = (second[n] == 255).all(dim=-1)
        framed = (first[n] == 255).all(dim=-1) & white  # the anchor and its match, the same patch here
        assert framed.sum() >= 200
        # Of the same view, [4, 4, 3] each. Half of a tinted pixel is the colour: 255 for the greatest similarity.
        plain, tinted = (rows[n, 14::28, 14::28].int() for rows in (first, second))
        red, _, blue = (2 * tinted - plain).flatten(0, 1).T
        row, column = (int(t.float().mean()) // 28 for t in framed.nonzero(as_tuple=True))
        assert red[4 * row + column] >= 253
        assert blue.max() >= 253


def test_no_pictures_without_patches_and_some_without_matches() -> None:
    a, b = pair(3, **WHOLE)
    assert dict(build(lambda_patch=0.0).eval().pictures([a, b])) == {}
    away = b.to_canvas.clone()
    away[:, :, 2] += 1000
    shown = dict(build().eval().pictures([a, replace(b, to_canvas=away)]))
    assert shown.keys() == {"matches", "similarity"}
