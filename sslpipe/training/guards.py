"""What stops a run before it is spoilt, and what lets it stop without losing anything."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import Tensor, nn

from sslpipe.errors import UserError
from sslpipe.scratch import write_json


class NonFiniteError(UserError):
    """The loss or the gradient became infinite or not a number."""


class Signals:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the loop reads between steps."""

    NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in self.NAMES:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)


class Interrupted(SystemExit):
    """Training stopped on a signal after saving; the exit code is 128 + the signal's number."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(128 + received)


def check_finite(values: Mapping[str, Tensor], *, step: int, index: Tensor, folder: Path) -> None:
    """Stop before the update if a value is infinite or not a number.

    Args:
        values: by name, such as the loss and the gradient norm.
        step: the step at hand.
        index: the samples of the batch.
        folder: where non_finite.json, with step, values and samples, is written.

    Raises:
        NonFiniteError: names the step and where the samples are listed.
    """
    bad = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if not bad:
        return
    report = {
        "step": step,
        "values": {n: str(v.item()) for n, v in values.items()},
        "samples": index.tolist(),
    }
    path = folder / "non_finite.json"
    write_json(path, report)
    first = ", ".join(str(i) for i in index[:8].tolist())
    raise NonFiniteError(
        f"the {bad[0]} is not finite at step {step} (samples {first}{', …' if len(index) > 8 else ''}; all in {path}): "
        f"nothing was updated; try a lower learning rate, a longer warm-up or optimizer.clip"
    )


def gradient_norm(module: nn.Module) -> Tensor:
    """The 2-norm of all gradients together."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
