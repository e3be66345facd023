"""The Triton kernels, compiled for four generations of GPUs, take no more than the table beside this file says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripts import BENCHMARKS, load

pytest.importorskip("triton")
pytestmark = pytest.mark.slow


kernels = load(BENCHMARKS / "kernels.py")


def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kernels.TABLE.read_text())
    return found


@pytest.mark.parametrize("gpu", kernels.GPUS)
def test_kernels_take_no_more_than_the_table_says(gpu: str) -> None:
    known = table()
    if known["triton"] != kernels.version():
        pytest.skip(f"the table is of Triton {known['triton']}, and {kernels.version()} compiles otherwise")
    found = kernels.summary(kernels.binaries(kernels.GPUS[gpu], few=True), kernels.GPUS[gpu])
    assert set(found) == set(known["gpus"][gpu]), (
        "write the table anew: python benchmarks/kernels.py --few --write"
    )
    for name, row in found.items():
        limits = known["gpus"][gpu][name]
        line = f"{gpu}, {name}: {row}, and the table says {limits}"
        assert row["spilled"] <= limits["spilled"], line
        assert row["registers"] <= limits["registers"], line
        assert row["shared"] <= limits["shared"], line
        assert row["doubles"] <= limits["doubles"], line
        assert row["occupancy"] >= limits["occupancy"], line


def test_occupancy_is_nvidias() -> None:
    """Against the calculator of Nsight Compute: threads at once by registers alone."""
    for registers, warps, expected in (
        (32, 4, 1.0),
        (64, 4, 0.5),
        (168, 4, 0.1875),
        (255, 4, 0.125),
        (80, 8, 0.375),
    ):
        binary = kernels.Binary("resize", "", registers, 0, 0, warps, 0)
        assert binary.occupancy(kernels.GPUS["A100"]) == expected
