"""`deterministic: true` on a GPU: no step uses an operation for which torch has no deterministic one there."""

from __future__ import annotations

import pytest
import torch
from pretended import Gpu
from support import SMALL, TRANSFORMERS, ToyReader, small_pair

from sslpipe import methods, networks
from sslpipe.training.core.config import Config
from sslpipe.training.core.step import TrainingStep
from sslpipe.views.engine import ViewEngine

#: What torch raises an error for on a GPU, after the documentation of `torch.use_deterministic_algorithms`.
REFUSED = {
    "aten::_adaptive_avg_pool2d_backward", "aten::_adaptive_avg_pool3d_backward", "aten::adaptive_max_pool2d_backward",
    "aten::fractional_max_pool2d_backward", "aten::max_pool3d_with_indices_backward", "aten::max_unpool2d",
    "aten::_upsample_bicubic2d_aa_backward", "aten::upsample_bicubic2d_backward", "aten::upsample_linear1d_backward",
    "aten::_upsample_bilinear2d_aa_backward", "aten::upsample_trilinear3d_backward",
    "aten::grid_sampler_2d_backward", "aten::grid_sampler_3d_backward", "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward", "aten::reflection_pad3d_backward", "aten::replication_pad2d_backward",
    "aten::nll_loss2d_forward", "aten::nll_loss2d_backward", "aten::_ctc_loss_backward", "aten::put_", "aten::histc",
    "aten::kthvalue", "aten::median", "aten::cumsum", "aten::_embedding_bag_dense_backward",
}  # fmt: skip


def operations(name: str, gpu: Gpu, backbone: tuple[str, dict[str, object]] | None = None) -> set[str]:
    """What two steps of a method call."""
    if backbone is None:
        method, engine = small_pair(name, "cuda")
    else:
        network = networks.backbone(backbone[0], image_size=16, **backbone[1])
        method = methods.build(name, network, SMALL.get(name, {})).to("cuda")
        recipe = methods.recipe(name, 16, patch_size=network.patch_size, config=SMALL.get(name, {}))
        engine = ViewEngine(recipe, seed=0, device="cuda")
    config = Config(batch_size=8, epochs=1)
    step = TrainingStep(method.train(), config, method.optimizer, steps_per_epoch=2, seed=0)
    views = engine(ToyReader(8).gather(range(8)), 0)
    gpu.operations.clear()
    for number in range(2):
        step.update(step.gradient(number, views))
    return set(gpu.operations)


@pytest.mark.parametrize("name", methods.names())
def test_a_step_can_be_deterministic(name: str, gpu: Gpu) -> None:
    assert not operations(name, gpu) & REFUSED


@pytest.mark.parametrize("backbone", TRANSFORMERS, ids=lambda each: each[0])
@pytest.mark.parametrize("name", ["swav", "simclr", "mae"])
def test_also_where_positions_are_resized(
    name: str, backbone: tuple[str, dict[str, object]], gpu: Gpu
) -> None:
    assert not operations(name, gpu, backbone) & REFUSED


def test_torch_knows_these_names() -> None:
    for name in REFUSED:
        assert hasattr(torch.ops.aten, name.removeprefix("aten::")), name
