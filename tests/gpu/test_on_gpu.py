"""The same on a GPU as on a CPU; skipped, visibly, where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method

from sslpipe import methods
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train
from sslpipe.views import ViewEngine

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", methods.names())
def test_views_are_the_same(name: str, toy_reader: Any) -> None:
    recipe, batch = small_engine(name).recipe, toy_reader.gather(range(16))
    on_cpu = ViewEngine(recipe, seed=0)(batch, 0)
    on_gpu = ViewEngine(recipe, seed=0, device="cuda")(batch, 0)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        tolerance = 1e-4 / min(a.std)
        torch.testing.assert_close(a.pixels, b.pixels.cpu(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", methods.names())
def test_a_step_gives_the_same_loss(name: str, toy_reader: Any) -> None:
    batch = toy_reader.gather(range(16))
    losses = []
    for device in ("cpu", "cuda"):
        clock = Clock(0, 0, 0.0, torch.Generator().manual_seed(0))  # its own: a step draws from it
        engine = ViewEngine(small_engine(name).recipe, seed=0, device=device)
        losses.append(
            small_method(name).to(device).train().step(engine(batch.to(device), 0), clock).loss.cpu()
        )
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_runs_and_resumes(tmp_path: Path, precision: Any) -> None:
    def run(epochs: int) -> Any:
        method = small_method("byol").to("cuda")
        history = train(
            method,
            Loader(
                ToyReader(96), batch_size=16, seed=0
            ),  # six steps an epoch: numbers are read four steps late
            ViewEngine(small_engine("byol").recipe, seed=0, device="cuda"),
            Config(epochs=epochs, batch_size=16, precision=precision, checkpoint_seconds=0),
            OptimizerConfig(lr=3e-3, rule="absolute", schedule="constant", warmup_epochs=0),
            seed=0,
            checkpoints=Checkpoints(tmp_path),
        )
        return method, history

    run(1)
    assert Checkpoints(tmp_path).load() is not None
    _, history = run(2)  # goes on from the last checkpoint of the first
    assert history.rows[-1]["step"] == 12
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in history.rows)


def test_canvases_in_the_gpus_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sslpipe.data import Resident, open_split
    from sslpipe.sharding import shard, sources

    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    shard.shard(shard.Config(resolution=16), sources.open_source(sources.Config(), 0), tmp_path / "shards", 0)
    here, there = (
        open_split(tmp_path / "shards", "test"),
        open_split(tmp_path / "shards", "test", device="cuda"),
    )
    assert isinstance(there, Resident)
    places = torch.tensor([5, 0, 999, 5])
    batch = there.gather(places)
    assert batch.pixels.is_cuda
    assert torch.equal(batch.pixels.cpu(), here.gather(places).pixels)
