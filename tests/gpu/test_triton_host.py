"""The host's part of the Triton renderer on a pretended GPU: what it gives to kernels lies there, and nothing waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from pretended import Gpu, Pretend
from torch import Tensor

from sslpipe.views import Jitter, ViewSpec
from sslpipe.views.drawing import draw

triton = pytest.importorskip("sslpipe.views.render.triton")

FULL: dict[str, Any] = {"jitter": Jitter(), "grey": 0.5, "blur": 0.5, "solarize": 0.5}
EARLY = ("jitter", "crop", "grey", "blur", "solarize")
KERNELS = {
    triton.before: ("begin", "early_contrast"),
    triton.resize: ("rotate", "weigh", "shorten", "resize"),
    triton.after: ("contrast", "blur"),
}


class Kernel:
    """Launches nothing, and looks at what it is given."""

    def __init__(self, name: str, launched: Counter[str]) -> None:
        self.name, self.launched = name, launched

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            assert all(0 < size < 2**31 for size in grid)
            tensors = [value for value in arguments if isinstance(value, Tensor)]
            assert tensors
            assert all(isinstance(value, Pretend) for value in tensors), f"{self.name}: the host's memory"
            memories = [value.memory for value in tensors]  # type: ignore[attr-defined]
            memories[0].gpu.work(tensors[0].at, self.name, [], memories)  # type: ignore[attr-defined]
            self.launched[self.name] += 1

        return launch


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, Kernel(name, found))
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("spec", "most"),
    [
        (ViewSpec(size=224, **FULL), 6),
        (ViewSpec(size=32, **FULL), 5),
        (ViewSpec(size=33, **FULL, order=EARLY, rotation=9, quarter_turns=True), 8),
        (ViewSpec(size=7, **FULL, interpolation="bicubic"), 6),
    ],
)  # fmt: skip
def test_nothing_waits_and_launches_are_few(
    spec: ViewSpec, most: int, dtype: torch.dtype, gpu: Gpu, launched: Counter[str]
) -> None:
    n = 64
    pixels = torch.zeros(n, 64, 64, 3, dtype=torch.uint8).to("cuda")
    table = draw(spec, seed=0, epoch=0, index=np.arange(n), view=0, size=np.full((n, 2), 64, dtype=np.int32))
    out = torch.empty(n, 3, spec.size, spec.size, dtype=dtype, device="cuda")
    gpu.notes.clear()
    triton.render(pixels, table, spec, out)
    assert gpu.of("wait", "pageable", "race") == []
    assert launched["resize"] >= 1
    assert sum(launched.values()) <= most, "launches do not grow with the batch"
