from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from support import KINDS, check_it_trains, noise_views, small_method
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe import methods
from sslpipe.console.errors import UserError
from sslpipe.losses import similarity, sinkhorn, swapped_prediction
from sslpipe.methods import swav
from sslpipe.methods.base.method import Clock
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views.view import View

N, K, D, LENGTH = 16, 8, 16, 32  # the batch here; prototypes, features and queue of support's SMALL


def clock(step: int = 0, epoch: int = 0) -> Clock:
    return Clock(step, epoch, 0.0, torch.Generator())


def build(**changes: Any) -> Any:
    """In float64, so that tolerances are tight."""
    return small_method("swav", **changes).double().train()


def views(seed: int = 0, n: int = N, local_crops: int = 2) -> list[View]:
    """Noise in two large crops and small ones."""
    return noise_views(n, seed, [("global", 16)] * 2 + [("local", 7)] * local_crops)


def fill(method: Any) -> None:
    """Two batches of 16 fill the queue of 32."""
    for epoch in (1, 2):
        method.step(views(epoch), clock())
        method.after_update(clock())


# --- the paper's formulas, by other means ---


def embeddings(method: Any, crops: Any) -> list[np.ndarray]:
    """z of each crop, by a copy: batch norm keeps statistics."""
    method = copy.deepcopy(method)
    h = [torch.cat([v.pixels for v in crops if v.name == name]) for name in ("global", "local")]
    z = method.projector(torch.cat([method.backbone(x) for x in h])).detach().numpy()
    z = z / np.sqrt((z**2).sum(1, keepdims=True))
    return [z[i * N : (i + 1) * N] for i in range(len(crops))]


def official_sinkhorn(scores: np.ndarray, epsilon: float = 0.05, rounds: int = 3) -> np.ndarray:
    """As the official code: outside the log domain, prototypes first."""
    q = np.exp(scores / epsilon).T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(rounds):
        q = q / q.sum(axis=1, keepdims=True) / prototypes
        q = q / q.sum(axis=0, keepdims=True) / samples
    return (q * samples).T


def loss_by_loops(method: Any, crops: Any, queues: list[np.ndarray] | None, assigned: int = 2) -> float:
    """The official training loop's loss: for each large crop, all the other crops predict its codes."""
    z, c = embeddings(method, crops), method.prototypes.detach().numpy()
    c = c / np.sqrt((c**2).sum(1, keepdims=True))
    loss = 0.0
    for a in range(assigned):
        rows = z[a] if queues is None else np.concatenate([queues[a], z[a]])
        q = official_sinkhorn(rows @ c.T)[-N:]
        subloss = 0.0
        for v in range(len(crops)):
            if v == a:
                continue
            for n in range(N):
                x = np.array([float(z[v][n] @ c[k]) / 0.1 for k in range(K)])
                log_p = x - math.log(sum(math.exp(value) for value in x))
                subloss -= sum(float(q[n, k] * log_p[k]) for k in range(K)) / N
        loss += subloss / (len(crops) - 1)
    return loss / assigned


def test_the_loss_of_multi_crop_is_the_official_loops() -> None:
    method, crops = build(), views()
    expected = loss_by_loops(method, crops, None)
    assert method.step(crops, clock()).loss.item() == pytest.approx(expected, rel=1e-10)


def test_the_loss_of_two_crops_is_the_mean_of_both_swaps() -> None:
    method, crops = build(), views(local_crops=0)
    copied = copy.deepcopy(method)
    z = normalize(copied.projector(copied.backbone(torch.cat([v.pixels for v in crops]))), dim=1)
    t, s = (z @ normalize(copied.prototypes, dim=1).T).detach().numpy().reshape(2, N, K)
    log_p_t, log_p_s = (x / 0.1 - np.log(np.exp(x / 0.1).sum(1, keepdims=True)) for x in (t, s))
    swaps = official_sinkhorn(s) * log_p_t + official_sinkhorn(t) * log_p_s
    assert method.step(crops, clock()).loss.item() == pytest.approx(-swaps.sum(1).mean() / 2, rel=1e-10)


def test_with_a_full_queue_its_features_take_part_in_the_codes_scored_by_todays_prototypes() -> None:
    method, crops = build(), views()
    past = [[embeddings(method, views(epoch))[a] for epoch in (1, 2)] for a in (0, 1)]
    fill(method)
    with torch.no_grad():
        method.prototypes.add_(torch.randn(K, D, generator=torch.Generator().manual_seed(3)))
    expected = loss_by_loops(method, crops, [np.concatenate(rows) for rows in past])
    assert method.step(crops, clock()).loss.item() == pytest.approx(expected, rel=1e-10)
    assert abs(expected - loss_by_loops(method, crops, None)) > 1e-3


def test_loss_and_prototypes_agree_with_lightlys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")
        heads = pytest.importorskip("lightly.models.modules", reason="lightly is not installed")
    method, crops = build(), views()
    fill(method)
    theirs = heads.SwaVPrototypes(D, K).double()
    with torch.no_grad():
        theirs.heads[0].bias.zero_()  # the paper's have none
        theirs.heads[0].weight.copy_(3 * method.prototypes)
        theirs.normalize()
        scores = [theirs(torch.from_numpy(z)) for z in embeddings(method, crops)]
        queued = [theirs(vectors) for vectors in method.queue.vectors.chunk(2, dim=1)]
    expected = loss.SwaVLoss()(scores[:2], scores[2:], queued)
    torch.testing.assert_close(method.step(crops, clock()).loss, expected.squeeze())


# --- prototypes ---


def test_prototypes_are_normalised_before_each_forward() -> None:
    method, crops = build(), views()
    before = copy.deepcopy(method).step(crops, clock()).loss
    with torch.no_grad():
        method.prototypes.mul_(torch.linspace(0.5, 5, K)[:, None])
    torch.testing.assert_close(method.step(crops, clock()).loss, before)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(K, dtype=torch.float64))


def test_the_gradient_is_that_of_fixed_codes_at_the_normalised_prototypes() -> None:
    method, crops = build(), views()
    reference = copy.deepcopy(method)
    method.step(crops, clock()).loss.backward()

    C = normalize(reference.prototypes.detach(), dim=1).requires_grad_()
    h = [torch.cat([v.pixels for v in crops if v.name == name]) for name in ("global", "local")]
    z = normalize(reference.projector(torch.cat([reference.backbone(x) for x in h])), dim=1)
    scores = (z @ C.T).chunk(4)
    codes = [torch.from_numpy(official_sinkhorn(score.detach().numpy())) for score in scores[:2]]
    swapped_prediction(scores, codes, 0.1).backward()
    torch.testing.assert_close(method.prototypes.grad, C.grad)
    for (name, ours), theirs in zip(
        method.backbone.named_parameters(), reference.backbone.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    ("step", "epoch", "frozen"), [(0, 0, True), (4, 4, True), (5, 0, False), (5, 9, False)]
)
def test_prototypes_are_frozen_for_iterations_and_not_epochs(step: int, epoch: int, frozen: bool) -> None:
    method = build(freeze_prototypes=5)
    method.step(views(), clock()).loss.backward()
    method.before_update(clock(step, epoch))
    assert (method.prototypes.grad is None) == frozen
    assert all(p.grad is not None for p in method.projector.parameters())


# --- codes ---


def test_only_large_crops_get_codes_each_by_a_sinkhorn_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    method, crops = build(queue=0), views()
    assert [view.name for view in crops] == ["global", "global", "local", "local"]
    seen: list[Tensor] = []

    def recording(scores: Tensor, epsilon: float, rounds: int) -> Tensor:
        seen.append(scores)
        return sinkhorn(scores, epsilon, rounds)

    monkeypatch.setattr(swav, "sinkhorn", recording)
    z = embeddings(method, crops)
    method.step(crops, clock())
    assert [scores.shape for scores in seen] == [(N, K), (N, K)]
    C = normalize(method.prototypes.detach(), dim=1).numpy()
    for a, scores in enumerate(seen):
        np.testing.assert_allclose(scores, z[a] @ C.T, rtol=1e-9, atol=1e-12)


def test_codes_carry_no_gradient() -> None:
    method = build()
    z = normalize(torch.randn(N, D, dtype=torch.float64), dim=1).requires_grad_()
    assert not method._assign(z, method.prototypes, 0).requires_grad


def test_scores_are_computed_in_full_precision() -> None:
    # bf16 scores are off by up to 1/512, which ε = .05 makes 4 %.
    z, C = torch.randn(N, D).bfloat16(), torch.randn(K, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = similarity(z, C)
    torch.testing.assert_close(scores, z.float() @ C.T, rtol=0, atol=0)


# --- the queue ---


def test_the_queue_counts_only_when_full() -> None:
    method = build()
    used = []
    for epoch in range(4):
        without = copy.deepcopy(method)
        without.queue = None
        with_queue = copy.deepcopy(method).step(views(epoch), clock()).loss
        used.append(not torch.equal(with_queue, without.step(views(epoch), clock()).loss))
        method.step(views(epoch), clock())
        method.after_update(clock())
    assert used == [False, False, True, True]  # 32 features are two batches of 16


def test_the_queue_fills_from_its_epoch_on_and_after_the_update() -> None:
    method = build(queue_epoch=3)
    start = method.queue.vectors.clone()
    method.step(views(), clock(step=100, epoch=2))
    method.after_update(clock(step=100, epoch=2))
    assert torch.equal(method.queue.vectors, start)
    expected = embeddings(method, views())[:2]
    method.step(views(), clock(epoch=3))
    assert torch.equal(method.queue.vectors, start)
    method.after_update(clock(epoch=3))
    np.testing.assert_allclose(method.queue.vectors[:N], np.concatenate(expected, axis=1), rtol=1e-9)
    assert torch.equal(method.queue.vectors[N:], start[N:])


def test_the_queue_is_saved_and_restored() -> None:
    method, other = build(), build(seed=1)
    fill(method)
    other.load_state_dict(method.state_dict())
    assert other.queue.full
    assert torch.equal(other.step(views(), clock()).loss, method.step(views(), clock()).loss)


def test_a_batch_in_two_parts_moves_the_queue_once() -> None:
    method, crops = build(), views()
    parts = [[view[rows] for view in crops] for rows in (slice(8), slice(8, 16))]
    (method.step(parts[0], clock()).loss + method.step(parts[1], clock()).loss).backward()
    assert method.queue._seen == 0
    method.after_update(clock())
    assert method.queue._seen == N


def test_a_queue_that_the_batch_does_not_divide_is_refused() -> None:
    assert build(queue=64).check_batch(32, 1000) == []
    with pytest.raises(UserError, match="set the queue to 32 or 64"):
        build(queue=48).check_batch(32, 1000)


def test_more_prototypes_than_images_are_warned_of() -> None:
    assert build(prototypes=32, queue=0).check_batch(32, 1000) == []
    (warning,) = build(prototypes=100, queue=32).check_batch(32, 1000)
    assert "methods.swav.prototypes to 64" in warning
    assert "methods.swav.queue to 96" in warning
    assert build(prototypes=100, queue=96).check_batch(32, 1000) == []


# --- multi-crop ---


def test_one_forward_a_resolution_and_one_projection_for_all() -> None:
    method, crops = build(), views()
    seen: list[tuple[int, ...]] = []
    method.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    method.projector.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    method.step(crops, clock())
    assert seen == [(2 * N, 3, 16, 16), (2 * N, 3, 7, 7), (4 * N, method.backbone.dim)]


def test_the_recipe_has_as_many_small_crops_as_the_settings_say() -> None:
    large, small = methods.recipe("swav", 224).views
    assert (large.count, large.size, large.scale) == (2, 224, (0.14, 1.0))
    assert (small.count, small.size, small.scale) == (6, 96, (0.05, 0.14))
    assert [view.count for view in methods.recipe("swav", 224, config={"local_crops": 4}).views] == [2, 4]
    assert methods.recipe("swav", 224, config={"local_crops": 0}).views == (large,)


def test_a_single_large_crop_is_refused() -> None:
    crops = views()
    for few in (crops[:1], crops[1:3]):
        with pytest.raises(UserError, match=r"views\.recipe\.global\.count"):
            build().step(few, clock())


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    check_it_trains("swav", name)


# --- optimiser ---


def test_the_default_optimiser_is_larc_that_adapts_everything() -> None:
    method = build(freeze_prototypes=0)
    config = methods.configure("swav").optimizer
    optimizer = optim.build(method.parameter_groups(), config, 4096)
    expected = {}
    method.step(views(), clock()).loss.backward()
    for name, p in method.named_parameters():
        decay = 1e-6 if p.ndim > 1 else 0.0
        gradient, w = p.grad.norm(), p.detach().norm()
        trust = 0.001 * w / (gradient + decay * w + 1e-8) if w > 0 and gradient > 0 else 1.0
        expected[name] = p.detach() - 4.8 * trust * (p.grad + decay * p.detach())
    optimizer.step()
    for name, p in method.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_the_default_rate_ends_as_in_the_official_scripts() -> None:
    config = methods.configure("swav").optimizer
    assert config.peak(4096) == pytest.approx(4.8)
    assert config.peak(4096) * lr_factor(config, 800, 800) == pytest.approx(0.0048)


# --- what is watched and shown ---


def test_numbers_tell_collapse_from_learning() -> None:
    method, crops = build(), views()
    numbers = copy.deepcopy(method).step(crops, clock()).numbers
    assert numbers["code_entropy"] < 0.9
    assert numbers["prototypes_used"] > 1 / K
    with torch.no_grad():
        method.projector[-1].weight.zero_()  # all images the same
    outcome = method.step(crops, clock())
    assert outcome.numbers["code_entropy"].item() == pytest.approx(1)
    assert outcome.numbers["prototypes_used"].item() == pytest.approx(1 / K)


def test_accuracy_is_how_often_a_crop_finds_the_others_first_choice() -> None:
    first, second = torch.eye(4), torch.eye(4)[[1, 2, 3, 0]]
    assert swav._numbers([first, second], [second, first])["accuracy"] == 1
    assert swav._numbers([first, second], [second, first[[0, 1, 3, 2]]])["accuracy"].item() == 6 / 8


def test_the_cluster_sheet_has_a_row_for_each_of_the_largest_clusters_best_images_first() -> None:
    method, crops = build().eval(), views(n=32)
    ((title, sheet),) = method.pictures(crops)
    assert title == "clusters"
    with torch.no_grad():
        z = normalize(method.projector(method.backbone(crops[0].pixels)), dim=1)
        scores = z @ normalize(method.prototypes, dim=1).T
    clusters: dict[int, list[int]] = {}
    for n in range(32):
        clusters.setdefault(int(scores[n].argmax()), []).append(n)
    rows = sorted(clusters, key=lambda k: (-len(clusters[k]), k))[:8]
    assert sheet.shape == (16 * len(rows), 16 * min(8, len(clusters[rows[0]])), 3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (crops[0].mean, crops[0].std))
    for row, k in enumerate(rows):
        members = sorted(clusters[k], key=lambda n: -float(scores[n, k]))
        for column in range(sheet.shape[1] // 16):
            cell = sheet[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].permute(2, 0, 1)
            if column < len(members):
                image = (crops[0].pixels[members[column]].float() * std + mean).clamp(0, 1) * 255
                assert torch.equal(cell.float(), image.round())
            else:
                assert (cell == 255).all()
