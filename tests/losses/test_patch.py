import math

import pytest
import torch
from torch import Tensor

from sslpipe.losses import nt_xent, patch_info_nce


def by_loops(
    z1: Tensor, z2: Tensor, matches: Tensor, temperature: float, ignore: Tensor | None = None
) -> float:
    """The contract of the loss, read word by word."""
    first = {(n, i): z1[n, i] / z1[n, i].norm() for n in range(len(z1)) for i in range(z1.shape[1])}
    second = {(n, i): z2[n, i] / z2[n, i].norm() for n in range(len(z2)) for i in range(z2.shape[1])}
    losses = []
    for (n, i), anchor in first.items():
        if matches[n, i] < 0:
            continue
        total = 0.0
        for (m, j), patch in first.items():
            dropped = ignore is not None and m == n and bool(ignore[n, i, j])
            if (m, j) != (n, i) and not dropped:
                total += math.exp(float(anchor @ patch) / temperature)
        total += sum(math.exp(float(anchor @ patch) / temperature) for patch in second.values())
        positive = math.exp(float(anchor @ second[n, int(matches[n, i])]) / temperature)
        losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


@pytest.fixture
def patches() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z1, z2 = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    matches = torch.randint(-1, 5, (3, 5))
    matches[0, :2] = torch.tensor([-1, 3])  # at least one of each
    return z1, z2, matches, torch.rand(3, 5, 5) < 0.3


def plainly(z1: Tensor, z2: Tensor, matches: Tensor, temperature: float) -> float:
    """The mean over images of 1/P Σ −log(exp(s(z_i, z_m(i))/τ) / Σ_k≠i exp(s(z_i, z_k)/τ)), P the pairs of an image."""
    z1, z2 = (torch.nn.functional.normalize(z, dim=-1) for z in (z1, z2))
    images = []
    for n in range(len(z1)):
        pairs = [(i, int(j)) for i, j in enumerate(matches[n]) if j >= 0]
        terms = []
        for i, j in pairs:
            others = [z1[m, k] for m in range(len(z1)) for k in range(z1.shape[1]) if (m, k) != (n, i)]
            others += list(z2.flatten(0, 1))
            total = sum(math.exp(float(z1[n, i] @ other) / temperature) for other in others)
            terms.append(-math.log(math.exp(float(z1[n, i] @ z2[n, j]) / temperature) / total))
        if pairs:
            images.append(sum(terms) / len(pairs))
    return sum(images) / len(images)


@pytest.mark.parametrize("chunk", [2, 2048])
def test_by_image_it_is_the_formula_read_plainly(
    patches: tuple[Tensor, Tensor, Tensor, Tensor], chunk: int
) -> None:
    z1, z2, matches, _ = patches
    matches[0, 2:], matches[1], matches[2] = -1, -1, torch.arange(5)  # of 1, 0 and 5 pairs
    value = patch_info_nce(z1, z2, matches, 0.2, chunk=chunk, by_image=True).item()
    assert value == pytest.approx(plainly(z1, z2, matches, 0.2), 1e-12)
    assert value != pytest.approx(by_loops(z1, z2, matches, 0.2), 1e-3)


@pytest.mark.parametrize("chunk", [1, 4, 2048])
@pytest.mark.parametrize("with_ignore", [False, True])
def test_is_the_contract(
    patches: tuple[Tensor, Tensor, Tensor, Tensor], chunk: int, with_ignore: bool
) -> None:
    z1, z2, matches, ignore = patches
    dropped = ignore if with_ignore else None
    value = patch_info_nce(z1, z2, matches, 0.2, dropped, chunk=chunk).item()
    assert value == pytest.approx(by_loops(z1, z2, matches, 0.2, dropped), 1e-12)


def test_chunks_give_the_same_gradient(patches: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z1, z2, matches, ignore = patches
    z1.requires_grad_(), z2.requires_grad_()
    whole, chunked = (
        torch.autograd.grad(patch_info_nce(z1, z2, matches, 0.2, ignore, chunk=chunk), (z1, z2))
        for chunk in (2048, 2)
    )
    torch.testing.assert_close(chunked, whole)


def test_gradient_is_right(patches: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z1, z2, matches, ignore = patches
    assert torch.autograd.gradcheck(
        lambda a, b: patch_info_nce(a, b, matches, 0.5, ignore, chunk=3),
        (z1[:, :, :2].clone().requires_grad_(), z2[:, :, :2].clone().requires_grad_()),
    )


def test_one_patch_an_image_is_nt_xent() -> None:
    # With both directions averaged, the image-level loss is the case of a single patch.
    z1, z2 = torch.randn(2, 6, 4, dtype=torch.float64)
    matches = torch.zeros(6, 1, dtype=torch.int64)
    there = patch_info_nce(z1[:, None], z2[:, None], matches, 0.1)
    back = patch_info_nce(z2[:, None], z1[:, None], matches, 0.1)
    torch.testing.assert_close((there + back) / 2, nt_xent(z1, z2, 0.1))


@pytest.mark.parametrize("chunk", [1, 2048])
def test_no_match_is_a_zero_with_a_graph(chunk: int) -> None:
    z1, z2 = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    loss = patch_info_nce(z1, z2, torch.full((2, 3), -1), 0.1, chunk=chunk)
    assert loss.item() == 0
    for grad in torch.autograd.grad(loss, (z1, z2)):
        assert not grad.any()


def test_ignoring_everything_leaves_other_images_and_the_second_view() -> None:
    z1, z2 = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    matches = torch.tensor([[0, 1, 2]])
    ignore = torch.ones(1, 3, 3, dtype=torch.bool)
    a, b = (torch.nn.functional.normalize(z[0], dim=1) for z in (z1, z2))
    expected = torch.nn.functional.cross_entropy(a @ b.T / 0.3, torch.arange(3))
    torch.testing.assert_close(patch_info_nce(z1, z2, matches, 0.3, ignore), expected)


def test_autocast_changes_nothing(patches: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    z1, z2, matches, _ = patches
    z1, z2 = z1.float().requires_grad_(), z2.float()
    expected = patch_info_nce(z1, z2, matches, 0.1)
    (expected_grad,) = torch.autograd.grad(expected, z1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = patch_info_nce(z1, z2, matches, 0.1)
    (grad,) = torch.autograd.grad(loss, z1)
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("chunk", [4, 2048])
def test_told_how_many_are_matched_it_is_the_same(
    patches: tuple[Tensor, Tensor, Tensor, Tensor], spare: int, chunk: int
) -> None:
    z1, z2, matches, ignore = patches
    matches[2, 1] = -1
    anchors = min(int((matches >= 0).sum()) + spare, matches.numel())
    value = patch_info_nce(z1, z2, matches, 0.2, ignore, anchors=anchors, chunk=chunk).item()
    assert value == pytest.approx(by_loops(z1, z2, matches, 0.2, ignore), 1e-12)


def test_told_a_number_where_none_is_matched_it_is_a_zero_with_a_graph() -> None:
    z = torch.randn(2, 3, 4, requires_grad=True)
    loss = patch_info_nce(z, z, torch.full((2, 3), -1), 0.2, anchors=4)
    loss.backward()
    assert loss == 0
    assert (z.grad == 0).all()
