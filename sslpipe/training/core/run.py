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
from typing import Any

import torch
from PIL import Image

from sslpipe import __version__
from sslpipe.console.errors import UserError
from sslpipe.core import distributed, scratch
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.device import make_deterministic, refusals_explained, take
from sslpipe.data.loader import Reader
from sslpipe.export import save_encoder
from sslpipe.methods.base.method import Method, Preparation
from sslpipe.shards import manifest as manifests
from sslpipe.training.core import compiling, fingerprint, loop, messages, parallel, plan, worker
from sslpipe.training.core.assembly import SHARDS, Assembly, assemble, build_on
from sslpipe.training.core.config import Config, Setup
from sslpipe.training.core.monitor import COLUMNS, Monitor
from sslpipe.training.core.state import History, OnLog
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.engine import ViewEngine
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import ViewSpec

PICTURED = 256  # images that a method may show in the report; most show a few
#: The numbers that metrics/pretrain.json has, each a column of `dvc exp show`.
HEADLINE = ("loss", "knn_top1")
_VALUES = "fingerprint.json"  # beside the checkpoints
UNFINISHED_KEPT = 3  # older unfinished runs with other settings are deleted


@dataclass(frozen=True)
class Result:
    """What a run came to: its final numbers, and the name and digest of the data set."""

    metrics: dict[str, float]
    data: dict[str, str]


def run(
    setup: Setup,
    parts: Mapping[str, str],
    *,
    on_log: OnLog = lambda row: None,
    on_resume: loop.OnResume = lambda step: None,
) -> Result:
    """Train from data/ into models/, plots/pretrain/ and metrics/pretrain.json, continuing an interrupted run.

    Where several processes have joined each other, each calls this: all train, and the first one writes. `parts` are
    those of `fingerprint.parts`, and the hooks those of `train`.
    """
    config, parts = setup.pretrain, _agreed(parts)
    folder, leader = scratch.folder("pretrain") / scratch.digest(dict(parts))[:16], distributed.rank() == 0
    messages.tell("run", folder=str(folder.absolute()))
    plan.check_shares(config, distributed.world_size())
    values = fingerprint.values(setup, parts)
    with contextlib.ExitStack() as stack:
        with worker.first(everywhere=True):
            if leader:
                stack.enter_context(scratch.locked(_lock(folder), "another run of the same pretraining"))
                _explain_fresh_start(folder, values)
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
        with refusals_explained("pretrain.deterministic"):
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
            scratch.write_json(_finished(), values)
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


def _finished() -> Path:
    """Where the `fingerprint.values` of the run stand that was finished last."""
    return scratch.folder("pretrain") / "finished.json"


def _explain_fresh_start(folder: Path, values: Mapping[str, Any]) -> None:
    """Say why a run begins anew where there is an unfinished or a finished one; delete old unfinished ones.

    `values` are those of `fingerprint.values`.
    """
    if not folder.is_dir():
        unfinished = {file.parent for file in folder.parent.glob("*/*.safetensors")}
        idle = [other / _VALUES for other in unfinished if not scratch.is_locked(_lock(other))]
        idle.sort(key=_written, reverse=True)
        if last := max(filter(Path.is_file, [*idle[:1], _finished()]), key=_written, default=None):
            said = "training anew; the finished" if last == _finished() else "starting over; the unfinished"
            reasons = fingerprint.differences(_read(last), values) or "nothing"
            print(f"pretrain: {said} run differs in {reasons}", flush=True)
        for old in idle[UNFINISHED_KEPT:]:
            Checkpoints(old.parent).clear()
    scratch.write_json(folder / _VALUES, dict(values))


def _written(file: Path) -> float:
    """When a file was written last."""
    return file.stat().st_mtime


def _read(file: Path) -> dict[str, Any]:
    """The values of an earlier run."""
    values: dict[str, Any] = json.loads(file.read_text())
    return values


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
