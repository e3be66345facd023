"""Views a second: our renderers beside what people use, side by side in one run.

    python benchmarks/views.py                      all sizes and recipes on the CPU: about ten minutes on two cores
    python benchmarks/views.py --quick              one recipe a size, fewer rounds
    python benchmarks/views.py --device cuda        on a GPU: our renderers and kornia; about a minute

Everyone starts from the same uint8 batch in memory (natural pictures, 256 pixels a side for views of 224 and 96
pixels, else the view's own size) and ends with normalised float32 views. Contenders take turns, round by round, so
that a busy moment of the machine hits all of them; medians and the spread between the quartiles are reported.
On a GPU ours write bfloat16.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslpipe.core import scratch
from sslpipe.core.device import describe, resolve
from sslpipe.data.batch import Batch
from sslpipe.recipes.official import official
from sslpipe.views import Recipe, ViewEngine, ViewSpec

Make = Callable[[], object]

OURS = ("cpu", "triton", "reference")
#: What a contender does otherwise than the recipe says.
GAPS = {
    "torchvision v2, tensors": "one sample at a time",
    "torchvision v2, PIL": "one sample at a time; 8-bit after each operation",
    "torchvision v2, batch": "ONE set of parameters for the whole batch: another augmentation",
    "lightly": "one sample at a time; 8-bit after each operation; its own recipe of that name",
    "kornia": "no antialiasing; one order of the jitter for the whole batch",
    "kornia, compiled": "as kornia; time to compile not counted",
    "ffcv": "reads its own files only: no contender for a batch in memory",
}


@dataclass
class Task:
    """One line of work: a recipe at a size, on a batch."""

    name: str
    recipe: Recipe
    batch: Batch

    @property
    def views(self) -> int:
        """Views made of the whole batch."""
        return len(self.batch) * sum(spec.count for spec in self.recipe.views)

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch."""
        return len(self.batch) * sum(spec.count * spec.size**2 for spec in self.recipe.views)


@dataclass
class Row:
    """What one contender did: views a second (median, quartiles), or why it did not run."""

    views_per_second: float = 0.0
    low: float = 0.0
    high: float = 0.0
    not_run: str = ""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--sizes", type=int, nargs="*", default=[224, 96, 32], help="default: 224 96 32")
    parser.add_argument("--recipes", nargs="*", default=["simclr", "byol", "swav", "mae"], metavar="NAME")
    parser.add_argument("--batch", type=int, default=64, help="images a batch; default: 64")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="SimCLR only, three rounds, nothing compiled")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON to this file")
    options = parser.parse_args()
    if options.quick:
        options.recipes, options.rounds = ["simclr"], 3
    device = resolve(options.device)
    print(
        f"{time.strftime('%Y-%m-%d')}; {describe(device)}, {platform.system()}, torch {torch.__version__}; "
        f"batches of {options.batch}, {options.rounds} rounds",
        flush=True,
    )
    peak = machine(device, options.quick)
    results = []
    for task in tasks(options.sizes, options.recipes, options.batch, device):
        rows = run(contenders(task, device, compiled=not options.quick), task, options.rounds)
        print(f"\n### {task.name}\n\n{table(task, rows, peak)}", flush=True)
        results.append({"task": task.name, "rows": {name: vars(row) for name, row in rows.items()}})
    if device.type == "cpu":
        print("\n" + variations(options.batch, options.rounds), flush=True)
    elif not options.quick:
        print("\n" + steps(options.device), flush=True)
    if options.out:
        scratch.write_json(options.out, {"machine": describe(device), "peak": peak, "results": results})


def tasks(sizes: list[int], recipes: list[str], n: int, device: torch.device) -> Iterator[Task]:
    """Recipes and sizes; masks are left out, since no peer draws them in its transform."""
    for size, name in itertools.product(sizes, recipes):
        recipe = official(name, size, patch_size=16 if size % 16 == 0 else 4)
        recipe = Recipe(views=tuple(spec.model_copy(update={"mask": None}) for spec in recipe.views))
        side = 256 if size > 64 else size
        yield Task(f"{name}, {size} px from {side} px", recipe, natural(n, side).to(device))


def natural(n: int, side: int, sizes: np.ndarray | None = None) -> Batch:
    """Pictures with the spectrum and the colours of photographs: hue's branches and clamps depend on them."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectrum = np.fft.rfft2(rng.normal(size=(n, 3, side, side))) / np.maximum(frequency, 1 / side)
    smooth = np.fft.irfft2(spectrum, s=(side, side))
    smooth /= smooth.std(axis=(2, 3), keepdims=True)
    opponents = np.array([[1, 0.5, 0.2], [1, 0, -0.1], [1, -0.5, 0.3]])  # luma, red-green, blue-yellow
    pixels = (127 + 50 * np.einsum("cd,ndhw->nhwc", opponents, smooth)).clip(0, 255).astype(np.uint8)
    return Batch(
        pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
        size=torch.from_numpy(np.full((n, 2), side) if sizes is None else sizes).int(),
        index=torch.arange(n),
        label=torch.full((n,), -1),
    )


# ----------------------------------------------------------------------------------------------- running


def run(contenders: dict[str, Make | str], task: Task, rounds: int) -> dict[str, Row]:
    """Time all contenders in turns; a contender that is a word says why it is none."""
    rows = {name: Row(not_run=make) for name, make in contenders.items() if isinstance(make, str)}
    seconds: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, make in contenders.items():
            if name in rows:
                continue
            try:
                took = timed(make, task.batch.pixels.device)  # type: ignore[arg-type]
            except Exception as error:
                rows[name] = Row(not_run=f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
                continue
            if turn:  # the first turn warms up
                seconds.setdefault(name, []).append(took)
    for name, values in seconds.items():
        speeds = sorted(task.views / value for value in values)
        low, high = np.quantile(speeds, [0.25, 0.75])
        rows[name] = Row(statistics.median(speeds), float(low), float(high))
    return {name: rows[name] for name in contenders}


def timed(make: Make, device: torch.device) -> float:
    """Seconds of one call; a short one is repeated for a fifth of a second."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < 0.2:
        make()
        calls += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def machine(device: torch.device, quick: bool = False) -> dict[str, float]:
    """What the machine can do at best: arithmetic in matrix products, bytes in copies; printed too."""
    n = 512 if quick else 2048 if device.type == "cpu" else 8192
    a, b, c = (torch.rand(n, n, device=device) for _ in range(3))
    big = torch.empty(1 << 27, dtype=torch.uint8, device=device)
    other = torch.empty_like(big)
    gflops = 2 * n**3 / min(timed(lambda: torch.mm(a, b, out=c), device) for _ in range(5)) / 1e9
    gbytes = 2 * big.numel() / min(timed(lambda: other.copy_(big), device) for _ in range(5)) / 1e9
    print(
        f"at best: {gflops:.0f} GFLOP/s (matrix products in float32), {gbytes:.1f} GB/s (copies)", flush=True
    )
    return {"gflops": gflops, "gbytes": gbytes}


def operations(spec: ViewSpec) -> float:
    """Floating-point operations one output pixel of a recipe needs on average, by the formulas alone."""
    taps = 5 if spec.interpolation == "bicubic" else 3  # an axis, at crops up to the view's own size
    total = 2 * 3 * 2 * taps + 6.0  # two axes of three channels; normalise
    if spec.jitter is not None:
        total += spec.jitter.probability * (9 + 14 + 20 + 45)  # brightness, contrast, saturation, hue
    return total + spec.grey * 8 + spec.solarize * 6 + spec.blur * 2 * 3 * (1.5 * spec.kernel)


def limit(task: Task, peak: dict[str, float]) -> float:
    """Views a second if the machine did nothing but this arithmetic, or nothing but write the views."""
    flops = sum(spec.count * spec.size**2 * operations(spec) for spec in task.recipe.views) * len(task.batch)
    return task.views / max(flops / peak["gflops"] / 1e9, 12 * task.pixels / peak["gbytes"] / 1e9)


def table(task: Task, rows: dict[str, Row], peak: dict[str, float]) -> str:
    """Markdown: the fastest of ours against everyone."""
    best = max(row.views_per_second for name, row in rows.items() if name.startswith("ours"))
    lines = [
        "| contender | views/s | quartiles | ours is faster by | differs in |",
        "|---|---:|---:|---:|---|",
    ]
    for name, row in rows.items():
        gap = GAPS.get(name, "")
        if row.not_run:
            lines.append(f"| {name} | not run | | | {row.not_run} |")
        else:
            speed = f"{row.views_per_second:,.0f} | {row.low:,.0f} – {row.high:,.0f}"
            lines.append(f"| {name} | {speed} | {best / row.views_per_second:.1f} × | {gap} |")
    ceiling = limit(task, peak)
    lines.append(
        f"\nThe machine's limit, all units busy: {ceiling:,.0f} views/s; ours reaches {best / ceiling:.0%}."
    )
    return "\n".join(lines)


def variations(n: int, rounds: int) -> str:
    """Harder work of the same kind: what a pixel costs beside SimCLR's recipe at 224 pixels, in one run."""
    recipe = official("simclr", 224)
    turned = Recipe(views=tuple(spec.model_copy(update={"rotation": 15.0}) for spec in recipe.views))
    widths = np.random.default_rng(1).integers(128, 257, n)
    oblong = natural(n, 256, np.stack((np.full(n, 256), widths), axis=1))
    work = {
        "plain": Task("", recipe, natural(n, 256)),
        "non-square images": Task("", recipe, oblong),
        "rotated by up to 15°": Task("", turned, natural(n, 256)),
        "swav's 2 + 6 crops": Task("", official("swav", 224), natural(n, 256)),
    }
    calls = {name: ours("cpu", task, torch.device("cpu")) for name, task in work.items()}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, make in calls.items():
            took = timed(make, torch.device("cpu")) / work[name].pixels  # type: ignore[arg-type]
            if turn:
                seconds[name].append(took)
    costs = {name: 1e9 * statistics.median(values) for name, values in seconds.items()}
    lines = [
        "### A pixel's cost, cpu renderer",
        "",
        "| views | ns a pixel | beside plain |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {cost:.2f} | {cost / costs['plain'] - 1:+.0%} |" for name, cost in costs.items()]
    return "\n".join(lines)


class Repeated:
    """A reader of one batch."""

    def __init__(self, n: int, side: int) -> None:
        self.batch, self.resolution = natural(n, side), side
        self.labels, self.keys = self.batch.label, [str(place) for place in range(n)]

    def __len__(self) -> int:
        return len(self.batch)

    def gather(self, index: Any) -> Batch:
        """The first of its images."""
        some = slice(len(index))
        return Batch(
            pixels=self.batch.pixels[some], size=self.batch.size[some], index=self.batch.index[some],
            label=self.batch.label[some],
        )  # fmt: skip


def steps(device: str) -> str:
    """What views cost beside real training steps, were they not made meanwhile."""
    from sslpipe import methods
    from sslpipe.training.core.config import Config
    from sslpipe.training.core.cost import cost_of_views
    from sslpipe.views.config import Config as ViewsConfig

    lines = [
        "### Beside a training step at 224 px, batches of 256",
        "",
        "| step | views/s | share of the step |",
        "|---|---:|---:|",
    ]
    for method, backbone in (("simclr", "torchvision:resnet50"), ("mae", "timm:vit_base_patch16_224")):
        config = Config(method=method, backbone=backbone, batch_size=256, device=device)
        recipe = methods.recipe(method, 224, patch_size=16)
        cost = cost_of_views(
            config, methods.configure(method), ViewsConfig(size=224), recipe, Repeated(256, 256), seed=0
        )
        lines.append(f"| {method}, {backbone} | {cost['views_per_second']:,} | {cost['share_of_step']:.1%} |")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------- contenders


def contenders(task: Task, device: torch.device, compiled: bool) -> dict[str, Make | str]:
    """Everyone who can do the task here, and why the others cannot."""
    found: dict[str, Make | str] = {f"ours: {name}": ours(name, task, device) for name in OURS}
    per_sample = device.type == "cpu"
    for name, build in PEERS.items():
        if name == "kornia, compiled" and not compiled:
            found[name] = "left out by --quick"
        elif not per_sample and not name.startswith("kornia"):
            found[name] = "works on CPUs, one sample at a time"
        else:
            try:
                found[name] = build(task)
            except ImportError as error:
                found[name] = f"not installed ({error.name})"
    found["ffcv"] = GAPS["ffcv"]
    return found


def ours(renderer: str, task: Task, device: torch.device) -> Make | str:
    """One of our renderers."""
    from sslpipe.console.errors import UserError

    try:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        engine = ViewEngine(task.recipe, seed=0, device=device, renderer=renderer, dtype=dtype)
    except UserError as error:
        return str(error).removeprefix("views.renderer: ")
    epochs = itertools.count()
    return lambda: engine(task.batch, next(epochs))


def torchvision_of(spec: ViewSpec, *before: Any) -> Any:
    """A spec as torchvision's transforms."""
    from torchvision.transforms import v2

    steps: dict[str, list[Any]] = {
        "crop": [
            v2.RandomResizedCrop(
                spec.size, spec.scale, spec.ratio, v2.InterpolationMode(spec.interpolation), antialias=True
            ),
            v2.RandomHorizontalFlip(spec.hflip),
        ],
        "jitter": [],
        "grey": [v2.RandomGrayscale(spec.grey)] if spec.grey else [],
        "blur": [v2.RandomApply([v2.GaussianBlur(spec.kernel, spec.blur_sigma)], spec.blur)]
        if spec.blur
        else [],
        "solarize": [v2.RandomSolarize(threshold=0.5, p=spec.solarize)] if spec.solarize else [],
    }
    if spec.jitter:
        j = spec.jitter
        jitter = v2.ColorJitter(j.brightness, j.contrast, j.saturation, j.hue)
        steps["jitter"] = [v2.RandomApply([jitter], j.probability)]
    ordered = [step for name in spec.order for step in steps.get(name, [])]
    return v2.Compose([*before, *ordered, v2.Normalize(spec.mean, spec.std)])


def torchvision_tensors(task: Task) -> Make:
    """Float32 tensors, one sample at a time."""
    from torchvision.transforms import v2

    images = list(task.batch.pixels.permute(0, 3, 1, 2).contiguous())
    transforms = [
        (torchvision_of(s, v2.ToDtype(torch.float32, scale=True)), s.count) for s in task.recipe.views
    ]
    return lambda: [torch.stack([t(i) for i in images for _ in range(n)]) for t, n in transforms]


def torchvision_pil(task: Task) -> Make:
    """PIL images, one sample at a time, tensors at the end."""
    from PIL import Image
    from torchvision.transforms import v2

    images = [Image.fromarray(pixels) for pixels in task.batch.pixels.numpy()]
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    made = []
    for spec in task.recipe.views:
        *steps, normalise = torchvision_of(spec).transforms
        for step in steps:
            if isinstance(step, v2.RandomSolarize):
                step.threshold = 128
        made.append((v2.Compose([*steps, *end, normalise]), spec.count))
    return lambda: [torch.stack([t(i) for i in images for _ in range(n)]) for t, n in made]


def torchvision_batch(task: Task) -> Make:
    """A whole batch as if it were one sample."""
    from torchvision.transforms import v2

    images = task.batch.pixels.permute(0, 3, 1, 2).contiguous()
    transforms = [
        (torchvision_of(s, v2.ToDtype(torch.float32, scale=True)), s.count) for s in task.recipe.views
    ]
    return lambda: [t(images) for t, n in transforms for _ in range(n)]


def lightly_transform(task: Task) -> Make:
    """lightly's transform of the same name."""
    from lightly import transforms as theirs
    from PIL import Image

    name, sizes = task.name.split(",")[0], [spec.size for spec in task.recipe.views]
    build = {
        "simclr": lambda: theirs.SimCLRTransform(input_size=sizes[0]),
        "byol": lambda: theirs.BYOLTransform(
            theirs.BYOLView1Transform(input_size=sizes[0]), theirs.BYOLView2Transform(input_size=sizes[0])
        ),
        "swav": lambda: theirs.SwaVTransform(crop_sizes=(sizes[0], sizes[-1])),
        "mae": lambda: theirs.MAETransform(input_size=sizes[0]),
    }
    if name not in build:
        raise ImportError(name="lightly has no such transform")
    transform = build[name]()
    images = [Image.fromarray(pixels) for pixels in task.batch.pixels.numpy()]
    return lambda: [torch.stack(views) for views in zip(*(transform(i) for i in images), strict=True)]


def kornia_of(spec: ViewSpec) -> torch.nn.Module:
    """A spec as kornia's augmentations."""
    import kornia.augmentation as K

    steps: list[Any] = [
        K.RandomResizedCrop((spec.size,) * 2, spec.scale, spec.ratio, resample=spec.interpolation),
        K.RandomHorizontalFlip(p=spec.hflip),
    ]
    if spec.jitter:
        j = spec.jitter
        steps.append(K.ColorJitter(j.brightness, j.contrast, j.saturation, j.hue, p=j.probability))
    if spec.grey:
        steps.append(K.RandomGrayscale(p=spec.grey))
    if spec.blur:
        steps.append(K.RandomGaussianBlur((spec.kernel,) * 2, spec.blur_sigma, p=spec.blur))
    if spec.solarize:
        steps.append(K.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=spec.solarize))
    steps.append(K.Normalize(mean=torch.tensor(spec.mean), std=torch.tensor(spec.std)))
    return torch.nn.Sequential(*steps)


def kornia(task: Task, compiled: bool = False) -> Make:
    """A whole batch, parameters of each sample."""
    images = task.batch.pixels.permute(0, 3, 1, 2).contiguous()
    augment: list[tuple[Any, int]] = [
        (kornia_of(spec).to(images.device), spec.count) for spec in task.recipe.views
    ]
    if compiled:
        augment = [(torch.compile(module), n) for module, n in augment]

    def make() -> object:
        with torch.no_grad():
            x = images.float() / 255
            return [module(x) for module, n in augment for _ in range(n)]

    return make


PEERS: dict[str, Callable[[Task], Make]] = {
    "torchvision v2, tensors": torchvision_tensors,
    "torchvision v2, PIL": torchvision_pil,
    "torchvision v2, batch": torchvision_batch,
    "lightly": lightly_transform,
    "kornia": kornia,
    "kornia, compiled": lambda task: kornia(task, compiled=True),
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
