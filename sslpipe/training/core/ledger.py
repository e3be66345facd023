"""The numbers of every step, read by the host without making the device wait.

Each step's numbers are laid into one small vector on the device, summed over ranks, and copied to the host behind the
step's own work. The host reads them `lag` steps later, when they have long arrived. What ranks must agree on, to save
or to stop, travels in the same vector, so that all act on it after the same step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sslpipe.core import distributed
from sslpipe.core.device import Arriving
from sslpipe.training.core import guards

LAG = 4  # steps on a GPU; a CPU's numbers are there at once

Numbers = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class Row:
    """What a step came to."""

    step: int  # steps done, with this one
    lr: float
    numbers: dict[str, float]  # loss, gradient norm and what the method reports; means over ranks
    stop: bool  # some rank was told to stop
    save: bool  # it is time for a checkpoint


@dataclass(frozen=True)
class _Entry:
    step: int
    lr: float
    names: tuple[str, ...]
    values: Arriving  # float64: bad, stop, save, then the named numbers
    index: Tensor


class Ledger:
    """The rows of the last few steps.

    Args:
        device: where the numbers are made.
        folder: where a non-finite step is written down.
        lag: steps after which the host reads; None: `LAG` on a GPU, else none.

    Attributes:
        bad: 1 from the first step on whose loss or gradient was not finite, else 0; float32 on the device. An update
            masked by it leaves the weights as they were before that step.
    """

    def __init__(self, device: torch.device, folder: Path, lag: int | None = None) -> None:
        self.lag = lag if lag is not None else LAG if device.type == "cuda" else 0
        self.bad = torch.zeros((), device=device)
        self._folder, self._entries = folder, deque[_Entry]()

    @property
    def mask(self) -> Tensor | None:
        """`bad` where the host does not know it yet, else None: then a bad step has been raised before its update."""
        return self.bad if self.lag else None

    def note(
        self, step: int, lr: float, numbers: Numbers, index: Tensor, *, stop: bool = False, save: bool = False
    ) -> None:
        """Write a step down, before its update.

        Args:
            step: steps done, with this one, whose learning rate is `lr`.
            numbers: `loss` and `gradient_norm`, which must be finite, and others.
            index: the samples of this rank's batch.
            stop: this rank wants to stop.
            save: this rank wants a checkpoint.

        Raises:
            NonFiniteError: there is no lag, and the step is not finite on some rank.
        """
        device = self.bad.device
        named = {name: _scalar(value, device) for name, value in numbers.items()}
        finite = torch.isfinite(named["loss"]) & torch.isfinite(named["gradient_norm"])
        wishes = [_scalar(float(stop), device), _scalar(float(save), device)]
        values = torch.stack([(~finite).double(), *wishes, *named.values()])
        if distributed.world_size() > 1:
            dist.all_reduce(values)
        self.bad = torch.maximum(self.bad, (values[0] > 0).float())
        self._entries.append(_Entry(step, lr, tuple(numbers), Arriving(values), index))
        if self.lag == 0:
            self._check(self._entries[-1])

    def settled(self) -> Iterator[Row]:
        """The rows that are `lag` steps old, in order; a NonFiniteError if one is bad: nothing was updated since."""
        while len(self._entries) > self.lag:
            yield self._read()

    def drain(self) -> Iterator[Row]:
        """All rows, waiting for the device; before saving."""
        while self._entries:
            yield self._read()

    def _read(self) -> Row:
        entry = self._entries.popleft()
        _, stop, save, *sums = self._check(entry)
        means = [value / distributed.world_size() for value in sums]
        return Row(entry.step, entry.lr, dict(zip(entry.names, means, strict=True)), stop > 0, save > 0)

    def _check(self, entry: _Entry) -> list[float]:
        """A step's values; a NonFiniteError if it is bad."""
        found: list[float] = entry.values.get().tolist()
        bad, _, _, *numbers = found
        if bad:
            values = dict(zip(entry.names, numbers, strict=True))
            raise guards.non_finite(values, step=entry.step - 1, index=entry.index, folder=self._folder)
        return found


def _scalar(value: Tensor | float, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float64).reshape(())
    return torch.full((), value, dtype=torch.float64, device=device)  # a copy from the host would wait
