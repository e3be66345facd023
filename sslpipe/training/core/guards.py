"""What stops a run before it is spoilt, and what lets it stop without losing anything."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core import distributed
from sslpipe.core.scratch import write_json
from sslpipe.training.core import parallel


class NonFiniteError(UserError):
    """The loss or the gradient became infinite or not a number."""


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # that ask a training to save and stop


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a handler have `SIGNALS`; afterwards those before have them again."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class Signals:
    """What a handler has received, for the loop to read between steps."""

    received: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.received = signal.Signals(number)


class Interrupted(SystemExit):
    """Training stopped on a signal after saving; the exit code is 128 + the signal's number."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(128 + received)


def non_finite(values: Mapping[str, float], *, step: int, index: Tensor, folder: Path) -> NonFiniteError:
    """The error for a step whose loss or gradient is not finite; `step` counts those done before it.

    Writes step, values and samples into `folder`, as non_finite.json, or one a rank where several train.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)] or ["loss on another rank"]
    report = {"step": step, "values": {n: str(v) for n, v in values.items()}, "samples": index.tolist()}
    suffix = f"-{distributed.rank()}" if distributed.world_size() > 1 else ""
    path = folder / f"non_finite{suffix}.json"
    write_json(path, report)
    first = ", ".join(str(i) for i in index[:8].tolist()) + (", …" if len(index) > 8 else "")
    return NonFiniteError(
        f"the {bad[0].replace('_', ' ')} is not finite at step {step} (samples {first}; all in {path}): nothing "
        "was updated; try a lower learning rate, a longer warm-up or optimizer.clip"
    )


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if parallel.is_sharded(norm) else norm  # type: ignore[attr-defined]
