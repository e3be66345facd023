"""Every method by the settings of params.yaml: accuracy beside random weights and supervised training, and speed.

One run, one table: `python benchmarks/methods.py --seeds 3 --peers --out results.json`. A method and seed take two to
fifteen minutes on two cores. The seed changes the split, the initial weights, the order, the views and the draws of
few labels. What already stands in --out is not run again, unless its settings have changed.

`NAME (lightly)` is the same method built from lightly's parts, on the same views, backbone, optimiser and budget:
benchmarks/peers.py. `supervised` trains the backbone from scratch on all labels of the training split, for as many
epochs; `random` evaluates a backbone that has learnt nothing, and fine-tunes it from scratch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from sslpipe import methods
from sslpipe.console.progress import progress
from sslpipe.core import scratch
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.config import merge, nest
from sslpipe.core.device import describe, make_deterministic, resolve
from sslpipe.core.yaml import read
from sslpipe.data.loader import Loader, Reader, open_split
from sslpipe.data.subset import Subset, labelled
from sslpipe.evals.base.embed import embed, random_twin
from sslpipe.evals.base.features import Features
from sslpipe.evals.base.views import mild_recipe
from sslpipe.evals.finetune import evaluate as finetune
from sslpipe.evals.knn import evaluate as neighbours
from sslpipe.evals.linear import evaluate as linear
from sslpipe.measures.subsets import draw
from sslpipe.methods.base.method import Method, Preparation
from sslpipe.networks.lab import Lightness
from sslpipe.networks.protocol import Backbone
from sslpipe.settings import Settings
from sslpipe.sharding.shard import shard
from sslpipe.sharding.sources import open_source
from sslpipe.shards.manifest import Manifest
from sslpipe.training.core.build import backbone_name, build_backbone, build_method, build_recipe, check_batch
from sslpipe.training.core.loop import train
from sslpipe.views.engine import ViewEngine
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import Recipe

ROOT = Path(__file__).parents[1]
PEERED = ("simclr", "moco", "byol", "simsiam", "swav", "mae")
FREE = ("random", "supervised")  # arms that train no method
SECTIONS = ("seed", "data", "shard", "views", "pretrain", "methods", "embed", "knn", "linear", "finetune")
Numbers = dict[str, float]


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method, `random` or `supervised` with the method's backbone, perhaps lightly's parts."""

    kind: str
    method: str
    peer: bool = False

    def title(self, backbone: str) -> str:
        """How the row is called."""
        if self.kind in FREE:
            return f"{self.kind} {backbone}"
        return f"{self.method} (lightly)" if self.peer else self.method


def main() -> None:
    """Run what is not yet in --out, and print the table."""
    options = _parse()
    arms = list(_arms(options.methods, options.peers))
    if options.speed:
        print(speeds(options, [arm for arm in arms if arm.kind == "method"]))
        return
    runs: dict[str, dict[str, Any]] = {}
    if options.out and options.out.exists():
        runs = json.loads(options.out.read_text())["runs"]
    rows: dict[str, list[Numbers]] = {}
    machine = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {describe(resolve())}, {platform.system()}"
    machine = f"{machine}, torch {torch.__version__}"
    for seed in range(options.seeds):
        for arm in arms:
            settings = settings_for(options, arm.method, seed)
            title = arm.title(backbone_name(settings.pretrain))
            key = key_of(settings, arm)
            known = runs.setdefault(title, {}).get(str(seed))
            if known is None or known["settings"] != key:
                known = {"settings": key, "numbers": run(settings, arm)}
                runs[title][str(seed)] = known
                print(f"{title}, seed {seed}: {known['numbers']}", flush=True)
                if options.out:
                    scratch.write_json(
                        options.out, {"date": time.strftime("%F"), "machine": machine, "runs": runs}
                    )
            rows.setdefault(title, []).append(known["numbers"])
    print(f"\n{time.strftime('%F')}; {machine}; n = {options.seeds} seeds; top-1 on test in %, mean ± std\n")
    print(table(rows))


def key_of(settings: Settings, arm: Arm) -> str:
    """What tells an arm's numbers of one seed from those under other settings."""
    read_here = {key: value for key, value in settings.flat().items() if key.split(".")[0] in SECTIONS}
    return scratch.digest([read_here, arm.kind])[:16]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods", nargs="*", default=list(methods.names()), metavar="NAME", help="default: all"
    )
    parser.add_argument("--seeds", type=int, default=1, help="default: 1")
    parser.add_argument("--epochs", type=int, help="default: as the settings say")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="default: params.yaml")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings changed, such as data.source=folder data.root=/path",
    )
    parser.add_argument(
        "--vit-set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="the same for arms with a ViT only, such as pretrain.precision=bf16 finetune.precision=bf16",
    )
    parser.add_argument(
        "--speed",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="no accuracy, only images a second: so many rounds of two epochs, the arms in turn, on an idle machine",
    )
    parser.add_argument("--renderer", default="auto", help="of the views; default: auto")
    parser.add_argument("--peers", action="store_true", help=f"also lightly's: {', '.join(PEERED)}")
    parser.add_argument(
        "--free",
        action="store_true",
        help="also, for each of the methods' backbones, random weights and supervised training from scratch",
    )
    parser.add_argument(
        "--out", type=Path, help="also write the numbers as JSON to this file, and continue from it"
    )
    options = parser.parse_args()
    options.methods = options.methods + [*FREE] * options.free
    return options


def _arms(names: list[str], peers: bool) -> Iterator[Arm]:
    trained = [name for name in names if name not in FREE] or list(methods.names())
    wanted = {methods.find(name).default_backbone for name in trained}
    # Whose settings and encoder the free arms have: of a ResNet, of a ViT.
    bearers = [name for name in ("simclr", "mae") if methods.find(name).default_backbone in wanted]
    if set(trained) == {"colorization"}:  # its encoder sees lightness alone: so must what stands beside it
        bearers = trained
    for name in names:
        if name in FREE:
            yield from (Arm(name, bearer) for bearer in bearers)
            continue
        yield Arm("method", name)
        if peers and name in PEERED:
            yield Arm("method", name, peer=True)


def settings_for(options: argparse.Namespace, name: str, seed: int, epochs: int | None = None) -> Settings:
    """The settings with this method, seed and renderer."""
    raw = json.loads(json.dumps(read(options.params)))
    raw["seed"], raw["pretrain"]["method"] = seed, name
    raw["views"]["renderer"] = options.renderer
    raw["pretrain"]["epochs"] = epochs or options.epochs or raw["pretrain"]["epochs"]
    vit = methods.find(name).default_backbone == "small_vit"
    for change in options.set + options.vit_set * vit:
        key, value = change.split("=", 1)
        raw = merge(raw, nest({key: yaml.safe_load(value)}))
    return Settings(raw).validate()


def speeds(options: argparse.Namespace, arms: list[Arm]) -> str:
    """Images a second of pretraining: medians and quartiles over rounds in which the arms take turns."""
    lrs: dict[str, list[float]] = {}
    for number in range(options.speed + 1):
        for arm in arms:
            settings = settings_for(options, arm.method, 0, epochs=2)
            with tempfile.TemporaryDirectory() as folder:
                source = open_source(settings.data, settings.seed)
                manifest = shard(settings.shard, source, Path(folder, "shards"), settings.seed)
                _, seconds = pretrain(settings, manifest, Path(folder), arm.peer)
            images = 2 * manifest.splits.train.count
            if number:  # the first round compiles and warms up
                lrs.setdefault(arm.title(""), []).append(images / seconds)
    lines = [f"| | images/s, n = {options.speed} | quartiles |", "|---|---:|---:|"]
    for title, values in lrs.items():
        low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        lines.append(f"| {title} | {middle:.0f} | {low:.0f}–{high:.0f} |")
    return "\n".join(lines)


def run(settings: Settings, arm: Arm) -> Numbers:
    """One arm and seed, from images to numbers."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        manifest = shard(settings.shard, open_source(settings.data, settings.seed), shards, settings.seed)
        splits = open_split(shards, "train"), open_split(shards, "test")
        if arm.kind == "supervised":
            return supervised(settings, manifest, *splits)
        if arm.kind == "random":
            encoder, numbers = untrained(settings, _recipe(settings, manifest)), {}
        else:
            encoder, seconds = pretrain(settings, manifest, Path(folder), arm.peer)
            images = settings.pretrain.epochs * len(splits[0])
            numbers = {"seconds": seconds, "images_per_second": images / seconds}
        return (
            numbers
            | _frozen(encoder, settings, *splits)
            | {
                f"finetune_{labels}": tuned(
                    settings, manifest, encoder, *splits, labels, arm.kind == "random"
                )
                for labels in (100, len(splits[0]) // 10)
            }
        )


def _frozen(encoder: Backbone, settings: Settings, train: Reader, test: Reader) -> Numbers:
    """k-NN and linear probes on features."""
    bank, queries = (
        _alone(embed(encoder, reader, settings.embed, settings.seed).labelled()) for reader in (train, test)
    )
    knn = neighbours.scores(bank, queries, settings.knn).metrics
    probe = linear.scores(bank, queries, settings.linear, settings.seed).metrics
    few = {f"linear_{count}": values["top1"] for count, values in probe["few_labels"].items()}
    return {"knn": knn["top1"], "linear": probe["top1"], **few}


def _alone(features: Features) -> Features:
    """Without what stands beside the encoder's features in the pipeline: here it has rows of its own."""
    nothing = features.features[:, :1]
    return dataclasses.replace(features, random_init_features=nothing, raw_pixel_features=nothing)


def pretrain(
    settings: Settings, manifest: Manifest, folder: Path, peer: bool = False
) -> tuple[Backbone, float]:
    """The trained encoder, and the seconds it took."""
    config, views, seed = settings.pretrain, settings.views, settings.seed
    device = resolve(config.device)
    make_deterministic(config.deterministic)
    recipe = _recipe(settings, manifest)
    method = (_build_peer if peer else build_method)(config, settings.method, views.size, seed).to(device)
    loader = Loader(open_split(folder / "shards", "train"), batch_size=config.batch_size, seed=seed)
    for warning in check_batch(method, config, len(loader.reader)):
        print(f"{config.method}: {warning}", flush=True)
    prepared, renderer = folder / "prepared", views.renderer
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
    encoder = method.encoder  # colorization makes another one each time
    encoder.preprocess = _preprocess(settings, recipe)
    return encoder.eval(), history.seconds


def _build_peer(config: Any, method_config: Any, size: int, seed: int) -> Method:
    import peers

    return peers.build(config.method, build_backbone(config, size, seed), method_config)


def _recipe(settings: Settings, manifest: Manifest) -> Recipe:
    statistics = manifest.statistics.model_dump()
    return build_recipe(settings.pretrain, settings.method, settings.views, manifest.recipe, **statistics)


def _preprocess(settings: Settings, recipe: Recipe) -> Preprocess:
    spec, views = recipe.views[0], settings.views
    return Preprocess(
        size=views.size,
        crop=views.centre_crop,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
    )


def untrained(settings: Settings, recipe: Recipe) -> Backbone:
    """The method's encoder with random weights, as pretraining begins with it."""
    preprocess = _preprocess(settings, recipe)
    backbone = build_backbone(settings.pretrain, settings.views.size, settings.seed)
    if settings.pretrain.method == "colorization":
        backbone = Lightness(backbone, preprocess.mean, preprocess.std)
    backbone.preprocess = preprocess
    return backbone.eval()


def tuned(
    settings: Settings,
    manifest: Manifest,
    encoder: Backbone,
    train: Reader,
    test: Reader,
    labels: int,
    scratch: bool,
) -> float:
    """Test accuracy after fine-tuning with few labels; each seed draws others."""
    config, seed = settings.finetune, settings.seed
    network = random_twin(encoder, seed)
    if not scratch:
        network.load_state_dict(encoder.state_dict())
    train, test = labelled(train), labelled(test)
    subset = Subset(train, draw(train.labels, labels, seed=seed))
    return _trained(network, subset, test, manifest, config, scratch, seed)


def supervised(settings: Settings, manifest: Manifest, train: Reader, test: Reader) -> Numbers:
    """The backbone trained from scratch on all labels, for as many epochs and at the batch of pretraining."""
    train, test = labelled(train), labelled(test)
    changes = {"epochs": settings.pretrain.epochs, "batch_size": settings.pretrain.batch_size}
    config = settings.finetune.model_copy(update=changes)
    network = untrained(settings, _recipe(settings, manifest))
    everything = Subset(train, torch.arange(len(train)))
    return {"supervised": _trained(network, everything, test, manifest, config, True, settings.seed)}


def _trained(
    network: Backbone,
    subset: Subset,
    test: Reader,
    manifest: Manifest,
    config: finetune.Config,
    scratch: bool,
    seed: int,
) -> float:
    views = mild_recipe(network.preprocess, config.crop_scale, manifest.recipe)
    classes = int(test.labels.max()) + 1
    model = finetune.Classifier(network, classes, pretrained=not scratch).to(resolve(config.device))
    steps = config.epochs * -(-len(subset) // config.batch_size)
    with progress("train", steps, "steps") as bar:
        finetune.fit(model, subset, views, config, seed, bar)
    return finetune.accuracy(model, test)


def table(rows: Mapping[str, list[Numbers]]) -> str:
    """Markdown: a row an arm, a column a number that any of them has."""
    columns = list(dict.fromkeys(key for runs in rows.values() for run in runs for key in run))
    columns = [key for key in columns if key not in ("seconds", "images_per_second")]
    names = [
        key.replace("knn", "k-NN").replace("finetune", "fine-tune").replace("_", ", ") for key in columns
    ]
    lines = ["| | " + " | ".join(names) + " | images/s |", "|---" + "|---:" * (len(columns) + 1) + "|"]
    for title, runs in rows.items():
        cells = [_cell([100 * run[key] for run in runs if key in run]) for key in columns]
        speeds = [run["images_per_second"] for run in runs if "images_per_second" in run]
        speed = f"{statistics.median(speeds):.0f}" if speeds else "–"
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {speed} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}" if values else "–"


if __name__ == "__main__":
    main()
