"""Nothing in a step asks the device for a value: on a GPU the host would wait for all work before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method
from torch.utils._python_dispatch import TorchDispatchMode

from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.training.core.config import Config
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.step import TrainingStep

_aten = torch.ops.aten
#: Operations whose result, or its shape, the host must know before it can go on.
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten._unique2.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


class NoWaiting(TorchDispatchMode):
    """Raises where the host would wait."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = function in _INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert function not in _WAITING, f"{function} waits for the device"
        assert not by_mask, "indexing by a mask waits for the device"
        return function(*args, **(kwargs or {}))


def waits(work: Any) -> bool:
    try:
        with NoWaiting():
            work()
    except AssertionError:
        return True
    return False


def test_what_waits_is_noticed() -> None:
    x = torch.randn(4)
    assert waits(lambda: x.sum().item())
    assert waits(lambda: x[x > 0])
    assert waits(lambda: bool(torch.isfinite(x).all()))
    assert waits(lambda: torch.unique(x))
    assert not waits(lambda: torch.where(x > 0, x, 0).sum())


def test_no_method_waits(name: str, tmp_path: Path) -> None:
    train(name, OptimizerConfig(), tmp_path, accumulate=2)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_no_optimiser_waits(optimizer: str, tmp_path: Path) -> None:
    train("simclr", OptimizerConfig(name=optimizer, clip=1.0), tmp_path)  # type: ignore[arg-type]


def train(name: str, settings: OptimizerConfig, folder: Path, accumulate: int = 1) -> None:
    """The loop's steps, as a GPU takes them."""
    method, reader = small_method(name).train(), ToyReader(count=64)
    engine, config = small_engine(name), Config(epochs=1, batch_size=16, accumulate=accumulate)
    training_step = TrainingStep(method, config, settings, steps_per_epoch=3, seed=0)
    ledger = Ledger(torch.device("cpu"), folder, lag=4)
    for step in range(3):
        batch = reader.gather(range(step * 16, step * 16 + 16))
        views = engine(batch, 0)
        with NoWaiting():
            gradient = training_step.gradient(step, views)
            ledger.note(step + 1, gradient.lr, gradient.numbers, batch.index)
            training_step.update(gradient, ledger.mask)
