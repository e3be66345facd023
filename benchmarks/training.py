"""The training loop: beside a loop written by hand, beside lightly under Lightning, and on a GPU beside its ceiling.

    python benchmarks/training.py                   on a CPU: about six minutes on two cores
    python benchmarks/training.py --device cuda     on a GPU: ResNet-50 SimCLR and ViT-B MAE too; under eight minutes

`overhead`: SimCLR on views that are made beforehand, so that only loops differ. By hand is what a script would do: the
same networks, NT-Xent in four lines, AdamW, one cosine; no progress, checks, curves or checkpoints. The two take
turns step by step in one process, since a machine's pace changes from second to second, in an order drawn for each
pair of steps. A run's figure is the ratio of the two sums; the table has the runs' mean and its 95 % interval.

`lightly`: SimCLR from images to weights: ours beside lightly's dataset, transform, head and loss under Lightning's
Trainer with as many loader processes as cores, same backbone, batch and optimiser. Images a second after a first epoch.

`ceiling` (GPU): images a second of training at 224 pixels from canvases of 256, beside what the same networks do in
forward and backward alone, on one batch that never changes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from sslpipe import methods, networks
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.device import autocast, describe, make_deterministic, resolve
from sslpipe.data.batch import Batch
from sslpipe.data.loader import Loader
from sslpipe.data.resident import OnGpu
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Method
from sslpipe.sharding import sources
from sslpipe.training.core import accumulation
from sslpipe.training.core.build import placed, view_engine
from sslpipe.training.core.compiling import compiled
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train
from sslpipe.training.core.step import seeded_clock
from sslpipe.views.engine import ViewEngine
from sslpipe.views.view import View

BATCH, CACHED = 128, 8
ADAMW = OptimizerConfig(name="adamw", lr=2e-3, rule="absolute", weight_decay=0.05, warmup_epochs=2)
SIMCLR = {"temperature": 0.1, "projector_hidden": 256, "projector_out": 128}
PARTS = ("overhead", "lightly", "ceiling")
LARGE = ["simclr=timm:resnet50", "mae=timm:vit_base_patch16_224"]


class Canvases:
    """Images in memory as a reader has them."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        self.pixels = torch.from_numpy(pixels).to(device)  # [N, R, R, 3]
        self.on_gpu = OnGpu(self.pixels) if self.pixels.is_cuda else None
        self.resolution = pixels.shape[1]
        self.labels, self.keys = torch.full((len(pixels),), -1), [str(n) for n in range(len(pixels))]
        self.blocks = np.array([0, len(pixels)])

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """These images."""
        place = torch.as_tensor(index)
        size = torch.full((len(place), 2), self.resolution, dtype=torch.int32)
        pixels, ready = (self.pixels[place], None) if self.on_gpu is None else self.on_gpu.gather(place)
        return Batch(pixels=pixels, size=size, index=place, label=self.labels[place], ready=ready)


class Turns:
    """A loader and a view engine in one: a few batches made beforehand, and between our steps, those of another loop.

    Args:
        made: batches and their views.
        steps: an epoch.
        other: makes one step of the other loop each time it is asked.
        turn: steps of one loop before the other has as many.
        seed: draws which of the two goes first in each pair of turns.
    """

    def __init__(
        self, made: list[tuple[Batch, list[View]]], steps: int, other: Iterator[None], turn: int, seed: int
    ) -> None:
        self.made, self.steps, self.other, self.turn = made, steps, other, turn
        self.device, self.random = made[0][1][0].pixels.device, random.Random(seed)
        self.seconds: list[tuple[float, float]] = []  # of each pair of turns: ours, the other's

    def epoch(self, epoch: int, start: int = 0) -> Sequence[int]:
        """The numbers of the batches."""
        return range(start, self.steps)

    def ahead(self, numbers: Sequence[int], epoch: int) -> Iterator[tuple[Batch, list[View]]]:
        """Each batch with its views: what happens between one and the next is a step of ours."""
        for _ in range(0, len(numbers), self.turn):
            first = self.random.random() < 0.5
            theirs = self._others() if first else 0.0
            start = _now(self.device)
            for number in range(self.turn):
                yield self.made[number % len(self.made)]
            ours = _now(self.device) - start
            self.seconds.append((ours, theirs if first else self._others()))

    def _others(self) -> float:
        start = _now(self.device)
        for _ in range(self.turn):
            next(self.other)
        return _now(self.device) - start


def digits(device: torch.device) -> Canvases:
    """The bundled training digits."""
    items = sources.open_source(sources.Config(), 0).splits["train"]
    pixels = np.stack([item.pixels for item in items])  # type: ignore[union-attr]
    return Canvases(np.repeat(pixels[..., None], 3, axis=3), device)


def simclr(device: torch.device, seed: int = 0) -> Method:
    """The method on the small backbone."""
    torch.manual_seed(seed)
    config = methods.configure("simclr", SIMCLR | {"optimizer": ADAMW.model_dump()})
    return methods.build("simclr", networks.backbone("small_resnet", image_size=28), config).to(device)


def overhead(device: torch.device, runs: int, steps: int) -> str:
    """Our loop's time over that of one written by hand."""
    loader = Loader(digits(device), batch_size=BATCH, seed=0)
    engine = ViewEngine(methods.recipe("simclr", 28), seed=0, device=device)
    made = [(batch, engine(batch, 0)) for batch, _ in zip(loader.epoch(0), range(CACHED), strict=False)]
    config = Config(epochs=1, batch_size=BATCH)
    turn = (
        1 if device.type == "cpu" else 10
    )  # a GPU works ahead of its loop; at the end of a turn it is waited for
    logs, lrs = [], []
    for run in range(runs + 1):
        bare = by_hand(simclr(device), [[view.pixels for view in views] for _, views in made], steps, config)
        turns = Turns(made, steps, bare, turn, run)
        with tempfile.TemporaryDirectory() as folder:
            train(
                simclr(device),
                turns,  # type: ignore[arg-type]
                turns,  # type: ignore[arg-type]
                config,
                ADAMW,
                seed=0,
                checkpoints=Checkpoints(Path(folder)),
            )
        if run:  # the first warms up
            ours, theirs = (sum(values) for values in zip(*turns.seconds, strict=True))
            logs.append(math.log(ours / theirs))
            lrs.append((steps * BATCH / ours, steps * BATCH / theirs))
    middle, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(runs)
    reach = float(stats.t.ppf(0.975, runs - 1)) * error
    low, mean, high = (100 * (math.exp(value) - 1) for value in (middle - reach, middle, middle + reach))
    ours, theirs = (statistics.median(values) for values in zip(*lrs, strict=True))
    return (
        "| | images/s | over by hand | 95 % interval |\n|---|---:|---:|---:|\n"
        f"| ours | {ours:.0f} | {mean:+.1f} % | {low:+.1f} to {high:+.1f} % |\n"
        f"| by hand | {theirs:.0f} | | |\n\n{runs} runs of {steps} pairs of steps, "
        f"SimCLR, small ResNet, 28 px, batch {BATCH}"
    )


def by_hand(method: Method, batches: list[list[Tensor]], steps: int, config: Config) -> Iterator[None]:
    """What a script would do; a step each time it is asked."""
    backbone, projector = method.backbone, method.projector
    assert isinstance(projector, nn.Module)
    device = batches[0][0].device
    parameters = [*backbone.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=ADAMW.lr, weight_decay=ADAMW.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    method.train()
    for step in range(steps):
        x_i, x_j = batches[step % len(batches)]
        with autocast(device, config.precision):
            z = F.normalize(projector(backbone(torch.cat([x_i, x_j]))).float(), dim=1)
            logits = (z @ z.T / SIMCLR["temperature"]).fill_diagonal_(float("-inf"))
            target = torch.arange(len(z), device=device).roll(len(x_i))
            loss = F.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield


def beside_lightly(device: torch.device, rounds: int, epochs: int) -> str:
    """Images a second from images to weights."""
    lrs: dict[str, list[float]] = {"ours": [], "lightly under Lightning": []}
    for _ in range(rounds):
        lrs["ours"].append(_our_rate(device, epochs))
        lrs["lightly under Lightning"].append(_lightly_rate(device, epochs))
    lines = [f"| | images/s, n = {rounds} | range | |", "|---|---:|---:|---:|"]
    base = statistics.median(lrs["lightly under Lightning"])
    for name, values in lrs.items():
        middle = statistics.median(values)
        lines.append(
            f"| {name} | {middle:.0f} | {min(values):.0f}–{max(values):.0f} | {middle / base:.1f} × |"
        )
    return "\n".join(lines)


def _our_rate(device: torch.device, epochs: int) -> float:
    reader = digits(device)
    loader = Loader(reader, batch_size=BATCH, seed=0)
    engine = ViewEngine(methods.recipe("simclr", 28), seed=0, device=device)
    marks: list[float] = []

    def mark(row: dict[str, float]) -> None:
        marks.append(time.perf_counter())

    config = Config(epochs=epochs, batch_size=BATCH, log_every=loader.steps)
    with tempfile.TemporaryDirectory() as folder:
        train(
            simclr(device),
            loader,
            engine,
            config,
            ADAMW,
            seed=0,
            checkpoints=Checkpoints(Path(folder)),
            on_log=mark,
        )
    return (epochs - 1) * loader.steps * BATCH / (marks[-1] - marks[0])


def _lightly_rate(device: torch.device, epochs: int) -> float:
    import logging
    import os
    import warnings

    import pytorch_lightning
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pixels, transform, marks = digits(torch.device("cpu")).pixels.numpy(), SimCLRTransform(input_size=28), []

    class Digits(Dataset[Any]):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, place: int) -> Any:
            return transform(Image.fromarray(pixels[place]))

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = networks.backbone("small_resnet", image_size=28)
            self.head = SimCLRProjectionHead(
                self.backbone.dim, SIMCLR["projector_hidden"], SIMCLR["projector_out"]
            )
            self.loss = NTXentLoss(temperature=SIMCLR["temperature"])

        def training_step(self, batch: Any, place: int) -> Tensor:
            z_i, z_j = (self.head(self.backbone(view)) for view in batch)
            loss: Tensor = self.loss(z_i, z_j)
            self.log("loss", loss)
            return loss

        def on_train_epoch_end(self) -> None:
            marks.append(time.perf_counter())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=ADAMW.lr, weight_decay=ADAMW.weight_decay)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)]

    workers = os.cpu_count() or 1
    loader = DataLoader(
        Digits(), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    trainer = pytorch_lightning.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision="bf16-mixed" if device.type == "cuda" else "32-true",
    )
    trainer.fit(Module(), loader)
    return (epochs - 1) * len(loader) * BATCH / (marks[-1] - marks[0])


def beside_ceiling(
    device: torch.device, networks_: list[str], side: int, batch: int, ways: list[str], seconds: float
) -> str:
    """Training of large networks beside their forward and backward pass alone."""
    lines = ["| | compile | images/s | forward and backward alone | share |", "|---|---|---:|---:|---:|"]
    canvas = side * 8 // 7
    noise = np.random.default_rng(0).integers(0, 256, (16 * batch, canvas, canvas, 3), np.uint8)
    for name, backbone in (each.split("=") for each in networks_):
        for compile_ in ways:
            ours, alone = _rate_and_ceiling(device, noise, name, backbone, side, batch, compile_, seconds)
            lines.append(
                f"| {name}, {backbone} | {compile_} | {ours:.0f} | {alone:.0f} | {100 * ours / alone:.0f} % |"
            )
    return "\n".join(lines)


def _rate_and_ceiling(
    device: torch.device,
    noise: np.ndarray,
    name: str,
    backbone: str,
    side: int,
    batch: int,
    compile_: str,
    seconds: float,
) -> tuple[float, float]:
    network = networks.backbone(backbone, image_size=side)
    config = Config(epochs=100, batch_size=batch, compile=compile_, log_every=1)  # type: ignore[arg-type]
    method = placed(methods.build(name, network), device)
    loader = Loader(Canvases(noise, device), batch_size=batch, seed=0)
    recipe = methods.recipe(name, side, patch_size=network.patch_size)
    engine = view_engine(method, recipe, device, seed=0)
    compiled(method, config, device, 10**6)
    views = engine(loader.reader.gather(np.arange(batch)), 0)
    clock = seeded_clock(0, 0, 1, seed=0, device=device)

    def forward_and_backward() -> None:
        accumulation.backward(method, views, clock, config)
        method.zero_grad(set_to_none=True)

    for _ in range(min(5, math.ceil(seconds))):
        forward_and_backward()
    rounds = 20 if seconds >= 5 else 2
    alone = rounds * batch / timed(lambda: [forward_and_backward() for _ in range(rounds)], device)
    marks: list[float] = []

    class Enough(Exception):  # noqa: N818  (no error: it ends the run)
        pass

    def mark(row: dict[str, float]) -> None:
        marks.append(time.perf_counter())
        if len(marks) > 10 and marks[-1] - marks[10] > seconds:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        checkpoints = Checkpoints(Path(folder))
        train(method, loader, engine, config, method.optimizer, seed=0, checkpoints=checkpoints, on_log=mark)
    return (len(marks) - 11) * batch / (marks[-1] - marks[10]), alone


def _now(device: torch.device) -> float:
    """The time at which all of the device's work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, with all of the device's work."""
    start = _now(device)
    work()
    return _now(device) - start


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=12, help="of the loops, default: 12")
    parser.add_argument("--steps", type=int, default=80, help="of each loop in a run, default: 80")
    parser.add_argument("--rounds", type=int, default=3, help="beside lightly, default: 3")
    parser.add_argument(
        "--networks", nargs="*", default=LARGE, help=f"of the ceiling, default: {' '.join(LARGE)}"
    )
    parser.add_argument("--side", type=int, default=224, help="of the ceiling's views, default: 224")
    parser.add_argument("--batch", type=int, default=256, help="of the ceiling, default: 256")
    parser.add_argument(
        "--compile", nargs="*", default=["never", "always"], help="of the ceiling, default: both"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="of each of the ceiling's runs, default: 20"
    )
    options = parser.parse_args()
    device = resolve(options.device)
    make_deterministic(False)
    cpu = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{time.strftime('%F')}; {describe(device)}; {cpu}\n", flush=True)
    if "overhead" in options.parts:
        print(f"## Loop\n\n{overhead(device, options.runs, options.steps)}\n", flush=True)
    if "lightly" in options.parts:
        print(
            f"## Beside lightly under Lightning\n\n{beside_lightly(device, options.rounds, 4)}\n", flush=True
        )
    if "ceiling" in options.parts and device.type == "cuda":
        chosen = options.networks, options.side, options.batch, options.compile, options.seconds
        print(f"## Beside the ceiling\n\n{beside_ceiling(device, *chosen)}\n", flush=True)


if __name__ == "__main__":
    main()
