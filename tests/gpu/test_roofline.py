"""The predicted limits: instructions and bytes are counted as they are, against what the kernels' sources say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scripts import BENCHMARKS, load

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

kernels = load(BENCHMARKS / "kernels.py")
roofline = load(BENCHMARKS / "roofline.py")


def test_instructions_and_bytes_are_those_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[Any] = []
    case, chip = roofline.CASES["224 px"], roofline.CHIPS["A100"]
    count = roofline._seconds
    monkeypatch.setattr(
        roofline, "_seconds", lambda launch, *rest: launches.append(launch) or count(launch, *rest)
    )
    found = roofline.predict(case, chip)
    assert [name for name, _ in found] == ["weigh", "resize", "contrast", "blur", "blur"]
    resize, contrast = launches[1], launches[2]
    words, loops = roofline._words(resize), roofline._disassembled(resize)[1]
    assert len(words) == case.images
    inner = min(loops, key=lambda loop: loop.end - loop.begin)
    names = [name for at, name in roofline._disassembled(resize)[0] if inner.holds(at)]
    pixels = 32 * 32 // (resize.warps * 32)  # a thread's
    assert names.count("LDG") == 3 * pixels + 1, "of a tap: three channels of each pixel, and its weight"
    taps = words[:, 20:22]
    assert np.isclose(inner.passes, taps.prod(axis=1).mean())
    jittered = 0.8 * case.images
    assert abs(len(roofline._words(contrast)) - jittered) < 4 * (jittered * 0.2) ** 0.5
    assert roofline._moved(contrast, case) > 12 * len(roofline._words(contrast)) * 224**2
    for _, seconds in found:
        assert set(seconds) == {
            "floats", "conversions", "loads", "doubles", "integers", "issue", "latency", "memory",
        }  # fmt: skip
        assert all(value >= 0 for value in seconds.values())
