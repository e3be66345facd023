"""Whole trainings on a pretended GPU: no mismatch, no race, no wait within a step, no copy of pageable memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended import Gpu
from support import ToyReader, small_pair

from sslpipe import methods
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader, Reader
from sslpipe.data.resident import Resident
from sslpipe.data.streaming import Streaming
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.sharding import shard, sources
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train
from sslpipe.training.core.state import History

BATCH, STEPS = 8, 5  # an epoch: the host reads numbers four steps late


class Pinned(ToyReader):
    """A reader in memory from which a GPU copies by itself, as all readers of ours are then."""

    def __init__(self, count: int = BATCH * STEPS) -> None:
        super().__init__(count)
        self.pinned = torch.cuda.is_available()

    def gather(self, index: Any) -> Any:
        batch = super().gather(index)
        return (
            batch if not self.pinned else type(batch)(**{**vars(batch), "pixels": batch.pixels.pin_memory()})
        )


def trained(
    name: str, folder: Path, device: str = "cuda", reader: Reader | None = None,
    optimizer: OptimizerConfig | None = None, **changes: Any,
) -> History:  # fmt: skip
    """An epoch of five steps, or what is left of more."""
    method, engine = small_pair(name, device, "reference" if device == "cpu" else "auto")
    settings = {"epochs": 1, "batch_size": BATCH, "checkpoint_seconds": 1e9, "log_every": 1, **changes}
    on_epoch = settings.pop("on_epoch", lambda state, epoch: None)
    config = Config(**settings)
    return train(
        method, Loader(reader or Pinned(), batch_size=BATCH, seed=0), engine, config,
        optimizer or method.optimizer, seed=0, checkpoints=Checkpoints(folder),
        on_epoch=on_epoch,
    )  # fmt: skip


def faults(gpu: Gpu) -> list[str]:
    """What may not happen while training."""
    return gpu.of("race", "pageable") + gpu.of("wait", phase="step")


@pytest.mark.parametrize("name", methods.names())
def test_a_method_trains_as_on_a_cpu_and_goes_on(
    name: str, gpu: Gpu, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    there = trained(name, tmp_path / "gpu", precision="fp32", checkpoint_seconds=0)
    here = trained(name, tmp_path / "cpu", "cpu", precision="fp32")
    for got, wanted in zip(there.rows, here.rows, strict=True):
        assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-3, abs=1e-4)
    history = trained(name, tmp_path / "gpu", precision="fp32", epochs=2)
    assert "continuing from the checkpoint" in capfd.readouterr().out
    assert history.rows[-1]["step"] == 2 * STEPS
    assert faults(gpu) == []


@pytest.mark.parametrize(
    ("optimizer", "precision"), [("adamw", "fp32"), ("sgd", "fp32"), ("lars", "fp32"), ("adamw", "bf16")]
)
def test_optimisers_and_precisions(optimizer: Any, precision: str, gpu: Gpu, tmp_path: Path) -> None:
    chosen = OptimizerConfig(name=optimizer, lr=1e-3, rule="absolute", clip=1.0, warmup_epochs=0)
    trained("simclr", tmp_path, optimizer=chosen, precision=precision)
    assert faults(gpu) == []


@pytest.mark.parametrize("name", ["byol", "moco", "swav", "patch_contrast", "mae"])
def test_batches_in_parts(name: str, gpu: Gpu, tmp_path: Path) -> None:
    trained(name, tmp_path, accumulate=2, precision="fp32")
    assert faults(gpu) == []


@pytest.mark.parametrize("name", ["simclr", "mocov3", "patch_contrast"])
def test_gradient_caches(name: str, gpu: Gpu, tmp_path: Path) -> None:
    trained(name, tmp_path, accumulate=2, gradient_cache=True, precision="fp32")
    assert faults(gpu) == []


@pytest.fixture
def shards(lay: Callable[..., Path]) -> Path:
    """Shards of 40 small pictures to train on."""
    lay(
        *(f"train/{label}/{k}.png" for label in "ab" for k in range(20)),
        *(f"test/{label}/0.png" for label in "ab"),
    )
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    shard.shard(shard.Config(resolution=16, shard_size=24), source, Path("shards"), 0)
    return Path("shards")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("kind", ["in the GPU's memory", "in the host's memory", "streaming"])
def test_readers(kind: str, device: str, shards: Path, two_gpus: Gpu, tmp_path: Path) -> None:
    readers: dict[str, Callable[[], Reader]] = {
        "in the GPU's memory": lambda: Resident(shards, "train", device=device),
        "in the host's memory": lambda: Resident(shards, "train", pin=True),
        "streaming": lambda: Streaming(shards, "train", pin=True),
    }
    reader = readers[kind]()
    two_gpus.notes.clear()
    history = trained("simclr", tmp_path / "gpu", device, reader, precision="fp32")
    assert faults(two_gpus) == []
    assert {number for number, _ in two_gpus.seeded.items()} == {torch.device(device).index or 0}
    here = trained("simclr", tmp_path / "cpu", "cpu", Resident(shards, "train"), precision="fp32")
    assert history.rows[-1]["loss"] == pytest.approx(here.rows[-1]["loss"], rel=1e-3, abs=1e-4)


def test_a_run_has_one_stream_for_views_and_waits_for_nothing_between_steps(gpu: Gpu, tmp_path: Path) -> None:
    waits: list[list[str]] = []

    def on_epoch(state: Any, epoch: int) -> None:
        waits.append(gpu.of("wait"))

    trained("simclr", tmp_path, epochs=2, on_epoch=on_epoch, precision="fp32")
    assert len(gpu.streams_made) == 1
    assert gpu.streams_made.total() == 1
    assert waits[0] == waits[-1], "all waits are of the set-up"
