"""Where a training step's time goes, and what to change: `sslpipe profile`."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress, progress
from sslpipe.core import scratch
from sslpipe.core.device import describe, is_half, make_deterministic, refusals_explained, take
from sslpipe.data.loader import Loader
from sslpipe.data.streaming import Streaming
from sslpipe.methods.base.method import Method, Preparation
from sslpipe.shards import manifest
from sslpipe.training.core import assembly, compiling
from sslpipe.training.core.config import Config, Setup
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.phases import BACKWARD, FORWARD, OPTIMISER
from sslpipe.training.core.step import TrainingStep
from sslpipe.views.engine import ViewEngine
from sslpipe.views.view import View

WARM_UP = 2  # steps that are not counted

#: The phases of a step, in order, and what is done in each.
PHASES = {
    "decode": "images from memory or shards",
    "upload": "canvases to the device",
    "views": "crops, colours, blur",
    FORWARD: "networks and loss",
    BACKWARD: "gradients",
    OPTIMISER: "clipping, update, momentum networks, queues",
}


@dataclass(frozen=True)
class Profile:
    """What was measured; milliseconds."""

    phases: dict[str, float]  # each by itself, the device waited for after it; medians over steps
    step: float  # a step as it is trained, where phases overlap; the mean
    waiting: float  # how much of it the loop waited for views; the mean
    images: int  # of a batch
    steps: int  # measured
    device: str  # in words

    @property
    def alone(self) -> float:
        """All phases one after another."""
        return sum(self.phases.values())

    def percent(self, *names: str) -> float:
        """What phases take of all."""
        return 100 * sum(self.phases[name] for name in names) / self.alone


def profile(
    method: Method, loader: Loader, engine: ViewEngine, config: Config, *, steps: int, seed: int
) -> Profile:
    """Train so many steps phase by phase, then as many as the loop does; this changes the weights."""
    method.train()
    training_step = TrainingStep(method, config, method.optimizer, steps_per_epoch=loader.steps, seed=seed)
    with progress("profile", 2 * (steps + WARM_UP), "steps") as bar:
        phases = _phases(training_step, loader, engine, steps, bar)
        step, waiting = _loop(training_step, loader, engine, steps, bar)
    return Profile(phases, step, waiting, loader.batch_size, steps, describe(engine.device))


def run(setup: Setup, *, steps: int, out: str | None = None) -> list[str]:
    """Measure a few steps of training by these settings on data/; lines that say what was found and what to change.

    The picture goes to `out`, or else into scratch. A UserError if there are no shards or no resolved recipe yet.
    """
    for path in (assembly.SHARDS / manifest.NAME, assembly.RECIPE):
        if not path.is_file():
            raise UserError(f"there is no {path} yet: run `dvc repro views` first")
    if steps < 1:
        raise UserError("--steps should be 1 or more")
    config, seed, device = setup.pretrain, setup.seed, take(setup.pretrain.device)
    make_deterministic(config.deterministic)
    made = assembly.assemble(setup, device)
    method, loader, engine = made.method, made.loader, made.engine
    with tempfile.TemporaryDirectory() as folder:
        place, renderer = Path(folder).joinpath, setup.views.renderer
        method.prepare(Preparation(loader.reader, engine.recipe, device, seed, place, renderer))
    compiling.compiled(method, config, device, config.epochs * loader.steps)
    with refusals_explained("pretrain.deterministic"):
        found = profile(method, loader, engine, config, steps=steps, seed=seed)
    path = Path(out) if out else scratch.folder() / "profile.svg"
    scratch.atomic_write(path, picture(found))
    advice = advise(found, config, device, isinstance(loader.reader, Streaming))
    return [table(found), "", *(f"- {line}" for line in advice), "", f"picture: {path}"]


def _phases(
    training_step: TrainingStep, loader: Loader, engine: ViewEngine, steps: int, bar: Progress
) -> dict[str, float]:
    """The milliseconds of each phase: the median over steps that do one thing after another."""
    order, size, mask = loader.order(0), loader.batch_size, Ledger(engine.device, Path()).mask
    spent = {name: [0.0] * (WARM_UP + steps) for name in PHASES}
    step = 0

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        _wait(engine.device)
        spent[name][step] += 1000 * (time.perf_counter() - start)

    for step in range(WARM_UP + steps):
        first = step % loader.steps * size
        with phase("decode"):
            batch = loader.reader.gather(order[first : first + size])
        with phase("upload"):
            batch = replace(batch, pixels=batch.pixels.to(engine.device))
        with phase("views"):
            views = engine(batch, 0)
        training_step.update(training_step.gradient(step, views, phase), mask, phase)
        bar.update()
    return {name: statistics.median(times[WARM_UP:]) for name, times in spent.items()}


def _loop(
    training_step: TrainingStep, loader: Loader, engine: ViewEngine, steps: int, bar: Progress
) -> tuple[float, float]:
    """The milliseconds of a step as the loop takes it, and how long it waits for views; means over steps."""
    batches, mask = _endless(loader, engine), Ledger(engine.device, Path()).mask
    waiting = start = 0.0
    with contextlib.closing(batches):
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                _wait(engine.device)
                waiting, start = 0.0, time.perf_counter()
            asked = time.perf_counter()
            views = next(batches)
            waiting += time.perf_counter() - asked
            training_step.update(training_step.gradient(step, views), mask)
            bar.update()
        _wait(engine.device)
    return 1000 * (time.perf_counter() - start) / steps, 1000 * waiting / steps


def _endless(loader: Loader, engine: ViewEngine) -> Generator[list[View]]:
    for epoch in itertools.count():
        for _, views in engine.ahead(loader.epoch(epoch), epoch):
            yield views


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def advise(found: Profile, config: Config, device: torch.device, streaming: bool) -> list[str]:
    """What to change, the largest gain first, a sentence each; `streaming`: images were decoded when needed."""
    gpu, advice = device.type == "cuda", []
    networks = found.percent(FORWARD, BACKWARD)
    views, optimiser = found.percent("views"), found.percent(OPTIMISER)
    # On a CPU the views are made by the same cores, in the loop's own time: they are no waiting.
    idle = found.waiting - (0 if gpu else found.phases["views"])
    if idle > 0.1 * found.step:
        cure = "give the process more cores"
        if streaming:
            formats = "shard.format to ffcv with shard.pixels raw"
            cure = f"set loader.reader to resident if the images fit in memory, {formats}, or {cure}"
        advice.append(f"the loop waits for images {100 * idle / found.step:.0f} % of the time: {cure}")
    if gpu and not is_half(device, config.precision) and networks > 50:
        advice.append("training is in float32: pretrain.precision bf16 is about twice as fast on this GPU")
    if gpu and config.compile in ("auto", "never") and networks > 50:
        advice.append(
            "pretrain.compile: always saves memory traffic of norms, activations and loss (1–2 minutes to compile); "
            "graphs for small models, whose launches cost more than their work"
        )
    if not gpu and views > 30:
        advice.append(
            f"views take {views:.0f} %: without blur or with a smaller views.size they cost less; "
            "views.renderer should be cpu"
        )
    if optimiser > 15:
        advice.append(f"the optimiser takes {optimiser:.0f} %: a larger batch asks for fewer updates")
    if config.accumulate > 1:
        advice.append(
            f"a batch goes through in {config.accumulate} parts: fewer fill the device better, if memory allows"
        )
    if not advice:
        advice.append(
            f"the networks take {networks:.0f} % of a step and nothing else stands out: a smaller backbone or a "
            "faster device is what would help"
        )
    return advice


def table(found: Profile) -> str:
    """The profile as lines of text."""
    lines = ["phase          ms   share"]
    for name, value in found.phases.items():
        percent = f"{found.percent(name):.0f} %"
        lines.append(f"{name:<10} {value:>7.1f} {percent:>6}   {PHASES[name]}")
    rate = 1000 * found.images / found.step
    lines += [
        "",
        f"a step of {found.images} images as it is trained: {found.step:.1f} ms, {rate:.0f} images/s; "
        f"of it waiting for views {found.waiting:.1f} ms",
        f"phases one after another: {found.alone:.1f} ms; {found.steps} steps each, {found.device}",
    ]
    return "\n".join(lines)


def picture(found: Profile) -> str:
    """The profile as an SVG: the phases in a row, each as wide as it takes long; below, a step as it is trained."""
    colours = ("#8da0cb", "#66c2a5", "#a6d854", "#fc8d62", "#e78ac3", "#ffd92f")
    width, height, longest = 760, 24, max(found.alone, found.step)
    scale, x, bars, labels = (width - 20) / longest, 10.0, [], []
    for number, (colour, (name, value)) in enumerate(zip(colours, found.phases.items(), strict=True)):
        bars.append(
            f'<rect x="{x:.1f}" y="30" width="{value * scale:.1f}" height="{height}" fill="{colour}">'
            f"<title>{name} {value:.1f} ms</title></rect>"
        )
        labels.append(
            f'<rect x="{10 + 125 * number}" y="112" width="10" height="10" fill="{colour}"/>'
            f'<text x="{24 + 125 * number}" y="121">{name} {value:.1f} ms</text>'
        )
        x += value * scale
    trained, waiting = found.step * scale, found.waiting * scale
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="135" viewBox="0 0 {width} 135" '
        f'font-family="sans-serif" font-size="11"><rect width="{width}" height="135" fill="white"/>'
        f'<text x="10" y="20">phases one after another: {found.alone:.1f} ms</text>{"".join(bars)}'
        f'<text x="10" y="70">as it is trained: {found.step:.1f} ms '
        f"(dark: waiting for views, {found.waiting:.1f} ms)</text>"
        f'<rect x="10" y="78" width="{waiting:.1f}" height="{height}" fill="#555"/>'
        f'<rect x="{10 + waiting:.1f}" y="78" width="{max(trained - waiting, 0):.1f}" height="{height}" fill="#bbb"/>'
        f"{''.join(labels)}</svg>\n"
    )
