"""One pretraining run: scratch and fingerprint around the loop, and the files it leaves."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from sslpipe import __version__
from sslpipe.console.errors import UserError
from sslpipe.core import distributed, scratch
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.device import describe, explained, make_deterministic, resolve, take
from sslpipe.data.loader import Reader
from sslpipe.export import save_encoder
from sslpipe.methods.base.method import Method, Preparation
from sslpipe.shards import manifest as manifests
from sslpipe.training.core import compiling, loop, messages, parallel, plan, worker
from sslpipe.training.core.assembly import RECIPE, SHARDS, Assembly, assemble, build_on
from sslpipe.training.core.config import Config, Setup
from sslpipe.training.core.monitor import COLUMNS, Monitor
from sslpipe.training.core.state import History, OnLog
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.engine import ViewEngine
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import ViewSpec
from sslpipe.views.render import choice as renderers

PICTURED = 256  # images that a method may show in the report; most show a few
#: Settings that may change before an unfinished run is continued: the batches and views stay the same.
FREE = {*Config.harmless, "device", "devices", "sharding", "monitor_epochs", "stop_on_collapse"}
#: The numbers that metrics/pretrain.json has, each a column of `dvc exp show`.
HEADLINE = ("loss", "knn_top1")
UNFINISHED_KEPT = 3  # older unfinished runs with other settings are deleted


@dataclass(frozen=True)
class Result:
    """What a run came to: its final numbers, and the name and digest of the data set."""

    metrics: dict[str, float]
    data: dict[str, str]


def fingerprint_parts(setup: Setup, code: Mapping[str, str]) -> dict[str, str]:
    """Everything that the weights depend on bit for bit, by name; `code` has the digests of the stage's code.

    Only the number of processes is left out. It changes how sums are rounded, but a run may go on with another number.
    Of the views, all but renderer and size is in the recipe; all readers give the same images.
    """
    settings = setup.pretrain.model_dump(mode="json", exclude=FREE)
    method = setup.method.model_dump(mode="json")
    chosen = [settings, method, setup.views.size, setup.loader.shuffle_shards, setup.seed]
    device = resolve(setup.pretrain.device)
    return {
        "settings": scratch.digest(chosen),
        "renderer": renderers.describe(renderers.choose(setup.views.renderer, device)[0]),
        "data": scratch.digest([scratch.file_digest(path) for path in (SHARDS / manifests.NAME, RECIPE)]),
        "code": scratch.digest(dict(code)),
        "torch": torch.__version__,
        "hardware": describe(device),
    }


def run(
    setup: Setup,
    parts: Mapping[str, str],
    *,
    on_log: OnLog = lambda row: None,
    on_resume: loop.OnResume = lambda step: None,
) -> Result:
    """Train from data/ into models/, plots/pretrain/ and metrics/pretrain.json, continuing an interrupted run.

    Where several processes have joined each other, each calls this: all train, and the first one writes. `parts` are
    those of `fingerprint_parts`, and the hooks those of `train`.
    """
    config, parts = setup.pretrain, _agreed(parts)
    folder, leader = scratch.folder("pretrain") / scratch.digest(dict(parts))[:16], distributed.rank() == 0
    messages.tell("run", folder=str(folder.absolute()))
    plan.check_shares(config, distributed.world_size())
    with contextlib.ExitStack() as stack:
        with worker.first(everywhere=True):
            if leader:
                stack.enter_context(scratch.locked(_lock(folder), "another run of the same pretraining"))
                _explain_fresh_start(folder, parts)
        checkpoints = Checkpoints(folder)
        make_deterministic(config.deterministic)
        made = assemble(setup, take(config.device))
        method, loader, engine = made.method, made.loader, made.engine
        manifest, steps = manifests.read(SHARDS), config.epochs * loader.steps
        with worker.first():
            method.prepare(_preparation(made, setup, manifest.digest, parts))
        compiling.compiled(method, config, engine.device, steps)
        preprocess = _preprocess(engine.recipe.views[0], setup.views, manifest.resolution)
        monitor = Monitor(method, loader.reader, preprocess, config, seed=setup.seed, on_log=on_log)
        with explained("pretrain.deterministic"):
            history = loop.train(
                method, loader, engine, config, method.optimizer, seed=setup.seed, checkpoints=checkpoints,
                on_log=on_log, on_resume=on_resume, on_epoch=monitor.on_epoch,
            )  # fmt: skip
        method = parallel.unsharded(method, lambda: build_on(engine.device, setup))
        worker.leave()  # what is left is for one process, and may take as long as it likes
        metrics = _metrics(method, history, config, steps) | monitor.last(history.looks)
        data = {"name": manifest.source.name, "digest": manifest.digest}
        if leader:
            origin = {"method": config.method, "title": method.title, "seed": setup.seed, "data": data}
            info = {"sslpipe": __version__, **origin, "probe_pool": method.probe_pool}
            save_encoder(method.encoder, "models", preprocess=preprocess, info=info)
            _write_plots(method, history, engine, loader.reader)
            headline = {name: metrics[name] for name in HEADLINE if name in metrics}
            scratch.write_json("metrics/pretrain.json", {"pretrain": headline})
            checkpoints.clear()
    return Result(metrics, data)


def _agreed(parts: Mapping[str, str]) -> Mapping[str, str]:
    """The first process's parts; a UserError if another's differ in more than the hardware."""
    everyones = parallel.gathered(dict(parts))
    for rank, others in enumerate(everyones):
        differing = [name for name in parts if name != "hardware" and others[name] != everyones[0][name]]
        if differing:
            raise UserError(
                f"process {rank} differs from the first one in {', '.join(differing)}: let all machines share the "
                "project's folder, and start them when the stage before has ended"
            )
    return everyones[0]


def _preparation(made: Assembly, setup: Setup, data: str, parts: Mapping[str, str]) -> Preparation:
    known = {name: parts[name] for name in ("code", "torch", "hardware", "renderer")} | {"data": data}
    folder, engine = functools.partial(scratch.folder, "prepared"), made.engine
    return Preparation(
        made.loader.reader, engine.recipe, engine.device, setup.seed, folder, setup.views.renderer, known
    )


def _lock(folder: Path) -> Path:
    return scratch.folder("locks") / f"pretrain-{folder.name}"


def _explain_fresh_start(folder: Path, parts: Mapping[str, str]) -> None:
    """Say why an unfinished run with another fingerprint is not continued; delete all but the newest of them."""
    if not folder.is_dir():
        unfinished = {file.parent for file in folder.parent.glob("*/*.safetensors")}
        idle = [other for other in unfinished if not scratch.is_locked(_lock(other))]
        idle.sort(key=lambda other: other.stat().st_mtime, reverse=True)
        if idle:
            reasons = _differences(json.loads((idle[0] / "fingerprint.json").read_text()), parts)
            print(f"pretrain: starting over; the unfinished run differs in {reasons}", flush=True)
        for other in idle[UNFINISHED_KEPT:]:
            Checkpoints(other).clear()
    scratch.write_json(folder / "fingerprint.json", dict(parts))


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of what differs, and the values where they are words and not digests."""
    words = ("torch", "hardware", "renderer")
    names = [name for name in now if before.get(name) != now[name]]
    return ", ".join(f"{n} ({before.get(n)} → {now[n]})" if n in words else n for n in names)


def _preprocess(spec: ViewSpec, views: ViewsConfig, resolution: int) -> Preprocess:
    """How images become what the encoder is evaluated on; those in the shards have the resolution already."""
    return Preprocess(
        size=views.size, crop=views.centre_crop, resolution=resolution,
        interpolation=spec.interpolation, mean=spec.mean, std=spec.std,
    )  # fmt: skip


def _write_plots(method: Method, history: History, engine: ViewEngine, reader: Reader) -> None:
    _write_table("plots/pretrain/curves.csv", history.rows[-1], history.rows)
    seen = dict.fromkeys([*COLUMNS, *(name for look in history.looks for name in look)])
    _write_table("plots/pretrain/monitor.csv", seen, history.looks)
    method.eval()
    batch = reader.gather(torch.arange(min(PICTURED, len(reader))))
    for name, picture in method.pictures(engine(batch.to(next(method.parameters()).device), 0)):
        buffer = io.BytesIO()
        Image.fromarray(picture.numpy()).save(buffer, "PNG")
        scratch.atomic_write(f"plots/pretrain/{name}.png", buffer.getvalue())


def _write_table(path: str, names: Iterable[str], rows: Sequence[Mapping[str, float]]) -> None:
    """Rows as a CSV file; what a row has not is left blank."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    scratch.atomic_write(path, table.getvalue())


def _metrics(method: Method, history: History, config: Config, steps: int) -> dict[str, float]:
    last = [row for row in history.rows if row["epoch"] > config.epochs - 1]
    return {
        "loss": sum(row["loss"] for row in last) / len(last),
        "epochs": config.epochs,
        "steps": steps,
        "seconds": round(history.seconds, 2),
        "images_per_second": round(steps * config.batch_size / history.seconds, 1),
        "encoder_parameters": sum(p.numel() for p in method.encoder.parameters()),
    }
