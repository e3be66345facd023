"""The GPU renderer: its arithmetic anywhere, that it compiles where ptxas is, and the real kernels on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslpipe.views import Jitter, ViewSpec
from sslpipe.views.drawing import draw
from sslpipe.views.render import reference
from sslpipe.views.table import Table

pytestmark = pytest.mark.slow

FOUND = importlib.util.find_spec("triton")
if FOUND is None:
    pytest.skip("triton is not installed", allow_module_level=True)
ROOT = Path(__file__).parents[3]
PTXAS = Path(next(iter(FOUND.submodule_search_locations or [""]))) / "backends" / "nvidia" / "bin" / "ptxas"
SIMCLR: dict[str, Any] = {"jitter": Jitter(), "grey": 0.2, "blur": 0.5, "solarize": 0.2}


def python(*arguments: str, interpret: bool, **environment: str) -> str:
    """What a fresh process says, which must succeed: Triton's switch is read at its first import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "TRITON_"))}
    kept |= {"TRITON_INTERPRET": "1"} if interpret else {}
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=kept | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-4000:]
    return run.stdout


def test_is_the_reference() -> None:
    said = python(
        *("-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/views/triton_cases.py"),
        interpret=not torch.cuda.is_available(),
    )
    assert " passed" in said
    assert "skipped" not in said


COMPILE = """
import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from sslpipe.views import Jitter, ViewSpec
from sslpipe.views.render import triton
from sslpipe.views.drawing import draw


class H100:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def compile(kernel, *arguments, grid, warmup, **options):
    made = run(kernel, *arguments, grid=grid, warmup=True, **options)
    assert made.asm["cubin"]
    names.add(kernel.__name__)


driver.set_active(H100())
run, JITFunction.run = JITFunction.run, compile
names = set()
pixels = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
early = ("jitter", "crop", "grey", "blur", "solarize")
full = {"jitter": Jitter(), "grey": 0.5, "blur": 0.5, "solarize": 0.5}
for spec, dtype, form in (
    (ViewSpec(size=224, **full), torch.bfloat16, torch.contiguous_format),
    (ViewSpec(size=33, **full, order=early, rotation=9, quarter_turns=True), torch.float16, torch.channels_last),
    (ViewSpec(size=7, **full, interpolation="bicubic"), torch.float32, torch.contiguous_format),
):
    table = draw(spec, seed=0, epoch=0, index=np.arange(4), view=0, size=np.full((4, 2), 64, dtype=np.int32))
    table.jitter[:], table.sigma[:] = True, 1
    table.turns[0] *= spec.quarter_turns
    out = torch.empty(4, 3, spec.size, spec.size, dtype=dtype).contiguous(memory_format=form)
    triton.render(pixels, table, spec, out)
print(*sorted(names))
"""


@pytest.mark.skipif(not PTXAS.exists(), reason="triton comes without ptxas here")
def test_compiles_for_a_gpu(tmp_path: Path) -> None:
    said = python(
        "-W", "error", "-c", COMPILE, interpret=False, CUDA_VISIBLE_DEVICES="", TRITON_CACHE_DIR=str(tmp_path)
    )
    assert said.split() == [
        "begin", "blur", "contrast", "early_contrast", "resize", "rotate", "shorten", "weigh"
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- on a GPU


def pictures(n: int, resolution: int) -> torch.Tensor:
    """Noise over something smooth, with saturated and grey parts: uint8 [n, resolution, resolution, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:resolution, :resolution] / resolution * 6
    wave = np.stack([np.sin(x * (k % 5 + 1) + y * (k % 7)) for k in range(3 * n)]).reshape(n, 3, *x.shape)
    wave = wave * 0.7 + 0.5 + rng.normal(0, 0.1, wave.shape)
    wave[:, :, : resolution // 5] = wave[:, :1, : resolution // 5]
    return torch.from_numpy((wave.clip(0, 1) * 255).astype(np.uint8)).permute(0, 2, 3, 1).contiguous()


def table_of(spec: ViewSpec, n: int, resolution: int) -> Table:
    sizes = np.array([(resolution, resolution), (resolution, resolution * 3 // 4)] * n, dtype=np.int32)[:n]
    return draw(spec, seed=1, epoch=0, index=np.arange(n), view=0, size=sizes)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("size", "resolution"), [(224, 256), (224, 64), (96, 256), (32, 32), (32, 256), (28, 28)]
)
@pytest.mark.parametrize(
    "change",
    [
        SIMCLR,
        {"interpolation": "bicubic", "scale": (0.2, 1)},
        SIMCLR | {"order": ("jitter", "grey", "crop", "solarize", "blur"), "blur_sigma": (0.1, 9)},
        SIMCLR | {"rotation": 30, "fill": 0.4, "quarter_turns": True, "vflip": 0.5},
    ],
    ids=["simclr", "mae", "early", "turned"],
)
def test_gpu_is_the_reference(size: int, resolution: int, change: dict) -> None:
    spec = ViewSpec(size=size, mean=(0, 0, 0), std=(1, 1, 1), **change)
    pixels, table = pictures(16, resolution), table_of(spec, 16, resolution)
    expected = reference.render(pixels, table, spec)
    from sslpipe.views.render import triton

    view = triton.render(pixels.cuda(), table, spec)
    assert (view.cpu() - expected).abs().max() <= (1e-4 if spec.rotation else 2e-5)
    for dtype in (torch.bfloat16, torch.float16):
        for form in (torch.contiguous_format, torch.channels_last):
            out = torch.empty_like(view, dtype=dtype, memory_format=form)
            triton.render(pixels.cuda(), table, spec, out)
            unit = 2**-7 if dtype == torch.bfloat16 else 2**-10  # in the last place
            torch.testing.assert_close(out, view.to(dtype), rtol=unit, atol=1e-6)
    some = np.array([3, 11])
    assert torch.equal(triton.render(pixels.cuda(), table[some], spec), view[some])


@pytest.mark.gpu
def test_gpu_is_never_waited_for() -> None:
    from sslpipe.views.render import triton

    for spec in (ViewSpec(size=224, **SIMCLR), ViewSpec(size=32, rotation=9, **SIMCLR)):
        pixels, table = pictures(4, 64).cuda(), table_of(spec, 4, 64)
        triton.render(pixels, table, spec)  # compiled, and memory found
        try:
            with warnings.catch_warnings():  # torch's own, that this is a prototype
                warnings.simplefilter("ignore")
                torch.cuda.set_sync_debug_mode("error")
            triton.render(pixels, table, spec)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_gpu_reaches_beyond_two_gigabytes() -> None:
    from sslpipe.views.render import triton

    n, spec = 1 + (1 << 31) // (3 << 20), ViewSpec(size=224, **SIMCLR)
    pixels = torch.zeros(n + 1, 1024, 1024, 3, dtype=torch.uint8, device="cuda")
    pixels[-1, :256, :256] = pictures(1, 256)[0].cuda()
    table = table_of(spec, 1, 256)
    table.source[:] = n
    near = table.change(source=np.zeros(1, dtype=np.int64))
    assert torch.equal(triton.render(pixels, table, spec), triton.render(pixels[-1:], near, spec))
