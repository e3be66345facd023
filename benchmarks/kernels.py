"""The Triton kernels as binaries for GPUs that are not here: registers, spills, shared memory and occupancy.

    python benchmarks/kernels.py                     all variants for an A100: some five minutes on two cores
    python benchmarks/kernels.py --gpus A100 H100    for several
    python benchmarks/kernels.py --few --write       what tests/gpu/kernels.json holds, and the tests hold kernels to

Triton compiles for any GPU generation, and its wheel brings the tools that read the binaries. A variant is one set of
compile-time settings: a view's size, its operations, the type and the layout of the result, where pixels come from.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

TABLE = Path(__file__).parents[1] / "tests" / "gpu" / "kernels.json"
EARLY = ("jitter", "crop", "grey", "blur", "solarize")  # an order in which colour comes before the crop
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"rotation": 9},
    {"order": EARLY, "rotation": 9, "quarter_turns": True},
    {"order": EARLY, "interpolation": "bicubic"},
)
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


@dataclass(frozen=True)
class Gpu:
    """A generation, and what a multiprocessor of it has."""

    capability: int
    threads: int  # at once
    blocks: int  # at once
    registers: int = 65536


GPUS = {
    "A100": Gpu(80, 2048, 32),
    "RTX 4090": Gpu(89, 1536, 24),
    "H100": Gpu(90, 2048, 32),
    "B200": Gpu(100, 2048, 32),
}


@dataclass(frozen=True)
class Binary:
    """What one variant of a kernel takes."""

    kernel: str
    variant: str
    registers: int  # a thread
    spilled: int  # bytes a thread, on the stack or in local memory
    shared: int  # bytes a program
    warps: int
    doubles: int  # instructions in float64

    def occupancy(self, gpu: Gpu) -> float:
        """Threads at once as a fraction of the most that a multiprocessor holds, as far as registers tell."""
        warp = -(-self.registers * 32 // 256) * 256  # registers are given out 256 at a time
        programs = min(gpu.registers // (warp * self.warps), gpu.threads // (32 * self.warps), gpu.blocks)
        return programs * self.warps * 32 / gpu.threads


def main() -> None:
    """Compile, and print a table or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", nargs="*", default=["A100"], choices=list(GPUS), metavar="NAME")
    parser.add_argument("--few", action="store_true", help="the variants that the tests compile, on all GPUs")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} with --few")
    options = parser.parse_args()
    names = list(GPUS) if options.few else options.gpus
    rows = {name: summary(binaries(GPUS[name], few=options.few), GPUS[name]) for name in names}
    if options.write:
        TABLE.write_text(json.dumps({"triton": version(), "gpus": rows}, indent=1) + "\n")
    print(table(rows))


def version() -> str:
    """Triton's: another one compiles otherwise."""
    import triton

    return str(triton.__version__)


def summary(found: list[Binary], gpu: Gpu) -> dict[str, dict[str, Any]]:
    """The worst of each kernel's variants."""
    kernels = collections.defaultdict(list)
    for binary in found:
        kernels[binary.kernel].append(binary)
    return {
        name: {
            "variants": len(variants),
            "registers": max(each.registers for each in variants),
            "spilled": max(each.spilled for each in variants),
            "shared": max(each.shared for each in variants),
            "doubles": max(each.doubles for each in variants),
            "occupancy": round(min(each.occupancy(gpu) for each in variants), 3),
            "worst": max(variants, key=lambda each: each.registers).variant,
        }
        for name, variants in sorted(kernels.items())
    }


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """As Markdown."""
    lines = [
        "| GPU | kernel | variants | registers | spilled | shared, bytes | float64 | occupancy | most registers in |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for gpu, kernels in rows.items():
        for name, row in kernels.items():
            numbers = [row[key] for key in ("variants", "registers", "spilled", "shared", "doubles")]
            cells = [gpu, f"`{name}`", *map(str, numbers), f"{row['occupancy']:.0%}", row["worst"]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def binaries(gpu: Gpu, few: bool = False) -> list[Binary]:
    """All variants of all kernels, compiled for a GPU."""
    found: dict[bytes, Binary] = {}
    said = ""

    def keep(launch: Launch) -> None:
        content = launch.binary
        if content not in found:
            found[content] = read(launch, said)

    with compiling_for(gpu, keep):
        for said, render in variants(few):  # noqa: B007 (read by `keep`)
            render()
    return list(found.values())


@dataclass(frozen=True)
class Launch:
    """What would have been launched."""

    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    programs: int
    warps: int  # a program
    binary: bytes
    ptx: str
    shared: int


@contextlib.contextmanager
def compiling_for(gpu: Gpu, on_launch: Callable[[Launch], None]) -> Iterator[None]:
    """As long as this context, kernels are compiled for a GPU that is not here, and not launched."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Absent:
        """Stands for the driver of a GPU that is not here."""

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", gpu.capability, 32)

    run: Callable[..., Any] = JITFunction.run
    begun = set[str]()

    def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if kernel.__name__ not in begun:  # it may be there for another GPU
            begun.add(kernel.__name__)
            kernel.device_caches.clear()
        made = run(kernel, *arguments, grid=grid, warmup=True, **options)
        asm, shared = made.asm, made.metadata.shared
        warps = options.get("num_warps", 4)
        on_launch(
            Launch(kernel.__name__, arguments, options, grid[0], warps, asm["cubin"], asm["ptx"], shared)
        )

    driver.set_active(Absent())
    JITFunction.run = compile_only
    try:
        with tempfile.TemporaryDirectory() as cache, _environment(TRITON_CACHE_DIR=cache):
            yield
    finally:
        JITFunction.run = run
        if torch.cuda.is_available():
            driver.reset_active()


def variants(few: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Views of every kind: what they are called, and what asks for their kernels."""
    from sslpipe.views import Jitter, ViewSpec
    from sslpipe.views.drawing import draw
    from sslpipe.views.render import triton

    full: dict[str, Any] = {"jitter": Jitter(), "grey": 0.5, "blur": 0.5, "solarize": 0.5}
    sizes, sides = ((224, 32), (256,)) if few else ((224, 96, 33, 28, 7), (64, 256))
    dtypes = (torch.bfloat16,) if few else (torch.float32, torch.bfloat16, torch.float16)
    shapes = (SHAPES[0], SHAPES[2]) if few else SHAPES
    for size, shape, dtype, (form, layout), side in itertools.product(
        sizes, shapes, dtypes, FORMATS.items(), sides
    ):
        if few and (form == "nhwc") == bool(shape):
            continue
        spec = ViewSpec(size=size, **full, **shape)
        images = np.full((4, 2), side, dtype=np.int32)
        drawn = draw(spec, seed=0, epoch=0, index=np.arange(4), view=0, size=images)
        drawn.jitter[:], drawn.sigma[:] = True, 1
        drawn.turns[0] *= spec.quarter_turns
        out = torch.empty(4, 3, size, size, dtype=dtype).contiguous(memory_format=layout)
        pixels = torch.zeros(4, side, side, 3, dtype=torch.uint8)
        words = [f"{size} px", str(dtype).removeprefix("torch."), form, f"of {side}", *shape]
        yield " ".join(words), lambda p=pixels, t=drawn, s=spec, o=out: triton.render(p, t, s, o)


def read(launch: Launch, variant: str) -> Binary:
    """What the binary's own description says."""
    said = dumped(launch.binary, "--dump-resource-usage")
    match = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    assert match is not None, said
    registers, stack, local = map(int, match.groups())
    doubles = len(re.findall(r"\.f64", launch.ptx))
    return Binary(launch.kernel, variant, registers, stack + local, launch.shared, launch.warps, doubles)


def dumped(binary: bytes, what: str) -> str:
    """What `cuobjdump` says of a binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([str(tool), what, file.name], capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables of the environment for as long as this context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


if __name__ == "__main__":
    main()
