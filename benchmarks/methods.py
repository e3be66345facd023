"""Every method on the bundled digits by the settings of params.yaml: accuracy beside random weights, and time.

One run, one table: `python benchmarks/methods.py --seeds 3`. A method and seed take three to five minutes on two
cores. The seed changes the split, the initial weights, the order, the views and the draws of few labels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sslpipe import methods, scratch
from sslpipe.data.loader import Loader, open_split
from sslpipe.data.manifest import Manifest
from sslpipe.data.shard import shard
from sslpipe.data.sources import open_source
from sslpipe.device import describe, make_deterministic, resolve
from sslpipe.evals import finetune, linear, neighbours
from sslpipe.evals.embed import embed
from sslpipe.methods.base import Preparation
from sslpipe.settings import Settings
from sslpipe.training.build import build_method, check_batch, patch_size
from sslpipe.training.checkpoint import Checkpoints
from sslpipe.training.loop import train
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import resolve as resolve_recipe
from sslpipe.yaml12 import read

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "knn": "k-NN",
    "linear": "linear, all",
    "linear_400": "linear, 400",
    "linear_100": "linear, 100",
    "finetune": "fine-tune, 100",
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods", nargs="*", default=list(methods.names()), metavar="NAME", help="default: all"
    )
    parser.add_argument("--seeds", type=int, default=1, help="default: 1")
    parser.add_argument("--epochs", type=int, help="default: as params.yaml says")
    parser.add_argument("--renderer", default="auto", help="of the views; default: auto")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON to this file")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in options.methods:
            results.setdefault(name, []).append(
                run(settings_for(name, seed, options.epochs, options.renderer))
            )
            print(f"{name}, seed {seed}: {results[name][-1]}", flush=True)
    machine = f"{os.cpu_count()} cores, {describe(resolve())}, {platform.system()}, torch {torch.__version__}"
    what = f"renderer {options.renderer}; n = {options.seeds} seeds; top-1 on test in %, mean ± std"
    print(f"\n{time.strftime('%Y-%m-%d')}; {machine}; {what}\n")
    print(table(results))
    if options.out:
        scratch.write_json(
            options.out, {"date": time.strftime("%Y-%m-%d"), "machine": machine, "runs": results}
        )


def settings_for(name: str, seed: int, epochs: int | None, renderer: str) -> Settings:
    """params.yaml with this method, seed and renderer."""
    raw = json.loads(json.dumps(read(ROOT / "params.yaml")))
    raw["seed"], raw["pretrain"]["method"] = seed, name
    raw["views"]["renderer"] = renderer
    raw["pretrain"]["epochs"] = epochs or raw["pretrain"]["epochs"]
    return Settings(raw)


def run(settings: Settings) -> dict[str, float]:
    """One method and seed, from images to numbers."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        manifest = shard(settings.shard, open_source(settings.data, settings.seed), shards, settings.seed)
        encoder, preprocess, seconds = pretrain(settings, manifest, Path(folder))
        train_split, test_split = (open_split(shards, split) for split in ("train", "test"))
        bank, queries = (
            embed(encoder, reader, preprocess, settings.embed, settings.seed)
            for reader in (train_split, test_split)
        )
        knn, _ = neighbours.evaluate(bank, queries, settings.knn)
        probe = linear.evaluate(bank, queries, settings.linear, settings.seed)
        tuned = finetune.evaluate(
            encoder, preprocess, train_split, test_split, manifest.recipe, settings.finetune, settings.seed
        )
    scores = {"knn": knn, "linear": probe, "finetune": tuned}
    scores |= {f"linear_{count}": few for count, few in probe["few_labels"].items()}
    flat = {
        f"{prefix}{column}": float(values[f"{prefix}top1"])
        for column, values in scores.items()
        for prefix in ("", "random_init_", "raw_pixel_")
        if f"{prefix}top1" in values
    }
    return {**flat, "seconds": seconds, "images_per_second": 4000 * settings.pretrain.epochs / seconds}


def pretrain(settings: Settings, manifest: Manifest, folder: Path) -> tuple[Any, dict[str, Any], float]:
    """The trained encoder, its preprocessing, and the seconds it took."""
    config, size, seed = settings.pretrain, settings.views.size, settings.seed
    device = resolve(config.device)
    make_deterministic(config.deterministic)
    paper = methods.recipe(config.method, size, patch_size=patch_size(config, size), config=settings.method)
    statistics_ = manifest.statistics.model_dump()
    recipe = resolve_recipe(paper, dataset=manifest.recipe, user=settings.views.recipe, **statistics_)
    method = build_method(config, settings.method, size, seed).to(device)
    loader = Loader(open_split(folder / "shards", "train"), batch_size=config.batch_size, seed=seed)
    for warning in check_batch(method, config, len(loader.reader)):
        print(f"{config.method}: {warning}", flush=True)
    prepared, renderer = folder / "prepared", settings.views.renderer
    method.prepare(Preparation(loader.reader, recipe, device, seed, lambda key: prepared / key, renderer))
    history = train(
        method,
        loader,
        ViewEngine(recipe, seed=seed, device=device, renderer=renderer),
        config,
        method.optimizer,
        seed=seed,
        checkpoints=Checkpoints(folder / "checkpoints"),
    )
    spec = recipe.views[0]
    preprocess = {"size": size, "crop": settings.views.centre_crop, "interpolation": spec.interpolation}
    return method.encoder.eval(), {**preprocess, "mean": spec.mean, "std": spec.std}, history.seconds


def table(results: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown: a row a method, then random weights and raw pixels of the first method's seeds."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " | images/s |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, runs in results.items():
        lines.append(_row(name, "", runs, f"{statistics.median(r['images_per_second'] for r in runs):.0f}"))
        lines.append(_row(f"random weights of {name}'s network", "random_init_", runs, ""))
    lines.append(_row("raw pixels", "raw_pixel_", next(iter(results.values())), ""))
    return "\n".join(lines)


def _row(title: str, prefix: str, runs: list[dict[str, float]], speed: str) -> str:
    cells = []
    for column in COLUMNS:
        values = [100 * run[f"{prefix}{column}"] for run in runs if f"{prefix}{column}" in run]
        cells.append(f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}" if values else "–")
    return f"| {title} | " + " | ".join(cells) + f" | {speed} |"


if __name__ == "__main__":
    main()
