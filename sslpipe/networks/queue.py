"""A queue of vectors from past batches (MoCo's keys, SwAV's features)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.distributed import gather


class Queue(nn.Module):
    """The newest `length` vectors [length, dim], in a ring; part of the method's state, and the same on every rank.

    Vectors are added in `step` and enter when `advance` is called in `after_update`: so the ring moves once per
    optimiser step, whatever the number of parts a batch is trained in, and nothing that autograd still needs is
    overwritten. `length` is a multiple of the global batch.
    """

    vectors: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        # Random directions until real vectors take their place, as in MoCo's official code.
        self.register_buffer("vectors", F.normalize(torch.randn(length, dim), dim=1))
        self._next = self._seen = 0
        self.full = False  # whether all vectors are real ones
        self._waiting: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.vectors)

    def add(self, vectors: Tensor) -> None:
        """Let this rank's vectors [N, D] wait for `advance`; they carry no gradient."""
        self._waiting.append(vectors.detach())

    @torch.no_grad()
    def advance(self) -> None:
        """Put what waits, of all ranks in rank order, in the place of the oldest.

        Raises:
            UserError: the length is not a multiple of what comes in.
        """
        if not self._waiting:
            return
        vectors, self._waiting = gather(torch.cat(self._waiting)), []
        check_length(len(self), len(vectors))
        end = self._next + len(vectors)
        self.vectors[self._next : end] = vectors.to(self.vectors.dtype)
        self._next, self._seen = end % len(self), min(self._seen + len(vectors), len(self))
        self.full = self._seen == len(self)

    def get_extra_state(self) -> Tensor:
        """Where the ring stands: the index of the oldest, and how many are real."""
        return torch.tensor([self._next, self._seen])

    def set_extra_state(self, state: Tensor) -> None:
        """Take up where another ring stood."""
        self._next, self._seen = state.tolist()
        self.full = self._seen == len(self)


def check_length(length: int, batch: int) -> None:
    """Refuse a queue that a global batch does not divide: the ring could not wrap exactly.

    Raises:
        UserError: says which lengths would do.
    """
    if length % batch:
        below = length // batch * batch
        choices = f"{below} or {below + batch}" if below else f"{batch}"
        reason = f"a queue of {length} is not a multiple of the global batch of {batch}"
        raise UserError(f"{reason}: set the queue to {choices}")
