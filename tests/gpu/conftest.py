from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pictures import lay, project  # noqa: F401
from pretended import Gpu, pretending
from pretended.renderer import stand_in

from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.step import TrainingStep


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """One GPU that is not there, whose views are rendered and whose steps are watched as phase `step`."""
    with pretending() as found:
        stand_in(monkeypatch.setattr)
        watch_steps(monkeypatch, found)
        yield found


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """As `gpu`, but two of them."""
    with pretending(2) as found:
        stand_in(monkeypatch.setattr)
        watch_steps(monkeypatch, found)
        yield found


def watch_steps(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """Name all that a training step does after its views are there."""
    for owner, name in ((TrainingStep, "gradient"), (TrainingStep, "update"), (Ledger, "note")):
        real = getattr(owner, name)

        def watched(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            with gpu.phase("step"):
                return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)
