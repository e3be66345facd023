"""What `sslpipe check` finds out before any long work."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from sslpipe import evals
from sslpipe.console.errors import UserError
from sslpipe.describe import words
from sslpipe.settings import OWNERS, Settings, load
from sslpipe.sharding.sources import Source, open_source
from sslpipe.tracking import look
from sslpipe.tracking.environment import git_refusal, version_of
from sslpipe.tracking.journal import read_json

PIPELINE_PACKAGES = ("dvc", "mlflow")
LEAST_FREE_BYTES = 2**30


def check(params: str = "params.yaml", *, tracking: bool = True) -> Iterator[str]:
    """Check settings, project, packages, disk, data and networks; yields what was found, a line each.

    Args:
        params: the file of settings.
        tracking: look at MLflow's store, too, which takes seconds, and whose absence stops no run.

    Raises:
        UserError: the first thing that would stop a run, and what to do about it.
    """
    settings = load(params)
    yield f"{params}: every key and value is known"
    yield from check_project()
    yield from check_packages(settings)
    if tracking:
        yield f"tracking: {look.report(settings.tracking)}"
    source = open_source(settings.data, settings.seed)
    yield from check_data(settings, source)
    yield from check_evaluations(settings, source)
    yield from check_networks(settings, source)


def check_project() -> Iterator[str]:
    """A git clone, no lock left behind by a dead DVC, room on the disk."""
    here = Path.cwd()
    if not Path("dvc.yaml").is_file():
        raise UserError(f"{here} holds no dvc.yaml: change into the project's folder")
    if not any((folder / ".git").exists() for folder in (here, *here.parents)):
        raise UserError(
            f"{here} is not a git clone, and DVC needs one: clone the repository, "
            "or run `git init && git add --all && git commit -m start` here"
        )
    _check_lock(Path(".dvc/tmp/rwlock"))
    if not os.access(here, os.W_OK):
        raise UserError(f"{here} cannot be written: move the project to a folder that can")
    free = shutil.disk_usage(here).free
    if free < LEAST_FREE_BYTES:
        raise UserError(f"only {free / 2**20:.0f} MiB are free on this disk: make room for at least 1 GiB")
    yield f"project: {here} is a git clone; {free / 2**30:.0f} GiB free"
    if refusal := git_refusal(here):
        yield f"  note: {refusal}"


def _check_lock(path: Path) -> None:
    """DVC's lock names no process that lives but is not DVC.

    DVC drops entries of processes that are gone; where the number was given to another process, it waits forever.
    """
    for held in (read_json(path) or {}).values():
        for holder in filter(None, [held.get("write"), *(held.get("read") or [])]):
            command = _command_of(holder["pid"])
            if command is not None and "dvc" not in command:
                raise UserError(
                    f"{path} names process {holder['pid']} (`{command[:60]}`), which is not a running DVC: "
                    f"if no `dvc` is at work here, delete that file and try again"
                )


def _command_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None  # the process is gone


def check_packages(settings: Settings) -> Iterator[str]:
    """Python, the packages the pipeline stands on, and the devices and processes that are asked for."""
    missing = ", ".join(name for name in PIPELINE_PACKAGES if not version_of(name))
    if missing:
        raise UserError(f"{missing} not installed: run `make setup` or `pip install 'sslpipe[pipeline]'`")
    import torch

    from sslpipe.core.device import describe, resolve
    from sslpipe.training.core import plan
    from sslpipe.views.render import choice as renderers

    versions = ", ".join(f"{name} {version_of(name)}" for name in ("torch", *PIPELINE_PACKAGES))
    yield f"environment: Python {sys.version.split()[0]}, {versions}"
    if sys.dont_write_bytecode and not Path(cache_from_source(torch.__file__)).exists():
        yield (
            "  note: PYTHONDONTWRITEBYTECODE is set, so every stage compiles torch again, which takes seconds: unset it"
        )
    for name in (*OWNERS, *evals.names()):
        resolve(getattr(getattr(settings, name), "device", "cpu"))
    device = resolve(settings.pretrain.device)
    renderer = renderers.describe(renderers.choose(settings.views.renderer, device)[0])
    gpu = "" if torch.cuda.is_available() else "; no GPU found, which is fine"
    yield f"device: {describe(device)}{gpu}; renderer of views: {renderer}"
    yield from plan.check(settings.pretrain)


def check_data(settings: Settings, source: Source) -> Iterator[str]:
    """The source can be opened and has images."""
    counts = {split: len(source.items(split)) for split in ("train", "test")}
    labels = f"{len(source.classes)} classes" if source.classes else "no labels"
    yield f"data: {source.name}, {counts['train']} train and {counts['test']} test images, {labels}"
    batch = settings.pretrain.batch_size
    if counts["train"] < batch:
        raise UserError(
            f"pretrain.batch_size is {batch}, more than the {counts['train']} training images: set it lower"
        )
    yield from check_reading(settings, counts["train"])


def check_evaluations(settings: Settings, source: Source) -> Iterator[str]:
    """What the evaluations that are on will do, or why they will do nothing; and the data that they read besides."""
    splits = {}  # as the manifest of the shards will say it
    for split in ("train", "test"):
        items = source.items(split)
        labelled = source.classes is not None and any(item.label >= 0 for item in items)
        splits[split] = {"count": len(items), "labelled": labelled}
    runs, skipped = dict[str, dict[str, Any] | None](), []
    for name, declared in evals.declarations().items():
        config = getattr(settings, name)
        if config.enabled:
            elsewhere = declared.elsewhere(config)
            if reason := evals.reason_to_skip(name, config, splits, elsewhere):
                skipped.append(f"{name}, as {reason}")
            else:
                runs[name] = elsewhere
    left_out = f"; skipped: {'; '.join(skipped)}" if skipped else ""
    yield f"evaluations: {', '.join(runs) or 'none'}{left_out}"
    for name, found in runs.items():
        if found is not None:
            told = [f"{key} {value}" for key, value in found.items() if key not in ("digest", "bytes")]
            yield f"  {name} reads other data: {', '.join(told)}"


def check_encoder(settings: Settings, encoder: Any) -> None:
    """Every evaluation that is on can work on the encoder."""
    for name in evals.names():
        if (config := getattr(settings, name)).enabled:
            evals.check(name, encoder, config)


def check_reading(settings: Settings, count: int) -> Iterator[str]:
    """What the shards and their reader will need is there."""
    from sslpipe.data.loader import choose
    from sslpipe.data.resident import available_memory, memory

    config, reader = settings.shard, settings.loader.reader
    if config.executor == "ray" and not version_of("ray"):
        raise UserError(
            "shard.executor is ray, which is not installed: run `pip install 'sslpipe[ray]'`, or set it to local"
        )
    needed, free = memory(count, config.resolution), available_memory()
    if reader == "resident" and free is not None and needed > free:
        raise UserError(
            f"loader.reader is resident, but {count} canvases need {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free: set it to auto or streaming, or lower shard.resolution"
        )
    kind = choose(reader, needed, free)
    files = -(-count // config.shard_size)
    yield f"reading: {files} {config.format} files to train on, {kind} (in memory they would be {needed / 1e9:.2f} GB)"
    disk = shutil.disk_usage(Path.cwd()).free
    if config.pixels and config.format == "ffcv" and needed > disk:
        raise UserError(
            f"shard.pixels would need up to {needed / 1e9:.1f} GB and {disk / 1e9:.1f} GB of disk are free: set it to "
            "false"
        )


def check_networks(settings: Settings, source: Source) -> Iterator[str]:
    """The method takes the backbone at this size, and its recipe with all changes is valid."""
    import torch

    from sslpipe import methods
    from sslpipe.evals.base import embed
    from sslpipe.training.core import build, parallel, plan

    pretrain, size = settings.pretrain, settings.views.size
    with torch.device("meta"):
        method = build.build_method(pretrain, settings.method, size, settings.seed)
    embed.fitting(settings.embed, method.encoder, method.probe_pool)
    check_encoder(settings, method.encoder)
    parameters = sum(parameter.numel() for parameter in method.encoder.parameters())
    name = build.backbone_name(pretrain)
    yield f"method: {pretrain.method} trains {name}, {parameters / 1e6:.2f} M parameters; epochs: {pretrain.epochs}"
    whose = "its paper's" if pretrain.defaults == "paper" else "those for small data"
    yield f"  its settings: {whose} (pretrain.defaults: {pretrain.defaults}), changed by methods.{pretrain.method}"
    if plan.world_size(pretrain) > 1:
        share = "has a share of it (fsdp)" if parallel.sharded(method, pretrain) else "has a copy of it (ddp)"
        yield f"  each process {share}"
    for warning in build.check_batch(method, pretrain, len(source.items("train"))):
        yield f"  note: {warning}"
    patch = method.backbone.patch_size
    paper = methods.recipe(pretrain.method, size, patch_size=patch, config=settings.method)
    recipe = build.build_recipe(pretrain, settings.method, settings.views, source.recipe)
    build.check_views(method, recipe)
    changes = f"the data set {settings.data.source}, by the method's settings and by views.recipe"
    yield f"views of each image (the paper's, changed by {changes}):"
    for spec, original in zip(recipe.views, paper.views, strict=True):
        yield f"  {spec.name}: {spec.count} × {spec.size} px"
        before = original.model_dump(mode="json")
        for key, value in spec.model_dump(mode="json").items():
            off = value == before[key] and value in (None, 0, False)
            if off or key in ("name", "size", "count", "mean", "std"):
                continue
            changed = "" if value == before[key] else f"   (paper: {words(before[key])})"
            yield f"    {key}: {words(value)}{changed}"
