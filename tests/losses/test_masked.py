import numpy as np
import pytest
import torch

from sslpipe.losses import masked_l1, masked_mse, masked_token_cross_entropy


def mask_of(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "x" for c in row] for row in rows])


@pytest.mark.parametrize("norm_target", [False, True])
def test_masked_mse_is_one_mean_over_hidden_patches(norm_target: bool) -> None:
    prediction, target = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = mask_of("x..x", "xxx.", "....")
    errors = []
    for p, t, hidden in zip(prediction.flatten(0, 1), target.flatten(0, 1), mask.flatten(), strict=True):
        values = t.numpy()
        if norm_target:
            values = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-6)
        if hidden:
            errors.append(float(((p.numpy() - values) ** 2).mean()))
    assert len(errors) == 5
    value = masked_mse(prediction, target, mask, norm_target=norm_target).item()
    assert value == pytest.approx(np.mean(errors), 1e-12)


def test_masked_l1_is_one_mean_over_the_numbers_of_hidden_patches() -> None:
    prediction, target = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = mask_of("x..x", "xxx.", "....")
    errors = []
    for n in range(3):
        for patch in range(4):
            if mask[n, patch]:
                errors += [abs(float(prediction[n, patch, d] - target[n, patch, d])) for d in range(5)]
    assert len(errors) == 25
    assert masked_l1(prediction, target, mask).item() == pytest.approx(np.mean(errors), 1e-12)


@pytest.mark.parametrize("name", ["masked_l1", "masked_mse", "masked_token_cross_entropy"])
def test_visible_patches_have_no_part_in_it(name: str) -> None:
    prediction, target = torch.randn(1, 4, 5, requires_grad=True), torch.randn(1, 4, 5)
    mask = mask_of("x..x")
    losses = {
        "masked_l1": lambda: masked_l1(prediction, target, mask),
        "masked_mse": lambda: masked_mse(prediction, target, mask, norm_target=True),
        "masked_token_cross_entropy": lambda: masked_token_cross_entropy(
            prediction, torch.tensor([[0, 1, 2, 3]]), mask
        ),
    }
    losses[name]().backward()
    assert prediction.grad is not None
    assert prediction.grad[0, [0, 3]].abs().min() > 0
    assert not prediction.grad[0, [1, 2]].any()


def test_a_flat_patch_is_finite_when_normalised() -> None:
    prediction, target = torch.zeros(1, 1, 5, requires_grad=True), torch.full((1, 1, 5), 0.3)
    loss = masked_mse(prediction, target, mask_of("x"), norm_target=True)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_masked_token_cross_entropy_is_one_mean_over_hidden_patches() -> None:
    logits, tokens = torch.randn(2, 4, 6, dtype=torch.float64), torch.randint(6, (2, 4))
    mask = mask_of("x...", "xx.x")
    losses = []
    for row, word, hidden in zip(logits.flatten(0, 1), tokens.flatten(), mask.flatten(), strict=True):
        values = np.exp(row.numpy())
        if hidden:
            losses.append(-np.log(values[word] / values.sum()))
    value = masked_token_cross_entropy(logits, tokens, mask).item()
    assert value == pytest.approx(np.mean(losses), 1e-12)


def test_nothing_hidden_is_a_zero_with_a_graph() -> None:
    x = torch.randn(1, 2, 5, requires_grad=True)
    nothing = mask_of("..")
    for loss in (
        masked_l1(x, torch.randn(1, 2, 5), nothing),
        masked_mse(x, torch.randn(1, 2, 5), nothing, norm_target=True),
        masked_token_cross_entropy(x, torch.zeros(1, 2, dtype=torch.int64), nothing),
    ):
        assert loss.item() == 0
        (grad,) = torch.autograd.grad(loss, x)
        assert not grad.any()


def test_autocast_changes_nothing() -> None:
    prediction, target = torch.randn(2, 2, 3, 5)
    mask = mask_of("x.x", ".x.")
    expected = masked_mse(prediction, target, mask, norm_target=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(masked_mse(prediction, target, mask, norm_target=True), expected)
