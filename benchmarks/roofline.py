"""Predicted, not measured: SimCLR views a second that the Triton kernels can make at most, on GPUs that are not here.

    python benchmarks/roofline.py                        the table of docs/performance.md: some two minutes on two cores
    python benchmarks/roofline.py --gpus H100 --detail   what each kernel takes, and what holds it back

Kernels are compiled for each GPU with the parameters of a real batch, and the instructions of the binaries are counted:
those of a loop over taps as often as the parameters say, all others once, as each colour operation comes about once a
view. A kernel takes as long as the busiest of these: memory (what it reads and writes, once; nothing stays in the L2
cache), the issue of instructions (four a cycle of a multiprocessor), the units that carry them out (additions and
multiplications of floats, integers and comparisons, conversions and special functions, loads and stores), and, where
few threads fit at once, waiting for a loop's loads. What the host needs to launch kernels is left out.
"""

from __future__ import annotations

import argparse
import collections
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from kernels import GPUS, Gpu, Launch, compiling_for, dumped, read

from sslpipe import methods
from sslpipe.views.drawing import draw
from sslpipe.views.render import triton
from sslpipe.views.render.triton import colour, layout

LATENCY = 35  # cycles from a load to its use where the L1 cache has it
WARP = 32


@dataclass(frozen=True)
class Chip:
    """What a GPU has, after its maker's data sheet."""

    generation: str  # of `kernels.GPUS`
    multiprocessors: int
    clock: float  # GHz, at most
    memory: float  # GB/s
    floats: int  # additions or multiplications of float32 a cycle of a multiprocessor
    doubles: int  # and of float64


CHIPS = {
    "A100": Chip("A100", 108, 1.41, 2039, 64, 32),
    "RTX 4090": Chip("RTX 4090", 128, 2.52, 1008, 128, 2),
    "H100": Chip("H100", 132, 1.98, 3350, 128, 64),
    "H200": Chip("H100", 132, 1.98, 4800, 128, 64),
}
#: Results a cycle of a multiprocessor, in all of these.
RATES = {"conversions": 16, "loads": 32, "integers": 64}
UNITS = {
    "floats": {"FADD", "FFMA", "FMUL", "IMAD", "HADD2", "HFMA2", "HMUL2"},
    "conversions": {"F2F", "F2I", "FRND", "I2F", "MUFU"},
    "loads": {"LDG", "LDS", "SHFL", "STG", "STS"},
    "doubles": {"DADD", "DFMA", "DMUL", "DSETP"},
    "control": {"BAR", "BRA", "BSSY", "BSYNC", "EXIT", "NOP"},
}


@dataclass(frozen=True)
class Case:
    """Views to predict: their size, that of the canvases, images a batch."""

    size: int
    side: int
    images: int


CASES = {"224 px": Case(224, 256, 256), "32 px": Case(32, 32, 1024)}


@dataclass(frozen=True)
class Loop:
    """A loop's first and last address, and how often a thread goes through it."""

    begin: int
    end: int
    passes: float = 0.0

    def holds(self, address: int) -> bool:
        """Whether an instruction is in it."""
        return self.begin <= address <= self.end


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", nargs="*", default=list(CHIPS), choices=list(CHIPS), metavar="NAME")
    parser.add_argument("--detail", action="store_true", help="what each kernel takes")
    options = parser.parse_args()
    for line in table({name: CHIPS[name] for name in options.gpus}, detail=options.detail):
        print(line)


def table(chips: dict[str, Chip], detail: bool) -> list[str]:
    """Views a second as Markdown, or microseconds of each kernel by what it is held back by."""
    columns = ["kernel", "µs a batch", "held back by", "others"] if detail else ["views/s", "held back by"]
    lines = [f"| GPU | views | {' | '.join(columns)} |", f"| {' | '.join(['---'] * (2 + len(columns)))} |"]
    for (name, chip), (said, case) in ((c, k) for c in chips.items() for k in CASES.items()):
        found = predict(case, chip)
        total = sum(max(seconds.values()) for _, seconds in found)
        if not detail:
            held: collections.Counter[str] = collections.Counter()
            for _, seconds in found:
                held[max(seconds, key=seconds.__getitem__)] += max(seconds.values()) / total  # type: ignore[assignment]
            words = ", ".join(f"{what} {share:.0%}" for what, share in held.most_common() if share > 0.05)
            lines.append(f"| {name} | {said} | {case.images / total / 1e6:.1f} M | {words} |")
            continue
        for kernel, seconds in found:
            most = sorted(seconds.items(), key=lambda item: -item[1])
            others = ", ".join(f"{what} {1e6 * value:.1f}" for what, value in most[1:5])
            lines.append(
                f"| {name} | {said} | `{kernel}` | {1e6 * most[0][1]:.1f} | {most[0][0]} | {others} |"
            )
    return lines


def predict(case: Case, chip: Chip) -> list[tuple[str, dict[str, float]]]:
    """The launches of a batch in their order: the kernel, and seconds by what could hold it back."""
    spec = methods.recipe("simclr", case.size).views[0]
    index = np.arange(case.images)
    size = np.full((case.images, 2), case.side, dtype=np.int32)
    drawn = draw(spec, seed=0, epoch=0, index=index, view=0, size=size)
    pixels = torch.zeros(case.images, case.side, case.side, 3, dtype=torch.uint8)
    out = torch.empty(case.images, 3, case.size, case.size, dtype=torch.bfloat16)
    out = out.contiguous(memory_format=torch.channels_last)
    found: list[tuple[str, dict[str, float]]] = []
    gpu = GPUS[chip.generation]

    def count(launch: Launch) -> None:
        found.append((launch.kernel, _seconds(launch, gpu, chip, case)))

    with compiling_for(gpu, count):
        triton.render(pixels, drawn, spec, out)
    return found


def _seconds(launch: Launch, gpu: Gpu, chip: Chip, case: Case) -> dict[str, float]:
    """What a launch takes, by what holds it back."""
    instructions, loops = _disassembled(launch)
    done: collections.Counter[str] = collections.Counter()
    for address, name in instructions:
        inside = [loop for loop in loops if loop.holds(address)]
        innermost = min(inside, key=lambda loop: loop.end - loop.begin, default=Loop(0, 0, 1))
        done[_unit(name)] += innermost.passes  # type: ignore[assignment]
    rates = RATES | {"floats": chip.floats, "doubles": chip.doubles}
    cycles = {
        unit: done[unit] * WARP / rate for unit, rate in rates.items()
    }  # of a warp, alone in a multiprocessor
    cycles["issue"] = sum(done.values()) / 4
    alone = sum(done.values()) + LATENCY * sum(loop.passes for loop in loops)
    cycles["latency"] = alone / (read(launch, "").occupancy(gpu) * gpu.threads / WARP)
    warps = launch.programs * launch.warps
    by_core = warps / (chip.multiprocessors * chip.clock * 1e9)
    moved = _moved(launch, case)
    return {what: many * by_core for what, many in cycles.items()} | {"memory": moved / (chip.memory * 1e9)}


def _unit(name: str) -> str:
    """What carries an instruction out. Those of a warp's scalar unit count as integers."""
    return next((unit for unit, names in UNITS.items() if name in names), "integers")


def _disassembled(launch: Launch) -> tuple[list[tuple[int, str]], list[Loop]]:
    """Address and name of each instruction, and the loops over taps with their passes."""
    instructions, jumps = list[tuple[int, str]](), list[Loop]()
    for line in dumped(launch.binary, "--dump-sass").splitlines():
        match = re.match(r"\s+/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+\s+)?(\w+)(.*);", line)
        if match is None:
            continue
        address, name = int(match[1], 16), match[2]
        instructions.append((address, name))
        goal = re.search(r"0x([0-9a-f]+)\s*$", match[3])
        if name == "BRA" and goal is not None and int(goal[1], 16) < address:
            jumps.append(Loop(int(goal[1], 16), address))
    names = {loop: {name for at, name in instructions if loop.holds(at)} for loop in jumps}
    # The loop over colour operations is another one: it alone takes whole parts, of hues.
    over_taps = [loop for loop in jumps if "FRND" not in names[loop] and names[loop] & {"LDG", "DMUL"}]
    over_taps.sort(key=lambda loop: loop.begin - loop.end)
    passes = _passes(launch)
    assert len(over_taps) == len(passes), f"{launch.kernel}: the loops {over_taps} are not understood"
    return instructions, [replace(loop, passes=n) for loop, n in zip(over_taps, passes, strict=True)]


def _passes(launch: Launch) -> list[float]:
    """How often a thread goes through each loop over taps, the outer one first: means over the launch's views."""
    words = _words(launch)
    down, across = words[:, layout.COUNT.value], words[:, layout.COUNT.value + 1]
    if launch.kernel == "resize":
        outer = [] if _is_long(launch) else [float(down.mean())]
        return [*outer, float((across if _is_long(launch) else down * across).mean())]
    if launch.kernel == "shorten":
        return [float(down.mean())]
    if launch.kernel == "weigh":
        return [float(down.mean() + across.mean()) / 2] * 2
    return [float(words[:, layout.RADIUS.value].mean())] if launch.kernel == "blur" else []


def _is_long(launch: Launch) -> bool:
    return bool(launch.options["LIST"] == layout.IS_LONG.value)


def _words(launch: Launch) -> np.ndarray:
    """The rows of the packed table that a launch is for, int32 [n, WORDS]."""
    tensors = (value for value in launch.arguments if isinstance(value, torch.Tensor))
    words: np.ndarray = next(t.numpy() for t in tensors if t.shape[-1:] == (layout.WORDS.value,))
    kernel, options = launch.kernel, launch.options
    column = {
        "contrast": layout.HAS_CONTRAST.value, "blur": layout.HAS_BLUR.value, "shorten": layout.IS_LONG.value,
    }.get(kernel, options.get("LIST"))  # fmt: skip
    if column is None:
        return words
    tiles = (-(-options["SIZE"] // options["TILE"])) ** 2 if "TILE" in options else 1
    blocks = -(-(options["SIZE"] ** 2) // options["BLOCK"]) if kernel == "contrast" else tiles
    listed: np.ndarray = words[words[: launch.programs // blocks, column]]
    return listed


def _moved(launch: Launch, case: Case) -> float:
    """Bytes that a launch reads and writes."""
    words, plane = _words(launch), case.size**2
    n, taps = len(words), words[:, layout.COUNT.value :][:, :2]
    canvas = float(3 * words[:, layout.BOX.value + 2 :][:, :2].prod(axis=1).sum())
    if launch.kernel == "weigh":
        return float(4 * case.size * (taps + 1).sum())
    if launch.kernel == "resize":
        return canvas + _written(words, layout.LATE.value, plane)
    if launch.kernel == "contrast":
        return 12.0 * n * plane + _written(words, layout.LATE_CONTRAST.value, plane)
    if launch.kernel == "blur":
        last = (
            _written(words, layout.LATE_BLUR.value, plane) if launch.options["SECOND"] else 12.0 * n * plane
        )
        return 12.0 * n * plane + last
    raise NotImplementedError(f"{launch.kernel}: SimCLR's views have none")


def _written(words: np.ndarray, code: int, plane: int) -> float:
    """Bytes of views that go on to scratch in float32, or are done, in bfloat16."""
    done = words[:, code] >> colour.GOAL.value == colour.TO_OUT.value
    return float((np.where(done, 6, 12) * plane).sum())


if __name__ == "__main__":
    main()
