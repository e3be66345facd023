"""Torch's functions, replaced for as long as a GPU is pretended."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.utils.clip_grad as clipping
import torch.utils._foreach_utils as foreach
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map

from pretended import state
from pretended.notes import Event, Gpu, Stream, where
from pretended.tensor import DeviceMismatch, Pretend, to

FACTORIES = (
    "empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "arange", "linspace", "logspace", "eye",
    "scalar_tensor", "empty_strided", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
    "randint_like", "tril_indices", "triu_indices",
)  # fmt: skip
GROUPING = "_group_tensors_by_device_and_dtype"


@contextlib.contextmanager
def pretending(count: int = 1) -> Iterator[Gpu]:
    """Let there be so many GPUs."""
    assert state.GPU is None, "one at a time"
    _device_constructors()  # kept from its first call on: let these be torch's own functions
    gpu = state.GPU = Gpu(count)
    state.REAL.update(to=Tensor.to, tensor=torch.tensor)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    gc.freeze()  # what is there already takes half a second to look through
    try:
        with contextlib.ExitStack() as stack:
            for owner, name, value in [*_tensors(gpu), *_cuda(gpu), *_collectives(gpu), *_optimisers()]:
                stack.enter_context(patch.object(owner, name, value))
            yield gpu
    finally:
        gc.collect()  # what is freed while another stream may use it is noted
        gc.unfreeze()
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        gpu.over, state.GPU = True, None


Changes = Iterator[tuple[Any, str, Any]]


def _tensors(gpu: Gpu) -> Changes:
    """What makes tensors and moves them."""

    def pinned(self: Tensor, *arguments: Any) -> Tensor:
        return self if _is_pinned(gpu, self) else _pin(gpu, self.clone())

    yield Tensor, "to", to
    yield Tensor, "cuda", lambda self, *a, **k: self.to("cuda", **k)
    yield Tensor, "pin_memory", pinned
    yield Tensor, "is_pinned", lambda self, *a: _is_pinned(gpu, self)
    yield torch, "tensor", _of_data("tensor", torch.tensor)
    yield torch, "as_tensor", _of_data("as_tensor", torch.as_tensor)
    yield torch, "autocast", _autocast(torch.autocast)
    one_hot = torch.nn.functional.one_hot
    for module in [module for module in sys.modules.values() if vars(module).get("one_hot") is one_hot]:
        yield module, "one_hot", _one_hot(one_hot)
    for name in FACTORIES:
        yield torch, name, _factory(name, getattr(torch, name))


def _cuda(gpu: Gpu) -> Changes:
    """What `torch.cuda` gives."""
    fixed: dict[str, Any] = {
        "is_available": True, "device_count": gpu.count, "is_bf16_supported": True,
        "mem_get_info": (100 << 30, 140 << 30), "get_device_name": "a GPU that is not there",
        "get_device_capability": (9, 0), "memory_allocated": 0, "max_memory_allocated": 0,
        "reset_peak_memory_stats": None, "empty_cache": None, "manual_seed_all": None, "set_rng_state": None,
        "set_sync_debug_mode": None,
    }  # fmt: skip
    for name, value in fixed.items():
        yield torch.cuda, name, lambda *arguments, value=value, **options: value

    def seed(number: int) -> None:
        gpu.seeded[gpu.here.device] += 1

    def device_named(device: Any) -> Any:
        return _On(gpu, device)

    yield torch.cuda, "current_device", lambda: gpu.here.device
    yield torch.cuda, "set_device", lambda device: setattr(gpu.here, "device", gpu.index(device))
    yield torch.cuda, "synchronize", lambda device=None: gpu.default[gpu.index(device)].synchronize()
    yield torch.cuda, "manual_seed", seed
    yield torch.cuda, "get_rng_state", lambda device=None: torch.get_rng_state()
    yield torch.cuda, "current_stream", lambda device=None: gpu.current(gpu.index(device))
    yield torch.cuda, "default_stream", lambda device=None: gpu.default[gpu.index(device)]
    yield torch.cuda, "stream", gpu.on
    yield torch.cuda, "Stream", lambda device=None, **options: gpu.new_stream(device)
    yield torch.cuda, "Event", lambda *arguments, **options: Event(gpu)
    yield torch.cuda, "device", device_named
    yield torch.cuda, "device_of", device_named


def _collectives(gpu: Gpu) -> Changes:
    """What ranks do together: NCCL refuses tensors of the CPU, and Python objects travel by way of the host."""

    def of_tensors(real: Callable[..., Any]) -> Callable[..., Any]:
        def together(*args: Any, **kwargs: Any) -> Any:
            tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
            there = [tensor for tensor in tensors if isinstance(tensor, Pretend)]
            if len(there) < len(tensors) and (there or gpu.here.phase):
                raise DeviceMismatch(f"{real.__name__}: NCCL refuses tensors on the CPU; {where(4)}")
            if not there:
                return real(*args, **kwargs)  # by gloo
            used = [tensor.memory for tensor in there]
            gpu.work(there[0].at, real.__name__, [], used)
            inner = tree_map(
                lambda value: value.elem if isinstance(value, Pretend) else value, (args, kwargs)
            )
            return real(*inner[0], **inner[1])

        return together

    def of_objects(real: Callable[..., Any]) -> Callable[..., Any]:
        def together(*args: Any, **kwargs: Any) -> Any:
            if gpu.here.phase:
                raise DeviceMismatch(
                    f"{real.__name__} in {gpu.here.phase}: all wait for the host; {where(4)}"
                )
            return real(*args, **kwargs)

        return together

    for name in ("all_reduce", "all_gather", "broadcast", "reduce_scatter_tensor", "all_gather_into_tensor"):
        yield dist, name, of_tensors(getattr(dist, name))
    for name in ("all_gather_object", "broadcast_object_list", "gather_object", "barrier"):
        yield dist, name, of_objects(getattr(dist, name))


def _optimisers() -> Changes:
    """Optimisers and clipping group tensors by device in C++, which sees the CPU tensors."""
    grouped = _grouped(getattr(foreach, GROUPING))
    yield foreach, GROUPING, grouped
    yield clipping, GROUPING, grouped
    optimizer = torch.optim.Optimizer
    yield optimizer, GROUPING, staticmethod(lambda lists, with_indices=False: grouped(lists, with_indices))
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        if hasattr(optimizer, name):
            yield optimizer, name, lambda self: None


def _pin(gpu: Gpu, tensor: Tensor) -> Tensor:
    storage = tensor.untyped_storage()
    gpu.pinned[storage.data_ptr()] = storage
    return tensor


def _is_pinned(gpu: Gpu, tensor: Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in gpu.pinned


def _factory(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def make(*args: Any, **kwargs: Any) -> Any:
        gpu, device, pin = state.gpu(), kwargs.get("device"), kwargs.pop("pin_memory", False)
        if device is None or torch.device(device).type != "cuda":
            made = real(*args, **kwargs)
            return _pin(gpu, made) if pin else made
        assert not pin, "pinned memory is the host's"
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise DeviceMismatch(f"{name}: a generator of the CPU for a tensor on {device}; {where(4)}")
        number = gpu.index(torch.device(kwargs.pop("device")))
        grad = kwargs.pop("requires_grad", False)
        out = Pretend(real(*(a.elem if isinstance(a, Pretend) else a for a in args), **kwargs), number)
        gpu.work(number, name, [], [out.memory])
        return out.requires_grad_(grad)

    return make


def _of_data(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def make(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if isinstance(data, Tensor):
            made, dtype = data if name == "as_tensor" else data.clone().detach(), kwargs.get("dtype")
            return made.to(
                device=made.device if device is None else device, **({"dtype": dtype} if dtype else {})
            )
        if device is None or torch.device(device).type != "cuda":
            return real(data, *args, **kwargs, **({} if device is None else {"device": device}))
        grad = kwargs.pop("requires_grad", False)
        return real(data, *args, **kwargs).to(device).requires_grad_(grad)

    return make


def _autocast(real: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.autocast`, a GPU's by the CPU's rules."""

    def make(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return real("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return make


def _one_hot(real: Callable[..., Any]) -> Callable[..., Any]:
    """`one_hot`, which asks the tensor inside where it is. On a GPU it checks nothing where it knows the classes."""

    def make(labels: Tensor, num_classes: int = -1) -> Tensor:
        if not isinstance(labels, Pretend):
            return real(labels, num_classes)
        if num_classes == -1:
            state.gpu().note("wait", "one_hot of an unknown number of classes")
        return Pretend(real(labels.elem, num_classes), labels.at)

    return make


def _grouped(real: Callable[..., Any]) -> Callable[..., Any]:
    def group(lists: Any, with_indices: bool = False) -> Any:
        found = real(lists, with_indices)
        first = next((t for tensors in lists for t in tensors if t is not None), None)
        if not isinstance(first, Pretend):
            return found
        for tensor in (t for tensors in lists for t in tensors if t is not None):
            if not isinstance(tensor, Pretend) and tensor.dim() > 0:
                raise DeviceMismatch("tensors of an optimiser, or of a clip, are on two devices")
        return {(torch.device("cuda", first.at), key[1]): value for key, value in found.items()}

    return group


class _On:
    """`torch.cuda.device` and `torch.cuda.device_of`."""

    def __init__(self, gpu: Gpu, device: Any) -> None:
        self.gpu = gpu
        if isinstance(device, Tensor):
            device = device.at if isinstance(device, Pretend) else -1
        self.number = gpu.index(device)

    def __enter__(self) -> None:
        self.before = self.gpu.here.device
        if self.number >= 0:
            self.gpu.here.device = self.number

    def __exit__(self, *error: object) -> None:
        self.gpu.here.device = self.before


__all__ = ["Stream", "pretending"]
