from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method

from sslpipe import methods
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.method import Clock
from sslpipe.training.core.compiling import WORTH_STEPS, compiled
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ALWAYS = Config(compile="always")
STEPS = 4
QUICK = ("moco", "mae")  # a queue, and a mask: what tracing has most trouble with


def losses_and_gradients(method: Any, name: str) -> tuple[list[torch.Tensor], list[int]]:
    """What a few steps come to, and how many graphs had been compiled after each."""
    engine, reader = small_engine(name), ToyReader(count=64)
    found, graphs = [], []
    for step in range(STEPS):
        views = engine(reader.gather(range(step * 16, step * 16 + 16)), 0)
        clock = Clock(step, 0, step / STEPS, torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        method.zero_grad(set_to_none=True)
        loss = method.step(views, clock).loss
        loss.backward()
        method.before_update(clock)
        found += [loss.detach(), *(p.grad for p in method.parameters() if p.grad is not None)]
        method.after_update(clock)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return found, graphs


@pytest.fixture(autouse=True)
def forget() -> Any:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in methods.names()],
)
def test_a_traced_step_is_the_same_and_is_traced_once(name: str) -> None:
    plain, _ = losses_and_gradients(small_method(name).train(), name)
    method = small_method(name).train()
    assert compiled(method, ALWAYS, CPU, 10, backend="eager") == "always"
    traced, graphs = losses_and_gradients(method, name)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))
    assert graphs[0] > 0
    assert (
        graphs[-1] == graphs[-2]
    )  # others may be of a changed number, or of a queue that has filled; then no more


@pytest.mark.parametrize("name", ["swav", "mae"])
def test_after_the_first_epoch_nothing_is_traced_again(name: str, tmp_path: Path) -> None:
    """Also of views of several sizes, a queue that fills, prototypes that thaw, and images left over at the end."""
    method, engine, graphs = small_method(name), small_engine(name), list[int]()
    config = Config(epochs=4, batch_size=16, checkpoint_seconds=1e9, compile="always")
    assert compiled(method, config, CPU, 10, backend="eager") == "always"
    train(
        method, Loader(ToyReader(count=56), batch_size=16, seed=0), engine, config, method.optimizer, seed=0,
        checkpoints=Checkpoints(tmp_path),
        on_epoch=lambda state, epoch: graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"]),
    )  # fmt: skip
    assert len(graphs) == 5
    assert graphs[0] == 0 < graphs[1]
    assert graphs[2] == graphs[-1]


def test_state_and_names_do_not_change() -> None:
    method, plain = small_method("moco"), small_method("moco")
    compiled(method, ALWAYS, CPU, 10, backend="eager")
    assert list(method.state_dict()) == list(plain.state_dict())


# torch 2.11's own, where the compiler is loaded
@pytest.mark.filterwarnings("ignore:.*script_method.*deprecated:DeprecationWarning")
def test_auto_compiles_long_runs_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small_method("simclr")
    assert compiled(method, Config(), CPU, 10**6) == "never"
    assert compiled(method, Config(), GPU, WORTH_STEPS - 1) == "never"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert compiled(method, Config(), GPU, WORTH_STEPS) == "never"
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/cc")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert compiled(method, Config(), GPU, WORTH_STEPS) == "always"


@pytest.mark.filterwarnings("ignore:.*script_method.*deprecated:DeprecationWarning")
def test_graphs_need_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(small_method("simclr"), Config(compile="graphs"), CPU, 10) == "always"
    assert "for GPUs" in capsys.readouterr().err
