from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pictures import lay, project  # noqa: F401
from pretended import Gpu, Pretend, pretending
from torch import Tensor

from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.step import TrainingStep
from sslpipe.views.operations import ViewSpec
from sslpipe.views.render import choice, reference
from sslpipe.views.table import Table


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """One GPU that is not there, whose views are rendered and whose steps are watched as phase `step`."""
    with pretending() as found:
        stand_in(monkeypatch)
        watch_steps(monkeypatch, found)
        yield found


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """As `gpu`, but two of them."""
    with pretending(2) as found:
        stand_in(monkeypatch)
        watch_steps(monkeypatch, found)
        yield found


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reference stand for the Triton kernels on a pretended GPU."""
    real = choice.choose

    def choose(name: str, device: Any) -> Any:
        return ("triton", render) if torch.device(device).type == "cuda" else real(name, device)

    monkeypatch.setattr("sslpipe.views.engine.choose", choose)
    monkeypatch.setattr(choice, "choose", choose)


def render(pixels: Tensor, table: Table, spec: ViewSpec, out: Tensor | None = None) -> Tensor:
    """Reads canvases and writes views on this thread's stream, and waits for nothing, as the kernels do."""
    assert isinstance(pixels, Pretend), "canvases are not on the GPU"
    made = reference.render(pixels.elem, table, spec)
    if out is None:
        out = torch.empty(made.shape, device=pixels.device)
    assert isinstance(out, Pretend)
    pixels.memory.gpu.work(pixels.at, "render", [pixels.memory], [out.memory])
    out.elem.copy_(made)
    return out


def watch_steps(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """Name all that a training step does after its views are there."""
    for owner, name in ((TrainingStep, "gradient"), (TrainingStep, "update"), (Ledger, "note")):
        real = getattr(owner, name)

        def watched(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            with gpu.phase("step"):
                return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)
