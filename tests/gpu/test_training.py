"""Whole trainings on a pretended GPU: no mismatch, no race, no wait within a step, no copy of pageable memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended import Gpu
from support import ToyReader, small_engine, small_method

from sslpipe import methods
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.training.core.build import memory_format
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train
from sslpipe.training.core.state import History
from sslpipe.views.engine import ViewEngine


def trained(
    name: str, folder: Path, device: str = "cuda", reader: Any = None, optimizer: OptimizerConfig | None = None,
    method_changes: Mapping[str, Any] | None = None, **changes: Any,
) -> History:  # fmt: skip
    """Two epochs of four steps, or what is left of them."""
    method = small_method(name, **(method_changes or {})).to(device)
    layout = memory_format(method.backbone, torch.device(device))
    method.to(memory_format=layout)
    engine = ViewEngine(small_engine(name).recipe, seed=0, device=device, memory_format=layout)
    config = Config(**{"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0, "log_every": 1, **changes})
    return train(
        method, Loader(reader or ToyReader(64), batch_size=16, seed=0), engine, config,
        optimizer or method.optimizer, seed=0, checkpoints=Checkpoints(folder),
    )  # fmt: skip


def faults(gpu: Gpu) -> list[str]:
    """What may not happen while training."""
    return gpu.of("race", "pageable") + gpu.of("wait", phase="step")


@pytest.mark.parametrize("name", methods.names())
def test_a_method_trains_and_resumes(name: str, gpu: Gpu, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained(name, tmp_path)
    assert faults(gpu) == []
    history = trained(name, tmp_path, epochs=3)
    assert "continuing from the checkpoint" in capfd.readouterr().out
    assert history.rows[-1]["step"] == 12
    assert faults(gpu) == []
