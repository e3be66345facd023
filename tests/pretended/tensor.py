"""CPU tensors that say they lie on a GPU, with real values inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from pretended import state
from pretended.notes import Memory, Stream, where

aten = torch.ops.aten

#: Operations whose result's shape, or value, the host must know: it waits for the device.
WAITING = {
    "aten::_local_scalar_dense", "aten::_unique2", "aten::equal", "aten::is_nonzero", "aten::masked_select",
    "aten::nonzero", "aten::bincount", "aten::unique_dim", "aten::unique_consecutive", "aten::linalg_inv",
    "aten::histc", "aten::multinomial",
}  # fmt: skip
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
COPIES = {"aten::copy_", "aten::copy"}
ALIASES = {"aten::detach", "aten::alias", "aten::lift_fresh"}
LARGE = 65536  # bytes


class DeviceMismatch(RuntimeError):
    """Tensors of two devices met, or a generator and a tensor did."""


class Pretend(torch.Tensor):
    """A tensor on a pretended GPU. `elem` has the values, `at` is the GPU's number, `memory` who used it last."""

    elem: torch.Tensor
    at: int
    memory: Memory

    @staticmethod
    def __new__(cls, elem: torch.Tensor, at: int, memory: Memory | None = None) -> Pretend:
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            layout=elem.layout, device=elem.device, requires_grad=False,
        )  # fmt: skip
        made.elem, made.at, made.memory = elem, at, memory or Memory(state.gpu(), at)
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: torch.device("cuda", self.at))  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return self.at

    def data_ptr(self) -> int:
        return self.elem.data_ptr()

    def numpy(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy  # type: ignore[assignment]

    def tolist(self) -> Any:
        state.gpu().note("wait", "tolist()")
        return self.detach().elem.tolist()

    def cpu(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return self.to("cpu", *arguments, **options)

    def cuda(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return self

    def pin_memory(self, *arguments: Any) -> torch.Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def is_pinned(self, *arguments: Any) -> bool:
        return False

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.memory.recorded.add(stream)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copy: torch.Tensor = self.detach().clone()
            if isinstance(self, torch.nn.Parameter) or getattr(self, "_is_param", False):
                copy = torch.nn.Parameter(copy, self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("pickled on the device")

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else repr(self), spec)

    def __repr__(self, **options: Any) -> str:
        return f"Pretend({tuple(self.shape)}, {self.dtype}, cuda:{self.at})"

    def new_tensor(self, data: Any, *, dtype: Any = None, **options: Any) -> torch.Tensor:
        state.gpu().note("wait", "new_tensor, a copy from the host")
        return Pretend(state.REAL["tensor"](data, dtype=dtype or self.dtype), self.at)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if state.GPU is None:  # pretending is over: what is left is cleaned up
            return func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        name = func._schema.name
        if name == "aten::_has_compatible_shallow_copy_type":
            return False
        gpu = state.gpu()
        gpu.operations[name] += 1
        if name in COPIES:
            return copy(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        values = tree_leaves((args, kwargs))
        found = [value for value in values if isinstance(value, Pretend)]
        device = _check_devices(name, values, found)
        _note_waits(name, args)
        if not (func.is_view or name in ALIASES):
            written = {id(value) for value in _written(func, args, kwargs)}
            gpu.work(
                device, name.removeprefix("aten::"),
                [value.memory for value in found if id(value) not in written],
                [value.memory for value in found if id(value) in written],
            )  # fmt: skip
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        return tree_map(_outer(found, device, name), out)


def _inner(value: Any) -> Any:
    return value.elem if isinstance(value, Pretend) else value


def _outer(found: list[Pretend], device: int, name: str) -> Callable[[Any], Any]:
    """What wraps a result: the argument itself where it is one, a view of its memory, or new memory."""
    by_elem = {id(value.elem): value for value in found}
    by_storage = {value.elem.untyped_storage()._cdata: value for value in found}

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Pretend):
            return value
        if id(value) in by_elem:
            return by_elem[id(value)]
        base = by_storage.get(value.untyped_storage()._cdata)
        if base is None:
            made = Pretend(value, device)
            state.gpu().work(device, name.removeprefix("aten::"), [], [made.memory])
            return made
        if torch.is_inference_mode_enabled() and not base.is_inference():
            with torch.inference_mode(False):
                return Pretend(value, device, base.memory)
        return Pretend(value, device, base.memory)

    return wrap


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> list[Pretend]:
    """The arguments that an operation writes to."""
    found: list[Any] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tree_leaves(args[number] if number < len(args) else kwargs.get(argument.name))
    return [value for value in found if isinstance(value, Pretend)]


def _check_devices(name: str, values: list[Any], found: list[Pretend]) -> int:
    """The GPU of an operation; a DeviceMismatch where its arguments lie on two devices."""
    devices = {value.at for value in found}
    if len(devices) > 1:
        raise DeviceMismatch(f"{name}: tensors on cuda:{sorted(devices)}; {where(4)}")
    device = next(iter(devices), 0)
    if any(isinstance(value, torch.Generator) and value.device.type == "cpu" for value in values):
        raise DeviceMismatch(f"{name}: a generator of the CPU for a tensor on cuda:{device}; {where(4)}")
    outside = [
        v for v in values if isinstance(v, torch.Tensor) and not isinstance(v, Pretend) and v.dim() > 0
    ]
    if not outside:
        return device
    if name not in INDEXING or not isinstance(values[0], Pretend):
        shapes = [tuple(value.shape) for value in outside]
        raise DeviceMismatch(f"{name}: a tensor on cuda:{device} meets {shapes} on the CPU; {where(4)}")
    state.gpu().note("wait", "indexing by a CPU tensor, which is copied over")
    return device


def _note_waits(name: str, args: Any) -> None:
    if name in WAITING:
        state.gpu().note("wait", name.removeprefix("aten::"))
    if name in INDEXING:
        masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
        value = args[2] if len(args) > 2 else None
        filled = (
            value is not None and value.numel() == 1 and len(masks) == 1
        )  # torch does this by masked_fill
        if masks and not filled:
            state.gpu().note("wait", "indexing by a mask")


def copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    """`target.copy_(source)`, one of them or both on a GPU."""
    into, of = isinstance(target, Pretend), isinstance(source, Pretend)
    device = target.at if isinstance(target, Pretend) else source.at  # type: ignore[attr-defined]
    if into and not of:
        note_copy("to", source, non_blocking)
    if of and not into:
        note_copy("from", target, non_blocking)
    reads, writes = ([each.memory] if isinstance(each, Pretend) else [] for each in (source, target))
    state.gpu().work(device, "copy_", reads, writes)
    _inner(target).copy_(_inner(source))
    if into != of and not non_blocking:
        state.gpu().host_learns(state.gpu().current(device))
    return target


def note_copy(way: str, host: torch.Tensor, non_blocking: bool) -> None:
    """Note a copy between the host and a GPU: whether it waits, and whether its memory is pinned."""
    gpu = state.gpu()
    gpu.copied[way] += host.nbytes
    size = f"{host.nbytes} bytes" if host.nbytes > LARGE else "small"
    if not non_blocking:
        gpu.note("wait", f"a copy {way} the device, {size}")
    elif host.numel() and host.untyped_storage().data_ptr() not in gpu.pinned:
        gpu.note("pageable", f"a copy {way} the device of memory that is not pinned, {size}")


class Move(torch.autograd.Function):
    """A copy from one device to another, as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, device: int | None, non_blocking: bool) -> torch.Tensor:
        ctx.back = x.at if isinstance(x, Pretend) else None
        gpu = state.gpu()
        if isinstance(x, Pretend):
            note_copy("from", x.elem, non_blocking)
            gpu.work(x.at, "to cpu", [x.memory], [])
            stream, made = gpu.current(x.at), x.elem.clone()
        else:
            assert device is not None
            note_copy("to", x, non_blocking)
            stream, made = gpu.current(device), Pretend(x.detach().clone(), device)
            gpu.work(device, "to cuda", [], [made.memory])
        if not non_blocking:
            gpu.host_learns(stream)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        if ctx.back is None:
            return (grad.elem.clone() if isinstance(grad, Pretend) else grad), None, None
        return (grad if isinstance(grad, Pretend) else Pretend(grad, ctx.back)), None, None


def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`."""
    device, more, non_blocking = _parsed(args, kwargs)
    x = self
    if device is not None:
        wanted = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        here = isinstance(x, Pretend)
        if wanted.type == "cuda" and not here:
            x = state.REAL["to"](x, dtype=more["dtype"]) if "dtype" in more else x  # converted where it was
            x = Move.apply(x, state.gpu().index(wanted), non_blocking)
        elif wanted.type == "cuda" and wanted.index is not None and wanted.index != x.at:  # type: ignore[attr-defined]
            raise DeviceMismatch(f"a copy from one GPU to another; {where(4)}")
        elif wanted.type == "cpu" and here:
            x = state.REAL["to"](x, dtype=more.pop("dtype")) if "dtype" in more else x
            x = Move.apply(x, None, non_blocking)
    return state.REAL["to"](x, **more) if more else x


def _parsed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any], bool]:
    """The device, what else, and whether not to wait, of the arguments of `Tensor.to`."""
    kwargs, rest = dict(kwargs), list(args)
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    non_blocking, copied = kwargs.pop("non_blocking", False), kwargs.pop("copy", False)
    if rest:
        first = rest.pop(0)
        if isinstance(first, torch.Tensor):
            device, dtype = first.device, first.dtype
        elif isinstance(first, torch.dtype):
            dtype = first
        elif first is not None:
            device = first
            if rest and (isinstance(rest[0], torch.dtype) or rest[0] is None):
                dtype = rest.pop(0)
        non_blocking = rest.pop(0) if rest else non_blocking
        copied = rest.pop(0) if rest else copied
    more = {**kwargs, **({} if dtype is None else {"dtype": dtype}), **({"copy": True} if copied else {})}
    return device, more, bool(non_blocking)
