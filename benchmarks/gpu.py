"""Everything that wants a GPU, the smallest first: each part a verdict in a line, then figures in order of worth.

    python benchmarks/gpu.py                  what `make gpu` does: some six minutes
    python benchmarks/gpu.py --pretend        the same from start to end on a GPU that is not there, for rehearsal
    python benchmarks/gpu.py --list           the parts

Each part is a process of its own with a time limit, so that a failure in one hides none of the rest; results are
written to --out as they come. It wants torch, torchvision, Triton, timm, numba and numpy, and no more: what only some
parts want, such as pytest, is said where it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]  # without an installation
TOTAL = 350  # seconds for all parts


@dataclass(frozen=True)
class Part:
    """Something to try: its work prints what it found, the last line of which is the verdict."""

    name: str
    about: str
    seconds: int  # the most it may take
    work: Callable[[bool], str]


def kernel(pretend: bool) -> str:
    """One launch of each of SimCLR's kernels on one image."""
    return _views(["simclr"], 32, 1)


def views(pretend: bool) -> str:
    """All methods' views at 224 and 32 pixels against the reference."""
    from sslpipe import methods

    return "; ".join(_views(methods.names(), size, 8) for size in ((64,) if pretend else (224, 32)))


def _views(names: Any, size: int, count: int) -> str:
    from support import ToyReader

    from sslpipe import methods
    from sslpipe.views.engine import ViewEngine

    batch, worst = ToyReader(count, resolution=2 * size).gather(range(count)), 0.0
    for name in names:
        recipe = methods.recipe(name, size, patch_size=8)
        made = ViewEngine(recipe, seed=0, device="cuda")(batch, 0)
        for a, b in zip(made, ViewEngine(recipe, seed=0, renderer="reference")(batch, 0), strict=True):
            worst = max(worst, float((a.pixels.cpu() - b.pixels).abs().max()) * min(a.std))
    assert worst < 1e-4, f"a pixel differs by {worst:.1e} of the range of values"
    return f"{len(names)} recipes at {size} px are the reference's to {worst:.0e} of the range"


def step(pretend: bool) -> str:
    """A training step of every method, beside the CPU's."""
    from support import ToyReader, small_pair

    from sslpipe import methods
    from sslpipe.training.core.config import Config
    from sslpipe.training.core.step import TrainingStep

    worst, where = 0.0, ""
    for name in methods.names():
        losses = []
        for device in ("cpu", "cuda"):
            method, engine = small_pair(name, device, "reference" if device == "cpu" else "auto")
            config = Config(batch_size=8, epochs=1, precision="fp32")
            taken = TrainingStep(method.train(), config, method.optimizer, steps_per_epoch=2, seed=0)
            made = engine(ToyReader(8).gather(range(8)), 0)
            for number in range(2):
                gradient = taken.gradient(number, made)
                taken.update(gradient)
            losses.append(float(gradient.numbers["loss"]))
        off = abs(losses[1] / losses[0] - 1)
        worst, where = max((worst, where), (off, name))
    assert worst < 0.02, f"the loss of {where} is off by {worst:.1%}"
    return f"{len(methods.names())} methods' losses after a step are the CPU's to {worst:.1%} ({where})"


def epoch(pretend: bool) -> str:
    """An epoch with canvases in the GPU's memory, a checkpoint, and going on from it; no wait in a step."""
    import torch
    from support import ToyReader, small_pair
    from training import Canvases

    from sslpipe.core.checkpoint import Checkpoints
    from sslpipe.data.loader import Loader
    from sslpipe.training.core.config import Config
    from sslpipe.training.core.loop import train

    reader = Canvases(ToyReader(64).pixels.numpy(), torch.device("cuda"))
    with tempfile.TemporaryDirectory() as folder:
        for epochs in (1, 2):
            method, engine = small_pair("byol", "cuda")
            config = Config(epochs=epochs, batch_size=8, checkpoint_seconds=0, log_every=1)
            history = train(
                method, Loader(reader, batch_size=8, seed=0), engine, config, method.optimizer, seed=0,
                checkpoints=Checkpoints(Path(folder)),
            )  # fmt: skip
    assert history.rows[-1]["step"] == 16
    first, last = history.rows[0]["loss"], history.rows[-1]["loss"]
    return f"two epochs, the second from a checkpoint: loss {first:.3f} → {last:.3f}"


def same(pretend: bool) -> str:
    """`deterministic: true`: two runs of a ViT's steps give the same bits."""
    import torch
    from support import SMALL, TRANSFORMERS, ToyReader

    from sslpipe import methods, networks
    from sslpipe.core.device import make_deterministic
    from sslpipe.training.core.config import Config
    from sslpipe.training.core.step import TrainingStep
    from sslpipe.views.engine import ViewEngine

    make_deterministic(True)
    kind, options = TRANSFORMERS[1]
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = networks.backbone(kind, image_size=16, **options)
        method = methods.build("swav", network, SMALL["swav"]).to("cuda").train()
        recipe = methods.recipe("swav", 16, patch_size=network.patch_size, config=SMALL["swav"])
        made = ViewEngine(recipe, seed=0, device="cuda")(ToyReader(16).gather(range(16)), 0)
        taken = TrainingStep(
            method, Config(batch_size=16, epochs=1), method.optimizer, steps_per_epoch=4, seed=0
        )
        for number in range(4):
            taken.update(taken.gradient(number, made))
        weights.append(torch.cat([p.detach().flatten().cpu() for p in method.parameters()]))
    assert torch.equal(*weights), "two runs with one seed end with other weights"
    return "four steps of SwAV on a ViT, twice: the same bits"


def tests(pretend: bool) -> str:
    """The tests that skip without a GPU."""
    files = ["tests/gpu/test_on_gpu.py", "tests/views/render/test_triton.py"]
    if pretend:
        return f"not run, since they want real kernels: {', '.join(files)}"
    return _run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files])


def view_figures(pretend: bool) -> str:
    """Views a second at 224 and 96 pixels, beside kornia where it is installed."""
    real = ("--device", "cuda", "--batch", "256", "--sizes", "224", "96", "--rounds", "3")
    return _script("views.py", real, TINY_VIEWS if pretend else None)


def training_figures(pretend: bool) -> str:
    """ResNet-50 SimCLR and ViT-B MAE beside their forward and backward pass alone."""
    real = ("--device", "cuda", "--parts", "ceiling", "--seconds", "6")
    tiny = (*real[:4], "--seconds", "1", "--batch", "4", "--side", "32", "--compile", "never", "--networks")
    return _script("training.py", real, (*tiny, "simclr=small_resnet", "mae=small_vit") if pretend else None)


def small_view_figures(pretend: bool) -> str:
    """Views a second at 32 pixels."""
    real = ("--device", "cuda", "--batch", "4096", "--sizes", "32", "--recipes", "simclr", "--rounds", "3")
    return _script("views.py", real, TINY_VIEWS if pretend else None)


TINY_VIEWS = ("--device", "cuda", "--batch", "2", "--sizes", "32", "--quick")

PARTS = tuple(
    Part(work.__name__.replace("_", " "), (work.__doc__ or "").rstrip("."), seconds, work)
    for work, seconds in (
        (kernel, 60), (views, 60), (step, 60), (epoch, 40), (same, 40), (view_figures, 90), (training_figures, 150),
        (small_view_figures, 40), (tests, 120),
    )
)  # fmt: skip


def main() -> None:
    """Run the parts, each in a process, and say how each went."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretend", action="store_true", help="on a GPU that is not there")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--only", nargs="*", metavar="PART", help="these parts alone")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="default: gpu.md")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a process of its own is to do
    options = parser.parse_args()
    if options.part:
        sys.exit(_one(next(part for part in PARTS if part.name == options.part), options.pretend))
    chosen = [part for part in PARTS if not options.only or part.name in options.only]
    if options.list:
        print("\n".join(f"{part.name}: {part.about}" for part in chosen))
        return
    options.out.write_text(f"# GPU, {time.strftime('%F')}\n")
    began, failed = time.monotonic(), 0
    for part in chosen:
        left = int(min(part.seconds, TOTAL - (time.monotonic() - began)))
        failed += not _in_a_process(part, left, options.pretend, options.out)
    took = time.monotonic() - began
    print(
        f"{len(chosen) - failed} of {len(chosen)} parts went well, {took:.0f} s; see {options.out}",
        flush=True,
    )
    sys.exit(failed > 0)


def _in_a_process(part: Part, seconds: int, pretend: bool, out: Path) -> bool:
    """Whether a part went well; its verdict is printed, and all it said is added to a file."""
    start, command = time.monotonic(), [sys.executable, __file__, "--part", part.name]
    if seconds < 5:
        verdict, ok, said = "no time was left", False, ""
    else:
        try:
            done = subprocess.run(
                [*command, *(["--pretend"] if pretend else [])],
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            said, ok = done.stdout + (done.stderr if done.returncode else ""), done.returncode == 0
            lines = [line for line in (done.stdout if ok else said).splitlines() if line.strip()]
            verdict = lines[-1] if lines else f"ended with {done.returncode} and no word"
        except subprocess.TimeoutExpired as error:
            said = "".join(_text(each) for each in (error.stdout, error.stderr))
            verdict, ok = f"not done after {seconds} s", False
    line = f"{'ok  ' if ok else 'FAIL'} {part.name} ({time.monotonic() - start:.0f} s): {verdict}"
    print(line, flush=True)
    with out.open("a") as file:
        file.write(f"\n## {line}\n\n{said}\n")
    return ok


def _one(part: Part, pretend: bool) -> int:
    import warnings

    warnings.simplefilter("ignore")
    try:
        with _device(pretend):
            print(part.work(pretend), flush=True)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _device(pretend: bool) -> Iterator[None]:
    import torch

    if not pretend:
        assert torch.cuda.is_available(), "torch finds no GPU here"
        yield
        return
    from unittest.mock import patch

    from pretended import pretending
    from pretended.renderer import stand_in

    with pretending(), contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(owner, name, value))

        stand_in(replace)
        replace(torch.cuda, "is_bf16_supported", lambda **options: False)  # few CPUs are quick with it
        yield


def _script(name: str, real: tuple[str, ...], tiny: tuple[str, ...] | None) -> str:
    """A benchmark of this folder; within this process, and as small as it can be, on a pretended GPU."""
    path = str(ROOT / "benchmarks" / name)
    if tiny is None:
        return _run([sys.executable, path, *real])
    sys.argv = [name, *tiny]
    runpy.run_path(path, run_name="__main__")
    return "rehearsed: its numbers mean nothing"


def _run(command: list[str]) -> str:
    """What a command prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    print(done.stdout, flush=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout.strip().splitlines()[-1]


def _text(said: bytes | str | None) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""


if __name__ == "__main__":
    main()
