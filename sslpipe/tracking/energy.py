"""The energy that a machine's own counters say was used: Linux's for processors, the driver's for NVIDIA GPUs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

#: The metric of each stage where a machine has counters: watt-hours.
METRIC = "energy_wh"
_ZONES = Path("/sys/class/powercap")
_EVERY = 30.0  # seconds; a processor's counter starts again from 0 after some minutes under load


@dataclass(frozen=True)
class Counter:
    """A counter of energy: what reads its joules, and how many there are until it starts again from 0 (None: never)."""

    joules: Callable[[], float]
    range: float | None = None


class Meter:
    """Adds up what the counters say while it runs, whatever on the machine used it. A context manager.

    By default these are all that can be read; those of processors can be read by root alone on most machines.
    """

    def __init__(self, counters: Mapping[str, Counter] | None = None) -> None:
        self._counters = dict(machine() if counters is None else counters)
        self._last: dict[str, float] = {}
        self._used = 0.0
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="energy", daemon=True)

    @property
    def joules(self) -> float | None:
        """Energy used since the start, until now or the end; None where nothing tells."""
        return self._used if self._counters else None

    def __enter__(self) -> Self:
        self._look()
        if self._counters:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for name, counter in list(self._counters.items()):
                try:
                    now = counter.joules()
                except Exception:  # whatever its driver raises
                    # It is gone: a sum without it would be taken for all of it.
                    self._counters.clear()
                    return
                step = now - self._last.get(name, now)
                self._used += step if step >= 0 else step + (counter.range or 0.0)
                self._last[name] = now


def machine() -> dict[str, Counter]:
    """All counters of this machine that can be read."""
    return processors() | gpus()


def processors(zones: Path = _ZONES) -> dict[str, Counter]:
    """Counters of processor packages and of their memory, by Linux's powercap; cores are part of a package's."""
    found = {}
    for zone in sorted(zones.glob("intel-rapl:*")):  # AMD's processors are called so, too
        with suppress(OSError, ValueError):
            name = (zone / "name").read_text().strip()
            package = name.startswith("package") and zone.name.count(":") == 1
            if package or name == "dram":
                joules = partial(_joules_in, zone / "energy_uj")
                joules()
                found[zone.name] = Counter(joules, _joules_in(zone / "max_energy_range_uj"))
    return found


def _joules_in(microjoules: Path) -> float:
    return int(microjoules.read_text()) / 1e6


def gpus() -> dict[str, Counter]:
    """Counters of the NVIDIA GPUs that this process may use, where nvidia-ml-py (pynvml) is installed."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        counters = {f"gpu:{name}": Counter(partial(_joules_of, handle)) for name, handle in _gpus(pynvml)}
        for counter in counters.values():
            counter.joules()
    except (OSError, ValueError, pynvml.NVMLError):  # no driver, or a GPU from before such counters
        return {}
    return counters


def _gpus(pynvml: Any) -> Iterator[tuple[str, Any]]:
    """Number or UUID of each GPU that this process may use, and the driver's handle of it."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = map(str, range(pynvml.nvmlDeviceGetCount())) if chosen is None else chosen.split(",")
    for name in map(str.strip, numbers):
        if name.isdigit():
            yield name, pynvml.nvmlDeviceGetHandleByIndex(int(name))
        elif name not in ("", "-1"):
            yield name, pynvml.nvmlDeviceGetHandleByUUID(name)


def _joules_of(gpu: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3
