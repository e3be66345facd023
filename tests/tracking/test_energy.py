"""Counters of energy: which are read, that they start again from 0, and what happens where there are none."""

from __future__ import annotations

import json
import sys
import threading
import types
from pathlib import Path

import pytest

from sslpipe.tracking import energy
from sslpipe.tracking.energy import Counter, Meter


def _zone(root: Path, folder: str, name: str, microjoules: int, top: int = 10_000_000) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{top}\n")
    return zone


def test_packages_and_memory_are_counted_once(tmp_path):
    _zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    _zone(tmp_path, "intel-rapl:0:0", "core", 1)  # part of the package's
    _zone(tmp_path, "intel-rapl:0:1", "dram", 2_000_000)
    _zone(tmp_path, "intel-rapl:1", "psys", 3)  # holds all the others
    _zone(tmp_path, "intel-rapl-mmio:0", "package-0", 4)  # the same counter again
    found = energy.processors(tmp_path)
    assert {name: counter.joules() for name, counter in found.items()} == {
        "intel-rapl:0": 1.0,
        "intel-rapl:0:1": 2.0,
    }


def test_counters_that_may_not_be_read_are_none(tmp_path):
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (zone / "energy_uj").unlink()
    assert energy.processors(tmp_path) == {}
    assert energy.processors(tmp_path / "missing") == {}


def test_a_counter_that_starts_again_loses_nothing(tmp_path):
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    with Meter(energy.processors(tmp_path)) as meter:
        (zone / "energy_uj").write_text("9500000")
        meter._look()
        (zone / "energy_uj").write_text("1000000")
    assert meter.joules == pytest.approx(0.5 + 1.5)


def test_it_looks_by_itself(monkeypatch):
    monkeypatch.setattr(energy, "_EVERY", 0.001)
    values, seen = iter([0.0, 8.0, 6.0, 4.0]), threading.Event()

    def joules() -> float:
        value = next(values, None)
        if value is None:
            seen.set()
        return 4.0 if value is None else value

    with Meter({"toy": Counter(joules, range=10.0)}) as meter:
        assert seen.wait(30)
    assert meter.joules == 8 + 8 + 8


def test_a_counter_that_goes_away_takes_the_sum_with_it():
    def gone() -> float:
        raise OSError("no such device")

    with Meter({"there": Counter(lambda: 1.0), "gone": Counter(gone)}) as meter:
        pass
    assert meter.joules is None


@pytest.mark.parametrize(
    ("visible", "joules"), [(None, {"0", "1"}), ("1", {"1"}), ("GPU-b", {"GPU-b"}), ("", set())]
)
def test_gpus_that_may_be_used(monkeypatch, visible, joules):
    driver = types.ModuleType("pynvml")
    driver.NVMLError = type("NVMLError", (Exception,), {})
    driver.nvmlInit = lambda: None
    driver.nvmlDeviceGetCount = lambda: 2
    driver.nvmlDeviceGetHandleByIndex = lambda index: index
    driver.nvmlDeviceGetHandleByUUID = lambda name: 1
    driver.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 5000 * (handle + 1)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = energy.gpus()
    assert set(found) == {f"gpu:{name}" for name in joules}
    assert all(counter.joules() in (5.0, 10.0) for counter in found.values())


def test_no_driver_is_no_counter(monkeypatch):
    driver = types.ModuleType("pynvml")
    driver.NVMLError = type("NVMLError", (Exception,), {})

    def none() -> None:
        raise driver.NVMLError("Driver Not Loaded")

    driver.nvmlInit = none
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert energy.gpus() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.gpus() == {}


def test_a_stage_records_what_it_used(project, record, monkeypatch):
    values = iter([100.0, 3700.0])
    monkeypatch.setattr(energy, "machine", lambda: {"toy": Counter(lambda: next(values))})
    with record():
        pass
    metrics = json.loads((project / "runs/knn.json").read_text())["metrics"]
    assert [row[:3] for row in metrics] == [[energy.METRIC, 1.0, 0]]
