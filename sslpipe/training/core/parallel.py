"""A method trained by several processes: each has a copy (DDP), or a share of every tensor (FSDP2).

Both are torch's. A method's batch norms are synchronised and its losses gather by themselves
(sslpipe/core/distributed.py), so that the average of the processes' gradients is the gradient of the whole batch.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core import distributed
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.methods.base.method import Clock, Method, Step
from sslpipe.training.core.config import Config
from sslpipe.views.view import View

LARGE = 250_000_000  # parameters of a backbone from which `auto` shards: ViT-L has 303 million, ViT-B 86

T = TypeVar("T")

_REMARKS = (  # warnings of DistributedDataParallel about what is done here on purpose
    "`broadcast_buffers` is deprecated",  # its replacement is newer than the oldest torch that is supported
    "find_unused_parameters=True was specified",
    "Grad strides do not match bucket view strides",
)


@dataclass(frozen=True)
class Parallel:
    """A method as its processes train it together; `step`, `embed` and `loss` are the method's."""

    method: Method  # of this process
    module: nn.Module  # torch's wrapper; it calls the method by the name of what is wanted
    #: A context in which gradients stay with this process, for all parts of a batch but the last.
    hold: Callable[[], AbstractContextManager[object]]
    #: After a forward pass without a backward one, drops the other processes' shares of the tensors again; None where
    #: each process has a copy.
    give_back: Callable[[], None] | None = None

    def step(self, views: list[View], clock: Clock) -> Step:
        """See `Method.step`."""
        loss, numbers = self.module("step", views, clock)
        return Step(loss, numbers)

    def embed(self, views: list[View]) -> tuple[Tensor, ...]:
        """See `Method.embed`."""
        return self.module("embed", views)

    def loss(self, embeddings: tuple[Tensor, ...], clock: Clock) -> Step:
        """See `Method.loss`: of embeddings alone, no parameter takes part."""
        return self.method.loss(embeddings, clock)

    def together(self, work: Callable[[], T]) -> T:
        """Work that goes forward through the method's networks, on all ranks at once: for those that share tensors."""
        assert self.give_back is not None
        result: T = self.module("together", work)
        self.give_back()
        return result


Trained = Method | Parallel


class _Calls(nn.Module):
    """Calls a method by `forward`, which is where torch's wrappers do their work; it returns plain containers."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, name: str, *args: Any) -> Any:
        if name == "together":
            return args[0]()
        if name != "step":
            return getattr(self.method, name)(*args)
        outcome = self.method.step(*args)
        # Plain numbers stay so: a tensor of one would lie in the host's memory, and its copy be waited for.
        return outcome.loss, {
            k: v.detach() if isinstance(v, Tensor) else v for k, v in outcome.numbers.items()
        }


def wrap(method: Method, config: Config) -> Trained:
    """The method, on its device, as this process trains it; the method itself where there is but one process.

    Sharding replaces its parameters: build the optimiser after this.

    Raises:
        UserError: sharding was asked for and the backbone is no vision transformer.
    """
    if distributed.world_size() == 1:
        return method
    return _fsdp(method) if sharded(method, config) else _ddp(method)


def sharded(method: Method, config: Config) -> bool:
    """Whether several processes would share this method's tensors, also on torch's meta device; raises as `wrap`."""
    stack = method.backbone.blocks_and_norm()
    if config.sharding == "fsdp" and stack is None:
        raise UserError(
            f"pretrain.sharding is fsdp, which shards the blocks of a vision transformer, and {method.backbone.name} "
            "is none: set it to auto or ddp"
        )
    size = sum(parameter.numel() for parameter in method.backbone.parameters())
    return config.sharding == "fsdp" or (config.sharding == "auto" and stack is not None and size >= LARGE)


def held(trained: Trained, more: bool) -> AbstractContextManager[object]:
    """The context for a part of a batch: with `more` to come, gradients are not averaged yet."""
    return trained.hold() if more and isinstance(trained, Parallel) else contextlib.nullcontext()


def _ddp(method: Method) -> Parallel:
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", message=f".*{remark}")
    device = next(method.parameters()).device
    module = nn.parallel.DistributedDataParallel(
        _Calls(method),
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=False,  # synchronised batch norms have the same on all; a queue, too
        # Some parameters rightly have no gradient in some steps. It also keeps torch from sorting its buckets anew
        # after the first step: sums would then depend on where a run was resumed.
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )
    return Parallel(method, module, module.no_sync)


def _fsdp(method: Method) -> Parallel:
    # Here and below: FSDP takes seconds to import, and most runs have no use for it.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(method.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    stack = method.backbone.blocks_and_norm()
    assert stack is not None
    kinds = {type(block) for block in stack[0]}
    for module in list(method.modules()):  # blocks of momentum networks and decoders, too
        if type(module) in kinds:
            fully_shard(module, mesh=mesh)
    # All else belongs to the root, which is whole from the beginning of a call to the end of its backward pass: so
    # methods may use `backbone.tokens` and single parameters as they like.
    root: Any = fully_shard(_Calls(method), mesh=mesh)

    @contextlib.contextmanager
    def hold() -> Iterator[None]:
        root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            root.set_requires_gradient_sync(True)

    return Parallel(method, root, hold, root.reshard)


def is_sharded(value: object) -> bool:
    """Whether this is a tensor of which each process has a share."""
    if distributed.world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor  # slow to import

    return isinstance(value, DTensor)


def whole(state: Any) -> Any:
    """A nested state in which no tensor is sharded, so that a checkpoint does not depend on it; call it on all ranks.

    What was sharded is on the CPU, and empty on all ranks but the first: only that one writes.
    """
    if is_sharded(state):
        full = state.full_tensor()
        return full.cpu() if distributed.rank() == 0 else torch.empty(0)
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state


def alike(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor laid out as `example` is: its device, its strides, and its shares of the processes."""
    if not is_sharded(example):
        return torch.empty_like(example, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import distribute_tensor  # slow to import

    mesh, placements = example.device_mesh, example.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(example.device), mesh, placements, src_data_rank=None)


def load(method: Method, state: dict[str, Any]) -> None:
    """`load_state_dict` of a whole state, whatever the sharding."""
    own = method.state_dict()
    laid_out = {k: alike(v, own[k]) if is_sharded(own.get(k)) else v for k, v in state.items()}
    method.load_state_dict(laid_out)


def unsharded(method: Method, build: Callable[[], Method]) -> Method:
    """The method for one process alone, to be exported; call it on all ranks.

    Of a sharded one, only the first rank's result has the weights, in a new method from `build`.
    """
    if not any(is_sharded(parameter) for parameter in method.parameters()):
        return method
    state = whole(method.state_dict())
    if distributed.rank() > 0:
        return method
    fresh = build()
    fresh.load_state_dict(state)
    return fresh


def newest(checkpoints: Checkpoints) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that the first rank finds whole, loaded by all; a UserError if another does not find it."""
    found = checkpoints.load() if distributed.rank() == 0 else None
    step = agreed(found and found[0])
    if distributed.rank() > 0 and step is not None:
        found = checkpoints.load()
    steps = gathered(found and found[0])
    if any(other != step for other in steps):
        raise UserError(
            f"the first process goes on from step {step}, and others find {sorted({str(s) for s in steps})} in "
            f"{checkpoints.folder}: let all machines share the project's folder"
        )
    return found


def agreed(value: Any) -> Any:
    """The first rank's value, on all ranks: something small that can be pickled."""
    return gathered(value)[0]


def gathered(value: Any) -> list[Any]:
    """All ranks' values, in their order: something small that can be pickled."""
    if distributed.world_size() == 1:
        return [value]
    found: list[Any] = [None] * distributed.world_size()
    dist.all_gather_object(found, value)
    return found
