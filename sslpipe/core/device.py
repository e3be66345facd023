"""Which device work runs on."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from contextlib import AbstractContextManager

import torch

from sslpipe.console.errors import UserError


def resolve(name: str = "auto") -> torch.device:
    """The device of this name; `auto` is the first GPU, else the CPU.

    Raises:
        UserError: a GPU was asked for and torch finds none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device `{name}`: torch finds no GPU here; set device to `auto` or `cpu`")
    return torch.device(name)


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


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a host's tensor on a device; a GPU's work before it is not waited for."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # else the copy would wait
    return tensor.to(device, non_blocking=True)


def make_deterministic(wanted: bool) -> None:
    """Ask torch for the same result every time, bit for bit."""
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = not wanted


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
