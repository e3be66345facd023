"""Which device work runs on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from sslpipe.console.errors import UserError


def resolve(name: str = "auto") -> torch.device:
    """The device of this name, a GPU with its number; `auto` is this process's own GPU, else the CPU.

    Raises:
        UserError: a GPU was asked for and torch finds none, or not so many.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"device `{name}`: torch finds no GPU here; set device to `auto` or `cpu`")
    count = torch.cuda.device_count()
    # Some schedulers show each process only the GPU it is to use.
    own = int(os.environ.get("LOCAL_RANK", "0")) % count
    number = torch.device("cuda" if name == "auto" else name).index
    if number is None:
        number = own
    if number >= count:
        raise UserError(
            f"device `{name}`: torch finds {count} GPUs here, the last of them is cuda:{count - 1}"
        )
    return torch.device("cuda", number)


def take(name: str = "auto") -> torch.device:
    """The device of this name, for this thread's work from here on; raises as `resolve`."""
    device = resolve(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def describe(device: torch.device) -> str:
    """The hardware in words: results are bit-exact only on the same."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bfloat16 autocast where asked for, or where `auto` finds a GPU that has it."""
    if not is_half(device, precision):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def is_half(device: torch.device, precision: str) -> bool:
    """Whether `precision` means bfloat16 on this device."""
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU's work before it is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # else the copy would wait; pinned memory is taken as it is
    return tensor.to(device, non_blocking=True)


class Arriving:
    """A tensor on its way from a device to the host, which does not wait for it before it asks."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor.detach()
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.detach(), non_blocking=True)
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def get(self) -> Tensor:
        """The tensor, on the host."""
        if self._event is None:
            return self._host
        self._event.synchronize()
        return self._host.clone()  # there is little pinned memory: it goes back


def on_host(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Tensors that a device makes one after another, on the host: each travels while the next one is made."""
    last: Arriving | None = None
    for tensor in tensors:
        arriving = Arriving(tensor)
        if last is not None:
            yield last.get()
        last = arriving
    if last is not None:
        yield last.get()


class Late:
    """Numbers of steps that the host reads `lag` steps later where a GPU makes them, and at once elsewhere."""

    def __init__(self, lag: int = 4) -> None:
        self._lag, self._waiting = lag, deque[Arriving]()

    def __call__(self, number: Tensor) -> float | None:
        """Take a step's number; returns that of the step `lag` steps ago, None before there is one."""
        self._waiting.append(Arriving(number))
        if number.is_cuda and len(self._waiting) <= self._lag:
            return None
        return float(self._waiting.popleft().get())

    def rest(self) -> Iterator[float]:
        """Those that were not read yet."""
        while self._waiting:
            yield float(self._waiting.popleft().get())

    def caption(self, loss: Tensor) -> str:
        """A step's loss in words for a progress bar; empty before there is one."""
        value = self(loss)
        return "" if value is None else f"loss {value:.3f}"


def make_deterministic(wanted: bool) -> None:
    """Ask torch for the same result every time, bit for bit.

    On a GPU an operation that cannot give it raises an error, which says so. Attention's gradient is only the same
    every time where torch may raise: a mere warning leaves it as it is fastest.
    """
    torch.use_deterministic_algorithms(wanted, warn_only=not torch.cuda.is_available())
    # All that is read is written before.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not wanted


@contextlib.contextmanager
def refusals_explained(setting: str) -> Iterator[None]:
    """A UserError that says what to set where torch refuses an operation whose result is not always the same."""
    try:
        yield
    except RuntimeError as error:
        found = re.match("(.+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        raise UserError(
            f"{found[1]} has no deterministic form on this device: set {setting} to false, after which two runs of "
            "a seed differ by rounding"
        ) from error


def keep_freed_memory() -> None:
    """Let this process keep memory that a step frees, where the system's allocator is glibc's.

    Else it is given back to the system after each step, and asked for, page by page, in the next: on two cores that
    takes 13 % of a training step of a small network.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(trim_threshold, 2**31 - 1)
            libc.mallopt(mmap_threshold, 32 << 20)  # the most that it takes


def mixed(seed: int, number: int) -> int:
    """A seed for torch of its own for each pair of a run's seed and the number of a step or epoch."""
    return (seed * 0x9E3779B97F4A7C15 + number) % 2**63
